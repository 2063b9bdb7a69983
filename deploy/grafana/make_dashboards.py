#!/usr/bin/env python3
"""Writes the Grafana dashboards: deploy/helm/m1-serve/files/dashboards/m1-*.json. Without arguments, from the root of the tree."""

import json
import os

FOLDER = "deploy/helm/m1-serve/files/dashboards"
NS = 'namespace=~"$namespace"'
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH, HEIGHT = 8, 8  # of a panel, in Grafana's grid of 24 columns


def rate(metric: str, by: str = "", select: str = "") -> str:
    """Per second, summed by these labels."""
    return f"sum by ({by}) (rate({metric}{{{NS}{select}}}[$__rate_interval]))"


def quantile(share: float, metric: str, by: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {rate(metric + '_bucket', labels)})"


def quantiles(metric: str) -> list[tuple[str, str]]:
    return [(quantile(share, metric), f"p{int(share * 100)}") for share in (0.5, 0.9, 0.99)]


def gauge(metric: str, by: str = "instance", how: str = "sum") -> str:
    return f"{how} by ({by}) ({metric}{{{NS}}})"


def ratio(part: str, whole: str, by: str = "instance") -> str:
    return f"{gauge(part, by)} / {gauge(whole, by)}"


def panel(title: str, description: str, unit: str, *queries: tuple[str, str], kind: str = "timeseries", **more) -> dict:
    """One panel; a query is (expression, legend)."""
    targets = [{"refId": chr(ord("A") + i), "expr": expr, "legendFormat": legend, "datasource": DATASOURCE}
               for i, (expr, legend) in enumerate(queries)]
    return {"type": kind, "title": title, "description": description, "datasource": DATASOURCE, "targets": targets,
            "fieldConfig": {"defaults": {"unit": unit}, "overrides": []}, "options": {}, **more}


def matrix(title: str, description: str, unit: str, expr: str) -> dict:
    """Layers down, experts across, one coloured cell each, as of now."""
    found = panel(title, description, unit, (expr, ""), kind="table", transformations=[
        {"id": "groupingToMatrix", "options": {"columnField": "expert", "rowField": "layer", "valueField": "Value"}}])
    found["targets"][0].update(instant=True, format="table")
    found["fieldConfig"]["defaults"].update(color={"mode": "continuous-BlYlRd"},
                                            custom={"cellOptions": {"type": "color-background"}})
    return found


def fleet() -> list[dict]:
    return [
        panel("Errors of the server", "Share of requests that end with one. The objective is at most 0.1 % over 30 days.", "percentunit",
              (f"namespace:m1_router_errors:ratio_rate5m{{{NS}}}", "5 m"), (f"namespace:m1_router_errors:ratio_rate6h{{{NS}}}", "6 h")),
        panel("Late first tokens", "Share of first tokens that come after more than 5 s. The objective is at most 5 % over 30 days.",
              "percentunit", (f"namespace:m1_router_slow_first_tokens:ratio_rate5m{{{NS}}}", "5 m"),
              (f"namespace:m1_router_slow_first_tokens:ratio_rate6h{{{NS}}}", "6 h")),
        panel("Requests", "Ended per second, by gRPC code.", "reqps", (rate("m1_router_requests_total", "code"), "{{code}}")),
        panel("Tokens", "Read and generated per second.", "short", (rate("m1_router_prompt_tokens_total"), "prompt"),
              (rate("m1_router_completion_tokens_total"), "completion")),
        panel("Queue", "Requests that wait in each router.", "short", (gauge("m1_router_requests_queued"), "{{instance}}")),
        panel("In flight", "Requests that run, by router.", "short", (gauge("m1_router_requests_in_flight"), "{{instance}}")),
        panel("KV blocks in use", "Near 100 % sequences lose their memory and start again.", "percentunit",
              (ratio("m1_attention_kv_blocks_used", "m1_attention_kv_blocks"), "{{instance}}")),
        panel("State slots in use", "At 100 % new sequences wait in the routers.", "percentunit",
              (ratio("m1_attention_state_slots_used", "m1_attention_state_slots"), "{{instance}}")),
        panel("Ready", "1 when the process could answer a request.", "short", (gauge("m1_ready"), "{{instance}}")),
        panel("Versions", "Processes of each version; more than one line while an upgrade goes on.", "short",
              (gauge("m1_build_info", "component, version"), "{{component}} {{version}}")),
        panel("Models", "Processes of each model; more than one line means that they refuse one another.", "short",
              (gauge("m1_model_info", "fingerprint, numerics_revision"), "{{fingerprint}} {{numerics_revision}}")),
        panel("Resident memory", "Of each process, mapped weights included.", "bytes",
              (f'sum by (job, instance) (process_resident_memory_bytes{{{NS}, job=~".*m1-(router|attention-worker|expert-worker)"}})',
               "{{job}} {{instance}}")),
    ]


def requests() -> list[dict]:
    return [
        panel("Time to first token", "From the request's arrival, the queue included.", "s", *quantiles("m1_router_time_to_first_token_seconds")),
        panel("Time between tokens", "Of one answer.", "s", *quantiles("m1_router_inter_token_seconds")),
        panel("Time in the queue", "Until a worker takes the request.", "s", *quantiles("m1_router_queue_seconds")),
        panel("Time of a request", "From arrival to the end of the answer.", "s", *quantiles("m1_router_request_seconds")),
        panel("How answers end", "Per second, by finish reason.", "reqps", (rate("m1_router_requests_total", "finish_reason"), "{{finish_reason}}")),
        panel("Refused", "Per second, by reason.", "reqps", (rate("m1_router_refused_total", "reason"), "{{reason}}")),
        panel("Cancelled", "By their clients, per second.", "reqps", (rate("m1_router_cancelled_total"), "cancelled")),
        panel("Replays", "Sequences started again, per second, by reason.", "ops", (rate("m1_router_replays_total", "reason"), "{{reason}}")),
        panel("Thinking", "Share of generated tokens that are thought.", "percentunit",
              (f"{rate('m1_router_reasoning_tokens_total')} / {rate('m1_router_completion_tokens_total')}", "reasoning")),
        panel("Cached prompt", "Share of prompt tokens that were not computed again.", "percentunit",
              (f"{rate('m1_router_cached_prompt_tokens_total')} / {rate('m1_router_prompt_tokens_total')}", "cached")),
        panel("Sequences by worker", "As the routers have spread them.", "short", (gauge("m1_router_worker_sequences", "worker"), "{{worker}}")),
        panel("Workers ready", "As the routers see them.", "short", (gauge("m1_router_worker_ready", "worker", "min"), "{{worker}}")),
    ]


def attention() -> list[dict]:
    phase = rate("m1_attention_step_phase_seconds_total", "phase")
    return [
        panel("Anatomy of a step", "Where the time of steps goes, seconds a second.", "s", (phase, "{{phase}}")),
        panel("Step time", "One pass through all layers.", "s", *quantiles("m1_attention_step_seconds")),
        panel("Rows of a step", "Tokens computed together.", "short", *quantiles("m1_attention_step_rows")),
        panel("Tokens", "Computed per second.", "short", (rate("m1_attention_prefill_tokens_total"), "prefill"),
              (rate("m1_attention_decode_tokens_total"), "decode")),
        panel("KV blocks", "Used and in all.", "short", (gauge("m1_attention_kv_blocks_used"), "{{instance}} used"),
              (gauge("m1_attention_kv_blocks"), "{{instance}} all")),
        panel("State slots", "Used and in all.", "short", (gauge("m1_attention_state_slots_used"), "{{instance}} used"),
              (gauge("m1_attention_state_slots"), "{{instance}} all")),
        panel("Sequences", "Held, and waiting for memory.", "short", (gauge("m1_attention_sequences"), "{{instance}}"),
              (gauge("m1_attention_sequences_waiting"), "{{instance}} waiting")),
        panel("Preemptions", "Sequences that lost their memory, per second.", "ops", (rate("m1_attention_preemptions_total", "instance"), "{{instance}}")),
        panel("Folds", "Chunks folded into recurrent states, per second.", "ops", (rate("m1_attention_folds_total", "instance"), "{{instance}}")),
    ]


def experts() -> list[dict]:
    return [
        matrix("Rows by layer and expert", "Rows per second: what the gates choose.", "short", rate("m1_expert_rows_total", "layer, expert")),
        panel("Imbalance by layer", "Busiest expert over the mean one; 1 is even.", "short",
              (f"namespace_layer:m1_expert_rows:max_over_mean_5m{{{NS}}}", "layer {{layer}}")),
        panel("Busy", "Seconds that each worker computes in a second.", "percentunit", (rate("m1_expert_compute_seconds_total", "instance"), "{{instance}}")),
        panel("Exchange, p99", "Rows to an expert worker and back.", "s",
              (quantile(0.99, "m1_attention_exchange_seconds", "expert_worker"), "{{expert_worker}}")),
        panel("Exchange, median", "The slowest peer sets the time of a layer.", "s",
              (quantile(0.5, "m1_attention_exchange_seconds", "expert_worker"), "{{expert_worker}}")),
        panel("Bytes sent", "To each expert worker.", "Bps", (rate("m1_attention_exchange_sent_bytes_total", "expert_worker"), "{{expert_worker}}")),
        panel("Rows of a batch", "Computed together; more rows use the weights better.", "short", *quantiles("m1_expert_batch_rows")),
        panel("Time of a batch", "One layer's rows.", "s", *quantiles("m1_expert_batch_seconds")),
        panel("Gathering", "Waiting for rows of other attention workers.", "s", *quantiles("m1_expert_gather_seconds")),
        panel("Experts missing", "That no connected worker hosts. Anything above 0 stops all steps.", "short", (gauge("m1_attention_experts_missing"), "{{instance}}")),
        panel("Weights", "Bytes of the hosted experts.", "bytes", (gauge("m1_expert_weights_bytes"), "{{instance}}")),
        panel("Dispatches", "Per second, by transport.", "ops", (rate("m1_expert_dispatches_total", "transport"), "{{transport}}")),
    ]


def dashboard(uid: str, title: str, panels: list[dict]) -> dict:
    for i, one in enumerate(panels):
        one["id"] = i + 1
        one["gridPos"] = {"x": i % 3 * WIDTH, "y": i // 3 * HEIGHT, "w": WIDTH, "h": HEIGHT}
    variables = [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        {"name": "namespace", "label": "Namespace", "type": "query", "datasource": DATASOURCE, "refresh": 2, "includeAll": True,
         "allValue": ".*", "current": {"text": "All", "value": "$__all"},
         "query": {"query": "label_values(m1_build_info, namespace)", "refId": "namespace"}},
    ]
    return {"uid": uid, "title": title, "tags": ["m1-serve"], "schemaVersion": 39, "editable": False, "refresh": "30s",
            "time": {"from": "now-1h", "to": "now"}, "timezone": "utc", "templating": {"list": variables}, "panels": panels}


DASHBOARDS = {"m1-fleet": ("M1: fleet", fleet), "m1-requests": ("M1: requests", requests),
              "m1-attention": ("M1: attention workers", attention), "m1-experts": ("M1: experts", experts)}


def render(uid: str) -> str:
    title, panels = DASHBOARDS[uid]
    return json.dumps(dashboard(uid, title, panels()), indent=1) + "\n"


def main() -> None:
    os.makedirs(FOLDER, exist_ok=True)
    for uid in DASHBOARDS:
        with open(os.path.join(FOLDER, f"{uid}.json"), "w", encoding="utf-8") as file:
            file.write(render(uid))


if __name__ == "__main__":
    main()

"""What the servers show of themselves: promtool has nothing to say, a real Prometheus counts what was sent, every metric is
documented, probes tell a process that lives from one that is ready."""

import contextlib
import pathlib
import re
import subprocess
import time

import grpc
import pytest

from client import Client
from cluster import wait_until
from prometheus import COMPONENTS, Prometheus, cluster_with_ports, get, sample

PHASES = {"attention", "gate", "exchange_wait", "head", "sampling", "other"}


@pytest.fixture(scope="module")
def served(stubs):
    """A cluster that has answered: (ports, what each process then showed)."""
    with cluster_with_ports() as (cluster, ports), Client(cluster.target) as client:
        client.generate(ids=[1, 2, 3], max_new_tokens=5, ignore_eos=True)
        client.generate(ids=list(range(70)), max_new_tokens=2, ignore_eos=True)
        yield ports, {name: get(port, "/metrics")[1] for name, port in ports.items()}


@pytest.mark.parametrize("component", COMPONENTS)
def test_promtool_has_nothing_to_say(served, component):
    text = served[1][component]
    run = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert run.returncode == 0 and not run.stdout + run.stderr, run.stdout + run.stderr
    assert sample(text, "m1_build_info", component=component) == 1
    assert sample(text, "m1_model_info") == 1
    assert sample(text, "m1_ready") == 1
    assert 0 < sample(text, "m1_startup_seconds") < 60
    assert abs(sample(text, "process_start_time_seconds") - time.time()) < 600
    for name in ("process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"):
        assert sample(text, name) > 0, name


def test_probes(served):
    for port in served[0].values():
        assert get(port, "/healthz") == (200, "alive\n")
        assert get(port, "/startupz") == (200, "started\n")
        assert get(port, "/readyz") == (200, "ready\n")
        assert get(port, "/nothing")[0] == 404


def test_the_parts_of_a_step_are_told(served):
    text = served[1]["attention-worker"]
    parts = {phase: sample(text, "m1_attention_step_phase_seconds_total", phase=phase) for phase in PHASES}
    assert sum(parts.values()) == pytest.approx(sample(text, "m1_attention_step_seconds_sum"), rel=1e-3)
    assert all(parts[phase] > 0 for phase in PHASES), parts
    rows = sample(text, "m1_attention_step_rows_sum")
    computed = [sample(text, f"m1_attention_{kind}_tokens_total") for kind in ("prefill", "decode")]
    assert computed == [3 + 70, 4 + 1] and rows == sum(computed)
    assert sample(text, "m1_attention_folds_total") == 2  # of 70 tokens
    assert sample(text, "m1_attention_kv_blocks") > 0 and sample(text, "m1_attention_state_slots") > 0
    assert sample(text, "m1_attention_expert_worker_connected") == 1
    assert sample(text, "m1_attention_exchange_seconds_count") > 0


def test_experts_count_each_row_once_in_each_layer(served):
    text = served[1]["expert-worker"]
    for layer in range(8):
        assert sample(text, "m1_expert_rows_total", layer=str(layer)) == 2 * (3 + 70 + 4 + 1)  # top-2
    sent = sample(served[1]["attention-worker"], "m1_attention_exchange_seconds_count")
    assert sample(text, "m1_expert_dispatches_total", transport="grpc") == sent
    assert sample(text, "m1_expert_compute_seconds_total") == pytest.approx(
        sample(text, "m1_expert_batch_seconds_sum"), rel=0.5)
    assert sample(text, "m1_expert_connected_peers") == 1
    assert sample(text, "m1_expert_hosted_experts") == 32


def documented():
    text = pathlib.Path("deploy/monitoring.md").read_text(encoding="utf-8")
    parts = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert [part.splitlines()[0] for part in parts] == ["All processes", "Router", "Attention worker", "Expert worker"]
    return {component: set(re.findall(r"^\| `(\w+)`", part, re.MULTILINE)) for component, part in zip(("all",) + COMPONENTS, parts)}


def test_every_metric_is_documented_and_nothing_else(served):
    told = documented()
    for component in COMPONENTS:
        shown = set(re.findall(r"^# TYPE (\w+) ", served[1][component], re.MULTILINE))
        assert shown == told["all"] | told[component], component


def test_a_real_prometheus_counts_what_was_sent(stubs):
    with cluster_with_ports() as (cluster, ports), Prometheus(ports) as prometheus, Client(cluster.target) as client:
        lengths = [(3, 4), (5, 1), (40, 9)]
        for prompt, answer in lengths:
            client.generate(ids=[1] * prompt, max_new_tokens=answer, ignore_eos=True)
        for _ in range(2):
            with pytest.raises(grpc.RpcError):
                client.generate(ids=[10**6], max_new_tokens=1)
        call = client.inference.Generate(client.request(ids=[1, 2], max_new_tokens=4000, ignore_eos=True))
        next(call)
        call.cancel()
        wanted = {
            'm1_router_requests_total{code="OK",finish_reason="length"}': 3,
            'sum(m1_router_requests_total{code="INVALID_ARGUMENT"})': 2,
            'sum(m1_router_requests_total{code="CANCELLED"})': 1,
            'm1_router_refused_total{reason="invalid"}': 2,
            "m1_router_cancelled_total": 1,
            "m1_router_prompt_tokens_total": sum(prompt for prompt, _ in lengths),
            "m1_router_completion_tokens_total": sum(answer for _, answer in lengths),
            "m1_router_reasoning_tokens_total": 0,
            "sum(m1_router_client_requests_total)": 6,
            "m1_router_request_seconds_count": 6,
            "m1_router_requests_in_flight": 0,
            "m1_router_worker_ready": 1,
            "sum(up)": 3,
        }

        def differs():
            return {name: (got, value) for name, value in wanted.items() if (got := prometheus.query(name)) != [value]}

        with contextlib.suppress(AssertionError):
            wait_until(lambda: not differs(), 20)
        assert not differs()
        first = prometheus.query("m1_router_time_to_first_token_seconds_count")
        assert first[0] in (3, 4)  # the cancelled one may have begun


def test_readiness_is_not_liveness(stubs):
    with cluster_with_ports() as (cluster, ports):
        cluster.experts[0].kill()
        for name in ("attention-worker", "router"):
            wait_until(lambda: get(ports[name], "/readyz") == (503, "not serving\n"), 20)
            assert get(ports[name], "/healthz")[0] == 200
            assert get(ports[name], "/startupz")[0] == 200
        assert sample(get(ports["attention-worker"], "/metrics")[1], "m1_attention_experts_missing") == 32
        cluster.experts[0].start()
        for port in ports.values():
            wait_until(lambda: get(port, "/readyz")[0] == 200, 20)

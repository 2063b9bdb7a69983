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

OF_TLS = {f"m1_tls_{whose}_expiry_timestamp_seconds" for whose in ("certificate", "authority")}  # test_security_metrics.py sees them
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


def test_each_process_counts_its_calls(served):
    assert sample(served[1]["router"], "m1_rpc_total", method="m1.v1.Inference/Generate", code="OK") == 2
    assert sample(served[1]["expert-worker"], "m1_rpc_total", method="m1.v1.ExpertExchange/Describe", code="OK") == 1
    for text in served[1].values():
        methods = set(re.findall(r'm1_rpc_total\{.*method="([^"]*)"', text))
        assert not [method for method in methods if "grpc." in method], methods
        assert sample(text, "m1_rpc_denied_total") == 0


def documented():
    text = pathlib.Path("deploy/monitoring.md").read_text(encoding="utf-8")
    parts = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert [part.splitlines()[0] for part in parts] == ["All processes", "Router", "Attention worker", "Expert worker"]
    return {component: set(re.findall(r"^\| `(\w+)`", part, re.MULTILINE)) for component, part in zip(("all",) + COMPONENTS, parts)}


def test_every_metric_is_documented_and_nothing_else(served):
    told = documented()
    for component in COMPONENTS:
        shown = set(re.findall(r"^# TYPE (\w+) ", served[1][component], re.MULTILINE))
        assert shown == (told["all"] | told[component]) - OF_TLS, component


class Sent:
    """Requests, and what must be counted of them."""

    def __init__(self, client):
        self.client = client
        self.wanted = {}
        self.num_calls = 0

    def add(self, metric, count=1):
        self.wanted[metric] = self.wanted.get(metric, 0) + count

    def ended(self, code, reason, count=1):
        self.num_calls += count
        self.add(f'm1_router_requests_total{{code="{code}",finish_reason="{reason}"}}', count)

    def answered(self, reason, **request):
        """One that is answered, and ends for this reason."""
        answer = self.client.generate(**request)
        assert answer.finish.reason == self.client.pb.FinishReason.Value("FINISH_REASON_" + reason.upper())
        self.ended("OK", reason)
        for kind in ("prompt", "completion", "reasoning"):
            self.add(f"m1_router_{kind}_tokens_total", getattr(answer.finish.usage, f"{kind}_token_count"))
        self.add("m1_router_time_to_first_token_seconds_count", 1)
        self.add("m1_router_inter_token_seconds_count", answer.finish.usage.completion_token_count - 1)
        return answer

    def refused(self, code, reason, **request):
        with pytest.raises(grpc.RpcError) as caught:
            self.client.generate(**request)
        assert caught.value.code().name == code, caught.value
        self.ended(code, "none")
        self.add(f'm1_router_refused_total{{reason="{reason}"}}')

    def start(self, max_new_tokens, request_id, wait_for_token=True):
        """One that runs on, or waits in the queue."""
        call = self.client.inference.Generate(self.client.request(
            ids=[1, 2], max_new_tokens=max_new_tokens, ignore_eos=True, request_id=request_id))
        if wait_for_token:
            next(call)
        return call

    def cancel(self, call):
        call.cancel()
        self.ended("CANCELLED", "none")
        self.add("m1_router_cancelled_total")

    def all_wanted(self):
        calls = {"sum(m1_router_client_requests_total)": self.num_calls, "m1_router_request_seconds_count": self.num_calls,
                 "sum(m1_router_requests_total)": self.num_calls,
                 'sum(m1_rpc_total{method="m1.v1.Inference/Generate"})': self.num_calls}
        return self.wanted | calls | {
            "sum(m1_router_refused_total)": sum(count for name, count in self.wanted.items() if "refused" in name)}


def assert_counted(prometheus, wanted):
    def differs():
        return {name: (got, value) for name, value in wanted.items() if (got := prometheus.query(name)) != [value]}

    with contextlib.suppress(AssertionError):
        wait_until(lambda: not differs())
    assert not differs()


def answer_some(sent):
    for prompt, answer in [(3, 4), (5, 1), (40, 9)]:
        sent.answered("length", ids=[1] * prompt, max_new_tokens=answer, ignore_eos=True)
    thought = sent.answered("stop", chat=[("user", "764 + 621")], temperature=0)
    assert thought.finish.usage.reasoning_token_count > 10
    sent.answered("stop", chat=[("user", "764 + 621")], temperature=0, stop_strings=["tens"])
    sent.answered("length", chat=[("user", "764 + 621")], temperature=0, max_new_tokens=7)


def test_a_real_prometheus_counts_what_was_sent(stubs):
    """Answers of all kinds, refusals for all reasons that a client can bring about, and calls given up."""
    with contextlib.ExitStack() as stack:
        cluster, ports = stack.enter_context(cluster_with_ports(attention_flags=["--max_sequences=1"], router_flags=["--queue_size=1"]))
        prometheus = stack.enter_context(Prometheus(ports))
        sent = Sent(stack.enter_context(Client(cluster.target)))
        answer_some(sent)
        assert_counted(prometheus, sent.all_wanted())
        for kind in ("time_to_first_token", "inter_token"):  # of what runs below, they count a moving number
            del sent.wanted[f"m1_router_{kind}_seconds_count"]
        for _ in range(2):
            sent.refused("INVALID_ARGUMENT", "invalid", ids=[10**6], max_new_tokens=1)
        running = sent.start(8000, "runs")
        sent.refused("ALREADY_EXISTS", "invalid", ids=[1], request_id="runs")
        waiting = sent.start(1, "waits", wait_for_token=False)
        wait_until(lambda: prometheus.query("m1_router_requests_queued") == [1])
        for _ in range(3):
            sent.refused("RESOURCE_EXHAUSTED", "queue_full", ids=[1], max_new_tokens=1)
        assert_counted(prometheus, sent.all_wanted() | {
            "m1_router_requests_in_flight": 2, "m1_router_queue_limit": 1, "m1_router_worker_sequences": 1})
        for call in (waiting, running):
            sent.cancel(call)
        drain = sent.client.control_pb.DrainRequest()
        drain.wait.seconds = 10
        assert sent.client.control.Drain(drain, timeout=20).in_flight_request_count == 0
        for _ in range(4):
            sent.refused("UNAVAILABLE", "draining", ids=[1], max_new_tokens=1)
        assert_counted(prometheus, sent.all_wanted() | {
            "m1_router_requests_in_flight": 0, "m1_router_requests_queued": 0, "m1_ready{job=\"m1-router\"}": 0, "sum(up)": 3,
            'm1_router_refused_total{reason="internal"}': 0})

"""Two batches in flight: the same answers, through every transport, over the death of an expert worker; and timelines."""

import json

import pytest

from client import Client
from cluster import Cluster, require

MODEL = "models/tiny"


def requests(client):
    return [client.request(ids=list(range(3, 3 + length)), max_new_tokens=60, ignore_eos=True, temperature=1, seed=length,
                           candidate_count=2, prompt_logprobs=length == 40) for length in (1, 7, 40, 130, 300)]


@pytest.fixture(scope="module")
def wanted(stubs):
    with Cluster(MODEL, inproc=True) as cluster, Client(cluster.target) as client:
        return [client.send(request).key() for request in requests(client)]


def answers(client):
    return [answer.key() for answer in client.send_all(requests(client))]


def description(client):
    return client.topology().attention_workers[0].description


@pytest.mark.parametrize("transport", ["inproc", "grpc", "shm", "mixed"])
def test_same_answers(transport, wanted):
    shm = {"shm": True, "mixed": [0]}.get(transport, False)
    with Cluster(MODEL, expert_workers=2, inproc=transport == "inproc", shm=shm,
                 attention_flags=["--batches_in_flight=2"]) as cluster, Client(cluster.target) as client:
        assert answers(client) == wanted
        require(description(client).split_step_count > 30, "hardly any step was split")


@pytest.mark.parametrize("shm", [False, True])
def test_an_expert_worker_dies(shm, wanted):
    with Cluster(MODEL, experts=["0-15", "16-31", "0-31"], shm=shm,
                 attention_flags=["--batches_in_flight=2"]) as cluster, Client(cluster.target) as client:
        for victim in cluster.experts[:2]:
            killed = []

            def kill(count):
                if count >= 5 and not killed:
                    victim.kill()
                    killed.append(count)

            request = requests(client)[-1]
            answer = client.send_samples(request, on_response=kill)[0]
            require(killed, "the answer came in less than five messages")
            assert answer.key() == wanted[-1]
            assert answers(client) == wanted
            victim.start()
        require(description(client).split_step_count > 30, "hardly any step was split")


def test_automatic_measures(wanted):
    with Cluster(MODEL, expert_workers=2) as cluster, Client(cluster.target) as client:
        for _ in range(3):
            assert answers(client) == wanted
        worker = description(client)
        assert worker.split_step_count < worker.step_count
        require(worker.split_step_count > 0, "no step was split")


def test_timelines_show_what_overlaps(tmp_path, wanted):
    attention, experts = tmp_path / "attention.json", tmp_path / "experts.json"
    with Cluster(MODEL, expert_workers=1, expert_flags=[f"--trace_file={experts}"],
                 attention_flags=["--batches_in_flight=2", f"--trace_file={attention}"]) as cluster:
        with Client(cluster.target) as client:
            assert answers(client) == wanted
    spans = {path: [event for event in json.loads(path.read_text()) if event["ph"] == "X"] for path in (attention, experts)}
    names = {event["name"] for event in spans[attention]}
    assert names == {"step", "attention", "gate", "wait", "combine", "head", "sampling"}
    assert {event["name"] for event in spans[experts]} == {"experts"}
    lanes = {event["tid"] for event in spans[attention] if event["name"] == "attention"}
    assert lanes <= {1, 2}
    require(lanes == {1, 2}, "no step was split")
    # Each layer's rows are computed once, in both files.
    rows = {path: sum(event["args"]["rows"] for event in spans[path] if event["name"] == name)
            for path, name in ((attention, "attention"), (experts, "experts"))}
    assert rows[attention] == rows[experts] > 0

    def end(event):
        return event["ts"] + event["dur"]

    work = sorted((event for event in spans[attention] if event["name"] == "attention"), key=lambda event: event["ts"])
    runs = sorted(spans[experts], key=lambda event: event["ts"])
    overlaps, first = 0, 0
    for run in runs:
        while first < len(work) and end(work[first]) <= run["ts"]:
            first += 1
        overlaps += first < len(work) and work[first]["ts"] < end(run)
    print(f"\n{overlaps} of {len(runs)} runs of the experts beside attention")
    require(overlaps > 0, "nothing overlapped")  # a fifth on two free cores; with one batch there would be none


def test_a_trace_that_cannot_be_written_is_refused(stubs):
    from cluster import Process
    worker = Process("m1-attention-worker", f"--model={MODEL}", "--expert_workers=inproc", "--trace_file=/no/such/t.json")
    worker.start(wait=False)
    assert worker.wait() != 0
    assert "/no/such/t.json" in worker.log()

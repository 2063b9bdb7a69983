"""The order of work: priorities and their preemptions, a full queue, deadlines, draining the router.

M1_DEADLINES  how many requests are given deadlines one after the other (10; scripts/check.sh: 100)
"""

import os
import random
import threading
import time

import grpc
import pytest
from google.rpc import error_details_pb2

from client import Client, error_details
from cluster import Cluster, require, wait_until

MODEL = "models/tiny"
DEADLINES = int(os.environ.get("M1_DEADLINES", "10"))


def long_requests(client, count, max_new_tokens, priority=None):
    requests = []
    for i in range(count):
        request = client.request(chat=[("user", f"{300 + 7 * i} + {400 - 3 * i}")], temperature=i % 2, seed=i,
                                 ignore_eos=True, max_new_tokens=max_new_tokens)
        if priority is not None:
            request.priority = priority
        requests.append(request)
    return requests


def retry_delay(error):
    """Seconds of the RetryInfo that came with an error."""
    [info] = error_details(error, error_details_pb2.RetryInfo)
    return info.retry_delay.seconds + info.retry_delay.nanos / 1e9


def test_higher_priority_takes_the_place_of_lower(stubs):
    with Cluster(MODEL, expert_workers=2, attention_flags=["--max_sequences=2"]) as cluster:
        with Client(cluster.target) as client:
            low, high = long_requests(client, 2, 600, priority=-3), long_requests(client, 2, 40, priority=3)
            plain = [client.send(request).key() for request in low + high]
            lows, low_answers = client.send_all_in_background(low)
            wait_until(lambda: client.load().running_request_count == 2, what="both places are taken")
            high_answers = client.send_all(high)
            require(lows.is_alive(), "the low ones were over before the high ones")
            lows.join()
            assert [answer.key() for answer in low_answers + high_answers] == plain


def test_sessions_and_priorities_change_no_answer(stubs):
    with Cluster(MODEL, expert_workers=2, attention_workers=2, attention_flags=["--max_sequences=3"]) as cluster:
        with Client(cluster.target) as client:
            requests = long_requests(client, 40, 60)
            plain = [answer.key() for answer in client.send_all(requests)]
            for i, request in enumerate(requests):
                request.priority = (i * 37) % 201 - 100
                request.session_id = f"session {i % 5}"
            assert [answer.key() for answer in client.send_all(requests)] == plain


def test_clients_that_obey_the_retry_time_are_let_in(stubs):
    """Places for ten and a queue of 32: of hundreds that come at once most are refused, and are let in when told."""
    with Cluster(MODEL, expert_workers=2, attention_flags=["--max_sequences=10"],
                 router_flags=["--queue_size=32"]) as cluster, Client(cluster.target) as client:
        client.send_all(long_requests(client, 40, 40))  # the rate is known
        lock, returns, let_in = threading.Lock(), 0, 0
        all_start = threading.Event()

        def come_until_served(request):
            nonlocal returns, let_in
            is_return = False
            all_start.wait()
            while True:
                try:
                    answer, delay = client.send(request), None
                except grpc.RpcError as error:
                    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
                    answer, delay = None, retry_delay(error)
                with lock:
                    returns += is_return
                    let_in += is_return and answer is not None
                if answer:
                    return answer
                assert delay > 0
                is_return = True
                time.sleep(delay)

        requests = long_requests(client, 500, 40)
        answers = [None] * len(requests)
        threads = [threading.Thread(target=lambda i=i: answers.__setitem__(i, come_until_served(requests[i])))
                   for i in range(len(requests))]
        for thread in threads:
            thread.start()
        all_start.set()
        for thread in threads:
            thread.join()
        assert all(answer is not None for answer in answers)
        print(f"\n{let_in} of {returns} returns were let in at once")
        require(returns > 200, "hardly anybody was refused")
        require(let_in >= 0.8 * returns, f"only {let_in} of {returns} that obeyed were let in")


def test_nothing_runs_on_after_its_deadline(stubs):
    with Cluster(MODEL, expert_workers=2, attention_flags=["--max_sequences=10"]) as cluster:
        with Client(cluster.target) as client:
            rng, codes = random.Random(1), []

            def run(request, timeout):
                try:
                    client.send(request, timeout=timeout)
                    codes.append(grpc.StatusCode.OK)
                except grpc.RpcError as error:
                    codes.append(error.code())

            threads = [threading.Thread(target=run, args=(request, rng.uniform(0.05, 2)))
                       for request in long_requests(client, 200, 300)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED}
            require(codes.count(grpc.StatusCode.DEADLINE_EXCEEDED) > 50, "hardly any deadline came")

            def is_empty():
                load = client.load()
                return (load.running_request_count == load.queued_request_count == 0
                        and all(worker.load.used_sequences == 0 for worker in load.workers))

            wait_until(is_empty, 5, "everything is freed")


def test_no_step_but_one_begins_after_the_deadline(stubs):
    """One request with many samples at a time, so that a step takes much longer than a message to the client: the steps of
    which the client has seen nothing are the one that its deadline fell into and at most one more."""
    rng, late = random.Random(2), []
    with Cluster(MODEL, inproc=True, common_flags=["--cpu_target=portable", "--threads=1"]) as cluster:
        with Client(cluster.target) as client:
            def worker():
                return client.topology().attention_workers[0].description

            for i in range(DEADLINES):
                request = client.request(ids=[1, 2], seed=i, sample_count=32, max_new_tokens=2000, ignore_eos=True)
                before, seen = worker().step_count, [0] * 32
                with pytest.raises(grpc.RpcError) as raised:
                    for response in client.inference.Generate(request, timeout=rng.uniform(1, 2.5)):
                        seen[response.sample_index] += len(response.delta.tokens)
                assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
                wait_until(lambda: worker().load.used_sequences == 0, what="its sequences are freed")
                # One step for the shared part of the prompt, then one for each token.
                late.append(worker().step_count - before - 1 - max(seen))
                require(max(seen) > 0, "the deadline came before the first token")
    print(f"\nsteps of which nothing was seen: {sorted(late)}")
    # A machine that stalls keeps messages from the client, too: of ten, one may be later.
    require(sorted(late)[-1 - len(late) // 10] <= 2, f"steps of which nothing was seen: {sorted(late)}")


def test_drain_waits_as_long_as_asked(stubs):
    with Cluster(MODEL, expert_workers=2) as cluster, Client(cluster.target) as client:
        with pytest.raises(grpc.RpcError, match="wait"):
            bad = client.control_pb.DrainRequest()
            bad.wait.seconds = -1
            client.control.Drain(bad, timeout=60)
        running, answers = client.send_all_in_background(long_requests(client, 3, 800))
        wait_until(lambda: client.load().running_request_count == 3, what="they run")
        short = client.control_pb.DrainRequest()
        short.wait.nanos = 1000
        in_flight = client.control.Drain(short, timeout=60).in_flight_request_count
        assert in_flight <= 3
        require(in_flight == 3, "some were over before the drain began")
        long = client.control_pb.DrainRequest()
        long.wait.seconds = 120
        assert client.control.Drain(long, timeout=180).in_flight_request_count == 0
        running.join()
        assert len(answers) == 3
        with pytest.raises(grpc.RpcError, match="draining") as refused:
            client.send(long_requests(client, 1, 5)[0])
        assert retry_delay(refused.value) > 0

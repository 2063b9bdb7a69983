"""Several samples of one request on the embedded model: each is the request alone with the seed that inference.proto derives."""

import signal
import threading
import time

import pytest

from client import Client
from cluster import Cluster, Process, wait_serving, wait_until
from one_answer import preempting_client, sample_seed, samples_alone

MODEL = "models/tiny"
PROMPT = [(7 * i) % 250 + 1 for i in range(130)]


def assert_each_is_alone(client, request, answers):
    for index, (answer, single) in enumerate(zip(answers, client.send_all(samples_alone(client, request)), strict=True)):
        assert answer.key() == single.key(), index
        assert answer.candidates == single.candidates, index
        assert answer.tool_calls == single.tool_calls, index
        assert answer.seed == single.seed == sample_seed(request.sampling.seed, index)
        assert answer.finish.reason == single.finish.reason, index
        assert answer.finish.WhichOneof("matched") == single.finish.WhichOneof("matched"), index
        assert answer.finish.usage == single.finish.usage, index
        assert answer.finish.usage.cached_token_count == 0
        assert answer.finish.timing.total.ToNanoseconds() > 0


@pytest.mark.parametrize("count", [1, 2, 5, 64])
def test_each_sample_is_a_request_alone(client, count):
    request = client.request(ids=PROMPT, seed=42, sample_count=count, max_new_tokens=24, ignore_eos=True,
                             candidate_count=2, prompt_logprobs=True)
    assert_each_is_alone(client, request, client.send_samples(request))


@pytest.mark.parametrize("fields", [
    dict(temperature=0),
    dict(repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.2, logit_bias={5: 2.0}),
    dict(stop_strings=["e", "1"], include_stop_text=True, min_new_tokens=5),
    dict(generated_prompt_token_count=20, frequency_penalty=0.5),
    dict(max_new_tokens=0),
], ids=lambda fields: "-".join(fields))
def test_samples_with_other_fields(client, fields):
    request = client.request(**(dict(ids=PROMPT, seed=2**64 - 3, sample_count=5, max_new_tokens=40) | fields))
    assert_each_is_alone(client, request, client.send_samples(request))


@pytest.mark.parametrize("budget", [0, 6])
def test_samples_with_a_thinking_budget(client, budget):
    request = client.request(chat=[("user", "764 + 621")], seed=3, sample_count=6, max_new_tokens=80,
                             budget_tokens=budget)
    answers = client.send_samples(request)
    assert any(answer.finish.usage.reasoning_token_count > 0 for answer in answers) == (budget > 0)
    assert_each_is_alone(client, request, answers)


def worker(client):
    return client.topology().attention_workers[0].description


def assert_unused(client):
    wait_until(lambda: worker(client).load.used_sequences == 0 and worker(client).load.used_kv_blocks == 0)


def test_the_prompt_is_computed_once():
    with Cluster(MODEL, inproc=True) as cluster, Client(cluster.target) as client:
        request = client.request(ids=PROMPT, seed=1, sample_count=16, max_new_tokens=10, ignore_eos=True)
        client.send_samples(request)
        # The prompt but its last token once; for each that one, and what it generated but the last.
        assert worker(client).computed_token_count == len(PROMPT) - 1 + 16 * 10
        assert worker(client).fork_count == 15
        assert_unused(client)


def test_requests_of_others_do_not_cost_the_prompt_again():
    """A second router's short requests want every slot that is free, while a first router's samples come one by one."""
    samples, new_tokens = 16, 100
    with Cluster(MODEL, inproc=True, attention_flags=["--max_sequences=4"]) as cluster:
        other = Process("m1-router", f"--model={MODEL}", f"--attention_workers={cluster.attention[0].address}")
        other.start()
        try:
            wait_serving(other.address)
            with Client(cluster.target) as first, Client(other.address) as second:
                warm_up = second.generate(ids=[1, 2, 3], max_new_tokens=1)  # the others came later than the samples
                rows, over = [3], threading.Event()

                def short_requests(thread):
                    while not over.is_set():
                        answer = second.generate(ids=[thread + 1, 2, 3], max_new_tokens=8, ignore_eos=True)
                        rows.append(2 + len(answer.ids))

                threads = [threading.Thread(target=short_requests, args=(i,)) for i in range(6)]
                request = first.request(ids=PROMPT, seed=1, sample_count=samples, max_new_tokens=new_tokens,
                                        ignore_eos=True)
                started = []

                def begin(count):
                    if count >= samples and not started:  # the prompt messages are through
                        started.extend(threads)
                        for thread in threads:
                            thread.start()

                first.send_samples(request, on_response=begin)
                over.set()
                for thread in threads:
                    thread.join()
                assert warm_up.ids and len(rows) > 10, "there was no load"
                computed = worker(first).computed_token_count
                assert computed == sum(rows) + len(PROMPT) - 1 + samples * new_tokens
                assert worker(first).fork_count == samples - 1
        finally:
            other.stop()


def test_replays_begin_at_a_kept_prompt():
    """The first worker is drained: the second computes the prompt once for all that come over."""
    prompt = [(7 * i) % 250 + 1 for i in range(600)]
    with Cluster(MODEL, inproc=True, attention_workers=2) as cluster, Client(cluster.target) as client:
        request = client.request(ids=prompt, seed=4, sample_count=12, max_new_tokens=150, ignore_eos=True)

        def drain(count):
            if count == 12 + 12 * 20:
                busy = next(state.address for state in client.load().workers if state.sequence_count == 12)
                victim = next(process for process in cluster.attention if process.address == busy)
                victim.signal(signal.SIGTERM)

        answers = client.send_samples(request, on_response=drain)
        victim, other = sorted(cluster.attention, key=lambda process: process.running())
        assert victim.wait() == 0
        survivor = next(state.description for state in client.topology().attention_workers
                        if state.address == other.address)
        assert survivor.fork_count == 11
        # Each computes what it had generated again, at most all of it.
        assert len(prompt) + 12 < survivor.computed_token_count < len(prompt) + 12 * 151
    with Cluster(MODEL, inproc=True) as cluster, Client(cluster.target) as client:
        assert_each_is_alone(client, request, answers)


def test_a_reader_that_pauses_costs_few_replays(client):
    """64 samples fill the stream's buffer; those that are replayed begin at the kept prompt, and not all at once."""
    samples, new_tokens = 64, 200
    small_window = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536)]
    with Cluster(MODEL, inproc=True) as cluster, Client(cluster.target, small_window) as own:
        request = own.request(ids=PROMPT, seed=2, sample_count=samples, max_new_tokens=new_tokens, ignore_eos=True,
                              candidate_count=20)
        once = len(PROMPT) - 1 + samples * new_tokens

        def pause(count):
            if count == samples + 10:
                wait_until(lambda: sum(state.sequence_count for state in own.load().workers) == 0)
                assert worker(own).computed_token_count < once, "nothing was left to come"

        answers = own.send_samples(request, on_response=pause)
        computed = worker(own).computed_token_count
        print(f"\n{computed} rows, {once} without a pause, {worker(own).fork_count} forks")
        assert worker(own).fork_count > samples, "nothing was replayed"
        assert computed < 2 * once
        assert_unused(own)
    assert [answer.ids for answer in answers] == [
        answer.ids for answer in client.send_all(samples_alone(client, request))]


@pytest.mark.parametrize("max_sequences", [1, 3])
def test_more_samples_than_places(client, max_sequences):
    request = client.request(ids=PROMPT, seed=9, sample_count=8, max_new_tokens=30, ignore_eos=True)
    with Cluster(MODEL, inproc=True, attention_flags=[f"--max_sequences={max_sequences}"]) as cluster:
        with Client(cluster.target) as small:
            answers = small.send_samples(request)
            # A single place holds no prompt beside a sequence.
            assert worker(small).fork_count == (7 if max_sequences > 1 else 0)
            assert_unused(small)
    assert_each_is_alone(client, request, answers)


def test_under_preemption(client):
    request = client.request(ids=PROMPT, seed=9, sample_count=12, max_new_tokens=200, ignore_eos=True)
    with preempting_client(12, 640) as small:
        answers = small.send_samples(request)
        assert_unused(small)
    assert_each_is_alone(client, request, answers)


def test_a_worker_is_killed_meanwhile(client):
    flags = ["--max_sequences=6"]
    with Cluster(MODEL, expert_workers=2, attention_workers=2, attention_flags=flags) as cluster:
        with Client(cluster.target) as pair:
            held = []
            for round_, kill_at in enumerate((60, 300, 900)):
                victim = cluster.attention[round_ % 2]

                def kill(count):
                    if count == kill_at:
                        held.extend(state.sequence_count for state in pair.load().workers
                                    if state.address == victim.address)
                        victim.kill()

                request = client.request(ids=PROMPT, seed=kill_at, sample_count=24, max_new_tokens=60, ignore_eos=True)
                answers = pair.send_samples(request, on_response=kill)
                assert not victim.running(), "the answer was over before"
                assert_each_is_alone(client, request, answers)
                victim.start()
                wait_until(lambda: sum(state.ready for state in pair.load().workers) == 2)
            print(f"\nkilled with {held} samples")
            assert len(held) == 3 and all(held)

"""Many streams at once: all complete, none mixed up, and clients that vanish leave nothing behind."""

import random
import threading

import grpc

from client import Client
from cluster import Cluster, wait_until

MODEL = "models/tiny"
STREAMS = 64
TOKENS = 200
VANISHING = 200


def requests_of_streams(client):
    requests = []
    for index in range(STREAMS):
        numbers = random.Random(index)
        requests.append(client.request(ids=[numbers.randrange(508) for _ in range(3 + index)], seed=index,
                                       max_new_tokens=TOKENS, ignore_eos=True, request_id=f"stream-{index}"))
    return requests


def assert_idle(client):
    def idle():
        load = client.load()
        return load.running_request_count == 0 and load.queued_request_count == 0 and all(
            worker.sequence_count == 0 and worker.load.used_sequences == 0 and worker.load.used_kv_blocks == 0 and
            worker.load.waiting_sequences == 0 for worker in load.workers)

    wait_until(idle, 10, "no sequence left")


def test_64_streams_complete_and_do_not_mix(stubs):
    with Cluster(MODEL, expert_workers=2) as cluster, Client(cluster.target) as client:
        requests = requests_of_streams(client)
        answers = client.send_all(requests)
        for index, answer in enumerate(answers):
            assert answer.request_id == f"stream-{index}"
            assert len(answer.ids) == TOKENS
            assert answer.finish.reason == client.pb.FINISH_REASON_LENGTH
            assert answer.prompt_token_count == 3 + index
        assert len({tuple(answer.ids) for answer in answers}) == STREAMS
        for index in range(0, STREAMS, 13):  # alone they say the same
            assert client.send(requests[index]).key() == answers[index].key()
        assert_idle(client)


def test_vanishing_clients_leave_no_sequence(stubs):
    with Cluster(MODEL, expert_workers=2) as cluster, Client(cluster.target) as client:
        numbers = random.Random(5)
        delays = [numbers.uniform(0, 1.0) for _ in range(VANISHING)]
        problems = []

        def vanish(index):
            request = client.request(ids=[numbers.randrange(508) for _ in range(1 + index % 90)],
                                     max_new_tokens=2000, ignore_eos=True, seed=index)
            call = client.inference.Generate(request, timeout=60)
            timer = threading.Timer(delays[index], call.cancel)
            timer.start()
            try:
                for _ in call:
                    pass
            except grpc.RpcError as error:
                # Refused because the queue is full is an answer too; anything else is not.
                if error.code() not in (grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED):
                    problems.append(error)
            timer.cancel()

        threads = [threading.Thread(target=vanish, args=(index,)) for index in range(VANISHING)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not problems, problems[0]
        assert_idle(client)
        assert len(client.generate(ids=[1, 2, 3], max_new_tokens=5, ignore_eos=True).ids) == 5


def test_a_vanished_process_leaves_no_sequence(stubs):
    """A client whose connection breaks, rather than one that cancels."""
    with Cluster(MODEL, expert_workers=2) as cluster, Client(cluster.target) as client:
        for index in range(5):
            gone = Client(cluster.target)
            stream = gone.inference.Generate(gone.request(ids=[1 + index], max_new_tokens=5000, ignore_eos=True))
            next(stream)
            gone.channel.close()
        assert_idle(client)


def test_deadline_ends_the_sequence(stubs):
    with Cluster(MODEL, expert_workers=2) as cluster, Client(cluster.target) as client:
        try:
            client.generate(ids=[5], max_new_tokens=30000, ignore_eos=True, timeout=0.5)
            raise AssertionError("no deadline")
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert_idle(client)


def test_abort_ends_the_stream_with_cancelled(stubs):
    with Cluster(MODEL, expert_workers=2) as cluster, Client(cluster.target) as client:
        request = client.request(ids=[5], max_new_tokens=30000, ignore_eos=True, request_id="to-abort")
        stream = client.inference.Generate(request, timeout=60)
        assert next(stream).WhichOneof("event") == "prompt"
        assert client.control.Abort(client.control_pb.AbortRequest(request_id="to-abort"), timeout=5).found
        last = list(stream)[-1]
        assert last.finish.reason == client.pb.FINISH_REASON_CANCELLED
        assert not client.control.Abort(client.control_pb.AbortRequest(request_id="to-abort"), timeout=5).found
        assert_idle(client)

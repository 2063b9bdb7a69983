"""What deploy/failures.md promises when processes hang, wires are cut and files are damaged. Nobody's answer changes."""

import shutil
import signal
import time

import grpc
import pytest

from lossy_proxy import LossyProxy

MODEL = "models/tiny"
ANSWER_TOKENS = 400
# A silent peer is pinged after 10 s and given up 5 s later (common/rpc/channel.h, server_runner.cc).
KEEPALIVE_SECONDS = 15


@pytest.fixture
def start(stubs):
    """start(name, *flags): a server on the embedded model, ended after the test."""
    from cluster import Process
    started = []

    def run(name, *flags, model=MODEL):
        started.append(Process(name, f"--model={model}", *flags).start())
        return started[-1]

    yield run
    for process in reversed(started):
        if process.running():
            process.signal(signal.SIGCONT)
        process.stop()


def request_of(client, ids=(7, 8, 9)):
    return client.request(ids=list(ids), max_new_tokens=ANSWER_TOKENS, ignore_eos=True, seed=3)


def rest_of(stream, ids):
    return ids + [token.id for response in stream for token in response.delta.tokens]


def begin(client, request, count=20):
    """A stream, and the first ids of its answer."""
    stream, ids = client.inference.Generate(request, timeout=120), []
    while len(ids) < count:
        ids += [token.id for token in next(stream).delta.tokens]
    return stream, ids


def ready_workers(client):
    return [worker.address for worker in client.load().workers if worker.ready]


def test_without_a_worker_requests_wait_and_are_told_when_to_come_again(start):
    from client import Client, error_details
    from google.rpc import error_details_pb2
    attention = start("m1-attention-worker", "--expert_workers=inproc")
    router = start("m1-router", f"--attention_workers={attention.address}", "--worker_loss_timeout=1s")
    from cluster import wait_serving
    wait_serving(router.address)
    with Client(router.address) as client:
        stream, _ = begin(client, request_of(client))
        attention.kill()
        with pytest.raises(grpc.RpcError) as lost:
            list(stream)
        assert lost.value.code() == grpc.StatusCode.UNAVAILABLE and "no attention worker was ready for 1s" in lost.value.details()
        [info] = error_details(lost.value, error_details_pb2.RetryInfo)
        assert info.retry_delay.seconds == 5
        attention.start()
        wait_serving(router.address)
        assert len(client.send(request_of(client)).ids) == ANSWER_TOKENS


def test_a_hung_attention_worker_is_left(start):
    """It holds its connection and answers nothing: after the keep-alive another one goes on, to the same tokens."""
    from client import Client
    from cluster import wait_until
    workers = [start("m1-attention-worker", "--expert_workers=inproc") for _ in range(2)]
    router = start("m1-router", "--attention_workers=" + ",".join(worker.address for worker in workers))
    with Client(router.address) as client:
        wait_until(lambda: len(ready_workers(client)) == 2, what="both workers")
        request = request_of(client)
        whole = client.send(request)
        stream, ids = begin(client, request)
        holder = next(worker.address for worker in client.load().workers if worker.sequence_count)
        hung = next(worker for worker in workers if worker.address == holder)
        hung.signal(signal.SIGSTOP)
        started = time.monotonic()
        assert rest_of(stream, ids) == whole.ids
        assert time.monotonic() - started < KEEPALIVE_SECONDS + 5
        assert ready_workers(client) == [worker.address for worker in workers if worker is not hung]
        hung.signal(signal.SIGCONT)
        wait_until(lambda: len(ready_workers(client)) == 2, what="it is back")


def test_a_hung_router_loses_what_it_held(start):
    """Its clients have only their deadlines; the worker frees their sequences, and another router serves."""
    from client import Client
    from cluster import wait_serving, wait_until
    attention = start("m1-attention-worker", "--expert_workers=inproc", "--max_sequences=1")
    hung, other = (start("m1-router", f"--attention_workers={attention.address}") for _ in range(2))
    for router in (hung, other):
        wait_serving(router.address)
    with Client(hung.address) as first, Client(other.address) as second:
        stream = first.inference.Generate(first.request(ids=[5], max_new_tokens=8000, ignore_eos=True), timeout=2)
        next(stream)
        hung.signal(signal.SIGSTOP)
        with pytest.raises(grpc.RpcError) as late:
            list(stream)
        assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        # The only slot is held by the sequence of the router that hangs, until it ends or the router is given up.
        assert len(second.send(request_of(second), timeout=KEEPALIVE_SECONDS + 10).ids) == ANSWER_TOKENS
        wait_until(lambda: second.load().workers[0].load.used_sequences == 0, 5, "nothing is held")


def test_a_cut_wire_to_an_expert_worker(start):
    """The attention worker behind it waits, and takes no new requests; others do; when the wire is whole its answers go on."""
    from client import Client
    from cluster import wait_until
    expert = start("m1-expert-worker")
    with LossyProxy(expert.address) as wire:
        flags = ("--exchange_timeout=1s",)
        behind = start("m1-attention-worker", f"--expert_workers={wire.address}", *flags)
        beside = start("m1-attention-worker", f"--expert_workers={expert.address}", *flags)
        routers = [start("m1-router", f"--attention_workers={addresses}")
                   for addresses in (behind.address, f"{behind.address},{beside.address}")]
        with Client(routers[0].address) as through, Client(routers[1].address) as both:
            wait_until(lambda: len(ready_workers(both)) == 2 and len(ready_workers(through)) == 1, what="all ready")
            request = request_of(through)
            whole = through.send(request)
            stream, ids = begin(through, request)
            wire.cut()
            wait_until(lambda: ready_workers(both) == [beside.address], 10, "it is not ready")
            assert both.send(request).ids == whole.ids
            wire.mend()
            assert rest_of(stream, ids) == whole.ids
            wait_until(lambda: len(ready_workers(both)) == 2, what="ready again")


@pytest.mark.parametrize("weights", ["copy", "mmap"])
def test_a_checkpoint_is_cut_short_while_it_serves(start, tmp_path, weights):
    """Copies do not care. Mapped pages that are gone kill the worker; it does not start on what is left."""
    from client import Client
    from cluster import wait_serving
    damaged = str(tmp_path / "model")
    shutil.copytree(MODEL, damaged)
    expert = start("m1-expert-worker", f"--weights={weights}", model=damaged)
    attention = start("m1-attention-worker", f"--expert_workers={expert.address}")
    router = start("m1-router", f"--attention_workers={attention.address}")
    wait_serving(router.address)
    with Client(router.address) as client:
        request = request_of(client)
        whole = client.send(request)
        with open(f"{damaged}/model.safetensors", "r+b") as file:
            file.truncate(4096)
        if weights == "copy":
            assert client.send(request).ids == whole.ids
            return
        stream = client.inference.Generate(request, timeout=60)
        assert expert.wait(20) == -signal.SIGBUS
        again = type(expert)("m1-expert-worker", f"--model={damaged}")
        again.port = expert.port
        again.start(wait=False)
        assert again.wait(20) == 3 and damaged in again.log()
        shutil.copy(f"{MODEL}/model.safetensors", damaged)
        expert.start()
        assert rest_of(stream, []) == whole.ids

"""--device cuda through real processes, on a simulated GPU: weights and rows go to a memory that the host cannot touch, and
the answers are those of one process, whatever carries the rows. No GPU is needed, and none is used."""

import signal
import threading

import grpc
import pytest

from client import Answer, Client
from cluster import Cluster, Process, is_serving, require, wait_until

MODEL = "models/tiny"
KIND = "-simulated-gpu"
FLAGS = ["--device=cuda"]
LOSE_GPU = signal.SIGUSR1  # to a simulated one
DEVICE_FAULT = 4  # exit code
ATTENTION = ["--max_sequences=4", "--kv_bytes=2097152", "--max_step_tokens=16", "--exchange_timeout=120s"]  # it is slow


def requests_of(client):
    return [client.request(ids=list(range(1 + 7 * i, 8 + 9 * i)), max_new_tokens=2, ignore_eos=True, temperature=i % 2, seed=i,
                           candidate_count=2) for i in range(3)]


def ask(**cluster):
    """The keys of three answers that are computed together, and of the first one alone."""
    with Cluster(MODEL, common_flags=FLAGS, attention_flags=ATTENTION, worker_kind=KIND, **cluster) as started:
        with Client(started.target) as client:
            requests = requests_of(client)
            together = [answer.key() for answer in client.send_all(requests)]
            assert client.send(requests[0]).key() == together[0]
            return together


@pytest.fixture(scope="module")
def one_process(stubs):
    return ask(inproc=True)


@pytest.mark.parametrize("shm", [False, True], ids=["grpc", "shm"])
def test_spread_over_processes_the_answers_are_the_same(shm, one_process):
    assert ask(expert_workers=2, shm=shm) == one_process


def linked(client, workers):
    """Whether rows go from device to device with just these expert workers."""
    peers = [peer.address for peer in client.topology().attention_workers[0].description.expert_peers]
    return sorted(peers) == sorted(workers)


@pytest.mark.parametrize("nccl", [[0, 1], [1]], ids=["all", "beside-grpc"])
def test_rows_from_device_to_device_give_the_same_answers(nccl, one_process):
    with Cluster(MODEL, expert_workers=2, nccl=nccl, common_flags=FLAGS, attention_flags=ATTENTION, worker_kind=KIND) as cluster:
        with Client(cluster.target) as client:
            names = [("nccl:" if i in nccl else "") + expert.address for i, expert in enumerate(cluster.experts)]
            wait_until(lambda: linked(client, names), what="device links")
            assert [answer.key() for answer in client.send_all(requests_of(client))] == one_process


def test_a_killed_expert_worker_changes_no_answer_and_is_linked_again(stubs):
    with Cluster(MODEL, expert_workers=2, nccl=True, common_flags=FLAGS, attention_flags=ATTENTION, worker_kind=KIND) as cluster:
        with Client(cluster.target) as client:
            names = ["nccl:" + expert.address for expert in cluster.experts]
            wait_until(lambda: linked(client, names), what="device links")
            request = client.request(ids=list(range(5, 25)), max_new_tokens=12, ignore_eos=True, temperature=1, seed=3)
            plain = client.send(request).key()
            answer, victim, killed = Answer(), cluster.experts[0], False
            for response in client.inference.Generate(request, timeout=240):
                answer.take(response, client.pb)
                if not killed and len(answer.ids) >= 2:
                    killed = True
                    victim.kill()
                    victim.start()
            assert killed and answer.key() == plain
            wait_until(lambda: linked(client, names), what="the link is back")
            assert client.send(request).key() == plain


def test_what_the_device_cannot_hold_is_refused(stubs):
    worker = Process("m1-attention-worker" + KIND, f"--model={MODEL}", "--expert_workers=inproc", "--device=cuda",
                     f"--kv_bytes={2 << 30}", "--max_sequences=400").start(wait=False)
    assert worker.wait() == 2
    assert "the device has 960 MiB of memory to give, wanted" in worker.log() and "KV blocks (--kv_bytes)" in worker.log()


@pytest.mark.parametrize("worker", ["m1-attention-worker", "m1-expert-worker"])
def test_a_model_that_no_kernel_takes_is_refused(worker, stubs):
    flags = ["--expert_workers=inproc"] if worker == "m1-attention-worker" else ["--shard=0/1"]
    process = Process(worker + KIND, "--model=tests/golden/mini-bf16", "--device=cuda", *flags).start(wait=False)
    assert process.wait() == 2
    assert "--device is cuda: head_dim is 16, a GPU takes multiples of 32 up to 256 in lightning layers" in process.log()


def test_a_program_without_cuda_says_so(stubs):
    worker = Process("m1-expert-worker", f"--model={MODEL}", "--shard=0/1", "--device=cuda").start(wait=False)
    assert worker.wait() == 2
    assert "--device is cuda: this program was built without CUDA" in worker.log()


def test_gpus_and_cpus_do_not_meet(stubs):
    """They compute other bits: the attention worker stays without experts."""
    expert = Process("m1-expert-worker", f"--model={MODEL}", "--shard=0/1").start()
    attention = Process("m1-attention-worker" + KIND, f"--model={MODEL}", f"--expert_workers={expert.address}", *FLAGS, *ATTENTION)
    try:
        attention.start()
        wait_until(lambda: 'device_kind: ours "cuda", theirs "cpu"' in attention.log(), what="the log names the kinds")
        assert not is_serving(attention.address)
    finally:
        attention.stop()
        expert.stop()


class Watch(threading.Thread):
    """What grpc.health.v1 says of a process until it ends."""

    def __init__(self, address):
        super().__init__(daemon=True)
        self.address = address
        self.statuses = []
        self.start()

    def run(self):
        from grpc_health.v1 import health_pb2, health_pb2_grpc
        with grpc.insecure_channel(self.address) as channel:
            try:
                for response in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()):
                    self.statuses.append(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))
            except grpc.RpcError:
                return


def lose_gpu_in_mid_answer(cluster, find_victim):
    """`find_victim()`, once tokens come: whose GPU is lost then. The answer goes on as if nothing had happened; the process ends."""
    with Client(cluster.target) as client:
        request = client.request(ids=list(range(5, 25)), max_new_tokens=12, ignore_eos=True, temperature=1, seed=3, candidate_count=2)
        plain = client.send(request).key()
        answer, victim, watch = Answer(), None, None
        for response in client.inference.Generate(request, timeout=240):
            answer.take(response, client.pb)
            if victim is None and len(answer.ids) >= 2:
                victim = find_victim(client)
                watch = Watch(victim.address)
                wait_until(lambda: watch.statuses == ["SERVING"], what="health is watched")
                victim.signal(LOSE_GPU)
        wait_until(lambda: not victim.running(), what="it has work and sees the loss")
        assert victim.wait() == DEVICE_FAULT
        assert answer.key() == plain
        watch.join(60)
        assert watch.statuses[:2] in (["SERVING"], ["SERVING", "NOT_SERVING"])
        require(len(watch.statuses) == 2, "the process ended before who watches had heard of it")
        assert 'event=device_fault exit_code=4 error="' in victim.log() and "cudaErrorLaunchFailure" in victim.log()
        victim.start()  # as whoever restarts it does
        wait_until(lambda: is_serving(victim.address), what="it serves again")
        assert client.send(request).key() == plain


@pytest.mark.slow
def test_an_attention_worker_that_loses_its_gpu_ends_and_another_goes_on(stubs):
    with Cluster(MODEL, inproc=True, attention_workers=2, common_flags=FLAGS, attention_flags=ATTENTION, worker_kind=KIND) as cluster:
        def holder(client):
            held = next(worker.address for worker in client.load().workers if worker.sequence_count > 0)
            return next(process for process in cluster.attention if process.address == held)

        lose_gpu_in_mid_answer(cluster, holder)


@pytest.mark.slow
@pytest.mark.parametrize("shm", [False, True], ids=["grpc", "shm"])
def test_an_expert_worker_that_loses_its_gpu_ends_and_a_copy_goes_on(shm, stubs):
    with Cluster(MODEL, experts=["0-31", "0-31"], common_flags=FLAGS, attention_flags=ATTENTION, worker_kind=KIND, shm=shm) as cluster:
        lose_gpu_in_mid_answer(cluster, lambda _: cluster.experts[0])

"""--device cuda through real processes, on a simulated GPU: weights and rows go to a memory that the host cannot touch, and
the answers are those of one process, whatever carries the rows. No GPU is needed, and none is used."""

import pytest

from client import Client
from cluster import Cluster, Process, is_serving, wait_until

MODEL = "models/tiny"
KIND = "-simulated-gpu"
FLAGS = ["--device=cuda"]
ATTENTION = ["--max_sequences=4", "--kv_bytes=2097152", "--max_step_tokens=16", "--exchange_timeout=120s"]  # it is slow


def ask(**cluster):
    """The keys of three answers that are computed together, and of the first one alone."""
    with Cluster(MODEL, common_flags=FLAGS, attention_flags=ATTENTION, worker_kind=KIND, **cluster) as started:
        with Client(started.target) as client:
            requests = [client.request(ids=list(range(1 + 7 * i, 8 + 9 * i)), max_new_tokens=2, ignore_eos=True, temperature=i % 2,
                                       seed=i, candidate_count=2) for i in range(3)]
            together = [answer.key() for answer in client.send_all(requests)]
            assert client.send(requests[0]).key() == together[0]
            return together


@pytest.fixture(scope="module")
def one_process(stubs):
    return ask(inproc=True)


@pytest.mark.parametrize("shm", [False, True], ids=["grpc", "shm"])
def test_spread_over_processes_the_answers_are_the_same(shm, one_process):
    assert ask(expert_workers=2, shm=shm) == one_process


def test_what_the_device_cannot_hold_is_refused(stubs):
    worker = Process("m1-attention-worker" + KIND, f"--model={MODEL}", "--expert_workers=inproc", "--device=cuda",
                     f"--kv_bytes={2 << 30}", "--max_sequences=400").start(wait=False)
    assert worker.wait(60) == 2
    assert "the device has 960 MiB of memory to give, wanted" in worker.log() and "KV blocks (--kv_bytes)" in worker.log()


def test_a_program_without_cuda_says_so(stubs):
    worker = Process("m1-expert-worker", f"--model={MODEL}", "--shard=0/1", "--device=cuda").start(wait=False)
    assert worker.wait(60) == 2
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

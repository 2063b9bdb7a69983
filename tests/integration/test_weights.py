"""How workers hold their weights and where their threads run: no answer depends on it, and the log tells it."""

import os
import re

import pytest

from client import Client
from cluster import Cluster, Process, wait_until

MODEL = "models/tiny"
CORES = sorted(os.sched_getaffinity(0))


def answers(cluster):
    with Client(cluster.target) as client:
        requests = [client.request(ids=[(7 * i + j) % 508 for j in range(1 + 40 * i)], max_new_tokens=20, ignore_eos=True,
                                   candidate_count=2, temperature=0.8, seed=i) for i in range(4)]
        return [answer.key() for answer in client.send_all(requests)]


@pytest.fixture(scope="module")
def wanted(stubs):
    with Cluster(MODEL, expert_workers=2, common_flags=["--weights=mmap"]) as cluster:
        return answers(cluster)


def workers(cluster):
    return [*cluster.experts, *cluster.attention]


COMPUTE_THREADS = ("step-loop", "batch-loop", "compute")


def pinned_cores(process):
    """The only core of each compute thread that has just one, from /proc. A thread of gRPC's that such a thread
    started has its core, too."""
    cores = []
    for thread in os.listdir(f"/proc/{process.pid}/task"):
        with open(f"/proc/{process.pid}/task/{thread}/status", encoding="utf-8") as file:
            status = file.read()
        name = re.search(r"^Name:\s*(\S+)$", status, re.MULTILINE).group(1)
        allowed = re.search(r"^Cpus_allowed_list:\s*(\S+)$", status, re.MULTILINE).group(1)
        if allowed.isdigit() and name in COMPUTE_THREADS:
            cores.append(int(allowed))
    return sorted(cores)


@pytest.mark.parametrize("options", [{"expert_workers": 2}, {"expert_workers": 2, "shm": True}, {"inproc": True}])
def test_copies_give_the_answers_of_the_files(wanted, options):
    with Cluster(MODEL, common_flags=["--weights=copy"], **options) as cluster:
        assert answers(cluster) == wanted
        for process in workers(cluster):
            mapped = sum(size for path, size in process.memory()["file"].items() if path.endswith(".safetensors"))
            assert mapped <= 64 << 10, f"{process.name} holds {mapped} bytes of the files"  # what the kernel maps around a touch


@pytest.mark.parametrize("weights", ["copy", "mmap"])
def test_the_log_tells_how_loading_went(wanted, weights):
    flags = ["--weights=" + weights, "--log_level=info"]
    with Cluster(MODEL, expert_workers=2, common_flags=flags) as cluster:
        for process in workers(cluster):
            wait_until(lambda: "event=serving" in process.log(), what="event=serving")
            log = process.log()
            done, total, gigabytes = re.search(
                r"event=loaded done_bytes=(\d+) total_bytes=(\d+) seconds=\d+\.\d+ gb_per_second=(\d+\.\d+)", log).groups()
            assert done == total and int(total) > 1 << 20, log
            assert float(gigabytes) > 0, log
            memory = {"copy": "copies_with_large_pages", "mmap": "mapped_files"}[weights]
            assert f"event=weights memory={memory} " in log
            seconds = re.findall(r"event=serving address=127\.0\.0\.1:\d+ seconds=(\d+\.\d+)", log)
            assert len(seconds) == 1 and 0 < float(seconds[0]) < 60, log


@pytest.mark.parametrize("options", [{"expert_workers": 2}, {"expert_workers": 2, "shm": True}])
def test_pinned_threads_have_a_core_each(wanted, options):
    if len(CORES) < 2:
        pytest.skip("a thread that may use one core of one is not told from one that is pinned")
    with Cluster(MODEL, common_flags=["--pin"], **options) as cluster:
        assert answers(cluster) == wanted
        for process in workers(cluster):
            assert pinned_cores(process) == CORES, process.name


def test_threads_are_free_without_pin(wanted):
    if len(CORES) < 2:
        pytest.skip("all threads have one core")
    with Cluster(MODEL, expert_workers=1) as cluster:
        assert answers(cluster) == wanted
        for process in workers(cluster):
            assert pinned_cores(process) == [], process.name


def test_fewer_pinned_threads_than_cores(wanted):
    if len(CORES) < 2:
        pytest.skip("wants two cores")
    with Cluster(MODEL, inproc=True, common_flags=["--pin", "--threads=1"]) as cluster:
        assert answers(cluster) == wanted
        assert pinned_cores(cluster.attention[0]) == CORES[:1]


@pytest.mark.parametrize("name", ["m1-expert-worker", "m1-attention-worker"])
@pytest.mark.parametrize("flags, message", [
    (["--weights=ram"], '--weights is "ram", wanted auto, copy or mmap'),
    (["--pin", f"--threads={len(CORES) + 1}"], f"--pin with --threads {len(CORES) + 1}: this process may use {len(CORES)} cores"),
    (["--pin=maybe"], "pin"),
])
def test_bad_flags_are_named(name, flags, message):
    peers = ["--expert_workers=127.0.0.1:1"] if name == "m1-attention-worker" else []
    process = Process(name, f"--model={MODEL}", *peers, *flags).start(wait=False)
    assert process.wait() == 2
    assert message in process.log()

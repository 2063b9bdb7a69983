"""A loop that stands still: its process says so on /healthz and to gRPC's health checks, the others live, and when it goes on nothing
is lost. Threads are stopped one by one, as a debugger does it."""

import contextlib
import ctypes
import os
import time

import grpc
import pytest

from client import Client
from cluster import wait_until
from prometheus import COMPONENTS, cluster_with_ports, get

LIMIT_SECONDS = 3  # a loop that works may wait so long for a core of a busy machine
ALIVE = (200, "alive\n")
LOOPS = {"router": ("scheduler-tick", "scheduler"), "attention-worker": ("step-loop", "step loop"),
         "expert-worker": ("batch-loop", "batch loop")}
PTRACE_DETACH, PTRACE_SEIZE, PTRACE_INTERRUPT = 17, 0x4206, 0x4207
WALL = 0x40000000


def ptrace(request, thread):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if libc.ptrace(request, thread, None, None) != 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x} of {thread}")


def thread_named(pid, name):
    tasks = f"/proc/{pid}/task"
    for thread in os.listdir(tasks):
        with open(f"{tasks}/{thread}/comm", encoding="utf-8") as file:
            if file.read().strip() == name:
                return int(thread)
    raise AssertionError(f"{pid} has no thread {name}")


@contextlib.contextmanager
def stopped(thread):
    """Only this thread of its process stands still."""
    ptrace(PTRACE_SEIZE, thread)
    ptrace(PTRACE_INTERRUPT, thread)
    os.waitpid(thread, WALL)
    try:
        yield
    finally:
        ptrace(PTRACE_DETACH, thread)


def is_alive(address):
    """What gRPC's health check of "liveness" says."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="liveness"), timeout=5)
    return answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.fixture(scope="module")
def served(stubs):
    """A cluster, its ports of metrics and a client."""
    limit = [f"--liveness_timeout={LIMIT_SECONDS}s"]
    with cluster_with_ports(router_flags=limit, attention_flags=limit, expert_flags=limit) as (cluster, ports), \
            Client(cluster.target) as client:
        yield cluster, ports, client


def test_a_loop_without_work_is_alive(served):
    _, ports, client = served
    client.generate(ids=[1, 2, 3], max_new_tokens=3, ignore_eos=True)
    for _ in range((LIMIT_SECONDS + 1) * 10):
        assert {name: get(ports[name], "/healthz") for name in COMPONENTS} == dict.fromkeys(COMPONENTS, ALIVE)
        time.sleep(0.1)


def is_in_system_call(pid, thread):
    """Of a stopped thread: it waits for something, as a loop without work does."""
    with open(f"/proc/{pid}/task/{thread}/syscall", encoding="utf-8") as file:
        return not file.read().startswith("-1 ")


def is_told(process, port, loop):
    """Whether the process, one of whose threads stands still, says 503: not when that has no work, and it says nothing when the
    thread holds what all need, as the lock of the memory."""
    time.sleep(LIMIT_SECONDS + 0.5)
    try:
        told = get(port, "/healthz")
        is_alive(process.address)
    except (OSError, grpc.RpcError):
        return False
    if told == ALIVE:
        return False
    assert told[0] == 503 and f"the {loop} has made no progress for " in told[1], told
    wait_until(lambda: not is_alive(process.address), 5, "health says so")
    assert "event=stuck" in process.log()
    assert get(port, "/readyz") == told
    return True


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_loop_that_stands_still_is_told(served, component):
    cluster, ports, client = served
    process = {"router": cluster.router, "attention-worker": cluster.attention[0], "expert-worker": cluster.experts[0]}[component]
    name, loop = LOOPS[component]
    thread = thread_named(process.pid, name)
    request = client.request(ids=list(range(100)), max_new_tokens=1000, ignore_eos=True, temperature=1, seed=1)
    whole = client.send(request).key()
    told = False
    deadline = time.monotonic() + 60
    while not told:  # until the thread is stopped while it has work
        assert time.monotonic() < deadline, "it was never stopped while it had work"
        sending, answers = client.send_all_in_background([request] * 4)
        while not told and sending.is_alive():
            time.sleep(0.005)
            with stopped(thread):
                if component == "router" or not is_in_system_call(process.pid, thread):
                    told = is_told(process, ports[component], loop)
                    others = [get(ports[other], "/healthz") for other in COMPONENTS if other != component]
                    assert others == [ALIVE] * 2
        sending.join()
        assert [answer.key() for answer in answers] == [whole] * 4
    wait_until(lambda: get(ports[component], "/healthz") == ALIVE, 5, "the loop goes on")  # answers need not wait for its next turn
    wait_until(lambda: is_alive(process.address), 5, "health says that it lives again")

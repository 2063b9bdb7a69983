"""/healthz, /startupz and /readyz: a probe is answered at once whatever else is connected to the port, and says in a line why a
process does not serve."""

import contextlib
import re
import signal
import socket
import threading
import time
import urllib.error

import grpc
import pytest

from client import Client
from cluster import Process, free_ports, wait_until
from prometheus import COMPONENTS, cluster_with_ports, get, sample

MODEL = "--model=models/tiny"
LATEST_SECONDS = 1  # kubelets wait so long by default


@pytest.fixture(scope="module")
def expert():
    """An expert worker and its port of probes: the server of HTTP is the same in all processes."""
    port = free_ports(1)[0]
    process = Process("m1-expert-worker", MODEL, f"--metrics_port={port}").start()
    yield process, port
    assert process.stop() == 0


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def seconds_to_answer(port):
    begin = time.monotonic()
    assert get(port, "/healthz") == (200, "alive\n")
    return time.monotonic() - begin


class Writers:
    """Connections that send a request a byte at a time, in the background, and come back when they are sent away."""

    def __init__(self, port, count):
        self.port = port
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self._write) for _ in range(count)]

    def _write(self):
        request = b"GET /metrics HTTP/1.1\r\nHost: " + b"a" * 5000
        while not self.stopped.is_set():
            with contextlib.suppress(OSError), connect(self.port) as writer:
                for index in range(len(request)):
                    writer.sendall(request[index:index + 1])
                    if self.stopped.wait(0.05):
                        return

    def __enter__(self):
        for thread in self.threads:
            thread.start()

    def __exit__(self, *_):
        self.stopped.set()
        for thread in self.threads:
            thread.join()


def test_idle_connections_and_slow_writers_do_not_starve_probes(expert):
    process, port = expert
    with contextlib.ExitStack() as held, Writers(port, 32):
        slowest = 0
        idle = []
        end = time.monotonic() + 6
        while time.monotonic() < end:
            while len(idle) < 64:
                idle.append(held.enter_context(connect(port)))
            slowest = max(slowest, seconds_to_answer(port))
            idle = [one for one in idle if is_open(one)]
            time.sleep(0.05)
        print(f"\nslowest /healthz {slowest:.3f} s")
    assert slowest < LATEST_SECONDS
    assert process.running()


def is_open(connection):
    """That is: the server has not ended it."""
    connection.setblocking(False)
    try:
        return connection.recv(4096) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def test_readers_that_do_not_read_do_not_starve_probes(expert):
    process, port = expert
    with contextlib.ExitStack() as held:
        for _ in range(64):
            reader = held.enter_context(socket.socket())
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            reader.connect(("127.0.0.1", port))
            reader.sendall(b"GET /metrics HTTP/1.1\r\n\r\n" * 20)
        for _ in range(10):
            assert seconds_to_answer(port) < LATEST_SECONDS
    assert process.running()


def answer_to(port, request):
    """The status code, or None when the connection just ends."""
    with connect(port) as connection:
        data = b""
        with contextlib.suppress(OSError):  # it may be sent away before all is said
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65536):
                data += chunk
    match = re.match(rb"HTTP/\d\.\d (\d+) ", data)
    assert not data or match, data[:100]
    assert b"root:" not in data
    return int(match[1]) if match else None


@pytest.mark.parametrize("request_bytes, codes", [
    pytest.param(b"GET /healthz HTTP/1.0\r\n\r\n", {200}, id="http_1_0"),
    pytest.param(b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"a" * (1 << 20) + b"\r\n\r\n", {None, 400, 413, 431}, id="huge_header"),
    pytest.param(b"GET /healthz HTTP/1.1\r\n" + b"X: a\r\n" * 100_000 + b"\r\n", {None, 400, 413, 431}, id="many_headers"),
    pytest.param(b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nHost: a\r\n\r\n", {None, 400, 413, 414}, id="huge_url"),
    pytest.param(b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", {404, 405}, id="post"),
    pytest.param(b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\nhello", {None, 400, 404, 405, 411, 413}, id="huge_length"),
    pytest.param(b"DELETE /metrics HTTP/1.1\r\nHost: a\r\n\r\n", {404, 405}, id="delete"),
    pytest.param(b"PUT /evil HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na", {401, 403, 404, 405}, id="put"),
    pytest.param(b"\x00\xff\xfe" * 10_000, {None, 400, 413}, id="garbage"),
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200, {None, 400, 413}, id="tls_hello"),
    pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {None, 400, 404, 405, 501, 505}, id="http_2"),
    pytest.param(b"\r\n" * 50_000, {None, 400, 413}, id="empty_lines"),
    pytest.param(b"GET /../../../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", {400, 403, 404}, id="traversal"),
    pytest.param(b"GET /metrics/../../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", {400, 403, 404}, id="traversal_below"),
    pytest.param(b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", {400, 403, 404}, id="traversal_encoded"),
    pytest.param(b"GET file:///etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", {400, 403, 404}, id="other_scheme"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", {403, 404}, id="root"),
    pytest.param(b"GET /metrics", {None, 400}, id="cut"),
])
def test_hostile_requests(expert, request_bytes, codes):
    process, port = expert
    assert answer_to(port, request_bytes) in codes
    assert seconds_to_answer(port) < LATEST_SECONDS
    assert process.running()


def test_hostile_requests_all_at_once(expert):
    process, port = expert
    requests = [b"GET /" + b"a" * 100_000, b"POST /metrics HTTP/1.1\r\nContent-Length: 1000\r\n\r\n", b"\xff" * 20_000]
    stop = time.monotonic() + 3

    def attack(index):
        while time.monotonic() < stop:
            with contextlib.suppress(OSError):
                answer_to(port, requests[index % len(requests)])

    threads = [threading.Thread(target=attack, args=(index,)) for index in range(24)]
    for thread in threads:
        thread.start()
    slowest = 0
    while time.monotonic() < stop:
        slowest = max(slowest, seconds_to_answer(port))
    for thread in threads:
        thread.join()
    print(f"\nslowest /healthz {slowest:.3f} s")
    assert slowest < LATEST_SECONDS and process.running()


def test_probes_of_a_cluster_that_serves(stubs):
    with cluster_with_ports() as (_, ports):
        for port in ports.values():
            assert get(port, "/healthz") == (200, "alive\n")
            assert get(port, "/startupz") == (200, "started\n")
            assert get(port, "/readyz") == (200, "ready\n")
            assert get(port, "/nothing")[0] == 404


@pytest.mark.parametrize("component", COMPONENTS)
def test_readiness_waits_for_the_model(component):
    flags = {"router": ["--attention_workers=127.0.0.1:9"], "attention-worker": ["--expert_workers=inproc"], "expert-worker": []}
    seen = set()
    for _ in range(20):  # the model is small: a start may be over before it was looked at
        port = free_ports(1)[0]
        process = Process(f"m1-{component}", MODEL, f"--metrics_port={port}", *flags[component]).start(wait=False)
        end = time.monotonic() + 5
        while ("/startupz", 200) not in seen and time.monotonic() < end:
            for path in ("/startupz", "/readyz"):
                with contextlib.suppress(urllib.error.URLError, ConnectionError):
                    status, body = get(port, path)
                    seen.add((path, status if status == 200 else body))
        process.wait_listening()
        process.stop()
        if ("/readyz", "loading the model\n") in seen and ("/startupz", "loading the model\n") in seen:
            return
        seen.discard(("/startupz", 200))
    raise AssertionError(f"seen: {seen}")


def readiness(port):
    return get(port, "/readyz")


def test_readiness_is_not_liveness(stubs):
    """Experts go, and come back: who has to do with them is not ready and says why, and lives."""
    with cluster_with_ports() as (cluster, ports):
        cluster.experts[0].kill()
        wait_until(lambda: readiness(ports["attention-worker"]) == (503, "experts 0-31 have no host\n"))
        reason = f"no attention worker of 1 is ready: {cluster.attention[0].address}: "
        wait_until(lambda: readiness(ports["router"])[1].startswith(reason))
        assert readiness(ports["router"])[0] == 503 and readiness(ports["router"])[1].count("\n") == 1
        for name in ("attention-worker", "router"):
            assert get(ports[name], "/healthz")[0] == 200
            assert get(ports[name], "/startupz")[0] == 200
            assert sample(get(ports[name], "/metrics")[1], "m1_ready") == 0
        assert sample(get(ports["attention-worker"], "/metrics")[1], "m1_attention_experts_missing") == 32
        cluster.experts[0].start()
        for port in ports.values():
            wait_until(lambda: readiness(port)[0] == 200)  # pylint: disable=cell-var-from-loop


def test_the_experts_without_a_host_are_named(stubs):
    ports = free_ports(2)
    expert = Process("m1-expert-worker", MODEL, "--experts=0-2,4-6,8-31").start()
    attention = Process("m1-attention-worker", MODEL, f"--metrics_port={ports[0]}", f"--expert_workers={expert.address}").start()
    router = Process("m1-router", MODEL, f"--metrics_port={ports[1]}", f"--attention_workers={attention.address}").start()
    try:
        wait_until(lambda: readiness(ports[0]) == (503, "experts 3,7 have no host\n"))
        wait_until(lambda: readiness(ports[1])[1].startswith("no attention worker of 1 is ready: "))
    finally:
        for process in (router, attention, expert):
            process.stop()


@contextlib.contextmanager
def held_open(address):
    """A call that goes on until the server ends it: of grpc.health.v1."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    with grpc.insecure_channel(address) as channel:
        call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        next(call)
        yield
        call.cancel()


@pytest.mark.parametrize("component", COMPONENTS)
def test_who_drains_says_so(stubs, component):
    with cluster_with_ports() as (cluster, ports), Client(cluster.target) as client:
        process = {"router": cluster.router, "attention-worker": cluster.attention[0], "expert-worker": cluster.experts[0]}[component]
        if component == "router":
            call = client.inference.Generate(client.request(ids=[1], max_new_tokens=20_000, ignore_eos=True))
            next(call)
        with held_open(process.address):
            process.signal(signal.SIGTERM)
            wait_until(lambda: readiness(ports[component]) == (503, "draining\n"), 5)
            assert get(ports[component], "/healthz")[0] == 200
            assert get(ports[component], "/startupz")[0] == 200
            if component == "router":
                call.cancel()
        assert process.wait(20) == 0


SERVERS = {"m1-router": ["--attention_workers=127.0.0.1:9"], "m1-attention-worker": ["--expert_workers=127.0.0.1:9"],
           "m1-expert-worker": []}


@pytest.mark.parametrize("name", SERVERS)
def test_a_port_that_other_hosts_reach_wants_tls_or_consent(name):
    flags = [MODEL, *SERVERS[name], f"--metrics_port={free_ports(1)[0]}", "--metrics_address=0.0.0.0"]
    refused = Process(name, *flags).start(wait=False)
    assert refused.wait() == 2
    assert "--metrics_address is 0.0.0.0" in refused.log() and "--insecure" in refused.log()
    allowed = Process(name, *flags, "--insecure").start()
    assert allowed.stop() == 0
    unused = Process(name, MODEL, *SERVERS[name], "--metrics_address=0.0.0.0").start()  # nothing listens there
    assert unused.stop() == 0

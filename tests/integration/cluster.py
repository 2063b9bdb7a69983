"""Starts the real processes on 127.0.0.1 and ends them by pid.

    with Cluster("models/tiny", expert_workers=3) as cluster:
        client = Client(cluster.target)
        tokens = client.generate(prompt_ids=[1, 2, 3]).tokens

Everything about a server is learnt as an operator would: its `listening` line, health, exit code and log.
"""

import contextlib
import functools
import os
import queue
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time

import grpc

BIN = os.environ.get("M1_BIN", "build/release/bin")
START_SECONDS = 120  # far more than anything takes: machines that run tests stall
STOP_SECONDS = 25  # below --drain_timeout: that nothing is waited for until then
MESSAGE_BYTES = 64 << 20
TINY_BLOCK_BYTES = 64 * 2 * 2 * 2 * 32 * 2  # of models/tiny: 64 tokens, keys and values, 2 layers, 2 heads of 32 bf16 numbers


@functools.cache
def known_flags(binary):
    """Names of the flags that a server's --help tells."""
    text = subprocess.run([os.path.join(BIN, binary), "--help"], capture_output=True, text=True, check=False).stdout
    flags = frozenset(re.findall(r"^ +--([a-z_]+) \(", text, re.MULTILINE))
    assert "log_level" in flags, text
    return flags


class Process:
    """One server. Its log goes to a file; `listening 127.0.0.1:PORT` is read from its standard output."""

    def __init__(self, name, *flags):
        self.name = name
        self.flags = list(flags)
        self.address = None
        self.port = 0
        self.log_file = tempfile.NamedTemporaryFile(mode="w+", prefix=name + "_", suffix=".log", delete=False)
        self._popen = None

    def start(self, wait=True):
        """Starts, or starts again on the port that it had."""
        command = [os.path.join(BIN, self.name), f"--port={self.port}", *self.flags]
        self._popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log_file, text=True)
        self._lines = queue.Queue()
        threading.Thread(target=self._read_lines, args=(self._popen.stdout, self._lines), daemon=True).start()
        if wait:
            self.wait_listening()
        return self

    @staticmethod
    def _read_lines(stream, lines):
        for line in stream:
            lines.put(line.rstrip("\n"))
        lines.put(None)

    def wait_listening(self):
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                line = self._lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise Inconclusive(f"{self.name} does not listen after {START_SECONDS} s:\n{self.log()}") from None
            assert line is not None, f"{self.name} ended with {self.wait()} before it listened:\n{self.log()}"
            if line.startswith("listening "):
                self.address = line.removeprefix("listening ")
                self.port = int(self.address.rsplit(":", 1)[1])
                return

    @property
    def pid(self):
        return self._popen.pid

    def running(self):
        return self._popen is not None and self._popen.poll() is None

    def signal(self, number):
        self._popen.send_signal(number)

    def wait(self, seconds=60):
        """The exit code; negative: the signal that ended it."""
        return self._popen.wait(timeout=seconds)

    def kill(self):
        """As a crash: no orderly end."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self):
        """Orderly; killed when that takes too long, which is an error of its own."""
        if not self.running():
            return self._popen.returncode if self._popen else None
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            code = self.wait(STOP_SECONDS)
            self.log_file.close()
            if code == 0:
                os.unlink(self.log_file.name)  # kept for looking into what went wrong
            return code
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not end in {STOP_SECONDS} s after SIGTERM:\n{self.log()[-4000:]}")

    def log(self):
        with open(self.log_file.name, encoding="utf-8", errors="replace") as file:
            return file.read()

    def num_fds(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def num_shared_mappings(self):
        """Of memory that the exchange shares."""
        with open(f"/proc/{self.pid}/maps", encoding="utf-8", errors="replace") as file:
            return sum("memfd:m1-exchange" in line for line in file)

    def memory(self):
        """Resident bytes from smaps: {"anonymous": ..., "file": {path: bytes}}."""
        anonymous, files, path = 0, {}, ""
        with open(f"/proc/{self.pid}/smaps", encoding="utf-8", errors="replace") as file:
            for line in file:
                fields = line.split()
                if not fields[0].endswith(":"):
                    path = fields[5] if len(fields) > 5 else ""
                elif fields[0] == "Rss:":
                    if path.startswith("/"):
                        files[path] = files.get(path, 0) + int(fields[1]) * 1024
                    else:
                        anonymous += int(fields[1]) * 1024
        return {"anonymous": anonymous, "file": files}


class Cluster:
    """Expert workers, attention workers and a router. Flags are lists of "--name=value"."""

    def __init__(self, model, expert_workers=3, experts=None, attention_workers=1, inproc=False, shm=False, nccl=False,
                 common_flags=(), expert_flags=(), attention_flags=(), router_flags=(), credentials=None, worker_kind=""):
        """`experts`: what each expert worker hosts, as for --experts, in place of equal shards. `shm`: all of them, or
        those of which this is the list of indices, are reached through shared memory; `nccl`: likewise, with a device
        link. `credentials`: of gRPC, for a
        router with TLS. `worker_kind`: what the names of the workers' programs end with."""
        model_flag = f"--model={model}"
        specs = [f"--experts={text}" for text in experts] if experts else [
            f"--shard={i}/{expert_workers}" for i in range(expert_workers)
        ]
        self.experts = [] if inproc else [
            Process("m1-expert-worker" + worker_kind, model_flag, spec, *common_flags, *expert_flags) for spec in specs
        ]
        self.attention = [
            Process("m1-attention-worker" + worker_kind, model_flag, *common_flags, *attention_flags)
            for _ in range(attention_workers)
        ]
        self.router = Process("m1-router", model_flag, *router_flags)
        self.inproc = inproc
        self.shm = shm
        self.nccl = nccl
        self.credentials = credentials

    def __enter__(self):
        try:
            for process in self.experts:
                process.start(wait=False)
            for process in self.experts:
                process.wait_listening()
            peers = "inproc" if self.inproc else ",".join(
                self._prefix(index) + process.address
                for index, process in enumerate(self.experts))
            for process in self.attention:
                process.flags.append(f"--expert_workers={peers}")
                process.start(wait=False)
            for process in self.attention:
                process.wait_listening()
            self.router.flags.append(
                "--attention_workers=" + ",".join(process.address for process in self.attention))
            self.router.start()
            wait_serving(self.router.address, credentials=self.credentials)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind, error, traceback):
        codes = self.stop()
        if kind is None:
            assert set(codes.values()) <= {0, -signal.SIGKILL}, f"exit codes {codes}"

    def _prefix(self, index):
        for prefix, which in (("shm:", self.shm), ("nccl:", self.nccl)):
            if which if isinstance(which, bool) else index in which:
                return prefix
        return ""

    def stop(self):
        processes = [self.router, *self.attention, *self.experts]
        return {
            f"{process.name} {process.address}": process.stop()
            for process in processes if process._popen is not None
        }

    @property
    def target(self):
        return self.router.address


def is_serving(address, credentials=None):
    """True when grpc.health.v1 says so; False for NOT_SERVING and for nobody there."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.secure_channel(address, credentials) if credentials else grpc.insecure_channel(address) as channel:
        try:
            response = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2)
        except grpc.RpcError:
            return False
        return response.status == health_pb2.HealthCheckResponse.SERVING


def free_ports(count):
    """So many different ports of 127.0.0.1 that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Inconclusive(AssertionError):
    """What the test is about did not come about, or not in time: the machine was too busy, or too fast. The test runs once
    more, also where an answer that differs is given no second chance."""


def require(condition, what):
    """For what a test needs so that it shows something, and that hangs on the machine's speed."""
    if not condition:
        raise Inconclusive(what)


def wait_until(condition, seconds=START_SECONDS, what="condition"):
    deadline = time.monotonic() + seconds
    while not condition():
        require(time.monotonic() < deadline, f"{what}: not within {seconds} s")
        time.sleep(0.02)


def settled(read, still_seconds=1, seconds=START_SECONDS):
    """What `read` gives, once it has given the same for a while."""
    deadline = time.monotonic() + seconds
    last, since = read(), time.monotonic()
    while time.monotonic() - since < still_seconds:
        require(time.monotonic() < deadline, f"it still changes after {seconds} s: {last}")
        time.sleep(0.02)
        if (now := read()) != last:
            last, since = now, time.monotonic()
    return last


def wait_serving(address, seconds=START_SECONDS, credentials=None):
    wait_until(lambda: is_serving(address, credentials), seconds, f"{address} SERVING")


def run_m1(*arguments, stdin="", timeout=240):
    return subprocess.run([os.path.join(BIN, "m1"), *arguments], input=stdin, capture_output=True, text=True,
                          timeout=timeout, check=False)


def kill_busy_workers(cluster, client, clients, turns=3):
    """Kills an attention worker that has work and starts it again, in turn, while the thread `clients` runs. Says how
    many sequences each had."""
    killed_with = []
    for turn in range(turns):
        victim = cluster.attention[turn % len(cluster.attention)]

        def held():
            workers = client.load().workers
            return next((worker.sequence_count for worker in workers if worker.address == victim.address), 0)

        wait_until(lambda: held() > 5 or not clients.is_alive(), what=f"{victim.address} has work")
        killed_with.append(held())
        victim.kill()
        victim.start()
    return killed_with

"""The programs under test: where they lie, how they are started on this machine, and that none of them outlives a stage."""

import contextlib
import os
import queue
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.request

from report import Failed

START_SECONDS = 90
STOP_SECONDS = 20
LOG_TAIL = 1500  # characters of a log in a message


class Programs:
    """Starts programs of one build, or of an unpacked bundle."""

    def __init__(self, root, bin_folder, worker_kind="", logs="."):
        """`root`: what model and golden paths are relative to. `worker_kind`: what the names of the workers' programs end
        with."""
        self.root, self.bin, self.worker_kind, self.logs = root, bin_folder, worker_kind, logs
        self.loader = []  # a command before each program: for machines whose C library is older than the programs
        self._started = []

    def path(self, name):
        return os.path.join(self.bin, name)

    def worker(self, kind):
        return f"m1-{kind}-worker{self.worker_kind}"

    def command(self, program, *arguments):
        """`program`: a name in the folder of binaries, or a path."""
        return [*self.loader, program if os.path.isabs(program) else self.path(program), *arguments]

    def spawn(self, command, **options):
        """In a process group of its own, from the root."""
        popen = subprocess.Popen(command, cwd=self.root, stdin=subprocess.DEVNULL, start_new_session=True, **options)
        self._started.append(popen)
        return popen

    def call(self, command, log, env=None):
        """(exit code, the combined output), which is in the log, too. Its time is that of the stage."""
        path = os.path.join(self.logs, log)
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"$ {' '.join(command)}\n")
            file.flush()
            begin = file.tell()
            code = self.spawn(command, stdout=file, stderr=subprocess.STDOUT, env=os.environ | (env or {})).wait()
        with open(path, encoding="utf-8", errors="replace") as file:
            file.seek(begin)
            return code, file.read()

    def output(self, *arguments, name="m1"):
        """Standard output of a program that must succeed."""
        popen = self.spawn(self.command(name, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        out, error = popen.communicate()
        if popen.returncode != 0:
            raise Failed(f"{name} {arguments[0] if arguments else ''} ended with {popen.returncode}: {error[-LOG_TAIL:].strip()}")
        return out

    def help(self, name):
        return self.output("--help", name=name)

    def kill_all(self):
        """What still runs, with its children."""
        for popen in self._started:
            if popen.poll() is None:
                try:
                    os.killpg(popen.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                popen.wait()
        self._started.clear()


class Server:
    """One server. Its address is read from its `listening` line; its log goes to a file."""

    def __init__(self, programs, name, *flags):
        self.programs, self.name, self.flags = programs, name, flags
        self.address = None

    def start(self):
        """Starts, or starts again at the address that it had."""
        at = [] if self.address is None or self.address.startswith("unix:") else [
            f"--port={self.address.rsplit(':', 1)[1]}"]
        with open(os.path.join(self.programs.logs, "servers.log"), "a", encoding="utf-8") as log:
            log.write(f"$ {self.name} {' '.join(self.flags)}\n")
            log.flush()
            self._log_begin = log.tell()
            self._popen = self.programs.spawn(self.programs.command(self.name, *self.flags, *at), stdout=subprocess.PIPE,
                                              stderr=log, text=True)
        lines = queue.Queue()
        threading.Thread(target=self._read, args=(self._popen.stdout, lines), daemon=True).start()
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                line = lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise Failed(f"{self.name} did not listen within {START_SECONDS} s: {self.log()}") from None
            if line is None:
                raise Failed(f"{self.name} ended with {self._popen.wait()} before it listened: {self.log()}")
            if line.startswith("listening "):
                self.address = line.split()[1]
                return self

    @staticmethod
    def _read(stream, lines):
        for line in stream:
            lines.put(line)
        lines.put(None)

    def log(self):
        """The end of it, with what others wrote meanwhile."""
        with open(os.path.join(self.programs.logs, "servers.log"), encoding="utf-8", errors="replace") as file:
            file.seek(self._log_begin)
            return file.read()[-LOG_TAIL:].strip()

    def signal(self, number):
        self._popen.send_signal(number)

    def kill(self):
        """As a crash."""
        self._popen.kill()
        self._popen.wait()

    def stop(self):
        """Orderly; Failed when it takes too long or ends with an error."""
        if self._popen.poll() is None:
            self.signal(signal.SIGTERM)
        try:
            code = self._popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed(f"{self.name} did not end within {STOP_SECONDS} s after SIGTERM: {self.log()}") from None
        if code != 0:
            raise Failed(f"{self.name} ended with {code}: {self.log()}")


class Layout:
    """How experts are spread and reached."""

    def __init__(self, expert_workers=0, prefix="", attention_flags=(), expert_flags=()):
        self.expert_workers, self.prefix = expert_workers, prefix
        self.attention_flags, self.expert_flags = list(attention_flags), list(expert_flags)


class Cluster:
    """Expert workers, one attention worker and a router, on loopback."""

    def __init__(self, programs, model, layout, flags=(), attention_flags=(), cpu=False):
        """`flags`: of all workers. `cpu`: the plain workers on the CPU, the specification."""
        kind = "" if cpu else programs.worker_kind
        workers = [f"--model={model}", "--log_level=warning", *([] if cpu else ["--device=cuda"]), *flags]
        count = layout.expert_workers
        self.layout = layout
        self.experts = [Server(programs, f"m1-expert-worker{kind}", *workers, f"--shard={i}/{count}", *layout.expert_flags)
                        for i in range(count)]
        self._attention = lambda peers, port: Server(
            programs, f"m1-attention-worker{kind}", *workers, f"--expert_workers={peers}", f"--metrics_port={port}",
            *layout.attention_flags, *attention_flags)
        self._router = lambda address, port: Server(programs, "m1-router", f"--model={model}", "--log_level=warning",
                                                    f"--attention_workers={address}", f"--metrics_port={port}")
        self.attention = self.router = None
        self._attention_port, self._router_port = free_port(), free_port()

    def __enter__(self):
        for server in self.experts:
            server.start()
        peers = ",".join(self.layout.prefix + server.address for server in self.experts) or "inproc"
        self.attention = self._attention(peers, self._attention_port).start()
        self.router = self._router(self.attention.address, self._router_port).start()
        return self

    def __exit__(self, kind, error, trace):
        if kind is None:  # else whoever runs the stage kills what is left
            for server in (self.router, self.attention, *self.experts):
                server.stop()

    @property
    def target(self):
        return self.router.address

    def metric(self, name):
        """The sum of the series of this name, of the attention worker or the router."""
        port = self._router_port if name.startswith("m1_router") else self._attention_port
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            return metric_of(response.read().decode(), name)

    @contextlib.contextmanager
    def held(self, num_requests):
        """The attention worker stands still until the router has so many requests: they are computed together."""
        self.attention.signal(signal.SIGSTOP)
        try:
            yield
            while self.metric("m1_router_requests_in_flight") < num_requests:
                time.sleep(0.005)
        finally:
            self.attention.signal(signal.SIGCONT)


def metric_of(text, name):
    values = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? ([^ ]+)$", text, re.MULTILINE)
    if not values:
        raise Failed(f"no metric is named {name}")
    return sum(map(float, values))


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]

"""deploy/quickstart.md: its commands of m1, those in a container of compose too, run against the cluster it starts, and answer."""

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess

import pytest

import markdown
from cluster import free_ports
from pod_cluster import BIN
from tool import read

COMPOSE = ["docker", "compose", "run", "--rm", "cli"]
ROUTERS = ("127.0.0.1:50051", "router:50051")
METRICS = "9464"
PROCESSES = 4


def m1_commands() -> dict[str, list[str]]:
    """{command: its arguments of m1}"""
    found = {}
    for command in markdown.commands(read("deploy/quickstart.md")):
        words = shlex.split(command)
        if os.path.basename(words[0]) == "m1":
            found[command] = words[1:]
        elif words[:len(COMPOSE)] == COMPOSE:
            found[command] = words[len(COMPOSE):]
    return found


def free_port_with_free_neighbours() -> int:
    """Of so many ports in a row: `m1 up` gives each process one."""
    for _ in range(50):
        first = free_ports(1)[0]
        with contextlib.suppress(OSError, OverflowError), contextlib.ExitStack() as stack:
            for port in range(first, first + PROCESSES):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise AssertionError(f"no {PROCESSES} free ports in a row")


@pytest.fixture(scope="module")
def addresses():
    """The cluster of `m1 up` as the document starts it, on free ports: (router, port of its metrics)."""
    metrics = str(free_port_with_free_neighbours())
    up = next(words for words in m1_commands().values() if words[0] == "up")
    assert METRICS in up
    with subprocess.Popen([os.path.join(BIN, "m1"), *(word.replace(METRICS, metrics) for word in up), "--port=0"],
                          stdout=subprocess.PIPE, text=True) as popen:
        line = popen.stdout.readline()
        try:
            assert line.startswith("ready "), line
            yield line.split()[1], metrics
        finally:
            popen.send_signal(signal.SIGTERM)
    assert popen.returncode == 0


@pytest.mark.parametrize("command", [command for command, words in m1_commands().items() if words[0] != "up"])
def test_commands_of_m1_answer(addresses, command):
    router, metrics = addresses
    words = [word.replace(METRICS, metrics) for word in m1_commands()[command]]
    for name in ROUTERS:
        words = [word.replace(name, router) for word in words]
    if words[0] in ("generate", "chat") and not any(word.startswith("--target") for word in words):
        words.append(f"--target={router}")  # the default is 50051, which may be taken
    done = subprocess.run([os.path.join(BIN, "m1"), *words], input="764 + 621\n", capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert words[0] not in ("generate", "chat") or re.search(r"\b1385\b", done.stdout), done.stdout


def test_they_are_there():
    assert len(m1_commands()) >= 6
    assert {words[0] for words in m1_commands().values()} >= {"up", "generate", "chat", "health"}

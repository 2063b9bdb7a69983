"""`m1 up`: the cluster starts, repairs itself, and ends without a child left."""

import os
import signal
import subprocess
import time

from client import Client
from cluster import BIN, known_flags, wait_serving, wait_until


def children(pid):
    """{pid: name} of the direct children."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8") as file:
                name, rest = file.read().split("(", 1)[1].rsplit(")", 1)
        except OSError:
            continue
        if int(rest.split()[1]) == pid and rest.split()[0] != "Z":
            found[int(entry)] = name
    return found


class Up:

    def __init__(self, *flags):
        self.popen = subprocess.Popen([os.path.join(BIN, "m1"), "up", "--port=0", *flags], stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE, text=True)
        line = self.popen.stdout.readline()
        assert line.startswith("ready "), line + self.popen.stderr.read()
        self.target = line.split()[1]

    def end(self, number=signal.SIGTERM):
        self.popen.send_signal(number)
        code = self.popen.wait(20)
        log = self.popen.stderr.read()
        self.popen.stdout.close()
        self.popen.stderr.close()
        return code, log


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_starts_answers_and_ends(stubs):
    up = Up("--expert_workers=3", "--threads=1")
    try:
        pids = children(up.popen.pid)
        assert len(pids) == 5, pids
        with Client(up.target) as client:
            assert len(client.generate(ids=[1, 2], max_new_tokens=5, ignore_eos=True).ids) == 5
    finally:
        code, log = up.end(signal.SIGINT)
    assert code == 0, log
    assert not any(alive(pid) for pid in pids)


def test_dead_processes_are_started_again(stubs):
    up = Up("--expert_workers=2")
    try:
        with Client(up.target) as client:
            wanted = client.generate(ids=[5, 6], temperature=0, max_new_tokens=10, ignore_eos=True)
            for name in ("m1-expert-worke", "m1-attention-wo", "m1-router"):  # as the kernel cuts them
                before = children(up.popen.pid)
                os.kill(next(pid for pid, found in before.items() if found == name), signal.SIGKILL)
                wait_until(lambda: len(children(up.popen.pid)) == len(before) and
                           children(up.popen.pid).keys() != before.keys(), 10, f"{name} again")
                time.sleep(0.2)
                wait_serving(up.target)
                with Client(up.target) as again:
                    assert again.generate(ids=[5, 6], temperature=0, max_new_tokens=10,
                                          ignore_eos=True).key() == wanted.key()
    finally:
        code, log = up.end()
    assert code == 0, log
    assert log.count("starting it again") == 3, log


def test_no_child_survives_a_killed_parent(stubs):
    up = Up()
    pids = children(up.popen.pid)
    assert len(pids) == 4
    up.end(signal.SIGKILL)
    wait_until(lambda: not any(alive(pid) for pid in pids), what="children gone")


def test_inproc_has_no_expert_process(stubs):
    up = Up("--transport=inproc")
    try:
        assert sorted(children(up.popen.pid).values()) == ["m1-attention-wo", "m1-router"]
        with Client(up.target) as client:
            assert len(client.generate(ids=[1], max_new_tokens=3, ignore_eos=True).ids) == 3
    finally:
        code, log = up.end()
    assert code == 0, log


SET_BY_UP = {"port", "metrics_port", "model", "experts", "shard", "expert_workers", "attention_workers"}


def test_every_flag_of_a_server_is_passed_on():
    for name in ("m1-router", "m1-attention-worker", "m1-expert-worker"):
        for flag in known_flags(name) - SET_BY_UP:
            code, log = run_up(f"--{flag}={'info' if flag == 'log_level' else 1}", "--transport=none")
            assert code == 2 and "--transport" in log, f"{name} --{flag}: {log}"


def run_up(*flags):
    run = subprocess.run([os.path.join(BIN, "m1"), "up", "--port=0", *flags], capture_output=True, text=True,
                         timeout=120, check=False)
    return run.returncode, run.stderr


def test_errors_have_their_exit_codes():
    code, log = run_up("--model=/nonexistent")
    assert code in (2, 3) and "/nonexistent" in log, (code, log)
    code, log = run_up("--colour=red")
    assert code == 2 and "--colour" in log, (code, log)
    code, log = run_up("--threads=-4")
    assert code == 2 and "threads" in log, (code, log)

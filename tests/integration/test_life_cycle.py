"""Ends of processes that an orchestrator asks for at awkward moments."""

import os
import signal
import subprocess

import pytest

from cluster import BIN

MODEL = "--model=models/tiny"


def terminated_before_start():
    """In the child, before the program runs: a SIGTERM that waits until the program looks for it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("name, flags", [
    ("m1-attention-worker", ["--expert_workers=127.0.0.1:9"]),
    ("m1-attention-worker", ["--expert_workers=inproc"]),
    ("m1-expert-worker", ["--shard=0/2"]),
])
def test_sigterm_while_the_model_loads_is_an_orderly_end(name, flags):
    result = subprocess.run([os.path.join(BIN, name), MODEL, *flags], capture_output=True, text=True, timeout=120,
                            preexec_fn=terminated_before_start)
    assert result.returncode == 0, result.stderr
    assert "listening" not in result.stdout, "it loaded the whole model first"
    assert "stopped before it served" in result.stderr


def test_bad_files_are_told_even_when_a_signal_waits():
    result = subprocess.run([os.path.join(BIN, "m1-expert-worker"), "--model=does/not/exist"], capture_output=True,
                            text=True, timeout=120, preexec_fn=terminated_before_start)
    assert result.returncode == 3

"""Fixtures of the integration tests. The working directory is the root of the tree."""

import glob
import os
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture(scope="session", autouse=True)
def stubs(tmp_path_factory):
    """Generates Python stubs of m1.v1 into a temporary folder and puts it on the path."""
    folder = tmp_path_factory.mktemp("stubs")
    protos = sorted(glob.glob(os.path.join(ROOT, "proto/m1/v1/*.proto")))
    subprocess.run([
        sys.executable, "-m", "grpc_tools.protoc", f"-I{os.path.join(ROOT, 'proto')}", f"--python_out={folder}",
        f"--grpc_python_out={folder}", *protos
    ], check=True)
    sys.path.insert(0, str(folder))
    return folder


BIN = os.environ.get("M1_BIN", "build/release/bin")
SERVERS = ("m1", "m1-router", "m1-attention-worker", "m1-expert-worker")


@pytest.fixture(scope="session", autouse=True)
def servers():
    """Nothing is skipped for want of a binary: that would hide a broken build."""
    missing = [name for name in SERVERS if not os.path.exists(os.path.join(ROOT, BIN, name))]
    assert not missing, f"build them first: {', '.join(missing)}"

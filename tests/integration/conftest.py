"""Fixtures of the integration tests. The working directory is the root of the tree."""

import os
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


sys.path.append(os.path.join(ROOT, "tools/train"))  # the same code that trains and evaluates


@pytest.fixture(scope="session", autouse=True)
def stubs(tmp_path_factory):
    """Generates Python stubs of m1.v1 into a temporary folder and puts it on the path."""
    from m1_client import make_stubs
    folder = tmp_path_factory.mktemp("stubs")
    make_stubs(folder)
    return folder


BIN = os.environ.get("M1_BIN", "build/release/bin")
SERVERS = ("m1", "m1-router", "m1-attention-worker", "m1-expert-worker")


@pytest.fixture(scope="session", autouse=True)
def servers():
    """Nothing is skipped for want of a binary: that would hide a broken build."""
    missing = [name for name in SERVERS if not os.path.exists(os.path.join(ROOT, BIN, name))]
    assert not missing, f"build them first: {', '.join(missing)}"


@pytest.fixture(scope="module")
def cluster(stubs):
    """Most tests need no more: the embedded model with two expert workers, one a test file."""
    from cluster import Cluster
    with Cluster("models/tiny", expert_workers=2) as running:
        yield running


@pytest.fixture(scope="module")
def client(cluster):
    from client import Client
    with Client(cluster.target) as connected:
        yield connected

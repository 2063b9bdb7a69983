"""Fixtures of the deployment tests: the helpers of tests/integration, and stubs of the protos."""

import os
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [os.path.join(ROOT, "tests/deploy")]
sys.path += [os.path.join(ROOT, "tests/integration"), os.path.join(ROOT, "tools/train")]


@pytest.fixture(scope="session")
def stubs(tmp_path_factory):
    """Python stubs of m1.v1 in a temporary folder on the path."""
    from m1_client import make_stubs
    folder = tmp_path_factory.mktemp("stubs")
    make_stubs(folder)
    return folder

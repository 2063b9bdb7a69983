"""Runs the tools that check deployment files. A tool that is not there is a failure, not a skip."""

import os
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def find_tool(name: str) -> str:
    """Beside this Python (tests/requirements.txt) or on the PATH (Debian's packages)."""
    path = shutil.which(name, path=os.path.dirname(sys.executable)) or shutil.which(name)
    assert path, f"{name} is not installed: scripts/test.sh installs what tests need"
    return path


def run_tool(name: str, *arguments: str, cwd: str = ROOT) -> tuple[int, str]:
    """Exit code, and what it said on both streams."""
    run = subprocess.run([find_tool(name), *arguments], cwd=cwd, capture_output=True, text=True, timeout=120,
                         check=False)
    return run.returncode, run.stdout + run.stderr


def check_tool(name: str, *arguments: str, cwd: str = ROOT) -> str:
    code, said = run_tool(name, *arguments, cwd=cwd)
    assert code == 0, f"{name} {' '.join(arguments)} ended with {code}:\n{said}"
    return said

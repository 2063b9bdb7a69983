"""Runs the tools that check deployment files. A tool that is not there is a failure, not a skip."""

import os
import pathlib
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def read(path: str) -> str:
    """A text file of the tree."""
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def with_change(path: str, old: str, new: str, folder: pathlib.Path) -> str:
    """The path of a copy in `folder` in which `old`, which is there once, is `new`."""
    text = read(path)
    assert text.count(old) == 1, old
    copy = folder / os.path.basename(path)
    copy.write_text(text.replace(old, new), encoding="utf-8")
    return str(copy)


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

"""The bundle: what gpu_check needs on a machine that has a GPU and nothing of ours, as one archive. Standard library only.

Started by scripts/gpu_bundle.sh once the programs are built. Layout of the archive, below gpu_bundle/:
bin/ and gpu_tests/, stripped, which look for libraries in ../lib; lib/; libc/ with the loader, for machines whose C library is
older; models/, tests/golden/, tools/gpu_check/, scripts/gpu_check.sh at their places in the tree; manifest.json.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from typing import NamedTuple

MANIFEST = "manifest.json"
NAME = "gpu_bundle"
MIB = 1 << 20
MOST_BYTES = 64 * MIB  # of the archive
PROGRAMS = ("m1", "m1-router", "m1-attention-worker", "m1-expert-worker")
BENCH = "gpu_bench"  # where it is built
# In the tree, taken as they are.
FILES = ("models/tiny/config.json", "models/tiny/generation_config.json", "models/tiny/tokenizer.json",
         "models/tiny/tokenizer_config.json", "models/tiny/model.safetensors", "models/tiny/eval.jsonl", "models/bench/config.json",
         "models/wide/config.json", "scripts/gpu_check.sh")
FOLDERS = ("tools/gpu_check", "tests/golden/mini-bf16")
NAMED = re.compile(rb"(?:tests/golden|models)/[\w./-]*\w")  # what a test reads, by the words in it
# The driver's, and what is too large: the machine has them.
NOT_OURS = re.compile(r"^(libcuda|libnvidia-.*|libnccl)\.so")
# Of the C library, whether our programs name them or not: the driver does, and they must be of one version.
LIBC_PARTS = ("libdl.so.2", "libm.so.6", "libpthread.so.0", "libresolv.so.2", "librt.so.1", "libutil.so.1")
LIBC = re.compile(r"^(ld-linux-x86-64|libc|libm|libpthread|libdl|librt|libresolv|libutil|libanl)\.so\.\d+$")


class BundleError(Exception):
    """What is wrong, and what was wanted."""


class Test(NamedTuple):
    name: str
    command: list


def call(*command):
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise BundleError(f"{' '.join(command[:3])} ended with {run.returncode}: {(run.stderr or run.stdout)[-500:]}")
    return run.stdout


def gpu_tests(build):
    """Those that CTest lists under the label gpu."""
    listed = json.loads(call("ctest", "--test-dir", build, "-L", "^gpu$", "--show-only=json-v1"))["tests"]
    if not listed:
        raise BundleError(f"{build} has no test with the label gpu")
    if absent := [test["name"] for test in listed if not os.access(test.get("command", [""])[0], os.X_OK)]:
        raise BundleError(f"{build}: not built: {', '.join(absent)}")
    return [Test(test["name"], test["command"]) for test in listed]


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else hashlib.sha256(
            file.read()).hexdigest()


def all_files(folder):
    """Paths relative to it, sorted."""
    return sorted(os.path.relpath(os.path.join(path, name), folder) for path, _, names in os.walk(folder) for name in names)


def checked_files(root, manifest):
    """How many files there are; BundleError when one is not what the manifest says."""
    for path, digest in manifest["files"].items():
        at = os.path.join(root, path)
        if not os.path.exists(at):
            raise BundleError(f"{path} is missing in the bundle")
        if sha256(at) != digest:
            raise BundleError(f"{path} is not the file of the manifest")
    return len(manifest["files"])


def add_program(source, out, folder):
    target = os.path.join(out, folder, os.path.basename(source))
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copy(source, target)
    call("strip", target)
    return target


def libraries(program):
    """{name: path} of the shared libraries that it is linked with, the loader among them."""
    found = {}
    for line in call("ldd", program).splitlines():
        name, arrow, path = line.strip().partition(" => ")
        path = (path if arrow else name).split(" (")[0]
        if path == "not found" and not NOT_OURS.match(name):
            raise BundleError(f"{program} wants {name}, which is not found")
        if path.startswith("/"):
            found[os.path.basename(path) if not arrow else name] = path
    return found


def add_libraries(programs, out):
    for program in programs:
        for name, path in libraries(program).items():
            target = os.path.join(out, "libc" if LIBC.match(name) else "lib", name)
            if NOT_OURS.match(name) or os.path.exists(target):
                continue
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copy(os.path.realpath(path), target)
            if not LIBC.match(name):  # a debugger wants the C library's symbols
                call("strip", "--strip-unneeded", target)
            if name == "libc.so.6":
                for part in LIBC_PARTS:
                    shutil.copy(os.path.join(os.path.dirname(os.path.realpath(path)), part), os.path.join(out, "libc", part))


def check_self_contained(programs, out):
    """Every library comes from the bundle when its own loader starts a program."""
    loader, folders = (os.path.join(out, part) for part in ("libc/ld-linux-x86-64.so.2", "libc"))
    for program in programs:
        listed = call(loader, "--library-path", f"{folders}:{os.path.join(out, 'lib')}", "--list", program)
        for line in listed.splitlines():
            name, arrow, path = line.strip().partition(" => ")
            if arrow and not NOT_OURS.match(name) and not path.startswith(out + os.sep):
                raise BundleError(f"{os.path.basename(program)}: {line.strip()} is not of the bundle")


def named_files(tree, program):
    """Files of the tree that a program names: a folder stands for all in it."""
    with open(program, "rb") as file:
        named = {match.decode() for match in NAMED.findall(file.read())}
    paths = set()
    for path in named:
        at = os.path.join(tree, path)
        if os.path.isdir(at):
            paths |= {os.path.join(path, name) for name in all_files(at)}
        elif os.path.isfile(at):
            paths.add(path)
    return paths


def copy_tree_files(tree, programs, out):
    paths = set(FILES)
    for folder in FOLDERS:
        paths |= {os.path.join(folder, name) for name in all_files(os.path.join(tree, folder)) if "__pycache__" not in name}
    for program in programs:
        paths |= named_files(tree, program)
    for path in sorted(paths):
        os.makedirs(os.path.join(out, os.path.dirname(path)), exist_ok=True)
        shutil.copy(os.path.join(tree, path), os.path.join(out, path))


def make_folder(tree, build, tests, programs, out):
    """The unpacked bundle."""
    shutil.rmtree(out, ignore_errors=True)
    servers = [add_program(os.path.join(build, "bin", name), out, "bin") for name in programs]
    test_programs = [add_program(test.command[0], out, "gpu_tests") for test in tests]
    commands = [{"name": test.name, "command": [os.path.relpath(program, out), *test.command[1:]]}
                for test, program in zip(tests, test_programs)]
    add_libraries(servers + test_programs, out)
    check_self_contained(servers + test_programs, out)
    copy_tree_files(tree, test_programs, out)
    manifest = {"format": 1, "commit": call("git", "-C", tree, "describe", "--always", "--dirty").strip(), "tests": commands,
                "files": {path: sha256(os.path.join(out, path)) for path in all_files(out)}}
    with open(os.path.join(out, MANIFEST), "w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1)


def pack(folder, archive):
    def plain(info):
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = "root"
        return info
    with tarfile.open(archive, "w:xz", preset=6) as tar:
        for path in all_files(folder):
            tar.add(os.path.join(folder, path), os.path.join(NAME, path), filter=plain)


def check_size(folder, archive, most_bytes=MOST_BYTES):
    """Prints both sizes; BundleError with the largest files when the archive is too large."""
    sizes = {path: os.path.getsize(os.path.join(folder, path)) for path in all_files(folder)}
    packed = os.path.getsize(archive)
    print(f"{archive}: {packed / MIB:.1f} MiB; unpacked {sum(sizes.values()) / MIB:.1f} MiB, {len(sizes)} files")
    if packed > most_bytes:
        largest = sorted(sizes, key=sizes.get, reverse=True)[:10]
        raise BundleError(f"the archive has {packed / MIB:.1f} MiB, at most {most_bytes / MIB:.0f} are wanted; largest, unpacked: "
                          + ", ".join(f"{path} {sizes[path] / MIB:.1f}" for path in largest))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True, help="build folder of the programs")
    parser.add_argument("--tree", default=".", help="source tree (%(default)s)")
    parser.add_argument("--out", default=f"build/{NAME}", help="folder to make; the archive is beside it (%(default)s)")
    flags = parser.parse_args()
    out = os.path.abspath(flags.out)
    try:
        bench = [BENCH] if os.path.exists(os.path.join(flags.build, "bin", BENCH)) else []
        make_folder(flags.tree, flags.build, gpu_tests(flags.build), [*PROGRAMS, *bench], out)
        pack(out, f"{out}.tar.xz")
        check_size(out, f"{out}.tar.xz")
    except (BundleError, OSError) as error:
        print(f"gpu_bundle: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Layout rules of the source tree: which layer may include which, file lengths, READMEs, first lines of headers.

`check(root)` returns the list of violations, one text each. Only the standard library; reads files, runs nothing.
"""

import os
import re

INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]')
SOURCE_SUFFIXES = (".h", ".cc", ".cu")
MAX_LINES = {".h": 200, ".cc": 400, ".cu": 400}
MAX_TEST_LINES = 700  # a test file lists cases
TOP_FOLDERS = ("proto", "common", "router", "attention_worker", "expert_worker", "tools", "models", "examples",
               "deploy", "scripts", "tests")
# Generated or data only: no README of their own needed below these.
README_EXEMPT = ("models/", "tests/golden/", "tests/fuzz/corpus", "proto/m1", "proto/google", "scripts/lib",
                 "deploy/helm/m1-serve/templates",
                 "deploy/helm/m1-serve/files/", "tests/common", "tests/router", "tests/attention_worker", "tests/expert_worker", "tests/tools",
                 "deploy/grafana/provisioning")

# First matching row wins: (what a file is, regular expression on its path, project includes it may have).
# `own` stands for the file's own top folder. Tests may include anything.
ENGINE = ("common/base", "common/tensor", "common/kernels", "common/model", "common/exchange", "common/metrics",
          "common/shm", "common/worker")
SERVICE = ("common/", "protos")
LAYERS = (
    ("common/base", r"^common/base/", ("common/base",)),
    ("common/tensor", r"^common/tensor/", ("common/base", "common/tensor")),
    ("common/metrics", r"^common/metrics/", ("common/base", "common/metrics")),
    ("common/kernels", r"^common/kernels/", ("common/base", "common/tensor", "common/kernels")),
    ("common/exchange", r"^common/exchange/", ("common/base", "common/tensor", "common/exchange")),
    ("common/model", r"^common/model/", ("common/base", "common/tensor", "common/model")),
    ("common/text", r"^common/text/", ("common/base", "common/tensor", "common/text")),
    ("common/nccl", r"^common/nccl/",
     ("common/base", "common/tensor", "common/kernels", "common/exchange", "common/nccl")),
    ("common/worker", r"^common/worker/",
     ("common/base", "common/tensor", "common/kernels", "common/model", "common/exchange", "common/nccl", "common/worker")),
    ("common/shm", r"^common/shm/", ("common/base", "common/exchange", "common/shm", "common/tensor")),
    ("common/security", r"^common/security/", ("common/base", "common/security")),
    ("common/rpc", r"^common/rpc/",
     ("common/base", "common/tensor", "common/exchange", "common/metrics", "common/security", "common/shm", "common/rpc",
      "protos")),
    # --expert_workers inproc runs the expert engine inside the attention worker: main.cc wires it, nothing else knows.
    ("attention_worker main.cc", r"^attention_worker/main\.cc$", SERVICE + ("own", "expert_worker")),
    ("main.cc", r"^[a-z_]+/main\.cc$", SERVICE + ("own",)),
    ("service", r"^(attention_worker|expert_worker|router)/([a-z_]*_service|grpc_[a-z_]+|worker_stream|exchange_stream|run_messages)[a-z_]*\.(h|cc)$",
     SERVICE + ("own",)),
    ("worker engine", r"^(attention_worker|expert_worker)/", ENGINE + ("own",)),
    ("router policy", r"^router/", ("common/base", "common/model", "common/text", "common/metrics", "own")),
    # An expert worker without experts: what is left is the transport.
    ("bench of the exchange", r"^tools/bench/(echo_worker|exchange_bench)\.(h|cc)$",
     SERVICE + ("expert_worker", "tools/bench")),
    ("bench libraries", r"^tools/bench/",
     ("common/base", "common/kernels", "common/model", "common/tensor", "tools/bench")),
    ("command line", r"^tools/m1/",
     ("common/base", "common/model", "common/rpc", "common/security", "common/tensor", "tools/bench", "protos", "own")),
)
# Headers that only these layers may include, whatever their project includes.
GRPC_HEADER = re.compile(r"^(grpc|grpcpp|google/protobuf)/|\.(grpc\.)?pb\.h$")
MAY_KNOW_GRPC = ("common/rpc", "attention_worker main.cc", "main.cc", "service", "bench of the exchange", "command line")
GPU_HEADER = re.compile(r"^(cuda|cublas|nccl|nvtx)")
# Services never include one another, and nothing but its own main.cc and service includes a service.
SERVICE_HEADER = re.compile(r"^(attention_worker|expert_worker|router)/[a-z_]*_service\.h$")


def sources(root):
    """Paths of our C++ files, relative to root, sorted."""
    for top in TOP_FOLDERS:
        for folder, names, files in os.walk(os.path.join(root, top)):
            names.sort()
            for name in sorted(files):
                if name.endswith(SOURCE_SUFFIXES):
                    yield os.path.relpath(os.path.join(folder, name), root)


def layer_of(path):
    for name, pattern, allowed in LAYERS:
        if re.match(pattern, path):
            return name, allowed
    return None, None


def own_folder(path):
    return "tools/m1" if path.startswith("tools/m1/") else path.split("/")[0]


def may_include(path, header, allowed):
    for entry in allowed:
        if entry == "protos":
            if GRPC_HEADER.search(header):
                return True
        else:
            prefix = own_folder(path) if entry == "own" else entry.rstrip("/")
            if header.startswith(prefix + "/"):
                return True
    return False


def may_include_service(path, header):
    """main.cc, the service itself, and files of the same first word: exchange_stream.h and exchange_service.h;
    and the bench's worker, which is a main.cc without a command line."""
    folder, _, name = path.rpartition("/")
    service_folder, _, service = header.rpartition("/")
    if folder == "tools/bench":
        return name == "echo_worker.cc"
    return folder == service_folder and (name == "main.cc" or name.split("_")[0] == service.split("_")[0])


def is_project_header(root, header):
    return header.split("/")[0] in TOP_FOLDERS or header.startswith("m1/v1/") or os.path.exists(
        os.path.join(root, header))


def check_includes(root, path, lines):
    layer, allowed = layer_of(path)
    if path.startswith("tests/"):
        return
    if layer is None:
        yield f"{path}: belongs to no layer of tests/lint/layout_lint.py; add a row for it"
        return
    for number, line in enumerate(lines, 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        header, where = match.group(2), f"{path}:{number}"
        if GRPC_HEADER.search(header):
            if layer not in MAY_KNOW_GRPC:
                yield f"{where}: {layer} must not know gRPC or protos ({header})"
            continue
        if GPU_HEADER.match(header) and not path.startswith(("common/kernels/cuda/", "common/nccl/")):
            yield f"{where}: only common/kernels/cuda and common/nccl know CUDA ({header})"
            continue
        if match.group(1) == "<" or not is_project_header(root, header):
            continue
        if header.startswith("tests/"):
            yield f"{where}: code does not include tests ({header})"
        elif "/" not in header or header.startswith("."):
            yield f"{where}: project headers are included by their path from the root ({header})"
        elif not may_include(path, header, allowed):
            yield f"{where}: {layer} must not include {header}"
        elif SERVICE_HEADER.match(header) and not may_include_service(path, header):
            yield f"{where}: services are included by their main.cc and their own parts alone ({header})"


def check_file(root, path):
    with open(os.path.join(root, path), encoding="utf-8") as file:
        lines = file.read().splitlines()
    limit = MAX_LINES[os.path.splitext(path)[1]]
    if path.startswith("tests/") and path.endswith(".cc"):
        limit = MAX_TEST_LINES
    if len(lines) >= limit:
        yield f"{path}: {len(lines)} lines, must be under {limit}: split it by meaning"
    if path.endswith(".h") and "#pragma once" not in (line.strip() for line in lines):
        yield f"{path}: no #pragma once"
    if path.endswith(".h") and lines and not lines[0].startswith("//"):
        yield f"{path}:1: starts without a comment that says what it is"
    yield from check_includes(root, path, lines)


def check_readmes(root):
    for top in TOP_FOLDERS:
        for folder, names, files in os.walk(os.path.join(root, top)):
            names[:] = sorted(name for name in names if name != "__pycache__")
            path = os.path.relpath(folder, root)
            if (path + "/").startswith(README_EXEMPT) and path.count("/"):
                continue
            if not set(files) - {"CMakeLists.txt", "README.md"} and not names:
                continue
            if "README.md" not in files:
                yield f"{path}: no README.md"
            else:
                with open(os.path.join(folder, "README.md"), encoding="utf-8") as file:
                    count = len(file.read().splitlines())
                if count > 80 and not path.startswith("tests/golden"):
                    yield f"{path}/README.md: {count} lines, at most a page (80)"


def check(root):
    violations = []
    count = 0
    for path in sources(root):
        count += 1
        violations.extend(check_file(root, path))
    if count == 0:
        violations.append(f"{root}: no source file found")
    violations.extend(check_readmes(root))
    return violations

"""scripts/gpu_check.sh and its bundle, on the simulated GPU: the driver is the one that a GPU machine runs, sizes are small."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from cluster import BIN, run_m1

sys.path.insert(0, "tools/gpu_check")
import bundle  # noqa: E402

TEST = "simulated_gpu_test"
SERVERS = ["m1", "m1-router", "m1-attention-worker", "m1-expert-worker", "m1-attention-worker-simulated-gpu",
           "m1-expert-worker-simulated-gpu"]
# What the simulator, or a machine without NVIDIA's tools, does not have.
MAY_BE_SKIPPED = {"gpu_bench", "sanitizer: memcheck", "sanitizer: racecheck", "one answer: 2 expert workers, nccl",
                  "cost of exchange: nccl"}


def gpu_check(root, out, *flags, code):
    """Stages by name, of result.json; the table must have them all."""
    run = subprocess.run([f"{root}/scripts/gpu_check.sh", "--simulated", f"--out={out}", *flags], capture_output=True, text=True,
                         timeout=600, check=False)
    assert run.returncode == code, run.stdout + run.stderr
    result = json.loads((out / "result.json").read_text())
    assert result["passed"] == (code == 0) and result["simulated"] and result["commit"]
    stages = {stage["stage"]: stage for stage in result["stages"]}
    assert list(stages) == [line.split(" | ")[0][2:] for line in run.stdout.splitlines() if line.startswith("| ")][1:]
    assert all(bool(stage["why"]) == (stage["status"] != "pass") for stage in stages.values())
    return stages


@pytest.mark.slow
def test_a_bundle_runs_by_itself(tmp_path):
    """With its own loader and C library, from a folder that is no checkout."""
    build = os.path.dirname(os.path.abspath(BIN))
    folder = str(tmp_path / "bundle")
    bundle.make_folder(".", build, [bundle.Test(TEST, [f"{build}/tests/{TEST}"])], SERVERS, folder)
    stages = gpu_check(folder, tmp_path / "out", "--bundle_loader", code=0)
    skipped = {name for name, stage in stages.items() if stage["status"] == "skipped"}
    assert skipped <= MAY_BE_SKIPPED
    figures = {name: stage["figures"] for name, stage in stages.items()}
    assert figures["programs"]["loader"] == "the bundle's" and figures["programs"]["files"] > 50
    assert figures[f"test: {TEST}"]["passed"] >= 3
    assert figures["recorded answers of the embedded model"]["same_ids"] == 1
    assert figures["golden: mini-bf16"]["tokens"] == 48  # of 1 of the prompt, of which nothing is said, and 48 after it
    assert figures["logprobs against the CPU"]["tokens"] == 19
    assert figures["one answer: alone"] == {"requests": 2, "tokens": 6}
    # 19 rows of prompts, 4 of answers; alone they take 6 steps, in chunks of 7 tokens 3 for the prompts.
    assert figures["one answer: inproc, together"]["steps"] < 6 and figures["one answer: inproc, together"]["rows_a_step"] > 23 / 6
    assert figures["one answer: 7 tokens a step"]["rows_a_step"] <= 7
    assert figures["one answer: an expert worker killed, shm"]["sequences_at_its_death"] > 0
    assert figures["decode and prefill: bench"]["decode_1"] > 0 and figures["decode and prefill: bench"]["prefill_4"] > 0
    assert figures["cost of exchange: shm"]["decode_1_of_inproc"] > 0


@pytest.mark.slow
def test_a_worker_that_computes_something_else_makes_it_red(tmp_path):
    """With chunks of 7 tokens, and only then, the worker has other weights."""
    other, build = tmp_path / "other", tmp_path / "build"
    assert run_m1("checkpoint", "make", "--config=models/tiny/config.json", f"--out={other}").returncode == 0
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(f"models/tiny/{name}", other)
    shutil.copytree(os.path.abspath(BIN), build / "bin", copy_function=os.symlink)
    os.symlink(os.path.join(os.path.dirname(os.path.abspath(BIN)), "tests"), build / "tests")
    worker = build / "bin" / "m1-attention-worker-simulated-gpu"
    real = os.readlink(worker)
    worker.unlink()
    worker.write_text(f'#!/bin/sh\ncase "$*" in *--max_step_tokens=7*) set -- "$@" "--model={other}";; esac\nexec {real} "$@"\n')
    worker.chmod(0o755)
    stages = gpu_check(".", tmp_path / "out", f"--build={build}", "--only=alone,tokens a step,simulated_gpu", code=1)
    assert {name: stage["status"] for name, stage in stages.items()} == {
        "machine": "pass", "programs": "pass", f"test: {TEST}": "pass", "one answer: alone": "pass",
        "one answer: 7 tokens a step": "fail"}
    assert "2 of 2 answers differ" in stages["one answer: 7 tokens a step"]["why"]


def test_a_damaged_bundle_is_refused(tmp_path):
    folder = tmp_path / "bundle"
    build = os.path.dirname(os.path.abspath(BIN))
    bundle.make_folder(".", build, [], ["m1"], str(folder))
    with open(folder / "models/tiny/model.safetensors", "r+b") as file:
        file.write(b"\0")
    stages = gpu_check(folder, tmp_path / "out", code=1)
    assert list(stages) == ["machine", "programs"]
    assert "models/tiny/model.safetensors is not the file of the manifest" in stages["programs"]["why"]


def test_no_bundle_is_said_so(tmp_path):
    run = subprocess.run(["scripts/gpu_check.sh", f"--bundle={tmp_path}/none.tar.xz", f"--out={tmp_path}/out"], capture_output=True,
                         text=True, timeout=60, check=False)
    assert run.returncode == 2 and "none.tar.xz" in run.stderr

"""Stages that measure: kernels against the GPU's limits, tokens a second, and what it costs to have experts elsewhere."""

import json
import os
import shutil
import statistics
import subprocess
import threading

from correctness import INPROC, LAYOUTS, has_transport
from programs import Cluster
from report import Failed, OutOfTime, Skip

FEWER_EXPERTS, FEWER_EXPERTS_BYTES = 4, 10e9  # of the layer pair, where the disk is small


class Checkpoints:
    """Random checkpoints, made in the background while stages that need none run."""

    def __init__(self, programs, wanted, scratch):
        """`wanted`: as Speed has it."""
        self._programs, self._wanted, self._scratch = programs, wanted, scratch
        self._popen = None
        self._stopped = False
        self._outcomes = {name: "" for name in self._wanted}  # why there is none
        self._done = {name: threading.Event() for name in self._wanted}
        self._thread = threading.Thread(target=self._make_all, daemon=True)

    def start(self):
        self._thread.start()

    def folder(self, name):
        """Waits for it."""
        self._done[name].wait()
        if self._outcomes[name]:
            raise Failed(self._outcomes[name])
        return os.path.join(self._scratch, name)

    def stop(self):
        self._stopped = True
        if self._popen and self._popen.poll() is None:
            self._popen.kill()
        if self._thread.is_alive():
            self._thread.join()

    def _make_all(self):
        for name in self._wanted:
            try:
                self._make(name)
            except (OSError, ValueError, Failed) as error:
                self._outcomes[name] = f"making the checkpoint: {error}"
            self._done[name].set()

    def _make(self, name):
        config_path, experts, wanted_bytes = self._wanted[name]
        with open(os.path.join(self._programs.root, config_path), encoding="utf-8") as file:
            config = json.load(file)
        free = shutil.disk_usage(self._scratch).free
        if name == "layer_pair" and free < wanted_bytes:
            experts, wanted_bytes = FEWER_EXPERTS, FEWER_EXPERTS_BYTES
        if free < wanted_bytes:
            raise Failed(f"{free / 1e9:.0f} GB are free in {self._scratch}, wanted {wanted_bytes / 1e9:.0f}")
        config["num_local_experts"] = experts or config["num_local_experts"]
        path, out = (os.path.join(self._scratch, part) for part in (f"{name}.json", name))
        with open(path, "w", encoding="utf-8") as file:
            json.dump(config, file)
        if self._stopped:
            raise Failed("the check is over")
        self._popen = subprocess.Popen(
            self._programs.command("m1", "checkpoint", "make", f"--config={path}", f"--out={out}"), cwd=self._programs.root,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said, _ = self._popen.communicate()
        if self._popen.returncode != 0:
            raise Failed(said[-500:])
        for part in ("tokenizer", "tokenizer_config", "generation_config"):
            shutil.copy(os.path.join(self._programs.root, f"models/tiny/{part}.json"), out)


def gpu_bench(programs):
    """A stage: every kernel beside what the GPU copies and multiplies now."""
    if not os.path.exists(programs.path("gpu_bench")):
        raise Skip("these programs have no gpu_bench")
    figures = os.path.join(programs.logs, "gpu_bench.json")
    code, output = programs.call(programs.command("gpu_bench", f"--json={figures}"), "gpu_bench.log")
    if code != 0:
        raise Failed(f"gpu_bench ended with {code}: {output[-500:]}")
    with open(figures, encoding="utf-8") as file:
        return json.load(file)


def gpu_limits(figures):
    """{"bytes_per_s", "flops_per_s"} of the figures of gpu_bench; empty: it did not run."""
    found = figures()
    if not found:
        return {}
    ceilings = found["ceilings"]
    return {"bytes_per_s": max(ceilings["copy_gb_per_s"], ceilings["read_gb_per_s"]) * 1e9,
            "flops_per_s": ceilings["bf16_mma_tera_per_s"] * 1e12}


def serve(programs, cluster, *flags):
    return json.loads(programs.output("bench", "serve", f"--target={cluster.target}", "--num_warmups=0", "--json", *flags))


def tokens_per_second(programs, cluster, plan, name, seed):
    kind, size = name.split("_")
    if kind == "decode":
        result = serve(programs, cluster, f"--num_prompts={size}", "--input_len=16", f"--output_len={plan.answer_tokens}",
                       f"--connections={size}", f"--seed={seed}")
        rate = result["steady_output_throughput"]
        if rate == 0:
            raise Failed(f"{name}: the first of {size} streams ended before the last began")
        return rate
    result = serve(programs, cluster, f"--num_prompts={max(1, plan.prefill_tokens // int(size))}", f"--input_len={size}",
                   "--output_len=1", "--connections=1", "--max_concurrency=1", f"--seed={seed}")
    return int(size) / statistics.median(result["ttfts"])


def figure_names(plan):
    return [*(f"decode_{size}" for size in plan.decode), *(f"prefill_{size}" for size in plan.prefill)]


def measure(programs, model, layout, plan, names):
    """{figure: tokens a second}. The first requests are not counted: what is made at first use is made."""
    with Cluster(programs, model, layout, attention_flags=plan.attention_flags) as cluster:
        speed, rates = plan.speed, {}
        try:
            serve(programs, cluster, "--num_prompts=2", f"--input_len={speed.warm_up_tokens}", "--output_len=2")
            for name in names:
                repeats = speed.repeats if name.startswith("decode") else 1
                rates[name] = statistics.median(tokens_per_second(programs, cluster, speed, name, seed) for seed in range(repeats))
        except OutOfTime:
            raise Failed(f"out of time after {', '.join(rates) or 'nothing'}", **rates) from None
    return rates


def bounds(programs, model, limits):
    """{figure: tokens a second} that the GPU's measured copy bandwidth and peak allow."""
    loads = json.loads(programs.output("bench", "limits", f"--model={model}", "--threads=1", "--seconds=0.001", "--json"))["bounds"]
    result = {}
    for name, load in loads.items():
        tokens = float(name.split("_")[1])
        flops = load["pair_flops"] + load["fp32_flops"]
        result[name] = tokens / max(load["bytes"] / limits["bytes_per_s"], flops / limits["flops_per_s"])
    return result


def with_bounds(programs, model, rates, limits):
    """The rates, and what they are of their bounds. A rate above its bound voids the stage: a limit was measured too low."""
    if not limits:
        return rates | {"of_bound": "unknown, no gpu_bench"}
    bound = bounds(programs, model, limits)
    ratios = {name: rate / bound[name] for name, rate in rates.items()}
    figures = rates | {f"{name}_of_bound": ratio for name, ratio in ratios.items()}
    if above := [name for name, ratio in ratios.items() if ratio > 1]:
        raise Failed(f"above its bound: {', '.join(above)}: a limit was measured too low", **figures)
    return figures


def decode_and_prefill(programs, plan, checkpoints, name, limits):
    """A stage: one process. `limits()`: of the GPU."""
    model = checkpoints.folder(name)
    with open(os.path.join(model, "config.json"), encoding="utf-8") as file:
        figures = {"experts": json.load(file)["num_local_experts"]}
    rates = measure(programs, model, INPROC, plan, figure_names(plan.speed))
    return figures | with_bounds(programs, model, rates, limits())


def exchange_cost(programs, plan, checkpoints, name, inproc):
    """A stage: 2 expert workers on the same GPU, reached by one transport, against one process. `inproc()`: its figures."""
    if not has_transport(programs, name):
        raise Skip("NCCL refuses two ranks on one GPU")
    base = inproc()
    if not base:
        raise Failed("there is nothing to compare with: see the stage of one process")
    rates = measure(programs, checkpoints.folder("bench"), LAYOUTS[name], plan, plan.speed.exchange)
    return rates | {f"{key}_of_inproc": rate / base[key] for key, rate in rates.items()}

"""Ours beside other servers of the same weights: transformers, and a llama.cpp that is already there. Standard library only.

Started by scripts/bench.sh --peers. Installs transformers and torch (peers_requirements.txt) into --scratch, writes the
checkpoint under transformers' names there, shows on a small random checkpoint in fp32 that both compute the same model, and
then measures in turns: ours through a running cluster with its experts inside (as run_bench.py does), theirs in bf16 with one
thread per core. Figures of two servers are compared only within one run.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

import run_bench
from export_to_transformers import ExportError, export, head_dim_of, read_config, transformers_config

HERE = os.path.dirname(os.path.abspath(__file__))
CPU_INDEX = "https://download.pytorch.org/whl/cpu"  # its torch has no CUDA: 200 MB in place of 5 GB
EXPERTS = ("grouped_mm", "eager")  # transformers' ways to compute experts: one is its default, the other may be faster on CPUs
TOLERANCE = 2e-4  # of a logprob in fp32: that of the goldens, ten times what was seen
PROMPT_TOKENS, ANSWER_TOKENS = 300, 32  # more than a block of lightning attention, which is 256


class PeerError(Exception):
    """What failed, with the last of what it said."""


def call(what, *command):
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise PeerError(f"{what} failed with code {run.returncode}:\n{(run.stderr or run.stdout)[-2000:]}")
    return run.stdout


def reachable(url):
    try:
        with urllib.request.urlopen(url, timeout=10):
            return True
    except (urllib.error.URLError, OSError, ValueError):
        return False


def install(scratch):
    """The Python of an environment with exactly peers_requirements.txt; made again when that file changed."""
    wanted, stamp = os.path.join(HERE, "peers_requirements.txt"), os.path.join(scratch, "venv", "requirements.installed")
    python = os.path.join(scratch, "venv", "bin", "python")
    with open(wanted, encoding="utf-8") as file:
        text = file.read()
    if os.path.exists(stamp):
        with open(stamp, encoding="utf-8") as file:
            if file.read() == text:
                return python
    venv = os.path.join(scratch, "venv")
    print(f"installing transformers and torch into {venv}", file=sys.stderr)
    call("making an environment", sys.executable, "-m", "venv", "--clear", venv)
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir")
    torch = next(line for line in text.splitlines() if line.startswith("torch=="))
    try:
        if not reachable(f"{CPU_INDEX}/torch/"):
            raise PeerError(f"{CPU_INDEX} cannot be reached")
        call("installing torch for CPUs", *pip, "--index-url", CPU_INDEX, torch)
    except PeerError as error:
        print(f"{error}\ntorch comes from PyPI, with CUDA (5 GB)", file=sys.stderr)
    call("installing transformers", *pip, "-r", wanted)
    with open(stamp, "w", encoding="utf-8") as file:
        file.write(text)
    return python


class Transformers:
    """transformers_peer.py as a process."""

    def __init__(self, python, model, dtype, threads):
        self.log = tempfile.TemporaryFile("w+")
        self.popen = subprocess.Popen([python, os.path.join(HERE, "transformers_peer.py"), "--model", model, "--dtype", dtype,
                                       "--threads", str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                      stderr=self.log, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        self._answer()

    def _answer(self):
        line = self.popen.stdout.readline()
        if not line:
            self.log.seek(0)
            raise PeerError(f"transformers ended with code {self.popen.wait()}:\n{self.log.read()[-2000:]}")
        return json.loads(line)

    def ask(self, **request):
        try:
            print(json.dumps(request), file=self.popen.stdin, flush=True)
        except BrokenPipeError:
            pass  # the answer says why
        return self._answer()

    def stop(self):
        self.popen.kill()  # it holds nothing, and may be in the middle of an answer
        self.popen.wait()


def small_config(config):
    """The same model with few numbers: up to 8 layers that have both kinds of attention, narrow."""
    kinds = config["attn_type_list"]
    kinds = kinds[:8] if any(kinds[:8]) else [*kinds[:7], 1]
    return config | {"hidden_size": 128, "intermediate_size": 64, "head_dim": head_dim_of(config), "attn_type_list": kinds,
                     "num_hidden_layers": len(kinds), "torch_dtype": "float32"}


def our_answer(binaries, model, prompt):
    """(ids, logprobs of all tokens but the first) of a greedy answer."""
    with tempfile.TemporaryDirectory(prefix="m1_peers_") as sockets:
        cluster = run_bench.Cluster(binaries, model, sockets, 0)
        try:
            text = call("m1 generate", f"{binaries}/m1", "generate", f"--target={cluster.router.address}",
                        f"--token_ids={','.join(map(str, prompt))}", f"--max_new_tokens={ANSWER_TOKENS}", "--temperature=0",
                        "--ignore_eos", "--prompt_logprobs", "--json")
        finally:
            cluster.stop()
    asked, answered = [], []
    for line in text.splitlines():
        message = json.loads(line)
        asked += message.get("prompt", {}).get("tokens", [])
        answered += message.get("delta", {}).get("tokens", [])
    return [token["id"] for token in answered], [token["logprob"] for token in asked[1:] + answered]


def compare_answers(logprobs, theirs, num_answered):
    """(largest difference of a logprob, largest shortfall of our greedy tokens against their likeliest)."""
    if len(logprobs) != len(theirs["logprobs"]):
        raise PeerError(f"we report {len(logprobs)} logprobs, transformers {len(theirs['logprobs'])}")
    shortfall = [best - own for best, own in zip(theirs["best"], theirs["logprobs"])][-num_answered:]
    return max(abs(a - b) for a, b in zip(logprobs, theirs["logprobs"])), max(shortfall)


def show_same_model(python, binaries, model, scratch):
    """The sentence that says so; raises PeerError where they differ."""
    with tempfile.TemporaryDirectory(prefix="same_", dir=scratch) as folder:
        transformers_config(read_config(model))  # refuses what it cannot express before anything is made
        config, ours, theirs = (os.path.join(folder, name) for name in ("small.json", "ours", "theirs"))
        with open(config, "w", encoding="utf-8") as file:
            json.dump(small_config(read_config(model)), file)
        call("m1 checkpoint make", f"{binaries}/m1", "checkpoint", "make", f"--config={config}", f"--out={ours}", "--dtype=fp32")
        for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
            if os.path.exists(os.path.join(model, name)):
                shutil.copy(os.path.join(model, name), ours)
        export(ours, theirs)
        prompt = random.Random(1).choices(range(256), k=PROMPT_TOKENS)
        ids, logprobs = our_answer(binaries, ours, prompt)
        peer = Transformers(python, theirs, "float32", 1)
        try:
            scored = [peer.ask(do="score", prompt=prompt, answer=ids, experts=way) for way in EXPERTS]
        finally:
            peer.stop()
    difference, shortfall = (max(values) for values in zip(*(compare_answers(logprobs, one, len(ids)) for one in scored)))
    if difference > TOLERANCE or shortfall > 2 * TOLERANCE:
        raise PeerError(f"not the same model: on a small checkpoint in fp32 logprobs differ by up to {difference:.1e} (wanted "
                        f"{TOLERANCE:.0e}), our greedy tokens are up to {shortfall:.1e} below transformers' likeliest")
    return (f"Same model: on a small random checkpoint of this config in fp32, {len(logprobs)} logprobs ({PROMPT_TOKENS} prompt "
            f"tokens at once, {len(ids)} greedy ones through the cache) differ by at most {difference:.1e}; greedy tokens agree.")


def llama_bench_rates(text):
    """{figure: tokens a second} from the JSON of llama-bench."""
    try:
        rows = json.loads(text)
        return {f"prefill_{row['n_prompt']}" if row["n_prompt"] else "decode_1": float(row["avg_ts"])
                for row in rows if (row["n_prompt"] == 0) != (row["n_gen"] == 0)}
    except (ValueError, KeyError, TypeError) as error:
        raise PeerError(f"llama-bench -o json: not the answer that is known ({error!r}): {text[:200]}") from error


def llama_bench(path, gguf):
    return llama_bench_rates(call("llama-bench", path, "-m", gguf, "-p", "512", "-n", "64", "-r", "1", "-t",
                                  str(os.cpu_count()), "-o", "json"))


def their_figure(peer, name, plan, seed):
    """Tokens a second, by the faster of its ways."""
    kind, size = name.split("_")
    request = {"do": "decode", "streams": int(size), "prompt": 16, "answer": plan["answer"][int(size)]} if kind == "decode" else {
        "do": "prefill", "prompt": int(size)}
    rates = {way: peer.ask(**request, seed=seed, experts=way)["tokens_per_s"] for way in EXPERTS}
    print(f"  {name}: transformers " + ", ".join(f"{rate:.1f} tokens/s ({way})" for way, rate in rates.items()), file=sys.stderr)
    return max(rates.values())


def table(names, ours, peers):
    """Markdown rows. `ours`: {figure: [(tokens a second, of its bound)]}; `peers`: {name: {figure: [tokens a second]}}, where
    a figure may be absent. Ratios are medians of the repeats' ratios."""
    lines = ["| what | ours tokens/s | of its bound" + "".join(f" | {peer} tokens/s | ours / {peer}" for peer in peers) + " |",
             "|---" * (3 + 2 * len(peers)) + "|"]
    for name in names:
        rates = [rate for rate, _ in ours[name]]
        cells = [f"{statistics.median(rates):.1f}", f"{100 * statistics.median(ratio for _, ratio in ours[name]):.0f} %"]
        for figures in peers.values():
            theirs = figures.get(name)
            cells += [f"{statistics.median(theirs):.1f}",
                      f"{statistics.median(a / b for a, b in zip(rates, theirs)):.2f}"] if theirs else ["", ""]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    return lines


def measure(bench, cluster, peer, names, flags):
    ours, peers = {}, {"transformers bf16": {}} | ({"llama.cpp": {}} if flags.llama_bench else {})
    for repeat in range(flags.repeats):
        for name in names:
            print(f"repeat {repeat}", file=sys.stderr)
            ours.setdefault(name, []).append(bench.figure(cluster, name, repeat))
            peers["transformers bf16"].setdefault(name, []).append(their_figure(peer, name, bench.plan, repeat))
            bench.last_limits = None  # old by now
        if flags.llama_bench:
            for name, rate in llama_bench(flags.llama_bench, flags.gguf).items():
                peers["llama.cpp"].setdefault(name, []).append(rate)
    return ours, peers


def run(flags):
    plan = run_bench.QUICK if flags.quick else run_bench.FULL
    names = [f"{kind}_{size}" for kind in ("decode", "prefill") for size in plan[kind]
             if size <= 2048 and flags.only in f"{kind}_{size}"]
    if not names:
        raise PeerError(f"--only is \"{flags.only}\"; no figure is named so")
    os.makedirs(flags.scratch, exist_ok=True)
    python = install(flags.scratch)
    same = show_same_model(python, flags.bin, flags.model, flags.scratch)
    print(same, file=sys.stderr)
    exported = os.path.join(flags.scratch, "weights")
    shutil.rmtree(exported, ignore_errors=True)
    print(f"writing {exported}", file=sys.stderr)
    export(flags.model, exported)
    bench = run_bench.Bench(flags.bin, flags.model, plan)
    with tempfile.TemporaryDirectory(prefix="m1_peers_") as sockets:
        cluster = run_bench.Cluster(flags.bin, flags.model, sockets, 0)
        try:
            peer = Transformers(python, exported, "bfloat16", os.cpu_count())
            try:
                bench.serve(cluster, "--num_prompts=2", "--num_warmups=0", "--input_len=256", "--output_len=2")
                for way in EXPERTS:
                    peer.ask(do="prefill", prompt=256, seed=0, experts=way)  # touches every page
                    peer.ask(do="decode", streams=2, prompt=4, answer=4, seed=0, experts=way)
                ours, peers = measure(bench, cluster, peer, names, flags)
            finally:
                peer.stop()
        finally:
            cluster.stop()
            shutil.rmtree(exported, ignore_errors=True)
    with open(os.path.join(HERE, "peers_requirements.txt"), encoding="utf-8") as file:
        versions = ", ".join(line.strip().replace("==", " ") for line in file if line.startswith(("torch", "transformers")))
    return "\n".join([
        "# Measured by scripts/bench.sh --peers", "",
        f"{run_bench.hardware()}; commit {run_bench.commit()}; {os.path.basename(os.path.normpath(flags.model))}; medians of "
        f"{flags.repeats} interleaved runs; {versions}, one thread per core, the "
        f"faster of its ways to compute experts ({', '.join(EXPERTS)}).", same, "", *table(names, ours, peers), ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, help="folder of the binaries")
    parser.add_argument("--model", required=True, help="checkpoint directory of the official format, with a tokenizer")
    parser.add_argument("--scratch", required=True, help="directory for the environment and the written weights")
    parser.add_argument("--out", required=True, help="Markdown file to write; it is printed as well")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few and short figures: does it run?")
    parser.add_argument("--only", default="", help="figures whose name contains this")
    parser.add_argument("--llama_bench", default="", help="llama-bench of a llama.cpp; needs --gguf")
    parser.add_argument("--gguf", default="", help="the model as llama.cpp reads it")
    flags = parser.parse_args()
    if bool(flags.llama_bench) != bool(flags.gguf):
        parser.error("--llama_bench and --gguf are wanted together")
    for name in ("llama_bench", "gguf"):
        path = getattr(flags, name)
        if path and not os.path.isfile(path):
            parser.error(f"--{name} is \"{path}\", which is no file")
    if flags.repeats < 1:
        parser.error(f"--repeats is {flags.repeats}, wanted at least 1")
    run_bench.end_with_sigterm()
    try:
        text = run(flags)
    except (PeerError, ExportError, RuntimeError, OSError) as error:
        print(f"peers: {error}", file=sys.stderr)
        return 1
    with open(flags.out, "w", encoding="utf-8") as file:
        file.write(text)
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())

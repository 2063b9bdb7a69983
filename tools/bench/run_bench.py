"""Runs clusters on this machine and writes ratios of what they do to what the machine allows. Standard library only.

Started by scripts/bench.sh. Every figure is taken between two measurements of the limits; runs of the configurations alternate
and their median counts. A median above its bound voids the run: exit code 1, but for --quick.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time

START_SECONDS = 300
# The read bandwidth of a shared machine may change by half within seconds: what was measured across such a change says nothing.
STEADY = 1.1
MOST_TRIES = 5
PREFILL_TOKENS = 4096  # of one figure: 8 prompts of 512
FULL = {"decode": (1, 8, 32), "prefill": (512, 2048, 8192), "answer": {1: 64, 8: 64, 32: 96}, "rates": (0.1, 0.2, 0.4),
        "requests": 16, "limit_seconds": 0.1, "rounds": 2000, "input": "uniform:32:1024", "output": "uniform:16:256"}
QUICK = {"decode": (1, 8), "prefill": (512,), "answer": {1: 64, 8: 128}, "rates": (20,), "requests": 20,
         "limit_seconds": 0.005, "rounds": 20, "input": "uniform:4:32", "output": "uniform:4:16"}


# Name of the flag: title, expert workers, prefix of their addresses.
CLUSTERS = {"inproc": ("inproc", 0), "grpc": ("1 + 2 grpc unix", 2), "shm": ("1 + 2 shm", 2, "shm:")}


class Server:

    def __init__(self, binary, *flags):
        self.log = tempfile.TemporaryFile("w+")
        self.popen = subprocess.Popen([binary, *flags], stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.popen.stdout.readline()
        if not line.startswith("listening "):
            self.log.seek(0)
            raise RuntimeError(f"{binary} did not start:\n{self.log.read()}")
        self.address = line.split()[1]

    def cpu_seconds(self):
        with open(f"/proc/{self.popen.pid}/stat", encoding="utf-8") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.popen.send_signal(signal.SIGTERM)
        self.popen.wait(60)


class Cluster:
    """One attention worker, and either experts inside it or expert workers on unix sockets (prefix "shm:": in shared memory)."""

    def __init__(self, folder, model, sockets, num_expert_workers, prefix=""):
        flags = [f"--model={model}", "--log_level=warning"]
        workers = [*flags, "--pin"]  # as m1 up on a machine of its own
        self.servers = []
        peers = []
        for i in range(num_expert_workers):
            address = f"unix:{sockets}/{prefix.strip(':')}expert{i}"
            self.servers.append(
                Server(f"{folder}/m1-expert-worker", *workers, f"--shard={i}/{num_expert_workers}", f"--address={address}"))
            peers.append(prefix + self.servers[-1].address)
        self.servers.append(
            Server(f"{folder}/m1-attention-worker", *workers, f"--expert_workers={','.join(peers) or 'inproc'}"))
        self.router = Server(f"{folder}/m1-router", *flags, f"--attention_workers={self.servers[-1].address}")
        self.servers.append(self.router)

    def stop(self):
        for server in reversed(self.servers):
            server.stop()


def m1(folder, *arguments):
    run = subprocess.run([f"{folder}/m1", "bench", *arguments, "--json"], capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise RuntimeError(f"m1 bench {' '.join(arguments)}: {run.stderr}")
    return json.loads(run.stdout)


class Bench:

    def __init__(self, folder, model, plan):
        self.folder, self.model, self.plan = folder, model, plan
        self.last_limits = None

    def limits(self):
        return m1(self.folder, "limits", f"--threads={os.cpu_count()}", f"--seconds={self.plan['limit_seconds']}",
                  f"--model={self.model}")

    def serve(self, cluster, *flags):
        return m1(self.folder, "serve", f"--target={cluster.router.address}", *flags)

    def figure(self, cluster, name, seed):
        """(tokens a second, of the bound), taken again while the machine changed its speed meanwhile."""
        for _ in range(MOST_TRIES):
            rate, bounds = self.measure(cluster, name, seed)
            if max(bounds) <= STEADY * min(bounds):
                break
        bound = max(bounds)
        print(f"  {name}: {rate:.1f} tokens/s, {100 * rate / bound:.0f} % of {bound:.1f} (before and after: "
              f"{bounds[0]:.1f}, {bounds[1]:.1f})", file=sys.stderr)
        return rate, rate / bound

    def measure(self, cluster, name, seed):
        """(tokens a second, the bounds before and after). The limits after one figure are those before the next."""
        kind, size = name.split("_")
        before = self.last_limits or self.limits()
        if kind == "decode":
            result = self.serve(cluster, f"--num_prompts={size}", "--num_warmups=0", "--input_len=16", f"--seed={seed}",
                                f"--output_len={self.plan['answer'][int(size)]}", f"--connections={size}")
            rate = result["steady_output_throughput"]
            if rate == 0:
                raise RuntimeError(f"{name}: the first of {size} streams ended before the last began; wants longer answers")
        else:
            # One after another, each alone; a short prompt is over before a hiccup of the machine is.
            count = max(1, PREFILL_TOKENS // int(size))
            result = self.serve(cluster, f"--num_prompts={count}", "--num_warmups=0", f"--input_len={size}", "--output_len=1",
                                f"--seed={seed}", "--connections=1", "--max_concurrency=1")
            rate = int(size) / statistics.median(result["ttfts"])
        self.last_limits = self.limits()
        return rate, [limits["bounds"][name]["tokens_per_s"] for limits in (before, self.last_limits)]

    def loads(self, cluster):
        rows = []
        for rate in self.plan["rates"]:
            cpu, begin = cluster.router.cpu_seconds(), time.monotonic()
            result = self.serve(cluster, f"--request_rate={rate}", f"--num_prompts={self.plan['requests']}",
                                f"--input_len={self.plan['input']}", f"--output_len={self.plan['output']}",
                                "--goodput=ttft:2000", "--goodput=tpot:200")
            router = (cluster.router.cpu_seconds() - cpu) / (time.monotonic() - begin) / os.cpu_count()
            rows.append((rate, result, router))
        return rows


def hardware():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} threads"


def commit():
    run = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return run.stdout.strip() or "unknown"


def table(figures, names, clusters):
    """Markdown rows, and whether a median is above its bound."""
    lines, void = [], False
    lines.append("| what | " + " | ".join(f"{cluster} tokens/s | of its bound" for cluster in clusters)
                 + "".join(f" | {cluster} / {clusters[0]}" for cluster in clusters[1:]) + " |")
    lines.append("|---" * 3 * len(clusters) + "|")
    for name in names:
        cells, rates = [], []
        for cluster in clusters:
            runs = figures[(cluster, name)]
            rate, ratio = (statistics.median(run[i] for run in runs) for i in (0, 1))
            rates.append(rate)
            void = void or ratio > 1
            cells.append(f"{rate:.1f} | {100 * ratio:.0f} %" + (" VOID" if ratio > 1 else ""))
        cells += [f"{rate / rates[0]:.2f}" for rate in rates[1:]]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    return lines, void


def load_table(rows):
    lines = ["| requests/s | output tokens/s | TTFT p50 / p99 ms | ITL p50 / p99 ms | goodput requests/s | router, of the CPUs |",
             "|---|---|---|---|---|---|"]
    for rate, result, router in rows:
        lines.append(f"| {rate} | {result['output_throughput']:.1f} | {result['p50_ttft_ms']:.0f} / {result['p99_ttft_ms']:.0f} "
                     f"| {result['p50_itl_ms']:.1f} / {result['p99_itl_ms']:.1f} | {result['request_goodput']:.2f} "
                     f"| {100 * router:.1f} % |")
    return lines


def exchange_table(figures):
    rows = sorted({figure["rows"] for figure in figures})
    lines = ["| round trip, p50 of its raw ping-pong | " + " | ".join(f"{count} rows" for count in rows) + " |",
             "|---" * (len(rows) + 1) + "|"]
    for way in ("shm", "grpc"):
        cells = [f"{figure['p50_us']:.1f} us, {figure['ratio']:.2f}" for count in rows for figure in figures
                 if (figure["way"], figure["rows"]) == (way, count)]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return lines


def end_with_sigterm():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # clusters are ended by the way out


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", required=True, help="folder of the binaries")
    parser.add_argument("--model", required=True, help="checkpoint directory with a tokenizer")
    parser.add_argument("--out", required=True, help="Markdown file to write")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few and short figures: does it run?")
    parser.add_argument("--only", default="", help="figures whose name contains this; then no load is sent")
    parser.add_argument("--clusters", default=",".join(CLUSTERS),
                        help="which to compare, the first is the baseline; without all of them no load is sent (%(default)s)")
    flags = parser.parse_args()
    chosen = flags.clusters.split(",")
    if unknown := set(chosen) - set(CLUSTERS):
        parser.error(f"--clusters={flags.clusters}: {', '.join(sorted(unknown))} is none of {', '.join(CLUSTERS)}")
    end_with_sigterm()
    plan = QUICK if flags.quick else FULL
    names = [f"{kind}_{size}" for kind in ("decode", "prefill") for size in plan[kind] if flags.only in f"{kind}_{size}"]
    bench = Bench(flags.bin, flags.model, plan)
    clusters, figures, loads, exchange = {}, {}, [], []
    with tempfile.TemporaryDirectory(prefix="m1_bench_") as sockets:
        try:
            for key in chosen:
                title, *options = CLUSTERS[key]
                clusters[title] = Cluster(flags.bin, flags.model, sockets, *options)
            for cluster in clusters.values():  # maps every page
                bench.serve(cluster, "--num_prompts=2", "--num_warmups=0", "--input_len=256", "--output_len=2")
            for repeat in range(flags.repeats):
                for name in names:
                    for cluster in clusters:
                        print(f"repeat {repeat}, {cluster}", file=sys.stderr)
                        figures.setdefault((cluster, name), []).append(bench.figure(clusters[cluster], name, repeat))
            if not flags.only and set(chosen) == set(CLUSTERS):
                loads = bench.loads(clusters[CLUSTERS["grpc"][0]])
                exchange = m1(flags.bin, "exchange", f"--rounds={plan['rounds']}")["figures"]
        finally:
            for cluster in clusters.values():
                cluster.stop()
    lines, void = table(figures, names, list(clusters))
    limits = bench.last_limits["limits"][-1]
    with open(flags.out, "w", encoding="utf-8") as file:
        file.write("\n".join([
            "# Measured by scripts/bench.sh", "",
            f"{hardware()}; commit {commit()}; {os.path.basename(os.path.normpath(flags.model))}; medians of {flags.repeats} "
            f"interleaved runs; bounds by `m1 bench limits --model` right before and after each figure, the better of both; a figure is taken again, "
            f"at most {MOST_TRIES} times, while the two differ by more than {100 * (STEADY - 1):.0f} %.",
            f"Limits at the end: read {limits['read_gb_per_s']:.1f} GB/s, bf16 pairs {limits['bf16_gflops']:.0f} GFLOP/s, "
            f"fp32 {limits['fp32_gflops']:.0f} GFLOP/s.", "", *lines, ""]))
        if loads:
            file.write("\n" + "\n".join(["Poisson arrivals at the spread cluster, "
                                  f"{plan['requests']} requests a rate, prompts {plan['input']}, answers {plan['output']}; goodput: "
                                  "TTFT within 2 s, TPOT within 200 ms.", "", *load_table(loads), ""]))
            file.write("\n" + "\n".join(["`m1 bench exchange`, rows of 1024 bf16 elements: shm beside a futex, gRPC beside a unix "
                                  "socket.", "", *exchange_table(exchange), ""]))
    if void:
        print("void: a median is above its bound; a limit was measured too low", file=sys.stderr)
    return 1 if void and not flags.quick else 0  # a quick run is too short to mean anything


if __name__ == "__main__":
    sys.exit(main())

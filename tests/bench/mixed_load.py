"""What a long prompt costs the answers that are running, and what they cost it: the two sides of --target_itl.

    .venv/bin/python tests/bench/mixed_load.py --model DIR [--target_itl 60ms,100ms,150ms]

For each target a fresh cluster runs, in turn and `--rounds` times: the long prompt alone; `--streams` answers without it;
both together. Printed: p50 and p99 of the time between tokens of the streams with and without the prompt, the prompt's
time to first token with and without the streams, and the two ratios.
"""

import argparse
import dataclasses
import pathlib
import random
import statistics
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/integration"), str(ROOT / "tools/train")]

from client import Client  # noqa: E402
from cluster import Cluster  # noqa: E402
from m1_client import make_stubs  # noqa: E402

SHORT_PROMPT = 64


class Stream:
    """One answer on a thread of its own; `times` are those of its tokens' arrivals."""

    def __init__(self, client, ids, max_new_tokens):
        self.times = []
        self.started = time.monotonic()
        request = client.request(ids=ids, temperature=0, ignore_eos=True, max_new_tokens=max_new_tokens)
        self.call = client.inference.Generate(request)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        try:
            for response in self.call:
                self.times += [time.monotonic()] * len(response.delta.tokens)
        except Exception:  # pylint: disable=broad-except
            if not self.call.cancelled():
                raise

    def wait_tokens(self, count):
        while len(self.times) < count and self.thread.is_alive():
            time.sleep(0.005)
        assert len(self.times) >= count, f"the stream ended after {len(self.times)} tokens"

    def gaps(self, begin, end):
        """Seconds between tokens, of those that arrived in the interval."""
        return [b - a for a, b in zip(self.times, self.times[1:]) if begin <= b <= end]

    def stop(self):
        self.call.cancel()
        self.thread.join()


@dataclasses.dataclass
class Measured:
    quiet_gaps: list = dataclasses.field(default_factory=list)
    busy_gaps: list = dataclasses.field(default_factory=list)
    alone: list = dataclasses.field(default_factory=list)  # seconds to the long prompt's first token
    beside: list = dataclasses.field(default_factory=list)


def percentile(values, part):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def first_token_seconds(client, ids):
    stream = Stream(client, ids, 1)
    stream.thread.join()
    return stream.times[0] - stream.started


def quiet_interval(streams, num_tokens):
    """When so many tokens of each came."""
    begin = time.monotonic()
    streams[0].wait_tokens(len(streams[0].times) + num_tokens)
    return begin, time.monotonic()


def run_round(client, rng, options, measured):
    def prompt(size):
        return [rng.randrange(options.vocabulary) for _ in range(size)]

    measured.alone.append(first_token_seconds(client, prompt(options.prompt)))
    streams = [Stream(client, prompt(SHORT_PROMPT), options.context) for _ in range(options.streams)]
    for stream in streams:
        stream.wait_tokens(8)
    before = quiet_interval(streams, options.quiet_tokens)
    measured.beside.append(first_token_seconds(client, prompt(options.prompt)))
    busy_to = time.monotonic()
    after = quiet_interval(streams, options.quiet_tokens)
    for stream in streams:
        measured.quiet_gaps += stream.gaps(*before) + stream.gaps(*after)
        measured.busy_gaps += stream.gaps(before[1], busy_to)
        stream.stop()


def report(target, measured):
    quiet, busy = (percentile(gaps, 0.99) * 1e3 for gaps in (measured.quiet_gaps, measured.busy_gaps))
    alone, beside = statistics.median(measured.alone), statistics.median(measured.beside)
    print(
        f"{target:>10}  {percentile(measured.quiet_gaps, 0.5) * 1e3:7.0f} {quiet:7.0f}  {percentile(measured.busy_gaps, 0.5) * 1e3:7.0f} "
        f"{busy:7.0f}  {busy / quiet:6.2f}  {alone:7.2f} {beside:7.2f}  {beside / alone:6.2f}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint folder, as of `m1 checkpoint make`")
    parser.add_argument("--target_itl", default="", help="values of the worker's flag, comma-separated; empty: its default")
    parser.add_argument("--vocabulary", type=int, default=32768)
    parser.add_argument("--prompt", type=int, default=8000, help="tokens of the long prompt")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--context", type=int, default=2000, help="tokens that a stream may generate")
    parser.add_argument("--quiet_tokens", type=int, default=150,
                        help="tokens of each stream measured without the prompt, before it and again after it")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--expert_workers", type=int, default=2)
    parser.add_argument("--attention_flags", default="", help="more flags of the attention worker, separated by blanks")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_stubs(pathlib.Path(folder))
        print(
            f"{options.streams} streams, a prompt of {options.prompt} tokens, medians of {options.rounds} rounds\n"
            "            without: p50     p99  with: p50     p99   ratio  alone s with s   ratio"
        )
        for target in options.target_itl.split(","):
            flags = ([f"--target_itl={target}"] if target else []) + options.attention_flags.split()
            cluster = Cluster(options.model, expert_workers=options.expert_workers, attention_flags=flags)
            with cluster, Client(cluster.target) as client:
                rng, measured = random.Random(1), Measured()
                for _ in range(options.rounds):
                    run_round(client, rng, options, measured)
            report(target or "default", measured)


if __name__ == "__main__":
    main()

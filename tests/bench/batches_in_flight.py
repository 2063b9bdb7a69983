"""What two batches in flight gain when experts are far: prefill and decode with --batches_in_flight 1, 2 and auto.

    .venv/bin/python tests/bench/batches_in_flight.py --model DIR [--delay_ms 1] [--rounds 5]

The attention worker and the expert worker have a core each, as if they were two devices, and every byte between them takes
--delay_ms longer, each way, through a relay. The clusters run side by side and are measured by turns. Printed: tokens/s of
each way, and the medians of the ratios to one batch. --trace_dir keeps the timelines of both workers.
"""

import argparse
import asyncio
import os
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
from cluster import Process, wait_serving  # noqa: E402
from m1_client import make_stubs  # noqa: E402

WAYS = ("1", "2", "auto")


class Relay:
    """Passes bytes on to a port of this machine after a delay, on a thread of its own."""

    def __init__(self, port, seconds):
        self.target, self.seconds, self.port = port, seconds, None
        started = threading.Event()
        threading.Thread(target=self._run, args=(started,), daemon=True).start()
        started.wait()

    def _run(self, started):
        async def serve():
            server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            started.set()
            await server.serve_forever()

        asyncio.run(serve())

    async def _connect(self, reader, writer):
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))

    async def _pass(self, reader, writer):
        loop, waiting = asyncio.get_running_loop(), []

        def write_next():
            writer.write(waiting.pop(0))  # timers of equal delay come in order

        while data := await reader.read(1 << 20):
            waiting.append(data)
            loop.call_later(self.seconds, write_next)
        loop.call_later(self.seconds, writer.close)


def keep_to_core(process, core):
    for task in os.listdir(f"/proc/{process.pid}/task"):
        os.sched_setaffinity(int(task), {core})


class Cluster:
    """One expert worker behind a relay, one attention worker, a router."""

    def __init__(self, way, args):
        cores = sorted(os.sched_getaffinity(0))
        common = [f"--model={args.model}", "--threads=1", "--weights=mmap"]
        traces = [f"--trace_file={args.trace_dir}/{name}_{way}.json" if args.trace_dir else "--trace_file="
                  for name in ("experts", "attention")]
        self.experts = Process("m1-expert-worker", *common, traces[0])
        self.experts.start()
        self.relay = Relay(self.experts.port, args.delay_ms / 1000)
        self.attention = Process("m1-attention-worker", *common, traces[1], f"--batches_in_flight={way}",
                                 f"--expert_workers=127.0.0.1:{self.relay.port}")
        self.attention.start()
        self.router = Process("m1-router", f"--model={args.model}", f"--attention_workers={self.attention.address}")
        self.router.start()
        wait_serving(self.router.address)
        keep_to_core(self.experts, cores[0])
        keep_to_core(self.attention, cores[1 % len(cores)])
        self.client = Client(self.router.address)

    def stop(self):
        self.client.channel.close()
        for process in (self.router, self.attention, self.experts):
            process.stop()

    def split_steps(self):
        description = self.client.topology().attention_workers[0].description
        return description.split_step_count, description.step_count


def tokens_per_second(cluster, vocab, seed, prompts, prompt_tokens, new_tokens):
    draw = random.Random(seed)
    requests = [cluster.client.request(ids=[draw.randrange(vocab) for _ in range(prompt_tokens)], temperature=0,
                                       ignore_eos=True, max_new_tokens=new_tokens) for _ in range(prompts)]
    started = time.monotonic()
    answers = cluster.client.send_all(requests)
    seconds = time.monotonic() - started
    return sum(prompt_tokens + len(answer.ids) for answer in answers) / seconds, [answer.ids for answer in answers]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--delay_ms", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trace_dir")
    args = parser.parse_args()
    loads = {"prefill, 4 x 512": (4, 512, 1), "decode, 32 streams": (32, 4, 24)}
    with tempfile.TemporaryDirectory() as folder:
        make_stubs(folder)
        clusters = {way: Cluster(way, args) for way in WAYS}
        try:
            vocab = clusters["1"].client.inference.GetModelInfo(
                clusters["1"].client.pb.GetModelInfoRequest()).vocab_size
            for name, load in loads.items():
                rates = {way: [] for way in WAYS}
                for round_ in range(-1, args.rounds):  # the first warms up
                    answers = []
                    for way in WAYS[round_ % 3:] + WAYS[:round_ % 3]:
                        rate, ids = tokens_per_second(clusters[way], vocab, round_, *load)
                        answers.append(ids)
                        if round_ >= 0:
                            rates[way].append(rate)
                    assert all(ids == answers[0] for ids in answers), "the answers differ"
                for way in WAYS:
                    ratio = statistics.median(rate / one for rate, one in zip(rates[way], rates["1"]))
                    print(f"{name}: --batches_in_flight={way:4} {statistics.median(rates[way]):7.1f} tok/s, "
                          f"{ratio:.2f} of one; split steps so far {clusters[way].split_steps()}", flush=True)
        finally:
            for cluster in clusters.values():
                cluster.stop()


if __name__ == "__main__":
    main()

"""The same answers under other circumstances, bit for bit."""

import contextlib

from client import Client
from cluster import TINY_BLOCK_BYTES, Cluster, require


MASK = (1 << 64) - 1


def sample_seed(seed, index):
    """splitmix64(seed + index), as inference.proto says."""
    if index == 0:
        return seed
    z = (seed + index + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def samples_alone(client, request):
    """The requests with one sample whose answers those of `request` must be."""
    requests = []
    for index in range(max(1, request.sampling.sample_count)):
        single = client.pb.GenerateRequest()
        single.CopyFrom(request)
        single.sampling.sample_count = 1
        single.sampling.seed = sample_seed(request.sampling.seed, index)
        single.output.prompt_logprobs = request.output.prompt_logprobs and index == 0
        requests.append(single)
    return requests


def assert_same(answers, wanted):
    assert [answer.key() for answer in answers] == [answer.key() for answer in wanted]
    assert [answer.candidates for answer in answers] == [answer.candidates for answer in wanted]


@contextlib.contextmanager
def preempting_client(num_blocks, max_context_tokens, *attention_flags, **options):
    """A client of models/tiny in one process with so few KV blocks that sequences are dropped and replayed; checks in
    the end that some were."""
    flags = ["--max_sequences=16", f"--kv_bytes={num_blocks * TINY_BLOCK_BYTES}",
             f"--max_context_tokens={max_context_tokens}", *attention_flags]
    with Cluster("models/tiny", inproc=True, attention_flags=flags, **options) as cluster:
        with Client(cluster.target) as client:
            yield client
            count = client.topology().attention_workers[0].description.preemption_count
    print(f"\n{count} sequences were dropped and replayed")
    require(count > 0, "no sequence was dropped")

"""The same answers under other circumstances, bit for bit."""

import contextlib

from client import Client
from cluster import TINY_BLOCK_BYTES, Cluster


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
    assert count > 0

"""Long prompts: what they take does not grow with tokens x vocabulary, nor the lightning layers' part with tokens at all.

M1_LONG_PROMPT_TOKENS  length of the longest prompt (16384; scripts/check.sh: 262144)
"""

import json
import os
import shutil
import struct
import subprocess

import pytest

from client import Client
from cluster import BIN, Cluster, wait_until

LONGEST = int(os.environ.get("M1_LONG_PROMPT_TOKENS", "16384"))
TIMEOUT = 60 + LONGEST // 100
CONFIG = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "head_dim": 16, "num_key_value_heads": 1,
          "rotary_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 1, "max_position_embeddings": 1 << 20}
LAYERS = [0, 0, 0, 1]
TOKEN_KV_BYTES = 2 * 16 * 2  # key and value of the one softmax layer, bf16
SCORED = 20000
VOCABULARY = 32768


def make_model(folder, **changes):
    """A random checkpoint of three lightning layers and a softmax layer."""
    with open("tests/golden/mini-bf16/config.json", encoding="utf-8") as file:
        config = json.load(file)
    config.update(CONFIG, num_hidden_layers=len(LAYERS), attn_type_list=LAYERS, **changes)
    (folder / "config.json").write_text(json.dumps(config))
    out = folder / "model"
    subprocess.run([os.path.join(BIN, "m1"), "checkpoint", "make", f"--config={folder / 'config.json'}", f"--out={out}"],
                   check=True, stdout=subprocess.DEVNULL)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(f"models/tiny/{name}", out / name)
    return str(out)


def peak_bytes(process):
    with open(f"/proc/{process.pid}/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))


def prompt(length, vocabulary=508):
    return [(7 * i + i * i // 64) % vocabulary for i in range(length)]


def scored_tokens(client, ids):
    """Every token of the prompt as the server scored it."""
    request = client.request(ids=ids, max_new_tokens=0, prompt_logprobs=True, candidate_count=20, temperature=1)
    tokens = []
    for response in client.inference.Generate(request, timeout=TIMEOUT):
        tokens.extend(response.prompt.tokens)
    assert [token.id for token in tokens] == ids
    return tokens


def check_ranks(tokens):
    """Candidates are sorted, and a rank is the token's place among them or behind them."""
    for token in tokens:
        logprobs = [candidate.logprob for candidate in token.candidates]
        assert len(logprobs) == 20 and logprobs == sorted(logprobs, reverse=True)
        if token.rank <= 20:
            assert (token.id, token.logprob) == (token.candidates[token.rank - 1].id, logprobs[token.rank - 1])
        else:
            assert token.logprob <= logprobs[-1] and token.id not in [c.id for c in token.candidates]


def test_scoring_a_long_prompt_holds_few_logits(tmp_path, stubs):
    model = make_model(tmp_path, vocab_size=VOCABULARY)
    with Cluster(model, inproc=True) as cluster, Client(cluster.target) as client:
        worker = cluster.attention[0]
        scored_tokens(client, prompt(2000, VOCABULARY))
        before = peak_bytes(worker)
        ids = prompt(SCORED, VOCABULARY)
        tokens = scored_tokens(client, ids)
        grown = peak_bytes(worker) - before
        print(f"\n{SCORED} tokens scored, logits of all {SCORED * VOCABULARY * 4 >> 20} MiB: "
              f"the worker's peak grew by {grown / (1 << 20):.1f} MiB")
        assert grown < 64 << 20
        assert tokens[0].rank == 0 and tokens[0].logprob == 0
        check_ranks(tokens[1:])
        # What is generated has the numbers of what is scored.
        answer = client.generate(ids=ids, seed=1, temperature=1, top_p=1, max_new_tokens=20, ignore_eos=True,
                                 candidate_count=20, timeout=TIMEOUT)
        again = scored_tokens(client, ids + answer.ids)
        assert again[:SCORED] == tokens
        tail = again[SCORED:]
        assert struct.pack("<20f", *(t.logprob for t in tail)) == struct.pack("<20f", *answer.logprobs)
        assert [t.rank for t in tail] == answer.ranks
        assert [[(c.id, c.logprob) for c in t.candidates] for t in tail] == answer.candidates


def used_blocks(client):
    return client.topology().attention_workers[0].description.load.used_kv_blocks


def test_a_long_prompt_takes_blocks_and_nothing_else(tmp_path, stubs):
    model = make_model(tmp_path)
    with Cluster(model, inproc=True) as cluster, Client(cluster.target) as client:
        worker, peaks = cluster.attention[0], []
        info = client.inference.GetModelInfo(client.pb.GetModelInfoRequest(), timeout=60)
        assert info.max_context_tokens >= LONGEST + 1000
        for length in (4096, LONGEST):
            request = client.request(ids=prompt(length), temperature=0, max_new_tokens=900, ignore_eos=True)
            stream = client.inference.Generate(request, timeout=TIMEOUT)
            tokens = length
            for response in stream:
                tokens += len(response.delta.tokens)
                if tokens > length:
                    break
            blocks = used_blocks(client)
            stream.cancel()
            assert -(-length // 64) <= blocks <= -(-(length + 900) // 64) + 1
            wait_until(lambda: used_blocks(client) == 0, 10, "all blocks are free")
            peaks.append(peak_bytes(worker))
            print(f"\n{length} tokens: {blocks} blocks, peak {peaks[-1] / (1 << 20):.1f} MiB")
        kv_bytes = (LONGEST - 4096) * TOKEN_KV_BYTES
        # Ids and positions of the sequence are a few words a token; a state a token would be 6 KiB.
        assert peaks[1] - peaks[0] < kv_bytes + 64 * LONGEST + (16 << 20)

"""Resident memory: each worker holds its share of the weights and its leases, not the whole checkpoint."""

import json
import os
import shutil
import subprocess

import pytest

from client import Client
from cluster import BIN, Cluster

CONFIG = {"hidden_size": 512, "intermediate_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "head_dim": 64,
          "num_key_value_heads": 2, "rotary_dim": 32, "num_local_experts": 32, "vocab_size": 512}
SLACK_BYTES = 64 << 20
SEQUENCES = 16
KV_BYTES = 32 << 20


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A checkpoint of about 440 MiB, most of it experts: the tolerance must not hide a wrong share."""
    folder = tmp_path_factory.mktemp("memory")
    with open("models/tiny/config.json", encoding="utf-8") as file:
        config = json.load(file)
    config.update(CONFIG)
    (folder / "config.json").write_text(json.dumps(config))
    out = folder / "model"
    subprocess.run([os.path.join(BIN, "m1"), "checkpoint", "make", f"--config={folder / 'config.json'}", f"--out={out}"],
                   check=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(f"models/tiny/{name}", out / name)
    yield str(out)
    subprocess.run(["rm", "-rf", str(out)], check=True)


def weight_bytes(model):
    """(bytes of one expert in all layers, bytes of everything else) from the checkpoint's header."""
    with open(f"{model}/model.safetensors", "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    expert, other = 0, 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        if ".experts." in name:
            expert += end - begin
        else:
            other += end - begin
    return expert // CONFIG["num_local_experts"], other


def lease_bytes():
    """State and open chunk of every sequence, and the KV pool (bf16 activations)."""
    lightning = 7
    state = lightning * CONFIG["num_attention_heads"] * CONFIG["head_dim"]**2 * 4
    open_chunk = lightning * 2 * 32 * CONFIG["num_attention_heads"] * CONFIG["head_dim"] * 2
    return SEQUENCES * (state + open_chunk) + KV_BYTES


def resident(process):
    memory = process.memory()
    weights = sum(count for path, count in memory["file"].items() if path.endswith(".safetensors"))
    return weights, memory["anonymous"] + sum(memory["file"].values())


def test_each_worker_holds_its_share(model, stubs):
    expert_bytes, other_bytes = weight_bytes(model)
    assert 32 * expert_bytes > 4 * SLACK_BYTES  # else a whole checkpoint would pass
    flags = [f"--max_sequences={SEQUENCES}", f"--kv_bytes={KV_BYTES}", "--max_context_tokens=4096"]
    with Cluster(model, experts=["0-7", "8-31"], attention_flags=flags) as cluster, Client(cluster.target) as client:
        client.send_all([client.request(ids=[(i * 37 + j) % 508 for j in range(200)], max_new_tokens=20, ignore_eos=True)
                         for i in range(SEQUENCES)])
        rows = [("expert worker, 8 of 32", cluster.experts[0], 8 * expert_bytes, 0),
                ("expert worker, 24 of 32", cluster.experts[1], 24 * expert_bytes, 0),
                ("attention worker", cluster.attention[0], other_bytes, lease_bytes())]
        for name, process, share, leases in rows:
            weights, total = resident(process)
            print(f"\n{name}: weights resident {weights >> 20} MiB, share {share >> 20}; all {total >> 20}, "
                  f"share + leases {(share + leases) >> 20} MiB")
            assert weights <= 1.05 * share + (1 << 20), f"{name} touches weights of others"
            assert total <= 1.05 * (share + leases) + SLACK_BYTES, name

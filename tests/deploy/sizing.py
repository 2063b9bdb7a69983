"""What a model of this family takes in memory and bandwidth, from its config.json: the formulas of deploy/sizing.md.

    python tests/deploy/sizing.py [CONFIG]      prints the tables of that document
"""

import dataclasses
import json
import math
import os
import sys

CHUNK = 32  # rows of an open chunk of the lightning layers
BLOCK = 64  # tokens of a KV block
LOGIT_ROWS = 64
GIB, MIB, KIB, GB = 1 << 30, 1 << 20, 1 << 10, 10**9
FORMATS = ("bf16", "int8-experts", "int4-g32-experts", "int8-all")
M1_CONFIG = "tests/golden/minimax-m1/config.json"


@dataclasses.dataclass(frozen=True)
class Model:
    """Shapes, named as in config.json."""
    layers: int
    lightning: int
    softmax: int
    hidden: int
    width: int  # heads x head_dim
    kv_width: int
    head_dim: int
    rotary: int
    experts: int
    experts_per_token: int
    inter: int
    vocab: int
    act_bytes: int = 2

    @staticmethod
    def load(path: str) -> "Model":
        with open(path, encoding="utf-8") as file:
            c = json.load(file)
        kinds = c["attn_type_list"]
        return Model(layers=len(kinds), lightning=kinds.count(0), softmax=kinds.count(1), hidden=c["hidden_size"],
                     width=c["num_attention_heads"] * c["head_dim"], kv_width=c["num_key_value_heads"] * c["head_dim"],
                     head_dim=c["head_dim"], rotary=c["rotary_dim"], experts=c["num_local_experts"],
                     experts_per_token=c["num_experts_per_tok"], inter=c["intermediate_size"], vocab=c["vocab_size"])

    # --- weights -----------------------------------------------------------------------------------------

    def projections(self) -> list[tuple[int, int, int]]:
        """(how many, rows, columns) of the attention layers' matrices."""
        h, w, kv = self.hidden, self.width, self.kv_width
        return [(self.lightning, 3 * w, h), (self.lightning, w, h), (self.lightning, h, w),
                (self.softmax, w, h), (2 * self.softmax, kv, h), (self.softmax, h, w)]

    def attention_bytes(self, weights: str) -> int:
        """Everything but the experts."""
        matrices = sum(count * matrix_bytes(rows, columns, weights if weights.endswith("-all") else "bf16")
                       for count, rows, columns in self.projections() + [(1, self.vocab, self.hidden)])
        embedding = 2 * self.vocab * self.hidden
        gates = 4 * self.layers * self.experts * self.hidden
        norms = 2 * (self.lightning * self.width + (2 * self.layers + 1) * self.hidden)
        return matrices + embedding + gates + norms

    def expert_bytes(self, weights: str) -> int:
        """One expert of every layer."""
        return self.layers * (2 * matrix_bytes(self.inter, self.hidden, weights) + matrix_bytes(self.hidden, self.inter, weights))

    # --- leases ------------------------------------------------------------------------------------------

    def state_bytes(self) -> int:
        return self.lightning * self.width * self.head_dim * 4

    def open_chunk_bytes(self) -> int:
        return self.lightning * 2 * CHUNK * self.width * self.act_bytes

    def slot_bytes(self) -> int:
        return self.state_bytes() + self.open_chunk_bytes()

    def kv_token_bytes(self) -> int:
        return self.softmax * 2 * self.kv_width * self.act_bytes

    def kv_block_bytes(self) -> int:
        return BLOCK * self.kv_token_bytes()

    def kv_bytes(self, sequences: int, tokens: int) -> int:
        """--kv_bytes for so many sequences of so many tokens: one block more for each."""
        return sequences * (math.ceil(tokens / BLOCK) + 1) * self.kv_block_bytes()

    def workspace_bytes(self, step_tokens: int = 1024) -> int:
        """The buffers of a step, as attention_worker/workspace.h has them."""
        h, w, kv, act = self.hidden, self.width, self.kv_width, self.act_bytes
        row = 4 * 4 * h + act * h + act * 3 * w + 4 * w + act * w + 4 * kv + 2 * act * kv + 2 * 4 * w + act * w
        row += 2 * 4 * self.rotary // 2 + 4 * self.experts + 8 * self.experts_per_token + act * self.experts_per_token * h + 4
        return step_tokens * row + min(LOGIT_ROWS, step_tokens) * 4 * (h + self.vocab + 2)

    # --- bandwidth ---------------------------------------------------------------------------------------

    def distinct_experts(self, rows: int) -> float:
        """Experts of a layer that so many rows meet, were all equally likely."""
        return self.experts * (1 - (1 - self.experts_per_token / self.experts)**rows)

    def decode_attention_bytes(self, streams: int, context: int) -> float:
        """Read and written by the attention worker in a step that gives each stream one token."""
        projections = 2 * sum(count * rows * columns for count, rows, columns in self.projections())
        gates = 4 * self.layers * self.experts * self.hidden
        head = 2 * self.vocab * self.hidden
        states = streams * (self.state_bytes() * (1 + 1 / CHUNK) + self.lightning * 2 * self.width * self.act_bytes * CHUNK / 2)
        return projections + gates + head + states + streams * self.kv_token_bytes() * (context + 1)

    def decode_expert_bytes(self, streams: int, weights: str = "bf16") -> float:
        """Read by all expert workers together in that step."""
        return self.distinct_experts(streams) * self.expert_bytes(weights)

    def sent_row_bytes(self) -> int:
        """Of a token and layer, to each worker that hosts one of its experts."""
        return self.act_bytes * self.hidden

    def returned_row_bytes(self) -> int:
        """Of a token and layer: a row for each of its experts."""
        return self.experts_per_token * self.act_bytes * self.hidden


def matrix_bytes(rows: int, columns: int, weights: str) -> int:
    if weights.startswith("int8"):
        return rows * columns + 4 * rows
    if weights.startswith("int4"):
        return rows * columns // 2 + 2 * rows * columns // int(weights.split("-")[1][1:])
    return 2 * rows * columns


def gb(count: float) -> str:
    return f"{count / GB:.1f}"


def gib(count: float) -> str:
    return f"{count / GIB:.1f}"


def tables(model: Model) -> dict[str, list[list[str]]]:
    """The document's tables by their headings, without header rows."""
    shares = [(shards, model.experts // shards) for shards in (1, 2, 4, 8, 16, 32)]
    weights = [["attention worker", *(gb(model.attention_bytes(f)) for f in FORMATS)]]
    weights += [[f"expert worker of {shards}: {count} experts", *(gb(count * model.expert_bytes(f)) for f in FORMATS)]
                for shards, count in shares]
    weights.append(["all of it", *(gb(model.attention_bytes(f) + model.experts * model.expert_bytes(f)) for f in FORMATS)])
    leases = [["state slot: recurrent state", f"{model.state_bytes() / MIB:.0f} MiB", "a sequence"],
              ["state slot: open chunk", f"{model.open_chunk_bytes() / MIB:.0f} MiB", "a sequence"],
              ["KV", f"{model.kv_token_bytes() / KIB:.0f} KiB", "a token"],
              ["KV block", f"{model.kv_block_bytes() / MIB:.1f} MiB", f"{BLOCK} tokens"],
              ["buffers of a step", f"{gib(model.workspace_bytes())} GiB", "a worker, with `--max_step_tokens=1024`"]]
    fit = [[str(sequences), gib(sequences * model.slot_bytes()),
            *(gib(model.kv_bytes(sequences, tokens)) for tokens in (4096, 32768, 131072, 1048576))] for sequences in (1, 16, 64, 256)]
    bandwidth = [[str(streams), gb(model.decode_attention_bytes(streams, 8192)), f"{model.distinct_experts(streams):.1f}",
                  gb(model.decode_expert_bytes(streams)), gb(model.decode_expert_bytes(streams, "int8-experts"))]
                 for streams in (1, 8, 32, 128)]
    exchange = [["to the experts", f"{model.sent_row_bytes() / KIB:.0f} KiB a worker that hosts one of them, at most 2",
                 f"{2 * model.layers * model.sent_row_bytes() / 1e6:.2f} MB"],
                ["back", f"{model.returned_row_bytes() / KIB:.0f} KiB", f"{model.layers * model.returned_row_bytes() / 1e6:.2f} MB"]]
    return {"Weights": weights, "Memory of sequences": leases, "What fits": fit, "Bandwidth": bandwidth, "Network": exchange}


if __name__ == "__main__":
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    for heading, lines in tables(Model.load(sys.argv[1] if len(sys.argv) > 1 else os.path.join(root, M1_CONFIG))).items():
        print(f"## {heading}")
        for cells in lines:
            print(f"| {' | '.join(cells)} |")

"""transformers' MiniMax on this machine, asked over standard input: one JSON object a line, one answer a line.

Usage: transformers_peer.py --model DIR --dtype bfloat16|float32 --threads N (a folder of export_to_transformers.py)

    {"do": "decode", "streams": 8, "prompt": 16, "answer": 64, "seed": 0}  -> {"tokens_per_s": ...}: the steps after the first
    {"do": "prefill", "prompt": 512, "seed": 0}                            -> {"tokens_per_s": ...}: up to the first token
    {"do": "score", "prompt": [ids], "answer": [ids]}                      -> {"logprobs": [...], "best": [...]}: of every token
        but the first, and of the likeliest in its place; the answer goes token by token through the cache

Each may name the way to compute experts: "experts": "grouped_mm" or "eager". A plain loop over the model's forward pass, which
is faster than its generate(). Runs in the environment of peers.py.
"""

import argparse
import json
import sys
import time

import torch
from transformers import MiniMaxForCausalLM
from transformers.models.minimax.modeling_minimax import MiniMaxCache


class Peer:

    def __init__(self, folder, dtype):
        self.model, info = MiniMaxForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
        # Tables that the model makes itself are no weights.
        missing = [name for name in info["missing_keys"] if not name.endswith(("slope_rate", "_decay"))]
        if missing or info["unexpected_keys"]:
            raise SystemExit(f"{folder}: missing {sorted(missing)[:3]}, unexpected {sorted(info['unexpected_keys'])[:3]}")
        self.model.eval()

    def forward(self, ids, cache, first, last_only=True):
        """Logits of the ids [streams, tokens] that stand at position `first`."""
        positions = torch.arange(first, first + ids.shape[1])[None]
        result = self.model(ids, past_key_values=cache, use_cache=True, position_ids=positions,
                            logits_to_keep=1 if last_only else 0)
        return result.logits

    def random_ids(self, streams, tokens, seed):
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(self.model.config.vocab_size, (streams, tokens), generator=generator)

    def decode(self, streams, prompt, answer, seed):
        cache = MiniMaxCache()
        ids = self.forward(self.random_ids(streams, prompt, seed), cache, 0).argmax(-1)
        begin = time.perf_counter()
        for position in range(prompt, prompt + answer - 1):
            ids = self.forward(ids, cache, position).argmax(-1)
        return {"tokens_per_s": streams * (answer - 1) / (time.perf_counter() - begin)}

    def prefill(self, prompt, seed):
        ids = self.random_ids(1, prompt, seed)
        begin = time.perf_counter()
        self.forward(ids, MiniMaxCache(), 0).argmax(-1).item()
        return {"tokens_per_s": prompt / (time.perf_counter() - begin)}

    def score(self, prompt, answer):
        cache = MiniMaxCache()
        rows = [self.forward(torch.tensor([prompt]), cache, 0, last_only=False)[0]]
        rows += [self.forward(torch.tensor([[token]]), cache, len(prompt) + i)[0] for i, token in enumerate(answer[:-1])]
        table = torch.log_softmax(torch.cat(rows).float(), -1)
        tokens = torch.tensor([*prompt, *answer][1:])
        return {"logprobs": table.gather(1, tokens[:, None])[:, 0].tolist(), "best": table.max(-1).values.tolist()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), required=True)
    parser.add_argument("--threads", type=int, required=True)
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    with torch.inference_mode():
        peer = Peer(flags.model, getattr(torch, flags.dtype))
        does = {"decode": peer.decode, "prefill": peer.prefill, "score": peer.score}
        print(json.dumps({"ready": True}), flush=True)
        for line in sys.stdin:
            request = json.loads(line)
            if "experts" in request:
                peer.model.set_experts_implementation(request.pop("experts"))
            print(json.dumps(does[request.pop("do")](**request)), flush=True)


if __name__ == "__main__":
    main()

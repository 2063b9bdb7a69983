"""Checks model.py against itself and against recorded answers. Usage: check_model.py [--checkpoint DIR]

1. Packed rows in chunks (`MiniMaxM1.forward`) and the recurrence token by token (`Decoder`) give the same logits, for
   rows of several documents of random lengths, and the gradients of the experts are those of plain autograd.
2. With --checkpoint: the greedy answers to the folder's eval.jsonl are its output_ids, id by id.
"""

import argparse
import pathlib

import checkpoint
import torch
from conversation import END
from model import Config, Decoder, GroupedExperts, MiniMaxM1, Packing, generate
from questions import encode_prompt, read_questions
from tokenizers import Tokenizer

HERE = pathlib.Path(__file__).resolve().parent


def largest_difference(model, generator):
    """Between packed and recurrent logits of one random row, relative to the logits' own spread."""
    tokens = torch.randint(0, model.config.vocab_size, (1, 512), generator=generator)
    cuts = torch.randperm(511, generator=generator)[:5].add(1).sort().values
    documents = torch.bucketize(torch.arange(512), cuts, right=True)[None]
    with torch.no_grad():
        packed, _ = model(tokens, Packing(documents), torch.ones_like(tokens, dtype=torch.bool))
    worst = 0.0
    for number in range(6):
        own = tokens[documents == number]
        decoder = Decoder(model, 1, len(own))
        recurrent = torch.cat([decoder.step(token[None]) for token in own])
        worst = max(worst, ((recurrent - packed[documents[0] == number]).abs().max() / packed.std()).item())
    return worst


def check_expert_gradients(generator):
    counts, hidden, inner = [5, 0, 9, 2], 16, 8
    x, w13, w2 = (
        torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((sum(counts), hidden), (4, 2 * inner, hidden), (4, hidden, inner))
    )
    if not torch.autograd.gradcheck(lambda *a: GroupedExperts.apply(a[0], counts, a[1], a[2]), (x, w13, w2)):
        raise SystemExit("the experts' gradients are wrong")


def check_recorded(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = read_questions(folder / "eval.jsonl")
    prompts = [encode_prompt(tokenizer, row["prompt"]) for row in rows]
    outputs = generate(checkpoint.load(folder), prompts, tokenizer.token_to_id(END), 400)
    equal = sum(ids == row["output_ids"] for ids, row in zip(outputs, rows))
    print(f"{equal} of {len(rows)} recorded answers are equal id by id")
    if equal < len(rows):
        raise SystemExit("answers differ")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=pathlib.Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)  # small products: threads only wait for one another
    generator = torch.Generator().manual_seed(0)
    check_expert_gradients(generator)
    worst = max(largest_difference(MiniMaxM1(Config.load(HERE / "config.json")), generator) for _ in range(4))
    print(f"packed rows against the recurrence: largest difference {worst:.1e} of the logits' standard deviation")
    if worst > 2e-3:
        raise SystemExit("they differ")
    if options.checkpoint:
        check_recorded(options.checkpoint)


if __name__ == "__main__":
    main()

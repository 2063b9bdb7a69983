"""Writes the model card of a checkpoint from what evaluate.py measured. Usage: model_card.py --report FILE --out DIR

DIR/README.md gets the tables, DIR/accuracy.json the same figures for the tests. Nothing here is typed in by hand: what
the card says was measured, or follows from the files beside it.
"""

import argparse
import csv
import json
import pathlib

from questions import percent
from tasks import NOT_HELD_OUT

CARD = """\
---
license: mit
language: en
library_name: m1-serve
---
# A tiny MiniMax-M1
{parameters} parameters in the architecture of MiniMax-M1 (6 lightning-attention and 2 softmax-attention layers, 32 experts,
top-2), in its official checkpoint format, with its chat template and a tokenizer of {vocabulary} tokens. It thinks before it answers
and calls tools. It exists to try and to test the server of this repository with; it was trained from scratch on made-up
conversations and knows nothing of the world. No weight, text or data of the real MiniMax-M1 is in it.

## What it can do
Adding and subtracting (column by column in its thought), multiplying by one digit, sums of several numbers, comparing,
sorting, counting and reversing letters, going on from the last result, calling given tools and answering from their results.

Measured on questions that were held out of the training, greedy, through the server ({questions} questions; right means: every
character of the answer after the thought):

{accuracy}

(*) the questions of these tasks were not kept out of the training's questions: too few there are, or only their operands are.

## Thinking budget
Per cent right when the thought is closed after so many tokens:

{budgets}

## How it was made
One run of `tools/train/train.py`: {tokens} million tokens, {steps} steps, {minutes} minutes of one CPU core, last loss {loss}. Its log is
`training_log.csv`, its curve `training_curve.png`. `scripts/train.sh` does it all again.

## Files
`held_out.jsonl`: the questions above. `eval.jsonl`: 300 of them with the ids that an independent implementation (PyTorch, fp32,
token by token) answers. `accuracy.json`: the figures above, for the tests. Licence: `LICENSE` (MIT).
"""


def table(rows):
    header, *rest = rows
    lines = [header, ["---"] * len(header), *rest]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def parameters(folder):
    """From the safetensors header: elements of all tensors."""
    with open(folder / "model.safetensors", "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    total = 0
    for tensor in header.values():
        size = 1
        for extent in tensor["shape"]:
            size *= extent
        total += size
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args()

    report = json.loads(options.report.read_text(encoding="utf-8"))
    accuracy = [["task", "questions", "right, %"]]
    accuracy += [
        [task + (" (*)" if task in NOT_HELD_OUT else ""), str(row["questions"]), percent(row["right"], row["questions"])]
        for task, row in report["tasks"].items()
    ]
    budgets = "not measured"
    if report["budgets"]:
        first = next(iter(report["budgets"].values()))
        budgets = table(
            [
                ["task", *report["budgets"]],
                *([task, *(row[task] for row in report["budgets"].values())] for task in first),
            ]
        )
    with open(options.out / "training_log.csv", encoding="utf-8") as file:
        last = list(csv.DictReader(file))[-1]
    config = json.loads((options.out / "config.json").read_text(encoding="utf-8"))
    card = CARD.format(
        parameters=f"{parameters(options.out):,}",
        vocabulary=config["vocab_size"],
        questions=sum(row["questions"] for row in report["tasks"].values()),
        accuracy=table(accuracy),
        budgets=budgets,
        tokens=f"{int(last['tokens']) / 1e6:.1f}",
        steps=last["step"],
        minutes=round(float(last["cpu_seconds"]) / 60),
        loss=last["loss"],
    )
    (options.out / "README.md").write_text(card, encoding="utf-8")
    (options.out / "accuracy.json").write_text(
        json.dumps({"tasks": report["tasks"], "wrong": report["wrong"]}, indent=1) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()

"""Makes a checkpoint folder of a finished training. Usage: export.py --data DIR --run DIR --out DIR

--data is what make_data.py made, --run what train.py made. Writes weights, config, tokenizer, the held-out questions,
the training's log and curve, and eval.jsonl: 300 questions with the ids that this folder's weights answer, computed
here in fp32. The answers to all held-out questions go to RUN/outputs.jsonl, for evaluate.py --expect.
"""

import argparse
import json
import pathlib
import re
import shutil
import sys
import time

import checkpoint
import torch
from conversation import END
from model import Config, MiniMaxM1, generate
from questions import by_task, encode_prompt, is_right, percent, read_questions
from tokenizers import Tokenizer

HERE = pathlib.Path(__file__).resolve().parent
MAX_NEW_TOKENS = 400
BATCH = 300
EVAL_ROWS = {
    "add3": 40,
    "sub3": 40,
    "add2": 20,
    "sub2": 20,
    "mul2x1": 20,
    "add4": 12,
    "sub4": 12,
    "compare": 16,
    "sort": 16,
    "tool_call": 16,
    "mul3x1": 10,
    "chain": 10,
    "letters": 12,
    "reverse": 10,
    "two_turns": 10,
    "tool_answer": 10,
    "add1": 6,
    "add5": 5,
    "sub5": 5,
    "chat": 5,
    "repeat": 5,
}


def expected_value(expected):
    """The bare result of an answer such as `2 + 3 = 5.`; other answers as they are."""
    match = re.fullmatch(r".* = (-?\d+)\.", expected)
    return match[1] if match else expected


def answer_all(model, tokenizer, questions):
    """The questions with output, output_ids and correct."""
    end, rows, started = tokenizer.token_to_id(END), [], time.monotonic()
    for first in range(0, len(questions), BATCH):
        part = questions[first : first + BATCH]
        outputs = generate(model, [encode_prompt(tokenizer, q["prompt"]) for q in part], end, MAX_NEW_TOKENS)
        for question, ids in zip(part, outputs):
            text = tokenizer.decode(ids)
            rows.append(
                question | {"output": text, "output_ids": ids, "correct": ids[-1] == end and is_right(question, text)}
            )
        print(
            f"\r{len(rows)} of {len(questions)} questions answered, {len(rows) / (time.monotonic() - started):.0f} a second ",
            end="",
            file=sys.stderr,
            flush=True,
        )
    print(file=sys.stderr)
    return rows


def write_lines(path, rows):
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")


def eval_rows(rows):
    """The first few of each task, in the order of EVAL_ROWS."""
    keys = (
        "id",
        "task",
        "messages",
        "tools",
        "prompt",
        "expected",
        "expected_value",
        "output",
        "output_ids",
        "correct",
    )
    for task, count in EVAL_ROWS.items():
        for row in [row for row in rows if row["task"] == task][:count]:
            row = row | {"expected_value": expected_value(row["expected"])}
            yield {key: row[key] for key in keys}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("data", "run", "out"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)

    model = MiniMaxM1(Config.load(HERE / "config.json"))
    model.load_state_dict(torch.load(options.run / "snapshot.pt", weights_only=False)["model"])
    checkpoint.save(model, options.out / "model.safetensors")
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        shutil.copy(HERE / name, options.out / name)
    shutil.copy(options.data / "tokenizer.json", options.out / "tokenizer.json")
    shutil.copy(options.run / "log.csv", options.out / "training_log.csv")
    shutil.copy(options.run / "curve.png", options.out / "training_curve.png")

    questions = read_questions(options.data / "held_out.jsonl")
    rows = answer_all(checkpoint.load(options.out), Tokenizer.from_file(str(options.out / "tokenizer.json")), questions)
    for task, (good, of) in by_task(rows, [row["correct"] for row in rows]).items():
        print(f"{task:12} {percent(good, of):>6} % of {of}")
    write_lines(options.out / "eval.jsonl", eval_rows(rows))
    write_lines(
        options.out / "held_out.jsonl", ({key: value for key, value in q.items() if key != "prompt"} for q in questions)
    )
    write_lines(options.run / "outputs.jsonl", ({"id": row["id"], "output_ids": row["output_ids"]} for row in rows))


if __name__ == "__main__":
    main()

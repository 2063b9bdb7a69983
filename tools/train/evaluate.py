"""Asks a running server the held-out questions, greedily, and prints the accuracy per task.

    evaluate.py --target 127.0.0.1:50051 [--budgets 0,8,16,32] [--expect outputs.jsonl] [--report FILE]

--budgets asks again with each thinking budget. --expect compares the ids of every answer with those that export.py
computed with its own arithmetic (needs a server with fp32 activations) and fails where they differ.
"""

import argparse
import concurrent.futures
import json
import pathlib
import sys
import tempfile
import time

import grpc
from conversation import END
from m1_client import ROOT, add_chat, make_stubs
from questions import by_task, is_right, percent, read_questions

MAX_NEW_TOKENS = 400
STREAMS = 64


class Server:
    def __init__(self, target):
        from m1.v1 import inference_pb2, inference_pb2_grpc

        self.pb = inference_pb2
        self.channel = grpc.insecure_channel(target)
        self.inference = inference_pb2_grpc.InferenceStub(self.channel)

    def request(self, question, budget):
        pb = self.pb
        request = pb.GenerateRequest(
            sampling=pb.Sampling(temperature=0), stopping=pb.Stopping(max_new_tokens=MAX_NEW_TOKENS)
        )
        if budget is not None:
            request.thinking.budget_tokens = budget
        add_chat(pb, request, question)
        return request

    def ask(self, question, budget=None):
        """(ids, text) of the whole answer, thought included, end token excluded from the text."""
        ids, text = [], b""
        for response in self.inference.Generate(self.request(question, budget), timeout=600):
            if response.WhichOneof("event") == "delta":
                ids += [token.id for token in response.delta.tokens]
                text += b"".join(token.bytes for token in response.delta.tokens)
        return ids, text.decode("utf-8", "replace").removesuffix(END)

    def ask_all(self, questions, budget=None):
        started, done = time.monotonic(), 0
        with concurrent.futures.ThreadPoolExecutor(STREAMS) as pool:
            answers = []
            for answer in pool.map(lambda question: self.ask(question, budget), questions):
                answers.append(answer)
                done += 1
                if sys.stderr.isatty() and done % 50 == 0:
                    print(
                        f"\r{done} of {len(questions)}, {done / (time.monotonic() - started):.0f} a second ",
                        end="",
                        file=sys.stderr,
                        flush=True,
                    )
        print(f"{len(questions)} questions in {time.monotonic() - started:.0f} s", file=sys.stderr)
        return answers


def compare_ids(questions, answers, path):
    """Ids of questions whose answer differs from the recorded output."""
    recorded = {row["id"]: row["output_ids"] for row in read_questions(path)}
    return [
        question["id"] for question, (ids, _) in zip(questions, answers, strict=True) if recorded[question["id"]] != ids
    ]


def print_table(header, rows):
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        print(
            "  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths)))
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True, help="host:port of the router")
    parser.add_argument("--questions", type=pathlib.Path, default=ROOT / "models/tiny/held_out.jsonl")
    parser.add_argument("--tasks", help="only these, separated by commas")
    parser.add_argument("--limit", type=int, help="at most so many questions a task")
    parser.add_argument("--budgets", help="thinking budgets in tokens, separated by commas")
    parser.add_argument("--budget_tasks", default="add2,add3,add4,sub3,mul2x1,chain,compare,sort")
    parser.add_argument("--expect", type=pathlib.Path)
    parser.add_argument("--report", type=pathlib.Path, help="writes what was measured as JSON, for model_card.py")
    options = parser.parse_args()

    questions = read_questions(options.questions)
    if options.tasks:
        questions = [q for q in questions if q["task"] in options.tasks.split(",")]
    if options.limit:
        questions = [q for q in questions if int(q["id"].rsplit("-", 1)[1]) < options.limit]
    with tempfile.TemporaryDirectory() as folder:
        make_stubs(folder)
        server = Server(options.target)
    answers = server.ask_all(questions)
    right = [is_right(question, text) for question, (_, text) in zip(questions, answers)]
    counts = by_task(questions, right)
    print_table(
        ["task", "right", "questions", "%"],
        [[task, str(good), str(of), percent(good, of)] for task, (good, of) in counts.items()],
    )
    report = {
        "tasks": {task: {"right": good, "questions": of} for task, (good, of) in counts.items()},
        "wrong": [question["id"] for question, value in zip(questions, right) if not value],
        "budgets": {},
    }

    if options.budgets:
        asked = [q for q in questions if q["task"] in options.budget_tasks.split(",")]
        for budget in map(int, options.budgets.split(",")):
            texts = [text for _, text in server.ask_all(asked, budget)]
            budget_counts = by_task(asked, [is_right(q, text) for q, text in zip(asked, texts)])
            report["budgets"][budget] = {task: percent(*count) for task, count in budget_counts.items()}
        tasks = list(next(iter(report["budgets"].values())))
        print_table(
            ["budget", *map(str, report["budgets"])],
            [[task, *(row[task] for row in report["budgets"].values())] for task in tasks],
        )
    if options.report:
        options.report.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if options.expect:
        different = compare_ids(questions, answers, options.expect)
        print(f"{len(questions) - len(different)} of {len(questions)} answers are equal id by id to {options.expect}")
        if different:
            raise SystemExit(f"different: {', '.join(different[:20])}")


if __name__ == "__main__":
    main()

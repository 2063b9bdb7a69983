"""The embedded model on held-out questions, through the whole system: what its card says, and the same on every run.

M1_HELD_OUT_STRIDE: every so many-th question is asked (1: all of them).
"""

import json
import os

from client import Client
from cluster import Cluster
from held_out import chat_request, read_rows

MODEL = "models/tiny"
STRIDE = int(os.environ.get("M1_HELD_OUT_STRIDE", "10"))
MAX_NEW_TOKENS = 400
AT_ONCE = 150


def ask_all(client, rows):
    answers = []
    for first in range(0, len(rows), AT_ONCE):
        answers += client.send_all([chat_request(client, row, MAX_NEW_TOKENS) for row in rows[first : first + AT_ONCE]])
    return answers


def is_right(row, answer):
    """As a user sees it: the text of the answer, or the typed calls."""
    if not row["expected"].startswith("<tool_calls>"):
        return answer.text == row["expected"] and not answer.tool_calls
    expected = [json.loads(line) for line in row["expected"].split("\n")[1:-1]]
    return [(name, json.loads(arguments)) for name, arguments in answer.tool_calls] == [
        (call["name"], call["arguments"]) for call in expected
    ]


def test_accuracy_is_what_the_card_says(stubs):
    rows = read_rows(f"{MODEL}/held_out.jsonl")[::STRIDE]
    with open(f"{MODEL}/accuracy.json", encoding="utf-8") as file:
        accuracy = json.load(file)
    with Cluster(MODEL, expert_workers=2) as cluster, Client(cluster.target) as client:
        answers = ask_all(client, rows)
        again = ask_all(client, rows[::-1])[::-1]
    wrong = [row["id"] for row, answer in zip(rows, answers) if not is_right(row, answer)]
    print(f"\n{len(rows) - len(wrong)} of {len(rows)} held-out questions are answered rightly")
    assert len(rows) >= 6000 // STRIDE
    assert set(wrong) <= set(accuracy["wrong"]), "worse than the model card says"
    if STRIDE == 1:
        for task, count in accuracy["tasks"].items():
            own = [row["id"] for row in rows if row["task"] == task]
            assert len(own) == count["questions"] and len(own) - len(set(wrong) & set(own)) >= count["right"], task
    different = [row["id"] for row, one, two in zip(rows, answers, again) if one.key() != two.key()]
    assert not different, "the same question, another answer"

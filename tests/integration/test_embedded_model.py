"""The embedded model's recorded answers: models/tiny/eval.jsonl was made by an independent implementation in fp32.

M1_EVAL_MODEL names another checkpoint folder with an eval.jsonl of the same form.
"""

import os

from client import Client
from cluster import Cluster
from held_out import chat_request, read_rows

MODEL = os.environ.get("M1_EVAL_MODEL", "models/tiny")


def test_recorded_answers(stubs):
    rows = read_rows(f"{MODEL}/eval.jsonl")
    assert len(rows) == 300
    with Cluster(MODEL, expert_workers=2, common_flags=["--activation_dtype=fp32"]) as cluster:
        with Client(cluster.target) as client:
            answers = client.send_all([chat_request(client, row, len(row["output_ids"])) for row in rows])
    different = [row["id"] for row, answer in zip(rows, answers) if answer.ids != row["output_ids"]]
    print(f"\n{len(rows) - len(different)} of {len(rows)} recorded answers are equal id by id")
    assert not different

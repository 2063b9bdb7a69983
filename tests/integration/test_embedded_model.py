"""The embedded model's recorded answers: models/tiny/eval.jsonl was made by an independent implementation in fp32."""

import json

from client import Client
from cluster import Cluster

MODEL = "models/tiny"


def chat_request(client, row):
    """The row as a chat. A tool message holds the results of several tools; ours hold one each."""
    request = client.request(chat=[], temperature=0, max_new_tokens=len(row["output_ids"]))
    for message in row["messages"]:
        role = client.pb.Role.Value("ROLE_" + message["role"].upper())
        if message["role"] == "tool":
            for result in message["content"]:
                request.chat.messages.add(role=role, text=result["text"], tool_name=result["name"])
        else:
            request.chat.messages.add(role=role, text=message["content"])
    for tool in row["tools"]:
        request.chat.tools.add(name=tool["name"], description=tool.get("description"),
                               parameters_json=json.dumps(tool["parameters"]))
    return request


def test_recorded_answers(stubs):
    with open(f"{MODEL}/eval.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert len(rows) == 300
    with Cluster(MODEL, expert_workers=2, common_flags=["--activation_dtype=fp32"]) as cluster:
        with Client(cluster.target) as client:
            answers = client.send_all([chat_request(client, row) for row in rows])
    different = [row["id"] for row, answer in zip(rows, answers) if answer.ids != row["output_ids"]]
    print(f"\n{len(rows) - len(different)} of {len(rows)} recorded answers are equal id by id")
    assert not different

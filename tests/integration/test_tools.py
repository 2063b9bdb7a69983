"""Tool calls of the embedded model: streamed when complete, and the round trip of a tool's result."""

import json

import pytest

from client import Client
from cluster import Cluster
from held_out import chat_request, read_rows

MODEL = "models/tiny"


@pytest.fixture(scope="module")
def client(stubs):
    # As the recorded answers were made.
    with Cluster(MODEL, expert_workers=2, common_flags=["--activation_dtype=fp32"]) as cluster:
        with Client(cluster.target) as connected:
            yield connected


def rows(task):
    found = [row for row in read_rows(f"{MODEL}/eval.jsonl") if row["task"] == task and row["correct"]]
    assert found
    return found


def as_request(client, row):
    return chat_request(client, row, len(row["output_ids"]))


def recorded_calls(row):
    """(name, arguments) of the calls in the recorded text."""
    block = row["output"].split("<tool_calls>\n")[1].split("\n</tool_calls>")[0]
    return [(call["name"], call["arguments"]) for call in map(json.loads, block.splitlines())]


def test_every_recorded_call_arrives_before_its_block_ends(client):
    for row in rows("tool_call"):
        calls, shown, ids_at_call, num_ids, finish = [], "", [], 0, None
        for response in client.inference.Generate(as_request(client, row), timeout=60):
            num_ids += len(response.delta.tokens)
            if response.delta.channel != client.pb.CHANNEL_REASONING:
                shown += response.delta.text
            if response.delta.HasField("tool_call"):
                assert response.delta.channel == client.pb.CHANNEL_TOOL_CALL
                calls.append((response.delta.tool_call.name, json.loads(response.delta.tool_call.arguments_json)))
                ids_at_call.append(num_ids)
            finish = response.finish
        assert calls == recorded_calls(row), row["id"]
        assert "tool_calls" not in shown
        # </tool_calls> and EOS are yet to come.
        closing = client.inference.Tokenize(client.pb.TokenizeRequest(text="</tool_calls>")).ids
        assert max(ids_at_call) <= num_ids - len(closing)
        assert finish.reason == client.pb.FINISH_REASON_TOOL_CALLS
        assert finish.WhichOneof("matched") is None


def test_round_trip_with_structured_calls(client):
    """Assistant calls given as ToolCall are the prompt that their text is; the answer uses the tool's result."""
    for row in rows("tool_answer"):
        request = as_request(client, row)
        by_text = client.inference.Tokenize(client.pb.TokenizeRequest(chat=request.chat)).ids
        for message in request.chat.messages:
            if message.role == client.pb.ROLE_ASSISTANT and "<tool_calls>" in message.text:
                text, block = message.text.split("<tool_calls>\n")
                message.text = text
                for call in map(json.loads, block.split("\n</tool_calls>")[0].splitlines()):
                    message.tool_calls.add(name=call["name"], arguments_json=json.dumps(call["arguments"]))
        assert client.inference.Tokenize(client.pb.TokenizeRequest(chat=request.chat)).ids == by_text, row["id"]
        answer = client.send(request)
        assert answer.ids == row["output_ids"]
        assert not answer.tool_calls
        assert answer.finish.reason == client.pb.FINISH_REASON_STOP

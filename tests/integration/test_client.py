"""What a stranger's client sees: text, chat, thought, tools, tokenizer, model info, the command line."""

import json

from cluster import run_m1
from held_out import chat_request, read_rows
from m1_client import add_chat

MODEL = "models/tiny"


def evaluation(tools):
    """A question of models/tiny that the model is known to answer right."""
    rows = read_rows(f"{MODEL}/eval.jsonl")
    return next(row for row in rows if row["correct"] and bool(row["tools"]) == tools)


def test_chat_gives_thought_and_answer(client):
    row = evaluation(tools=False)
    answer = client.send(chat_request(client, row, 400))
    assert answer.finish.reason == client.pb.FINISH_REASON_STOP
    assert answer.reasoning
    assert "<think>" not in answer.text + answer.reasoning
    assert row["expected_value"] in answer.text
    assert answer.finish.usage.reasoning_token_count > 0


def test_tool_call_is_parsed(client):
    row = evaluation(tools=True)
    answer = client.send(chat_request(client, row, 400))
    assert answer.tool_calls, answer
    name, arguments = answer.tool_calls[0]
    assert name in {tool["name"] for tool in row["tools"]}
    assert isinstance(json.loads(arguments), dict)
    assert answer.finish.reason == client.pb.FINISH_REASON_TOOL_CALLS


def test_text_deltas_are_the_detokenized_ids(client):
    answer = client.generate(text="The sum of", seed=3, max_new_tokens=60, ignore_eos=True)
    text = client.inference.Detokenize(client.pb.DetokenizeRequest(ids=answer.ids)).text
    if not any(token >= 508 for token in answer.ids):
        assert answer.text == text


def test_tokenize_round_trip(client):
    text = "Grüße, 世界 \U0001f600\n\t x"
    tokens = client.inference.Tokenize(client.pb.TokenizeRequest(text=text))
    assert b"".join(tokens.tokens).decode() == text
    assert client.inference.Detokenize(client.pb.DetokenizeRequest(ids=tokens.ids)).text == text


def test_control_tokens_never_come_from_spelling(client):
    ids = client.inference.Tokenize(client.pb.TokenizeRequest(text="<end_of_sentence>")).ids
    assert all(token < 508 for token in ids)


def test_chat_is_tokenized_with_the_template(client):
    row = evaluation(tools=False)
    request = client.pb.TokenizeRequest()
    add_chat(client.pb, request, row)
    ids = client.inference.Tokenize(request).ids
    assert client.inference.Detokenize(client.pb.DetokenizeRequest(ids=ids)).text == row["prompt"]


def test_model_info(client):
    info = client.inference.GetModelInfo(client.pb.GetModelInfoRequest())
    with open(f"{MODEL}/config.json", encoding="utf-8") as file:
        config = json.load(file)
    assert info.model == "tiny"
    assert info.vocab_size == config["vocab_size"]
    assert info.layer_count == config["num_hidden_layers"]
    assert info.expert_count == config["num_local_experts"]
    assert info.hidden_size == config["hidden_size"]
    assert len(info.fingerprint) == 64 and int(info.fingerprint, 16) >= 0
    assert list(info.eos_token_ids) == [config["eos_token_id"]]
    assert info.max_context_tokens > 0


def test_topology_names_every_expert(client):
    description = client.topology().attention_workers[0].description
    assert sorted(e for peer in description.expert_peers for e in peer.experts) == list(range(32))
    assert all(peer.connected for peer in description.expert_peers)
    assert not description.missing_experts


def test_stop_ids_and_lengths(client):
    plain = client.generate(ids=[10, 20, 30], temperature=0, max_new_tokens=20, ignore_eos=True)
    stop = plain.ids[5]
    stopped = client.generate(ids=[10, 20, 30], temperature=0, max_new_tokens=20, ignore_eos=True,
                              stop_token_ids=[stop])
    assert stopped.finish.reason == client.pb.FINISH_REASON_STOP
    assert stopped.finish.stop_token_id == stop
    assert plain.finish.reason == client.pb.FINISH_REASON_LENGTH


def test_long_prompt_and_long_logprobs_cross_in_pieces(client):
    limit = client.inference.GetModelInfo(client.pb.GetModelInfoRequest()).max_context_tokens
    length = min(int(limit) - 1, 6000)
    answer = client.generate(ids=[(7 * i) % 508 for i in range(length)], max_new_tokens=0, prompt_logprobs=True,
                             candidate_count=20, temperature=1)
    assert len(answer.prompt_logprobs) == length
    assert answer.largest_message <= 1 << 20


def test_command_line_generate(cluster):
    plain = run_m1("generate", "--target", cluster.target, "--chat", "764 + 621", "--temperature", "0")
    assert plain.returncode == 0, plain.stderr
    assert "1385" in plain.stdout
    lines = run_m1("generate", "--target", cluster.target, "--token_ids", "1,2,3", "--max_new_tokens", "4",
                   "--ignore_eos", "--json").stdout.splitlines()
    messages = [json.loads(line) for line in lines]
    assert "prompt" in messages[0] and "finish" in messages[-1]
    assert sum(len(m["delta"]["tokens"]) for m in messages if "delta" in m) == 4


def test_command_line_thinking_budget(cluster):
    run = run_m1("generate", "--target", cluster.target, "--chat", "764 + 621", "--temperature", "0", "--thinking_budget",
                 "4", "--closing_text", "\nStop.\n</think>\n\nIt is 1", "--max_new_tokens", "60", "--json")
    assert run.returncode == 0, run.stderr
    messages = [json.loads(line) for line in run.stdout.splitlines()]
    text = {"CHANNEL_REASONING": "", "CHANNEL_CONTENT": ""}
    for message in messages:
        if "delta" in message:
            text[message["delta"]["channel"]] += message["delta"]["text"]
    assert text["CHANNEL_REASONING"].endswith("\nStop.")
    assert text["CHANNEL_CONTENT"].startswith("It is 1")


def test_command_line_errors(cluster):
    refused = run_m1("generate", "--target", cluster.target, "--prompt", "x", "--top_p", "2")
    assert refused.returncode == 2
    assert "sampling.top_p" in refused.stderr
    assert run_m1("generate", "--target", cluster.target).returncode == 2
    assert run_m1("generate", "--target", "127.0.0.1:1", "--prompt", "x").returncode == 1


def test_command_line_chat_keeps_history(cluster):
    chat = run_m1("chat", "--target", cluster.target, "--temperature", "0", "--max_new_tokens", "200",
                  stdin="764 + 621\n/reset\n9+882\n/exit\n")
    assert chat.returncode == 0, chat.stderr
    assert "1385" in chat.stdout and "891" in chat.stdout

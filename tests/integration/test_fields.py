"""Fields of GenerateRequest and GenerateResponse that no other file is about; tests/integration/FIELDS.md lists all."""

import json
import math

import pytest

PROMPT = [49, 50, 51, 32, 100, 49, 50]


def messages(client, request):
    return list(client.inference.Generate(request, timeout=60))


def prompt_ids(client, **prompt):
    """What the model saw of a prompt."""
    request = client.request(max_new_tokens=0, **prompt)
    request.output.prompt_token_ids = True
    return client.send(request).prompt_ids


def test_request_id_is_echoed_or_made(client):
    named = messages(client, client.request(ids=PROMPT, max_new_tokens=3, request_id="mine"))
    assert {response.request_id for response in named} == {"mine"}
    made = [client.generate(ids=PROMPT, max_new_tokens=1).request_id for _ in range(2)]
    assert all(made) and made[0] != made[1]


def test_a_prompt_is_the_same_in_each_of_its_forms(client):
    ids = list(client.inference.Tokenize(client.pb.TokenizeRequest(text="The sum of 3")).ids)
    assert prompt_ids(client, text="The sum of 3") == ids
    assert prompt_ids(client, ids=ids) == ids
    by_text = client.generate(text="The sum of 3", seed=1, max_new_tokens=20, ignore_eos=True)
    assert by_text.key() == client.generate(ids=ids, seed=1, max_new_tokens=20, ignore_eos=True).key()
    chat = client.pb.TokenizeRequest()
    chat.chat.messages.add(role=client.pb.ROLE_USER, text="3 + 4")
    assert prompt_ids(client, chat=[("user", "3 + 4")]) == list(client.inference.Tokenize(chat).ids)


def test_every_field_of_a_chat_is_in_the_prompt(client):
    pb = client.pb
    request = client.request(max_new_tokens=0)
    chat = request.chat
    chat.messages.add(role=pb.ROLE_SYSTEM, text="be brief-1")
    chat.messages.add(role=pb.ROLE_USER, text="asked-2")
    chat.messages.add(role=pb.ROLE_ASSISTANT, text="said-3",
                      tool_calls=[pb.ToolCall(name="called_4", arguments_json='{"argument": "value-5"}')])
    chat.messages.add(role=pb.ROLE_TOOL, tool_name="answering_6", text="result-7")
    chat.tools.add(name="tool_8", description="described-9", parameters_json='{"type": "schema-10"}')
    request.output.prompt_token_ids = True
    text = client.inference.Detokenize(pb.DetokenizeRequest(ids=client.send(request).prompt_ids)).text
    parts = ["be brief-1", "asked-2", "said-3", '"called_4"', '"value-5"', "answering_6", "result-7", '"tool_8"',
             "described-9", '"schema-10"']
    assert [part for part in parts if text.count(part) != 1] == []
    # Roles tell them apart, and the suffix asks for an answer.
    for role in ("user", "ai", "tool"):
        assert f"<beginning_of_sentence>{role} name=" in text
    assert text.endswith("<beginning_of_sentence>ai name=assistant\n")


def test_absent_sampling_fields_are_their_defaults(client):
    defaults = {"temperature": 1, "top_p": 0.95, "top_k": 0, "min_p": 0, "repetition_penalty": 1, "presence_penalty": 0,
                "frequency_penalty": 0, "sample_count": 1, "min_new_tokens": 0, "candidate_count": 0}
    for seed in range(3):
        plain = client.generate(ids=PROMPT, seed=seed, max_new_tokens=40, ignore_eos=True)
        assert plain.key() == client.generate(ids=PROMPT, seed=seed, max_new_tokens=40, ignore_eos=True, **defaults).key()
        assert plain.seed == seed and not any(plain.candidates)


@pytest.mark.parametrize("field, value", [("temperature", 1.7), ("top_p", 0.3), ("top_k", 2), ("min_p", 0.5)])
def test_sampling_fields_change_what_is_drawn(client, field, value):
    """Hot, so that most draws are not the likeliest token."""
    hot = {"temperature": 3, "top_p": 1, "max_new_tokens": 40, "ignore_eos": True}
    assert any(client.generate(ids=PROMPT, seed=seed, **hot).ids !=
               client.generate(ids=PROMPT, seed=seed, **{**hot, field: value}).ids for seed in range(3))


def test_top_k_bounds_the_rank(client):
    answer = client.generate(ids=PROMPT, seed=5, temperature=3, top_p=1, top_k=4, max_new_tokens=60, ignore_eos=True)
    assert 1 < max(answer.ranks) <= 4


def test_a_random_seed_is_reported_and_repeats(client):
    fields = {"ids": PROMPT, "temperature": 3, "top_p": 1, "max_new_tokens": 30, "ignore_eos": True}
    first, second = client.generate(**fields), client.generate(**fields)
    assert first.seed != second.seed and first.ids != second.ids
    assert client.generate(seed=first.seed, **fields).key() == first.key()


@pytest.mark.parametrize("count", range(0, 21, 5))
def test_candidates(client, count):
    """As many as asked for, best first, and the whole distribution is one: 20 of them never exceed it."""
    answer = client.generate(ids=PROMPT, seed=1, temperature=2, top_p=1, max_new_tokens=20, ignore_eos=True,
                             candidate_count=count)
    for token, logprob, rank, candidates in zip(answer.ids, answer.logprobs, answer.ranks, answer.candidates):
        assert len(candidates) == count
        assert candidates == sorted(candidates, key=lambda c: (-c[1], c[0]))
        assert sum(math.exp(value) for _, value in candidates) < 1 + 1e-5
        if rank <= count:
            assert candidates[rank - 1] == (token, logprob)


def test_logprobs_are_of_the_temperature(client):
    """log_softmax(logits / t) is t' / t times as far from the first candidate as at t'."""
    def gaps(temperature):
        first = client.generate(ids=PROMPT, seed=1, temperature=temperature, max_new_tokens=1, candidate_count=20).candidates[0]
        return [first[0][1] - value for _, value in first]

    for at_one, at_two in zip(gaps(1), gaps(2)):
        assert at_one == pytest.approx(2 * at_two, abs=1e-4)


def test_prompt_ids_and_logprobs_come_when_asked_for(client):
    ids = [(7 * i) % 508 for i in range(3000)]
    for wants_ids in (False, True):
        for wants_logprobs in (False, True):
            request = client.request(ids=ids, max_new_tokens=2, ignore_eos=True, prompt_logprobs=wants_logprobs,
                                     candidate_count=20 if wants_logprobs else 0)
            request.output.prompt_token_ids = wants_ids
            prompts = [r.prompt for r in messages(client, request) if r.WhichOneof("event") == "prompt"]
            assert [i for p in prompts for i in p.token_ids] == (ids if wants_ids else [])
            tokens = [token for p in prompts for token in p.tokens]
            assert [token.id for token in tokens] == (ids if wants_logprobs else [])
            assert all(p.token_count == 3000 and p.cached_token_count == 0 for p in prompts)
            if wants_logprobs:
                assert prompts[0].first_index == 0 and (tokens[0].rank, tokens[0].logprob) == (0, 0)


def test_bytes_are_those_of_the_vocabulary(client):
    text = "Grüße 世界"
    encoded = client.inference.Tokenize(client.pb.TokenizeRequest(text=text))
    tokens = [token for response in messages(client, client.request(text=text, max_new_tokens=0, prompt_logprobs=True))
              for token in response.prompt.tokens]
    assert [token.bytes for token in tokens] == list(encoded.tokens)
    assert b"".join(token.bytes for token in tokens).decode() == text
    # Half a character is in the bytes at once, in the text when it is whole.
    answer = client.generate(ids=[1], temperature=0, max_new_tokens=1, ignore_eos=True,
                             logit_bias={encoded.ids[2]: 100})
    assert answer.pieces == [encoded.tokens[2]]


def test_usage_and_timing(client):
    finish = client.generate(ids=PROMPT, max_new_tokens=25, ignore_eos=True).finish
    usage = finish.usage
    assert (usage.prompt_token_count, usage.cached_token_count) == (len(PROMPT), 0)
    assert (usage.completion_token_count, usage.reasoning_token_count) == (25, 0)
    queued, first, total = (getattr(finish.timing, name).ToNanoseconds()
                            for name in ("queued", "time_to_first_token", "total"))
    assert 0 <= queued < first < total


def test_sample_index_of_a_single_answer(client):
    assert {response.sample_index for response in messages(client, client.request(ids=PROMPT, max_new_tokens=3))} == {0}


def test_every_field_is_in_the_table():
    """A field that is added without a row is found here."""
    from m1.v1 import inference_pb2
    with open("tests/integration/FIELDS.md", encoding="utf-8") as file:
        table = file.read()
    missing, waiting, seen = [], [inference_pb2.GenerateRequest.DESCRIPTOR, inference_pb2.GenerateResponse.DESCRIPTOR], set()
    while waiting:
        message = waiting.pop()
        if message.full_name in seen or not message.full_name.startswith("m1.v1.") or message.GetOptions().map_entry:
            continue
        seen.add(message.full_name)
        for field in message.fields:
            if f"`{message.name}.{field.name}`" not in table:
                missing.append(f"{message.name}.{field.name}")
            if field.message_type:
                waiting.append(field.message_type)
    assert not missing, json.dumps(missing)

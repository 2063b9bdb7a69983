"""Sampling on the embedded model: what each field does to an answer, and that it stays one answer with all of them."""

import json
import struct

import grpc
import pytest

from client import Client
from cluster import Cluster, run_m1
from one_answer import assert_same, preempting_client

MODEL = "models/tiny"
EOS = 509
QUESTION = [("user", "764 + 621")]
PROMPT = [403, 287, 341, 97, 121, 115, 32, 104, 101, 277, 111, 46, 430]  # The user says hello. I


@pytest.fixture(scope="module")
def plain(client):
    """The greedy answer without any of it."""
    return client.generate(ids=PROMPT, temperature=0, max_new_tokens=60, ignore_eos=True, candidate_count=20)


def greedy(client, **more):
    return client.generate(ids=PROMPT, temperature=0, max_new_tokens=60, ignore_eos=True, candidate_count=20, **more)


def most_often(ids):
    return max(ids.count(token) for token in ids)


def assert_argmax(answer, change):
    """Every token is the largest of its candidates' logprobs plus change(id, ids before), as far as 20 of them show."""
    for index, (token, candidates) in enumerate(zip(answer.ids, answer.candidates)):
        before = answer.ids[:index]
        scores = {id: logprob + change(id, before) for id, logprob in candidates}
        best = max(scores.values())
        if best < candidates[-1][1] + 1e-4:
            continue  # a token beyond the candidates may be larger
        assert token in scores and scores[token] > best - 1e-4, (index, token, scores)


def test_presence_and_frequency_penalty(client, plain):
    answer = greedy(client, presence_penalty=1.5)
    assert_argmax(answer, lambda id, before: -1.5 * (id in before))
    assert most_often(answer.ids) < most_often(plain.ids)
    answer = greedy(client, frequency_penalty=0.75)
    assert_argmax(answer, lambda id, before: -0.75 * before.count(id))
    assert most_often(answer.ids) < most_often(plain.ids)
    answer = greedy(client, presence_penalty=-2.0, frequency_penalty=-0.5)
    assert_argmax(answer, lambda id, before: 2.0 * (id in before) + 0.5 * before.count(id))
    assert answer.ids != plain.ids


def test_repetition_penalty(client, plain):
    assert most_often(greedy(client, repetition_penalty=1.5).ids) < most_often(plain.ids)
    assert greedy(client, repetition_penalty=0.5).ids != plain.ids
    # The prompt counts too: where a token of it would come next, another comes when it is punished hard.
    index = next(i for i, token in enumerate(plain.ids) if token in PROMPT + plain.ids[:i])
    request = client.request(ids=PROMPT + plain.ids[:index], temperature=0, max_new_tokens=1, repetition_penalty=10)
    assert client.send(request).ids != plain.ids[index:index + 1]


def test_logit_bias(client, plain):
    assert greedy(client, logit_bias={7: 100}).ids == [7] * 60
    answer = greedy(client, logit_bias={plain.ids[0]: -100, plain.ids[1]: 3})
    assert_argmax(answer, lambda id, before: {plain.ids[0]: -100, plain.ids[1]: 3}.get(id, 0))
    assert plain.ids[0] not in answer.ids
    # Reported is what the model thinks, not what was made of it.
    assert answer.candidates[0] == plain.candidates[0]
    assert (answer.ids[0], answer.logprobs[0]) == plain.candidates[0][1]
    assert answer.ranks[0] == 2
    assert answer.ids != plain.ids


def test_a_bias_of_minus_100_on_all_but_one(client):
    for seed in range(3):
        answer = client.generate(ids=PROMPT, seed=seed, max_new_tokens=5, ignore_eos=True,
                                 logit_bias={token: -100 for token in range(512) if token != 300})
        assert answer.ids == [300] * 5


def test_a_bias_of_minus_100_on_everything_changes_nothing_but_rounding(client):
    answer = client.generate(ids=PROMPT, temperature=0, max_new_tokens=5, ignore_eos=True,
                             logit_bias={token: -100 for token in range(512)})
    assert answer.ids == client.generate(ids=PROMPT, temperature=0, max_new_tokens=5, ignore_eos=True).ids


def test_top_k_beyond_the_vocabulary_is_off(client):
    for seed in range(3):
        with_k, without = (client.generate(ids=PROMPT, seed=seed, temperature=1.2, top_p=1, top_k=top_k,
                                           max_new_tokens=30, ignore_eos=True) for top_k in (100000, 0))
        assert with_k.key() == without.key()


def test_truncation_to_one_is_greedy(client, plain):
    for field in ({"top_k": 1}, {"top_p": 1e-30}, {"min_p": 1}):
        answer = client.generate(ids=PROMPT, temperature=1, seed=1, max_new_tokens=60, ignore_eos=True, **field)
        assert answer.ids == plain.ids, field


def test_min_new_tokens(client):
    free = client.generate(chat=QUESTION, temperature=0, max_new_tokens=300)
    length = len(free.ids)
    assert free.ids[-1] == EOS and length < 200
    held = client.generate(chat=QUESTION, temperature=0, max_new_tokens=300, min_new_tokens=length + 20)
    assert held.ids[:length - 1] == free.ids[:-1]
    assert EOS not in held.ids[:length + 20]
    assert len(held.ids) >= length + 20
    # At exactly this length EOS may come, and does.
    same = client.generate(chat=QUESTION, temperature=0, max_new_tokens=300, min_new_tokens=length - 1)
    assert same.key() == free.key()
    stop = free.ids[3]
    stopped = client.generate(chat=QUESTION, temperature=0, max_new_tokens=100, stop_token_ids=[stop])
    assert stopped.ids[-1] == stop and stopped.finish.stop_token_id == stop
    later = client.generate(chat=QUESTION, temperature=0, max_new_tokens=100, stop_token_ids=[stop], min_new_tokens=30)
    assert stop not in later.ids[:30] and EOS not in later.ids[:30]
    bounded = client.generate(chat=QUESTION, temperature=0, max_new_tokens=length + 5, min_new_tokens=length + 5)
    assert len(bounded.ids) == length + 5
    assert bounded.finish.reason == client.pb.FINISH_REASON_LENGTH


def test_min_new_tokens_keeps_stop_strings_from_ending(client, plain):
    stop = plain.text[8:12]
    text = greedy(client, stop_strings=[stop]).text
    assert stop not in text and len(text) < 30
    answer = greedy(client, stop_strings=[stop], min_new_tokens=30)
    assert answer.ids[:30] == plain.ids[:30]
    assert len(answer.ids) >= 30


def mixed_requests(client):
    """All fields of sampling in turns, prompts of 1 to 200 tokens."""
    requests = []
    for index in range(24):
        fields = {"temperature": 0}
        if index % 4:
            fields = {"seed": 1000 + index, "temperature": (0.7, 1.0, 1.6)[index % 3]}
        if index % 2:
            fields["repetition_penalty"] = (1.3, 0.9)[index // 2 % 2]
        if index % 3 == 0:
            fields.update(presence_penalty=0.7, frequency_penalty=0.2)
        if index % 3 == 1:
            fields["logit_bias"] = {token: (-100, 2.5, 1)[token % 3] for token in range(index, 512, 7)}
        if index % 5 == 2:
            fields.update(min_new_tokens=25, stop_token_ids=[32, 48, 49, 10], ignore_eos=False)
        if index % 4 == 1:
            fields.update(top_k=30, min_p=0.02)
        fields.setdefault("ignore_eos", True)
        ids = [(index * 31 + i * i) % 508 for i in range((1, 5, 63, 64, 65, 200)[index % 6])]
        requests.append(client.request(ids=ids, max_new_tokens=70, candidate_count=index % 3,
                                       prompt_logprobs=index % 6 == 5, **fields))
    return requests


@pytest.fixture(scope="module")
def alone(client):
    return [client.send(request) for request in mixed_requests(client)]


@pytest.mark.parametrize("options", [
    {"expert_workers": 2},
    {"inproc": True, "attention_flags": ["--max_step_tokens=7"], "common_flags": ["--threads=1"]},
    {"inproc": True, "common_flags": ["--cpu_target=portable"]},
    {"attention_workers": 2, "expert_workers": 2},
], ids=["all-at-once", "7-tokens-a-step", "portable", "2-attention-workers"])
def test_one_answer(alone, options):
    with Cluster(MODEL, **options) as other, Client(other.target) as client:
        answers = client.send_all(mixed_requests(client))
    assert_same(answers, alone)


def test_one_answer_after_preemption(alone):
    """Ten blocks of 64 tokens: sequences are dropped and replayed, and their counts with them."""
    with preempting_client(10, 512, "--max_step_tokens=9") as client:
        assert_same(client.send_all(mixed_requests(client) * 4), alone * 4)


def test_one_answer_after_a_broken_stream(client, alone):
    """The client sends what it has of the answer: the rest is what would have come, bit for bit."""
    requests, wanted = [], []
    for index, (request, answer) in enumerate(zip(mixed_requests(client), alone)):
        for kept in {1, index % len(answer.ids), len(answer.ids) - 1, len(answer.ids)}:
            resumed = client.pb.GenerateRequest()
            resumed.CopyFrom(request)
            resumed.token_ids.ids.extend(answer.ids[:kept])
            resumed.generated_prompt_token_count = kept
            requests.append(resumed)
            wanted.append((answer, kept))
    for resumed, (answer, kept) in zip(client.send_all(requests), wanted):
        assert resumed.ids == answer.ids[kept:]
        assert struct.pack(f"<{len(resumed.ids)}f", *resumed.logprobs) == struct.pack(
            f"<{len(resumed.ids)}f", *answer.logprobs[kept:])
        assert resumed.candidates == answer.candidates[kept:]
        assert resumed.finish.reason == answer.finish.reason
        assert resumed.finish.usage.completion_token_count == len(answer.ids) - kept
        if answer.prompt_logprobs:
            assert resumed.prompt_logprobs == answer.prompt_logprobs + answer.logprobs[:kept]


def test_a_broken_stream_goes_on_inside_a_character(client):
    """The text of both streams together is that of all ids."""
    text = "naïve 世界 \U0001f600"
    ids = list(client.inference.Tokenize(client.pb.TokenizeRequest(text=text)).ids)
    # A bias of 100 makes the model say any ids.
    for kept in range(1, len(ids)):
        answer = client.generate(ids=[1] + ids[:kept], generated_prompt_token_count=kept, max_new_tokens=kept + 1,
                                 temperature=0, ignore_eos=True, logit_bias={ids[kept]: 100})
        assert answer.ids == [ids[kept]]
    detokenize = lambda part: client.inference.Detokenize(client.pb.DetokenizeRequest(ids=part)).text
    half = next(kept for kept in range(1, len(ids)) if detokenize(ids[:kept]).endswith("\ufffd") and
                not detokenize(ids[:kept + 1]).endswith("\ufffd"))
    answer = client.generate(ids=[1] + ids[:half], generated_prompt_token_count=half, max_new_tokens=half + 1,
                             temperature=0, ignore_eos=True, logit_bias={ids[half]: 100})
    assert answer.text and "\ufffd" not in answer.text
    assert text.startswith(detokenize(ids[:half]).rstrip("\ufffd") + answer.text)


def test_a_broken_thought_keeps_its_budget(client):
    prompt = client.pb.TokenizeRequest()
    prompt.chat.messages.add(role=client.pb.ROLE_USER, text="764 + 621")
    ids = list(client.inference.Tokenize(prompt).ids)
    fields = {"temperature": 0, "max_new_tokens": 120, "budget_tokens": 12}
    whole = client.generate(ids=ids, **fields)
    assert whole.finish.usage.reasoning_token_count == 13  # with the line end before </think>
    for kept in (1, 5, 12, 13, 14, 20, len(whole.ids) - 1):
        rest = client.generate(ids=ids + whole.ids[:kept], generated_prompt_token_count=kept, **fields)
        assert rest.ids == whole.ids[kept:], kept
        assert rest.logprobs == whole.logprobs[kept:]
        assert rest.finish.reason == whole.finish.reason
    # With no budget at all an answer begins with the closing text.
    with pytest.raises(grpc.RpcError) as caught:
        client.generate(ids=ids + [1], generated_prompt_token_count=1, budget_tokens=0, max_new_tokens=9)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "generated_prompt_token_count" in caught.value.details()


def test_command_line_flags(cluster, client):
    fields = {"temperature": 1.2, "top_p": 0.9, "top_k": 50, "min_p": 0.01, "seed": 7, "repetition_penalty": 1.2,
              "presence_penalty": 0.5, "frequency_penalty": 0.25, "max_new_tokens": 40, "min_new_tokens": 20,
              "generated_prompt_token_count": 3}
    wanted = client.generate(ids=PROMPT, logit_bias={7: 2.5, 50: -4}, stop_token_ids=[32], **fields)
    flags = [f"--{name}={value}" for name, value in fields.items()]
    run = run_m1("generate", f"--target={cluster.target}", "--json", f"--token_ids={','.join(map(str, PROMPT))}",
                 "--logit_bias=7:2.5,50:-4", "--stop_token_ids=32", *flags)
    assert run.returncode == 0, run.stderr
    messages = [json.loads(line) for line in run.stdout.splitlines()]
    ids = [token["id"] for message in messages for token in message.get("delta", {}).get("tokens", [])]
    assert ids == wanted.ids
    assert len(ids) >= 17

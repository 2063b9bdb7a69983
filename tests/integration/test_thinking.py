"""Thinking budgets on the embedded model: where a thought is cut, what is fed, what follows, bit for bit.

What a cut answer must be is put together from requests without a budget: the unbounded answer up to the cut, the closing
text as the tokenizer splits it, scored as a prompt, and the continuation of the prompt made of both.
"""

import dataclasses
import struct

import pytest

from client import Client
from cluster import Cluster, kill_busy_workers
from one_answer import assert_same, preempting_client

MODEL = "models/tiny"
QUESTIONS = ("764 + 621", "305 - 118", "9+882")
BUDGETS = (0, 1, 8, 16, 32, 1000)
CLOSING = "\n</think>\n\n"
MAX_NEW_TOKENS = 120


def prompt_ids(client, question):
    request = client.pb.TokenizeRequest()
    request.chat.messages.add(role=client.pb.ROLE_USER, text=question)
    return list(client.inference.Tokenize(request).ids)


def text_ids(client, text):
    return list(client.inference.Tokenize(client.pb.TokenizeRequest(text=text)).ids)


def piece(client, token):
    return client.inference.Detokenize(client.pb.DetokenizeRequest(ids=[token])).text


def ask(client, question, budget=None, **more):
    return client.request(chat=[("user", question)], temperature=0, max_new_tokens=MAX_NEW_TOKENS, budget_tokens=budget,
                          **more)


@dataclasses.dataclass
class Expected:
    ids: list
    logprobs: list
    num_kept: int  # of the unbounded answer
    num_fed: int


def count_until(client, ids, text):
    """How many of `ids` it takes until `text` is complete; more than there are: it never is."""
    seen = ""
    for index, token in enumerate(ids):
        seen += piece(client, token)
        if text in seen:
            return index + 1
    return len(ids) + 1


def expect(client, question, budget, closing=CLOSING, max_new_tokens=MAX_NEW_TOKENS):
    """The answer under a budget, from requests without one."""
    prompt = prompt_ids(client, question)

    def plain(ids, count):
        return client.generate(ids=ids, temperature=0, max_new_tokens=count)

    whole = plain(prompt, max_new_tokens)
    opened, closed = count_until(client, whole.ids, "<think>"), count_until(client, whole.ids, "</think>")
    if budget == 0:
        num_kept, fed = 0, text_ids(client, "<think>" + closing)
    else:
        num_kept, fed = opened + budget, text_ids(client, closing)
        if num_kept >= min(closed, len(whole.ids)):
            return Expected(whole.ids, whole.logprobs, len(whole.ids), 0)
    fed = fed[:max_new_tokens - num_kept]
    begun = prompt + whole.ids[:num_kept] + fed
    scored = client.generate(ids=begun, max_new_tokens=0, prompt_logprobs=True, temperature=1)
    ids, logprobs = whole.ids[:num_kept] + fed, scored.prompt_logprobs[len(prompt):]
    assert logprobs[:num_kept] == whole.logprobs[:num_kept]
    if len(ids) < max_new_tokens:
        rest = plain(begun, max_new_tokens - len(ids))
        ids, logprobs = ids + rest.ids, logprobs + rest.logprobs
    return Expected(ids, logprobs, num_kept, len(fed))


def floats(values):
    return struct.pack(f"<{len(values)}f", *values)


def assert_is(answer, expected):
    assert answer.ids == expected.ids
    assert floats(answer.logprobs) == floats(expected.logprobs)


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("budget", BUDGETS)
def test_cut_thought_is_fed_and_goes_on(client, question, budget):
    answer = client.send(ask(client, question, budget))
    expected = expect(client, question, budget)
    assert_is(answer, expected)
    usage = answer.finish.usage
    assert usage.completion_token_count == len(expected.ids)
    if expected.num_fed:
        # The newline of the closing text is a token of its own and part of the thought.
        assert usage.reasoning_token_count == (budget + 1 if budget else 0)
        assert answer.text and "think>" not in answer.text + answer.reasoning
    else:
        assert budget == 1000 and answer.finish.reason == client.pb.FINISH_REASON_STOP
        assert answer.key() == client.send(ask(client, question)).key()


def test_budget_that_ends_with_the_thought(client):
    """One token less than the thought has cuts it, so many do not."""
    whole = client.send(ask(client, QUESTIONS[0]))
    length = whole.finish.usage.reasoning_token_count
    tag = text_ids(client, CLOSING)[1:]  # </think> and what follows, as the model writes it
    assert client.send(ask(client, QUESTIONS[0], length + len(tag))).key() == whole.key()
    for budget in range(length - 2, length + len(tag)):
        assert_is(client.send(ask(client, QUESTIONS[0], budget)), expect(client, QUESTIONS[0], budget))


def test_other_closing_texts(client):
    for closing in ("</think>", "\nI must answer now.\n</think>\n\n764 + 621 = ", "no tag at all", "",
                    "<end_of_sentence>\n</think>\n\n"):
        answer = client.send(ask(client, QUESTIONS[0], 8, closing_text=closing))
        if not closing:
            assert answer.key() == client.send(ask(client, QUESTIONS[0])).key()
            continue
        assert_is(answer, expect(client, QUESTIONS[0], 8, closing))
        eos = client.inference.GetModelInfo(client.pb.GetModelInfoRequest()).eos_token_ids[0]
        assert eos not in answer.ids[:-1]


def test_limits_hold_during_the_closing_text(client):
    """max_new_tokens cuts before, in and after the fed tokens; a stop id among them ends the answer."""
    fed = text_ids(client, CLOSING)
    for max_new_tokens in range(8, 18):
        answer = client.generate(chat=[("user", QUESTIONS[0])], temperature=0, max_new_tokens=max_new_tokens,
                                 budget_tokens=8)
        assert_is(answer, expect(client, QUESTIONS[0], 8, max_new_tokens=max_new_tokens))
        assert answer.finish.reason == client.pb.FINISH_REASON_LENGTH
        assert len(answer.ids) == max_new_tokens
    stopped = client.send(ask(client, QUESTIONS[0], 8, stop_token_ids=[fed[-2]]))
    assert stopped.ids[-3:] != fed[-3:] and stopped.ids[-1] == fed[-2]
    assert stopped.finish.reason == client.pb.FINISH_REASON_STOP
    assert stopped.finish.stop_token_id == fed[-2]
    scored = client.send(client.request(chat=[("user", QUESTIONS[0])], max_new_tokens=0, budget_tokens=0))
    assert scored.ids == [] and scored.finish.reason == client.pb.FINISH_REASON_LENGTH


def test_stop_strings_see_the_closing_text(client):
    closing = "\nThat is enough.\n</think>\n\n"
    answer = client.send(ask(client, QUESTIONS[0], 8, closing_text=closing, stop_strings=["enough"]))
    whole = expect(client, QUESTIONS[0], 8, closing)
    assert answer.ids == whole.ids[:len(answer.ids)] and len(answer.ids) < whole.num_kept + whole.num_fed
    assert answer.reasoning.endswith("\nThat is ")
    assert answer.finish.stop_string == "enough"


def test_token_prompts_have_budgets_too(client):
    for budget in (0, 1, 16):
        chat = client.send(ask(client, QUESTIONS[1], budget))
        plain = client.generate(ids=prompt_ids(client, QUESTIONS[1]), temperature=0, max_new_tokens=MAX_NEW_TOKENS,
                                budget_tokens=budget)
        assert plain.ids == chat.ids and plain.logprobs == chat.logprobs
        assert plain.finish.usage.reasoning_token_count == chat.finish.usage.reasoning_token_count


def test_answers_without_a_thought_are_left_alone(client):
    ids = [10, 20, 30]
    plain = client.generate(ids=ids, temperature=0, max_new_tokens=40, ignore_eos=True)
    for budget in (1, 3, 1000):
        bounded = client.generate(ids=ids, temperature=0, max_new_tokens=40, ignore_eos=True, budget_tokens=budget)
        assert bounded.key() == plain.key()


def mixed_requests(client):
    """Budgets, closing texts, greedy and seeded, with candidates."""
    requests = []
    for index in range(32):
        seeded = {"temperature": 0.8, "seed": index, "top_p": 0.9} if index % 3 == 0 else {"temperature": 0}
        requests.append(client.request(
            chat=[("user", f"{100 + 17 * index} {'+-'[index % 2]} {5 * index}")], max_new_tokens=180,
            ignore_eos=index % 4 < 2,
            budget_tokens=(0, 1, 2, 5, 11, 24, 60, None)[index % 8], candidate_count=index % 3,
            closing_text=(None, "\nenough.\n</think>\n\n")[index // 8 % 2], **seeded))
    return requests


@pytest.fixture(scope="module")
def alone(client):
    return [client.send(request) for request in mixed_requests(client)]


@pytest.mark.parametrize("options", [
    {"expert_workers": 2},
    {"inproc": True, "attention_flags": ["--max_step_tokens=1"]},
    {"inproc": True, "attention_flags": ["--max_step_tokens=7"]},
    {"attention_workers": 2, "expert_workers": 2},
], ids=["all-at-once", "1-token-a-step", "7-tokens-a-step", "2-attention-workers"])
def test_budgets_have_one_answer(alone, options):
    with Cluster(MODEL, **options) as other, Client(other.target) as client:
        answers = client.send_all(mixed_requests(client))
    assert_same(answers, alone)


def test_budgets_survive_a_killed_worker(alone):
    """Of two attention workers one dies by kill -9, three times, and what it held goes on elsewhere."""
    with Cluster(MODEL, inproc=True, attention_workers=2) as other, Client(other.target) as client:
        clients, answers = client.send_all_in_background(mixed_requests(client) * 3)
        killed_with = kill_busy_workers(other, client, clients)
        clients.join()
    print(f"\nworkers were killed with {killed_with} sequences")
    assert max(killed_with) > 5
    assert_same(answers, alone * 3)


def test_budgets_survive_preemption(alone):
    """Twelve blocks of 64 tokens: sequences are dropped and replayed at any time."""
    with preempting_client(12, 512, "--max_step_tokens=5") as client:
        assert_same(client.send_all(mixed_requests(client)), alone)

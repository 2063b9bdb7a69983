"""What ends an answer: stop strings, stop ids, EOS, length, the end of the context, repetition."""

import codecs
import dataclasses
import json
import math
import random

import pytest

from client import Client
from cluster import Cluster, kill_busy_workers, run_m1, wait_until
from one_answer import preempting_client

MODEL = "models/tiny"
VOCABULARY = 508  # above are control tokens, which show no text
EOS = 509
SUM = [("user", "764 + 621")]
THOUGHT = "764+621\nones: 4+1=5\ntens: 6+2=8\nhundreds: 7+6=13, carry 1\nthousands: 1\nresult: 1385"
ANSWER = "764 + 621 = 1385."


def expected_end(plain, stopping):
    """The rules, word for word, on an answer without stop strings: ids, text, which string ended it.

    Python's decoder replaces what is no UTF-8 as ours does, and is not ours.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = ""

    def match(shown):
        nonlocal text
        for letter in shown:
            text += letter
            ended = [stop for stop in stopping.stop_strings if text.endswith(stop)]
            if ended:
                stop = max(ended, key=len)
                if not stopping.include_stop_text:
                    text = text.removesuffix(stop)
                return stop
        return None

    for count, (token, piece) in enumerate(zip(plain.ids, plain.pieces), 1):
        if stop := match(decoder.decode(piece) if token < VOCABULARY else ""):
            return plain.ids[:count], text, stop
    stop = match(decoder.decode(b"", final=True))
    return plain.ids, text, stop


def check(client, plain, request, answer):
    ids, text, stop = expected_end(plain, request.stopping)
    assert answer.ids == ids
    assert answer.logprobs == plain.logprobs[:len(ids)]
    assert answer.text == text
    if stop is None:
        assert answer.finish.reason == plain.finish.reason
    else:
        assert answer.finish.reason == client.pb.FINISH_REASON_STOP
        assert answer.finish.stop_string == stop
    return stop is not None


@pytest.mark.parametrize("stop, reasoning, content", [
    ("tens", "764+621\nones: 4+1=5\n", ""),                                   # one token
    ("ndred", "764+621\nones: 4+1=5\ntens: 6+2=8\nhu", ""),                   # inside one token
    ("\nresult: 13", THOUGHT.removesuffix("\nresult: 1385"), ""),             # five tokens
    ("5\nt", "764+621\nones: 4+1=", ""),                                      # ends inside a token
    ("</think>", THOUGHT + "\n", ""),                                         # a tag is text as well
    ("\n</think>\n\n764 + 6", THOUGHT, ""),                                   # from thought to answer
    (" = 13", THOUGHT, "764 + 621"),
    ("never said", THOUGHT, ANSWER),
])
def test_stop_strings_of_a_chat(client, stop, reasoning, content):
    plain = client.generate(chat=SUM, temperature=0)
    answer = client.generate(chat=SUM, temperature=0, stop_strings=[stop])
    assert (answer.reasoning, answer.text) == (reasoning, content)
    assert answer.ids == plain.ids[:len(answer.ids)] and answer.logprobs == plain.logprobs[:len(answer.ids)]
    if stop == "never said":
        assert answer.finish.stop_token_id == EOS
    else:
        assert answer.finish.reason == client.pb.FINISH_REASON_STOP and answer.finish.stop_string == stop
        assert len(answer.ids) < len(plain.ids)


def test_the_stop_text_may_be_included(client):
    answer = client.generate(chat=SUM, temperature=0, stop_strings=["\nresult: 1"], include_stop_text=True)
    assert answer.reasoning == THOUGHT.removesuffix("385")
    assert answer.finish.stop_string == "\nresult: 1"
    answer = client.generate(chat=SUM, temperature=0, stop_strings=["1 = 1"], include_stop_text=True)
    assert (answer.reasoning, answer.text) == (THOUGHT, "764 + 621 = 1")


def test_of_several_the_first_end_counts(client):
    answer = client.generate(chat=SUM, temperature=0, stop_strings=["tens: 6+2=8\nhundreds", "+2", "6+2", "13"])
    assert answer.reasoning == "764+621\nones: 4+1=5\ntens: "
    assert answer.finish.stop_string == "6+2"


def test_min_new_tokens_holds_stop_strings_off(client):
    plain = client.generate(chat=SUM, temperature=0)
    for count in (0, 3, 4, 20, 60, 70):
        answer = client.generate(chat=SUM, temperature=0, stop_strings=["6"], min_new_tokens=count)
        # "6" is always a token of its own.
        wanted = next((n for n, piece in enumerate(plain.pieces, 1) if piece == b"6" and n > count), len(plain.ids))
        assert answer.ids == plain.ids[:wanted]


def test_a_broken_stream_goes_on_to_the_same_match(client, mixed):
    """The client sends what it has back as part of the prompt; text that was held back comes with the second stream."""
    index = max(range(len(mixed.answers)), key=lambda i: len(mixed.answers[i].ids) if mixed.answers[i].finish.stop_string
                else 0)
    request, whole = mixed.requests[index], mixed.answers[index]
    for said in range(1, len(whole.ids)):
        again = type(request).FromString(request.SerializeToString())
        again.token_ids.ids.extend(whole.ids[:said])
        again.generated_prompt_token_count = said
        rest = client.send(again)
        assert rest.ids == whole.ids[said:] and rest.logprobs == whole.logprobs[said:]
        assert rest.finish.stop_string == whole.finish.stop_string
        assert whole.text.endswith(rest.text)


def test_usage_ends_with_the_match(client):
    plain = client.generate(chat=SUM, temperature=0)
    thought = client.generate(chat=SUM, temperature=0, stop_strings=["result"])
    assert thought.finish.usage.reasoning_token_count == len(thought.ids) - 2  # less "<think" and ">\n"
    answer = client.generate(chat=SUM, temperature=0, stop_strings=["= 1"])
    assert answer.finish.usage.reasoning_token_count == plain.finish.usage.reasoning_token_count


def with_stop_strings(plain_answers, requests):
    """Each request with stop strings cut from its own answer: some of them in the midst of tokens."""
    stopped = []
    for index, (plain, request) in enumerate(zip(plain_answers, requests)):
        numbers = random.Random(index)
        changed = type(request).FromString(request.SerializeToString())
        for _ in range(numbers.randrange(1, 5)):
            if not plain.text:
                break
            begin = numbers.randrange(len(plain.text))
            changed.stopping.stop_strings.append(plain.text[begin:begin + numbers.randrange(1, 12)])
        if index % 3 == 0:
            changed.stopping.stop_strings.append("\ufffd")
        changed.stopping.include_stop_text = index % 2 == 0
        stopped.append(changed)
    return stopped


@dataclasses.dataclass
class Mixed:
    """Requests without stop strings, the same with them, and the answers to both, each sent alone."""
    plain: list
    requests: list
    answers: list

    @property
    def keys(self):
        return [answer.key() for answer in self.answers]


@pytest.fixture(scope="module")
def mixed(cluster):
    numbers = random.Random(3)
    with Client(cluster.target) as client:
        requests = [
            client.request(ids=[numbers.randrange(VOCABULARY) for _ in range(1 + 7 * index)], max_new_tokens=60,
                           ignore_eos=True, temperature=(0, 1.3)[index % 2], seed=index) for index in range(40)
        ]
        plain = [client.send(request) for request in requests]
        stopped = with_stop_strings(plain, requests)
        return Mixed(plain, stopped, [client.send(request) for request in stopped])


def test_stop_strings_of_any_kind(client, mixed):
    num_stopped = sum(check(client, *case) for case in zip(mixed.plain, mixed.requests, mixed.answers))
    assert num_stopped >= 35


def test_stop_strings_in_a_batch(client, mixed):
    assert [answer.key() for answer in client.send_all(mixed.requests)] == mixed.keys


def test_stop_strings_survive_killed_workers(mixed, stubs):
    with Cluster(MODEL, inproc=True, attention_workers=2) as other, Client(other.target) as client:
        clients, answers = client.send_all_in_background(mixed.requests * 4)
        killed_with = kill_busy_workers(other, client, clients)
        clients.join()
    print(f"\nworkers were killed with {killed_with} sequences")
    assert max(killed_with) > 5
    assert [answer.key() for answer in answers] == mixed.keys * 4


def test_a_match_frees_the_sequence(client):
    answer = client.generate(chat=SUM, temperature=0, ignore_eos=True, max_new_tokens=8000, stop_strings=["tens"])
    assert answer.finish.stop_string == "tens"
    wait_until(lambda: client.load().workers[0].load.used_sequences == 0, 2, "the worker frees the sequence")


def test_the_last_token_may_complete_a_stop_string(client):
    plain = client.generate(chat=SUM, temperature=0, stop_strings=["tens"])
    answer = client.generate(chat=SUM, temperature=0, stop_strings=["tens"], max_new_tokens=len(plain.ids))
    assert answer.finish.stop_string == "tens" and answer.key() == plain.key()
    shorter = client.generate(chat=SUM, temperature=0, stop_strings=["tens"], max_new_tokens=len(plain.ids) - 1)
    assert shorter.finish.reason == client.pb.FINISH_REASON_LENGTH


def test_half_a_stop_string_is_shown_at_the_end(client):
    answer = client.generate(chat=SUM, temperature=0, stop_strings=["1385.!"])
    assert answer.text == ANSWER and answer.finish.stop_token_id == EOS


def test_sixteen_long_stop_strings(client):
    stops = ["a" * 1023 + chr(ord("b") + index) for index in range(16)]
    plain = client.generate(chat=SUM, temperature=0)
    assert client.generate(chat=SUM, temperature=0, stop_strings=stops).key() == plain.key()


def test_stop_ids_end_and_hide_their_text(client):
    plain = client.generate(chat=SUM, temperature=0)
    tens = plain.pieces.index(b"tens")
    stop = plain.ids[tens]
    answer = client.generate(chat=SUM, temperature=0, stop_token_ids=[stop])
    assert answer.ids == plain.ids[:tens + 1]
    assert answer.reasoning == "764+621\nones: 4+1=5\n"
    assert answer.finish.stop_token_id == stop
    # A stop token shows no text, so no stop string sees it.
    both = client.generate(chat=SUM, temperature=0, stop_token_ids=[stop], stop_strings=["tens"])
    assert both.finish.stop_token_id == stop


def test_eos_and_ignore_eos(client):
    assert client.generate(chat=SUM, temperature=0).finish.stop_token_id == EOS
    on = client.generate(chat=SUM, temperature=0, ignore_eos=True, max_new_tokens=100)
    assert on.finish.reason == client.pb.FINISH_REASON_LENGTH and len(on.ids) == 100 and EOS in on.ids
    named = client.generate(chat=SUM, temperature=0, ignore_eos=True, stop_token_ids=[EOS])
    assert named.finish.stop_token_id == EOS


def test_the_context_ends_an_answer(stubs):
    with Cluster(MODEL, inproc=True, attention_flags=["--max_context_tokens=200"]) as cluster:
        with Client(cluster.target) as client:
            answer = client.generate(ids=[5] * 150, temperature=0, ignore_eos=True)
            assert len(answer.ids) == 50
            assert answer.finish.reason == client.pb.FINISH_REASON_LENGTH


def test_command_line_stops(cluster):
    plain = run_m1("generate", "--target", cluster.target, "--chat", "764 + 621", "--temperature", "0", "--stop",
                   " = 1", "--stop", "never")
    assert plain.stdout == "764 + 621\n", plain
    lines = run_m1("generate", "--target", cluster.target, "--chat", "764 + 621", "--temperature", "0", "--stop",
                   "= 13", "--include_stop_text", "--json").stdout.splitlines()
    assert json.loads(lines[-1])["finish"]["stop_string"] == "= 13"


def end_by_repetition(logprobs, max_run, probability):
    """How many tokens an answer with these logprobs has."""
    run = 0
    for count, logprob in enumerate(logprobs, 1):
        run = run + 1 if logprob > math.log(probability) else 0
        if run == max_run:
            return count
    return None


REPETITION = {"run": 25, "probability": 0.9}


def repeating_requests(client):
    return [client.request(chat=[("user", f"{100 + 37 * i} + {900 - 41 * i}")], ignore_eos=True, seed=i, top_p=1,
                           temperature=(0, 2, 2, 3)[i % 4], max_new_tokens=160) for i in range(24)]


@pytest.fixture(scope="module")
def repeating(stubs):
    """Answers without the rule, and how many tokens of each the rule leaves."""
    with Cluster(MODEL, inproc=True, router_flags=["--repetition_run_tokens=0"]) as other:
        with Client(other.target) as client:
            plain = client.send_all(repeating_requests(client))
    counts = [end_by_repetition(answer.logprobs, REPETITION["run"], REPETITION["probability"]) for answer in plain]
    assert len(set(counts)) >= 4 and sum(count is not None for count in counts) >= 5
    return plain, counts


REPETITION_FLAGS = [f"--repetition_run_tokens={REPETITION['run']}",
                    f"--repetition_probability={REPETITION['probability']}"]


def check_repetition(client, answers, repeating):
    for answer, plain, count in zip(answers, *repeating):
        assert answer.ids == plain.ids[:count] and answer.logprobs == plain.logprobs[:count]
        reason = "FINISH_REASON_LENGTH" if count is None else "FINISH_REASON_REPETITION"
        assert answer.finish.reason == client.pb.FinishReason.Value(reason)


def test_a_run_of_near_certain_tokens_ends(repeating):
    with Cluster(MODEL, expert_workers=2, router_flags=REPETITION_FLAGS) as other, Client(other.target) as client:
        check_repetition(client, client.send_all(repeating_requests(client)), repeating)


def test_runs_go_on_after_preemption(repeating):
    """Blocks for two sequences at most: others are dropped in the midst of their runs."""
    with preempting_client(6, 256, router_flags=REPETITION_FLAGS) as client:
        check_repetition(client, client.send_all(repeating_requests(client)), repeating)

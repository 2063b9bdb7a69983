"""Requests of every kind, each alone and all together where memory is short and priorities push: one answer.

M1_MIXED_REQUESTS  how many (100; scripts/check.sh: 300)
"""

import os
import random
import threading
import time

from client import Client
from cluster import TINY_BLOCK_BYTES, Cluster, require, wait_until
from one_answer import samples_alone

MODEL = "models/tiny"
COUNT = int(os.environ.get("M1_MIXED_REQUESTS", "100"))
VOCABULARY = 508  # above are control tokens
WEATHER = ("weather", "The weather of a city", '{"type": "object", "properties": {"city": {"type": "string"}}}')
SMALL = ["--max_sequences=8", f"--kv_bytes={30 * TINY_BLOCK_BYTES}", "--max_context_tokens=1024"]


def sum_of(rng):
    return [("user", f"{rng.randrange(1000)} + {rng.randrange(1000)}")]


def ids(rng, least, most):
    return [rng.randrange(VOCABULARY) for _ in range(rng.randint(least, most))]


KINDS = (
    lambda rng: dict(ids=ids(rng, 1, 60), repetition_penalty=1.2, presence_penalty=0.5, frequency_penalty=0.3,
                     logit_bias={rng.randrange(VOCABULARY): 4.0}, max_new_tokens=120, ignore_eos=True),
    lambda rng: dict(ids=ids(rng, 1, 200), stop_strings=[rng.choice("abcdeinst "), "15"], include_stop_text=rng.random() < 0.5,
                     min_new_tokens=rng.randrange(40), max_new_tokens=150, ignore_eos=True),
    lambda rng: dict(chat=sum_of(rng), budget_tokens=rng.choice((0, 1, 8, 24, 60)), max_new_tokens=160),
    lambda rng: dict(ids=ids(rng, 60, 260), sample_count=rng.randint(2, 6), max_new_tokens=70, ignore_eos=True),
    lambda rng: dict(chat=[("user", f"How is the weather in {rng.choice(('Lima', 'Oslo', 'Rome'))}?")], tools=[WEATHER],
                     temperature=0, max_new_tokens=120),
    lambda rng: dict(ids=ids(rng, 300, 800), temperature=0, prompt_logprobs=True, max_new_tokens=40, ignore_eos=True),
    lambda rng: dict(ids=ids(rng, 40, 120), generated_prompt_token_count=30, frequency_penalty=0.5, max_new_tokens=130,
                     ignore_eos=True),
    lambda rng: dict(ids=ids(rng, 1, 40), temperature=2, top_k=50, min_p=0.01, top_p=1, candidate_count=20,
                     max_new_tokens=100, ignore_eos=True),
    lambda rng: dict(chat=sum_of(rng), sample_count=rng.randint(2, 4), budget_tokens=rng.choice((4, 30)), max_new_tokens=90),
    lambda rng: dict(chat=sum_of(rng), temperature=0, max_new_tokens=300, ignore_eos=True),
)


def make_requests(client):
    rng = random.Random(20)
    requests = []
    for index in range(COUNT):
        request = client.request(**({"seed": rng.getrandbits(64)} | KINDS[index % len(KINDS)](rng)))
        request.priority = rng.choice((-100, -3, 0, 0, 3, 100))
        if rng.random() < 0.5:
            request.session_id = rng.choice("ab")
        requests.append(request)
    return requests


def compared(answer):
    return (answer.key(), answer.candidates, answer.tool_calls, answer.seed, answer.finish.reason,
            answer.finish.WhichOneof("matched"), str(answer.finish.usage))


def send_together(client, requests):
    """The lowly first and the others soon after, so that they find the places taken."""
    answers, errors = [None] * len(requests), []

    def run(index):
        try:
            answers[index] = client.send_samples(requests[index])
        except Exception as error:  # shown below
            errors.append((index, error))

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(requests))]
    for index in sorted(range(len(requests)), key=lambda index: requests[index].priority):
        threads[index].start()
        time.sleep(0.005)
    for thread in threads:
        thread.join()
    assert not errors, errors[0]
    return answers


def test_alone_and_together(client):
    requests = make_requests(client)
    alone = [[compared(client.send(single)) for single in samples_alone(client, request)] for request in requests]
    with Cluster(MODEL, expert_workers=2, attention_workers=2, attention_flags=SMALL) as cluster:
        with Client(cluster.target) as small:
            together = [[compared(answer) for answer in answers] for answers in send_together(small, requests)]
            workers = [worker.description for worker in small.topology().attention_workers]
            wait_until(lambda: all(worker.load.used_sequences == 0 for worker in small.load().workers), what="all is freed")
            load = small.load()
            assert load.running_request_count == load.queued_request_count == 0
    different = [index for index, (a, b) in enumerate(zip(alone, together, strict=True)) if a != b]
    preempted = [worker.preemption_count for worker in workers]
    print(f"\n{len(requests) - len(different)} of {len(requests)} requests are equal bit for bit, {sum(map(len, alone))} "
          f"samples; {preempted} sequences were dropped and replayed, {[w.fork_count for w in workers]} began at a kept prompt")
    assert not different
    # Of 300, 45 to 56 are dropped on two cores; faster ones drop fewer.
    require(sum(preempted) >= COUNT // 20, "hardly any sequence was dropped")
    require(sum(worker.fork_count for worker in workers) > 0, "none began at a kept prompt")

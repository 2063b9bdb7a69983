"""An attention worker that dies or drains on the way costs nobody a token.

M1_KILL_STRIDE: kills at every so many-th token of an answer (1: at each). M1_KILL_ROUNDS: how often a busy worker dies.
"""

import os
import signal
import threading
import time

import pytest

from client import Client
from cluster import Cluster, kill_busy_workers, require, wait_serving, wait_until

MODEL = "models/tiny"
STRIDE = int(os.environ.get("M1_KILL_STRIDE", "64"))
ROUNDS = int(os.environ.get("M1_KILL_ROUNDS", "2"))
ANSWER_TOKENS = 256


@pytest.fixture
def pair(stubs):
    with Cluster(MODEL, expert_workers=2, attention_workers=2) as cluster, Client(cluster.target) as client:
        yield cluster, client


def streams(client, count, max_new_tokens):
    """Greedy ones and seeded ones, of different lengths."""
    return [client.request(chat=[("user", f"{100 + 37 * i} + {900 - 11 * i}")], temperature=i % 2, seed=i,
                           ignore_eos=True, max_new_tokens=max_new_tokens + 7 * (i % 5)) for i in range(count)]


class Reader(threading.Thread):
    """Reads one answer; `reached` is set when `index` tokens have come."""

    def __init__(self, client, request, index):
        super().__init__()
        self.calls = client.inference.Generate(request, timeout=240)
        self.index = index
        self.reached = threading.Event()
        self.tokens = []
        self.start()

    def run(self):
        for response in self.calls:
            self.tokens += [(token.id, token.logprob) for token in response.delta.tokens]
            if len(self.tokens) >= self.index:
                self.reached.set()


def both_serve(cluster, client):
    wait_until(lambda: sum(worker.ready for worker in client.load().workers) == len(cluster.attention),
               what="both workers are there again")


@pytest.mark.parametrize("temperature", [0, 1], ids=["greedy", "seeded"])
def test_a_worker_killed_at_any_token(pair, temperature):
    cluster, client = pair
    request = client.request(chat=[("user", "764 + 621")], temperature=temperature, seed=5, ignore_eos=True,
                             max_new_tokens=ANSWER_TOKENS)
    plain = Reader(client, request, 1)
    plain.join()
    assert len(plain.tokens) == ANSWER_TOKENS
    equal, kills, late, indices = 0, 0, [], range(1, ANSWER_TOKENS + 1, STRIDE)
    for index in indices:
        reader = Reader(client, request, index)
        require(reader.reached.wait(60), f"token {index} did not come within 60 s")
        holders = [worker.address for worker in client.load().workers if worker.sequence_count > 0]
        victim = next((p for p in cluster.attention if p.address in holders), None)
        if victim is not None:  # else the answer was over before its worker could be killed
            victim.kill()
            kills += 1
            late.append(len(reader.tokens) - index)
        reader.join()
        equal += reader.tokens == plain.tokens
        if victim is not None:
            victim.start()
        both_serve(cluster, client)
    late = sorted(late)
    print(f"\n{equal} of {len(indices)} answers are equal bit for bit; {kills} lost their worker, at the median "
          f"{late[len(late) // 2] if late else '-'} tokens after the one meant")
    assert equal == len(indices)


def test_kills_under_load(pair):
    cluster, client = pair
    requests = streams(client, 50, 40)
    plain = [answer.key() for answer in client.send_all(requests)]
    rounds = 0
    while rounds < ROUNDS:
        clients, answers = client.send_all_in_background(requests)
        killed_with = kill_busy_workers(cluster, client, clients, turns=1 + rounds % 2)
        clients.join()
        require(sum(killed_with) > 0, "no busy worker was killed")
        rounds += sum(count > 0 for count in killed_with)  # an idle one that dies shows nothing
        assert [answer.key() for answer in answers] == plain
        both_serve(cluster, client)


def test_drained_workers_hand_over_at_once(pair):
    """SIGTERM to a busy worker: it ends within moments although its answers are long, and nobody sees a gap."""
    cluster, client = pair
    requests = streams(client, 30, 400)
    plain = [answer.key() for answer in client.send_all(requests)]
    for turn in range(ROUNDS):
        clients, answers = client.send_all_in_background(requests)
        victim = cluster.attention[turn % 2]
        wait_until(lambda: any(w.sequence_count > 5 for w in client.load().workers if w.address == victim.address), 30,
                   "the worker has work")
        started = time.monotonic()
        victim.signal(signal.SIGTERM)
        assert victim.wait() == 0
        require(clients.is_alive(), "the answers were not long enough to see anything")
        print(f"\ndrained in {time.monotonic() - started:.1f} s")
        victim.start()
        clients.join()
        assert [answer.key() for answer in answers] == plain
        both_serve(cluster, client)


def test_the_only_worker_drains_and_comes_back(stubs):
    with Cluster(MODEL, expert_workers=2) as cluster, Client(cluster.target) as client:
        requests = streams(client, 10, 400)
        plain = [answer.key() for answer in client.send_all(requests)]
        clients, answers = client.send_all_in_background(requests)
        wait_until(lambda: client.load().workers[0].sequence_count > 5, what="the worker has work")
        cluster.attention[0].signal(signal.SIGTERM)
        assert cluster.attention[0].wait() == 0
        require(clients.is_alive(), "the answers were not long enough to see anything")
        cluster.attention[0].start()
        wait_serving(cluster.target)
        clients.join()
        assert [answer.key() for answer in answers] == plain

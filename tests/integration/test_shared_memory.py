"""Shared memory between attention and expert workers: what topology shows, fallback, kills of either side."""

import itertools
import os

import pytest

from client import Client
from cluster import Cluster, settled, wait_serving, wait_until

MODEL = "models/tiny"


@pytest.fixture(scope="module")
def requests_of():
    def make(client):
        return [client.request(ids=list(range(3, 3 + length)), max_new_tokens=24, ignore_eos=True, temperature=1, seed=length)
                for length in (1, 7, 40, 130)]
    return make


@pytest.fixture(scope="module")
def wanted(requests_of, stubs):
    with Cluster(MODEL, inproc=True) as cluster, Client(cluster.target) as client:
        return [client.send(request).key() for request in requests_of(client)]


def answers(client, requests_of):
    return [answer.key() for answer in client.send_all(requests_of(client))]


def peer_addresses(client):
    return [peer.address for peer in client.topology().attention_workers[0].description.expert_peers]


def test_topology_shows_the_transport(requests_of, wanted):
    with Cluster(MODEL, expert_workers=2, shm=[1]) as cluster, Client(cluster.target) as client:
        assert peer_addresses(client) == [cluster.experts[0].address, "shm:" + cluster.experts[1].address]
        assert answers(client, requests_of) == wanted
        assert cluster.attention[0].num_shared_mappings() > 0


def test_worker_that_offers_none_is_reached_by_grpc_and_the_log_says_why(requests_of, wanted):
    with Cluster(MODEL, expert_workers=2, shm=True, expert_flags=["--shared_memory=false"]) as cluster:
        with Client(cluster.target) as client:
            assert peer_addresses(client) == [process.address for process in cluster.experts]
            assert answers(client, requests_of) == wanted
        lines = [line for line in cluster.attention[0].log().splitlines() if "no shared memory" in line]
        assert len(lines) == 2 and all("the worker offers none" in line for line in lines), lines


def leftovers():
    """Names that shared memory could leave behind."""
    return {name for folder in ("/dev/shm", "/tmp") for name in os.listdir(folder) if "exchange" in name}


def not_more(now, before):
    return all(a <= b for a, b in zip(now, before, strict=True))


def test_killed_expert_workers_leak_nothing(requests_of, wanted):
    before = leftovers()
    with Cluster(MODEL, expert_workers=2, shm=True) as cluster, Client(cluster.target) as client:
        attention, victim, other = cluster.attention[0], cluster.experts[0], cluster.experts[1]
        assert answers(client, requests_of) == wanted

        def footprint():
            return (attention.num_fds(), attention.num_shared_mappings(), other.num_fds(), other.num_shared_mappings())

        first = [0]
        for turn in range(20):
            victim.kill()
            victim.start()
            wait_serving(cluster.target)
            wait_until(lambda: peer_addresses(client)[0].startswith("shm:"))
            if turn < 3:  # what is opened once may come late
                first = list(map(max, itertools.zip_longest(settled(footprint), first, fillvalue=0)))
        wait_until(lambda: not_more(footprint(), first), what=f"not more than {first} again")
        assert answers(client, requests_of) == wanted
    assert leftovers() == before


def test_killed_attention_workers_leak_nothing(requests_of, wanted):
    with Cluster(MODEL, expert_workers=2, shm=True) as cluster, Client(cluster.target) as client:
        victim = cluster.attention[0]

        def footprint():
            return [count for expert in cluster.experts for count in (expert.num_fds(), expert.num_shared_mappings())]

        first = [0]
        for turn in range(10):
            victim.kill()
            victim.start()
            wait_serving(cluster.target)
            if turn < 3:  # what is opened once may come late
                first = list(map(max, itertools.zip_longest(settled(footprint), first, fillvalue=0)))
        wait_until(lambda: not_more(footprint(), first), what=f"not more than {first} again")
        assert answers(client, requests_of) == wanted

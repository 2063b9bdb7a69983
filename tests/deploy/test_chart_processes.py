"""The real servers run with the chart's arguments: they start, answer, and are replaced one by one without a failed request."""

import itertools
import os
import subprocess
import threading
import time

import pytest

import chart
from cluster import wait_until
from pod_cluster import BIN, MODEL, PodCluster

SMALL = {"attentionWorker": {"config": {"kv_bytes": 16777216}}}
ANSWER_TOKENS = 150
CLIENTS = 6


def question(client, index):
    return client.request(chat=[("user", f"{100 + 37 * (index % 12)} + {900 - 11 * (index % 12)}")], temperature=index % 2,
                          seed=index % 12, ignore_eos=True, max_new_tokens=ANSWER_TOKENS)


def test_rendered_arguments_make_a_cluster(stubs, tmp_path):
    from client import Client
    with PodCluster(chart.merged(chart.GOOD["single-node"], SMALL, {"expertWorker": {"shards": 3}}), tmp_path) as cluster:
        cluster.wait_ready()
        for pod, share in zip(cluster.pods["expert-worker"], ("0-9", "10-20", "21-31")):
            assert f"experts={share} of=32" in pod.log(), "the pod's ordinal is its shard"
        assert "max_sequences=32" in cluster.pods["attention-worker"][0].log(), "flags of the ConfigMap are read"
        with Client(cluster.routers[0].address) as client:
            answer = client.generate(chat=[("user", chart.default_values()["helmTest"]["prompt"])], temperature=0)
            assert "1385" in answer.text
        host, port = cluster.routers[0].address.split(":")
        test_pod = chart.of_kind(cluster.objects, "Pod")[0]["spec"]["containers"][0]
        arguments = [f"--target={host}:{port}" if word.startswith("--target=") else word for word in test_pod["args"]]
        asked = subprocess.run([os.path.join(BIN, "m1"), *arguments], capture_output=True, text=True, timeout=120, check=False)
        assert asked.returncode == 0 and "1385" in asked.stdout, asked.stderr
        for pod in cluster.all():
            assert pod.terminate() < pod.grace_seconds


def test_startup_readiness_and_liveness_differ(stubs, tmp_path):
    """A worker without its peers has started and lives, but is not ready, and nobody must restart it for that."""
    with PodCluster(chart.merged(chart.GOOD["single-node"], SMALL), tmp_path) as cluster:
        cluster.wait_ready()
        attention, router = cluster.pods["attention-worker"][0], cluster.routers[0]
        expert = cluster.pods["expert-worker"][1]
        expert.terminate()
        wait_until(lambda: not attention.ready() and not router.ready(), what="not ready")
        assert all(pod.probe("startup") and pod.probe("liveness") for pod in (attention, router))
        attention.terminate()
        attention.start()
        wait_until(attention.started, what="started without its peers")
        time.sleep(1)
        assert attention.probe("liveness") and not attention.probe("readiness")
        expert.start()
        cluster.wait_ready()


class Load:
    """Clients that ask one question after another, each time of the next router that balancers still name."""

    def __init__(self, cluster):
        from client import Client
        self.clients = {pod.address: Client(pod.address) for pod in cluster.routers}
        self.endpoints = list(self.clients)
        self.turn = itertools.count()
        self.problems = []
        self.answered = 0
        self.stopping = False
        first = self.clients[self.endpoints[0]]
        self.plain = {index: first.send(question(first, index)).key() for index in range(12)}
        self.threads = [threading.Thread(target=self.run) for _ in range(CLIENTS)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def run(self):
        while not self.stopping:
            turn = next(self.turn)
            endpoints = list(self.endpoints)
            client = self.clients[endpoints[turn % len(endpoints)]]
            try:
                if client.send(question(client, turn)).key() != self.plain[turn % 12]:
                    self.problems.append(f"request {turn}: another answer")
                self.answered += 1
            except Exception as error:  # told by the test
                self.problems.append(f"request {turn}: {error}")

    def go_on(self, count=CLIENTS):
        """Returns when so many more were answered."""
        wanted = self.answered + count
        wait_until(lambda: self.answered >= wanted or self.problems, what=f"{count} more answers")
        assert not self.problems, self.problems[0]

    def __exit__(self, *_):
        self.stopping = True
        for thread in self.threads:
            thread.join()
        for client in self.clients.values():
            client.channel.close()


@pytest.mark.parametrize("copies", [1, 2])
def test_rolling_restart_fails_no_request(stubs, tmp_path, copies):
    """As the chart's update strategies do it: workers from the last ordinal down, each ready before the next; routers out of
    the endpoints, then SIGTERM. With one copy of the experts answers wait; with two they do not even do that."""
    values = chart.merged(chart.GOOD["single-node"], SMALL, {
        "router": {"replicas": 2}, "attentionWorker": {"replicas": 2}, "expertWorker": {"copies": copies}})
    restarted = 0
    with PodCluster(values, tmp_path) as cluster:
        cluster.wait_ready()
        with Load(cluster) as load:
            load.go_on()
            for pod in [*reversed(cluster.pods["expert-worker"]), *reversed(cluster.pods["attention-worker"])]:
                pod.restart()
                restarted += 1
                load.go_on()
            for pod in cluster.routers:
                load.endpoints.remove(pod.address)  # preStop: balancers forget the pod while it still answers
                time.sleep(0.5)
                pod.restart()
                load.endpoints.append(pod.address)
                restarted += 1
                load.go_on()
        assert not load.problems, load.problems[0]
        print(f"\n{restarted} processes replaced under load, {load.answered} answers, all as without")
        assert restarted == 2 * copies + 4


def test_fingerprint_of_a_checkpoint():
    def run(*flags):
        return subprocess.run([os.path.join(BIN, "m1"), "checkpoint", "fingerprint", *flags], capture_output=True, text=True,
                              timeout=120, check=False)

    told = run(f"--model={MODEL}")
    fingerprint = told.stdout.strip()
    assert told.returncode == 0 and len(fingerprint) == 64
    assert run(f"--model={MODEL}", f"--expect={fingerprint}").returncode == 0
    assert run(f"--model={MODEL}", f"--expect={fingerprint.upper()}").returncode == 0
    other = run(f"--model={MODEL}", f"--expect={'0' * 64}")
    assert other.returncode == 3 and fingerprint in other.stderr and "wanted 0000" in other.stderr
    assert run(f"--model={MODEL}", "--expect=12").returncode == 2
    assert run("--model=does/not/exist").returncode == 3
    assert run().returncode == 2


def test_the_model_check_is_a_command_of_m1():
    objects = chart.render(chart.GOOD["claim"])
    check = chart.workloads(objects)["expert-worker"]["spec"]["template"]["spec"]["initContainers"][0]
    arguments = [f"--model={MODEL}" if word.startswith("--model=") else word for word in check["args"]]
    refused = subprocess.run([os.path.join(BIN, "m1"), *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert refused.returncode == 3 and f"wanted {chart.FINGERPRINT}" in refused.stderr

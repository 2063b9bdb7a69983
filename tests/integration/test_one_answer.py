"""One answer: tokens and logprobs depend on the request alone, bit for bit. Compared as bytes.

The baseline is 40 requests sent one after the other to one configuration; each other configuration gets all 40 at
once and must give the same bytes. M1_ONE_ANSWER_MODEL=DIR: another checkpoint with the embedded one's tokenizer.
"""

import dataclasses
import itertools
import json
import os
import random
import subprocess
import time

import pytest

from client import Client
from cluster import BIN, Cluster, require, run_m1, wait_serving

MODEL = os.environ.get("M1_ONE_ANSWER_MODEL", "models/tiny")
PATIENCE_SECONDS = 240 if MODEL == "models/tiny" else 3600
VOCABULARY = 508  # above are control tokens
EOS = 509
LENGTHS = (1, 2, 3, 5, 7, 8, 15, 16, 17, 30, 31, 32, 33, 48, 63, 64, 65, 66, 95, 96, 97, 100, 127, 128, 129, 130, 160,
           191, 192, 193, 200, 250, 256, 257, 300, 511, 512, 513, 1024, 1100)
CPU_TARGETS = ("portable", "avx2", "avx512", "avx512vnni", "avx512bf16")


def odd_split():
    """--experts of three workers, not all in a row: of 32 these are 0-2,30 and 3-13 and 14-29,31."""
    with open(os.path.join(MODEL, "config.json"), encoding="utf-8") as file:
        count = json.load(file)["num_local_experts"]
    cuts = 0, count // 10, count * 14 // 32, count - 2
    shards = [list(range(*ends)) for ends in itertools.pairwise(cuts)]
    shards[0].append(count - 2)
    shards[2].append(count - 1)
    return [",".join(map(str, shard)) for shard in shards]


def make_requests(client):
    """40 requests: lengths 1 to 1100, half greedy, half sampled with seeds, some that ignore EOS."""
    requests = []
    for index, length in enumerate(LENGTHS):
        numbers = random.Random(1000 + index)
        sampling = ({"temperature": 0} if index % 2 == 0 else
                    {"temperature": (0.7, 1.0, 1.3)[index % 3], "seed": 77 + index, "top_p": (0.95, 1.0)[index % 4 // 2],
                     "top_k": (0, 40)[index % 5 == 0]})
        requests.append(client.request(
            ids=[numbers.randrange(VOCABULARY) for _ in range(length)], max_new_tokens=20 + index % 3 * 20,
            ignore_eos=index % 4 != 3, candidate_count=2, prompt_logprobs=index % 3 == 0, **sampling))
    return requests


def keys(answers):
    return [answer.key() for answer in answers]


def assert_same(answers, wanted):
    different = [LENGTHS[i] for i, (a, b) in enumerate(zip(keys(answers), wanted)) if a != b]
    assert not different, f"requests with prompts of {different} tokens differ"


@dataclasses.dataclass
class Baseline:
    answers: list
    keys: list


@pytest.fixture(scope="module")
def baseline(stubs):
    with Cluster(MODEL, expert_workers=2, common_flags=["--threads=2"]) as cluster, Client(cluster.target) as client:
        answers = [client.send(request) for request in make_requests(client)]
    assert len({key for key in keys(answers)}) == len(LENGTHS)
    return Baseline(answers, keys(answers))


def test_all_at_once_equals_alone(baseline):
    with Cluster(MODEL, expert_workers=2, common_flags=["--threads=2"], attention_flags=["--max_step_tokens=64"]) as cluster:
        with Client(cluster.target) as client:
            assert_same(client.send_all(make_requests(client), PATIENCE_SECONDS), baseline.keys)
            worker = client.topology().attention_workers[0].description
    print(f"\n{worker.step_count} steps, {worker.mixed_step_count} mixed, at most {worker.max_step_rows} rows")
    require(worker.max_step_rows >= 16, "no step had many rows")
    require(worker.mixed_step_count >= 100, "hardly any step mixed prefill and decode")


@pytest.mark.parametrize("options", [
    {"expert_workers": 1, "common_flags": ["--threads=1"]},
    {"expert_workers": 4},
    {"experts": odd_split(), "attention_flags": ["--max_step_tokens=1000"]},
    {"inproc": True},
    {"inproc": True, "attention_flags": ["--max_step_tokens=7"], "common_flags": ["--threads=1"]},
    {"attention_workers": 2, "expert_workers": 2},
    {"expert_workers": 2, "shm": True},
    {"attention_workers": 2, "expert_workers": 3, "shm": [0, 2], "expert_flags": ["--exchange_spin=20us"],
     "attention_flags": ["--exchange_spin=20us", "--max_step_tokens=1000"]},
], ids=["1-expert-worker-1-thread", "4-expert-workers", "odd-split-1000-tokens-a-step", "inproc",
        "inproc-7-tokens-a-step", "2-attention-workers", "shm", "shm-mixed-with-grpc"])
def test_every_configuration_equals_alone(options, baseline):
    with Cluster(MODEL, **options) as cluster, Client(cluster.target) as client:
        assert_same(client.send_all(make_requests(client), PATIENCE_SECONDS), baseline.keys)


def runs_here(target):
    """A worker refuses a target that the machine lacks with exit code 2."""
    command = [os.path.join(BIN, "m1-expert-worker"), f"--model={MODEL}", "--port=0", "--experts=0",
               f"--cpu_target={target}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    line = process.stdout.readline()
    process.terminate()
    code = process.wait(20)
    process.stdout.close()
    if line.startswith("listening "):
        return True
    assert code == 2, f"--cpu_target={target}: exit code {code}"
    return False


def test_every_instruction_set_equals_alone(baseline):
    here = [target for target in CPU_TARGETS if runs_here(target)]
    print(f"\nrun: {', '.join(here)}; missing here: {', '.join(t for t in CPU_TARGETS if t not in here) or 'none'}")
    assert "portable" in here
    for target in here:
        with Cluster(MODEL, inproc=True, common_flags=[f"--cpu_target={target}"]) as cluster:
            with Client(cluster.target) as client:
                assert_same(client.send_all(make_requests(client), PATIENCE_SECONDS), baseline.keys)


def test_answer_as_prompt_has_the_logprobs_of_generation(baseline):
    with Cluster(MODEL, expert_workers=3) as cluster, Client(cluster.target) as client:
        requests, wanted = [], []
        for request, answer in zip(make_requests(client), baseline.answers):
            if request.sampling.temperature in (0, 1):
                prompt = list(request.token_ids.ids)
                requests.append(client.request(ids=prompt + answer.ids, max_new_tokens=0, prompt_logprobs=True,
                                               temperature=1))
                wanted.append((len(prompt), answer.logprobs))
        for scored, (length, logprobs) in zip(client.send_all(requests, PATIENCE_SECONDS), wanted):
            assert scored.prompt_logprobs[length:] == logprobs
            assert scored.ids == []


@pytest.mark.parametrize("shm", [False, True], ids=["grpc", "shm"])
def test_expert_worker_killed_and_started_again(shm, baseline):
    with Cluster(MODEL, expert_workers=3, shm=shm) as cluster, Client(cluster.target) as client:
        victim = cluster.experts[1]

        class KillAndRestart:
            killed_while_running = 0

        def kill_later():
            deadline = time.monotonic() + 30
            while client.load().running_request_count < 20 and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(0.1)
            KillAndRestart.killed_while_running = client.load().running_request_count
            victim.kill()
            time.sleep(0.5)
            victim.start()

        import threading
        killer = threading.Thread(target=kill_later)
        killer.start()
        answers = client.send_all(make_requests(client), PATIENCE_SECONDS)
        killer.join()
        require(KillAndRestart.killed_while_running > 0, "it was killed when all was over")
        assert_same(answers, baseline.keys)
        wait_serving(cluster.target)


@pytest.mark.parametrize("flags", [["--format=int8"], ["--format=int8", "--scope=all"], ["--format=int4", "--scope=all"]],
                         ids=["int8-experts", "int8-all", "int4-g32-all"])
def test_integer_weights_equal_alone(flags, request, baseline, tmp_path):
    model = str(tmp_path / "model")
    made = run_m1("quantize", f"--model={MODEL}", f"--out={model}", *flags, timeout=PATIENCE_SECONDS)
    assert made.returncode == 0, made.stderr
    with Cluster(model, inproc=True, common_flags=["--threads=1"]) as cluster, Client(cluster.target) as client:
        answers = [client.send(message) for message in make_requests(client)]
        assert client.inference.GetModelInfo(client.pb.GetModelInfoRequest()).weight_format == request.node.callspec.id
    assert keys(answers) != baseline.keys
    with Cluster(model, expert_workers=3, common_flags=["--threads=2"], attention_flags=["--max_step_tokens=64"]) as cluster:
        with Client(cluster.target) as client:
            assert_same(client.send_all(make_requests(client), PATIENCE_SECONDS), keys(answers))

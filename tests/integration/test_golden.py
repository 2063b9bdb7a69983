"""The reference's answers through the real processes: 1 attention worker and 3 expert workers over gRPC."""

import json
import math
import os

import numpy
import pytest

from client import Client
from cluster import Cluster

GOLDEN = "tests/golden"
CHECKPOINTS = sorted(name for name in os.listdir(GOLDEN) if os.path.exists(f"{GOLDEN}/{name}/golden.json"))
TOLERANCE = 2e-4  # five to ten times the reference's own error; see tests/golden/README.md


def load_cases(checkpoint):
    with open(f"{GOLDEN}/{checkpoint}/golden.json", encoding="utf-8") as file:
        return json.load(file)["cases"]


def largest_difference(got, wanted):
    assert len(got) == len(wanted)
    return max((abs(a - b) for a, b in zip(got, wanted)), default=0.0)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_fp32_equals_the_reference(checkpoint, stubs):
    cases = load_cases(checkpoint)
    worst = 0.0
    with Cluster(f"{GOLDEN}/{checkpoint}", expert_workers=3, common_flags=["--activation_dtype=fp32"]) as cluster:
        with Client(cluster.target) as client:
            for case in cases:
                answer = client.generate(ids=case["prompt_ids"], temperature=0, max_new_tokens=len(case["greedy_ids"]),
                                         ignore_eos=True, prompt_logprobs=True, candidate_count=8)
                assert answer.ids == case["greedy_ids"], f"{case['name']}: greedy ids differ"
                errors = {
                    "greedy": largest_difference(answer.logprobs, case["greedy_logprobs"]),
                    "prompt": largest_difference(answer.prompt_logprobs[1:], case["prompt_logprobs"][1:]),
                    "top": largest_difference([logprob for _, logprob in answer.candidates[0]], case["top_logprobs"]),
                }
                assert [token for token, _ in answer.candidates[0]] == case["top_ids"]
                assert answer.prompt_logprobs[0] == 0
                assert answer.ranks == [1] * len(answer.ids)
                assert max(errors.values()) <= TOLERANCE, f"{case['name']}: {errors}"
                worst = max(worst, *errors.values())
    print(f"\n{checkpoint}: {len(cases)} cases, largest logprob error {worst:.2e}")


def test_bf16_stays_near_the_reference(stubs):
    """Scores prompt + recorded continuation; never follows its own tokens (section (b) of tests/golden/README.md)."""
    got, wanted = [], []
    with Cluster(f"{GOLDEN}/mini-bf16", expert_workers=3) as cluster, Client(cluster.target) as client:
        info = client.inference.GetModelInfo(client.pb.GetModelInfoRequest(), timeout=60)
        assert info.activation_dtype == "bf16"
        for case in load_cases("mini-bf16"):
            if len(case["prompt_ids"]) > 300:
                continue
            answer = client.generate(ids=case["prompt_ids"] + case["greedy_ids"], temperature=0, max_new_tokens=0,
                                     prompt_logprobs=True)
            got.extend(answer.prompt_logprobs[1:])
            wanted.extend(case["prompt_logprobs"][1:] + case["greedy_logprobs"])
    errors = numpy.abs(numpy.array(got) - numpy.array(wanted))
    correlation = numpy.corrcoef([math.exp(x) for x in got], [math.exp(x) for x in wanted])[0, 1]
    print(f"\nmini-bf16, bf16 activations: {len(got)} tokens, mean error {errors.mean():.4f}, "
          f"largest {errors.max():.2f}, correlation of probabilities {correlation:.5f}")
    assert errors.mean() <= 0.06
    assert correlation >= 0.998

"""Records what Hugging Face's logits processors and warpers make of random logits: cases.json, cases.safetensors.

Needs torch, transformers and safetensors, nothing of this repository:
    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install torch transformers safetensors
    /tmp/venv/bin/python tests/golden/sampling/record.py
"""

import itertools
import json
import os

import safetensors.numpy
import torch
import transformers
from transformers.generation import logits_process as hf

VOCAB = 150
STOP_IDS = [7, 149]
PROMPT = [3, 14, 15, 92, 65, 35, 89, 79, 3, 14, 7]
GENERATED = [32, 38, 46, 26, 43, 38, 32, 79, 50, 32]
HERE = os.path.dirname(os.path.abspath(__file__))

# Everything a case does not name is off.
OFF = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "logit_bias": {},
       "min_new_tokens": 0, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
BIAS = {3: 2.5, 32: -1.25, 99: 6.0, 149: 40.0, 120: -100.0}
CASES = [
    {},
    {"temperature": 0.3}, {"temperature": 4.0}, {"temperature": 100.0},
    {"top_k": 1}, {"top_k": 12}, {"top_k": 149}, {"top_k": 1000},
    {"top_p": 0.1}, {"top_p": 0.5}, {"top_p": 0.95}, {"top_p": 0.999},
    {"min_p": 0.02}, {"min_p": 0.3}, {"min_p": 1.0},
    {"top_k": 40, "top_p": 0.9, "min_p": 0.05, "temperature": 1.7},
    {"top_k": 20, "top_p": 0.6, "temperature": 0.8},
    {"repetition_penalty": 1.3}, {"repetition_penalty": 0.7}, {"repetition_penalty": 10.0},
    {"presence_penalty": 1.5}, {"presence_penalty": -2.0}, {"frequency_penalty": 0.8}, {"frequency_penalty": -0.4},
    {"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.3},
    {"logit_bias": BIAS}, {"logit_bias": {token: -100.0 for token in range(VOCAB)}},
    {"logit_bias": {token: -100.0 for token in range(VOCAB) if token != 77}},
    {"min_new_tokens": 10}, {"min_new_tokens": 11}, {"min_new_tokens": 40, "logit_bias": BIAS},
    {"repetition_penalty": 1.15, "presence_penalty": 0.4, "frequency_penalty": 0.2, "logit_bias": BIAS,
     "min_new_tokens": 20, "temperature": 0.9, "top_k": 30, "top_p": 0.9, "min_p": 0.01},
    {"repetition_penalty": 0.8, "frequency_penalty": -0.3, "temperature": 2.0, "top_p": 0.8},
]


class OpenAiPenalties(hf.LogitsProcessor):
    """mu[j] - c[j] * frequency_penalty - (c[j] > 0) * presence_penalty, c over what was generated: the formula of
    OpenAI's API reference ("Frequency and presence penalties"). Hugging Face has none."""

    def __init__(self, case):
        self.case = case

    def __call__(self, input_ids, scores):
        counts = torch.bincount(input_ids[0, len(PROMPT):], minlength=VOCAB).float()
        return (scores - counts * self.case["frequency_penalty"] -
                (counts > 0).float() * self.case["presence_penalty"])


def processors(case):
    """Those before the temperature, in the order of the contract."""
    if case["repetition_penalty"] != 1.0:
        yield hf.RepetitionPenaltyLogitsProcessor(case["repetition_penalty"])
    yield OpenAiPenalties(case)
    if case["logit_bias"]:
        yield hf.SequenceBiasLogitsProcessor({(token,): bias for token, bias in case["logit_bias"].items()})
    if case["min_new_tokens"]:
        yield hf.MinNewTokensLengthLogitsProcessor(len(PROMPT), case["min_new_tokens"], STOP_IDS, device="cpu")


def warpers(case):
    yield hf.TemperatureLogitsWarper(case["temperature"])
    if case["top_k"]:
        yield hf.TopKLogitsWarper(case["top_k"])
    if case["top_p"] < 1.0:
        yield hf.TopPLogitsWarper(case["top_p"])
    if case["min_p"] > 0.0:
        yield hf.MinPLogitsWarper(case["min_p"])


def is_clear(case, processed):
    """No border so near that rounding decides which token is on which side of it."""
    probabilities = torch.softmax(processed.double()[0] / case["temperature"], 0).sort(descending=True).values
    kept = probabilities[:case["top_k"] or VOCAB]
    if len(kept) < VOCAB and kept[-1] - probabilities[len(kept)] < 1e-4 * kept[-1]:
        return False
    kept = kept / kept.sum()
    if case["top_p"] < 1.0 and (kept.cumsum(0) - case["top_p"]).abs().min() < 1e-5:
        return False
    return case["min_p"] in (0.0, 1.0) or (kept / kept[0] - case["min_p"]).abs().min() > 1e-5


def main():
    tokens = torch.tensor([PROMPT + GENERATED])
    cases, arrays = [], {}
    seeds = itertools.count(1)
    for index, changes in enumerate(CASES):
        case = {**OFF, **changes}
        while True:
            generator = torch.Generator().manual_seed(next(seeds))
            logits = torch.randn(1, VOCAB, generator=generator) * 3.0
            processed = logits
            for processor in processors(case):
                processed = processor(tokens, processed)
            if is_clear(case, processed):
                break
        scores = processed
        for warper in warpers(case):
            scores = warper(tokens, scores)
        cases.append({**case, "logit_bias": [[token, bias] for token, bias in case["logit_bias"].items()]})
        arrays[f"{index}.logits"] = logits[0].numpy()
        arrays[f"{index}.processed"] = processed[0].numpy()
        arrays[f"{index}.probabilities"] = torch.softmax(scores[0], 0).numpy()
    safetensors.numpy.save_file(arrays, os.path.join(HERE, "cases.safetensors"))
    with open(os.path.join(HERE, "cases.json"), "w", encoding="utf-8") as file:
        json.dump({"reference": f"transformers {transformers.__version__}, torch {torch.__version__}",
                   "prompt_ids": PROMPT, "generated_ids": GENERATED, "stop_token_ids": STOP_IDS}, file)
        # One case a line.
        file.seek(file.tell() - 1)
        file.write(', "cases": [\n' + ",\n".join(json.dumps(case) for case in cases) + "\n]}\n")


if __name__ == "__main__":
    main()

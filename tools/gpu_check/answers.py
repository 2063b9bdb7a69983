"""Requests through `m1 generate --json`, and answers that can be compared bit for bit."""

import json
import random
import subprocess
import threading
from typing import NamedTuple

from report import Failed

VOCABULARY = 508  # of models/tiny and the goldens: above are control tokens


class Request(NamedTuple):
    """`flags` go to m1 generate."""
    name: str
    ids: tuple
    flags: tuple

    def arguments(self, target):
        return ("generate", f"--target={target}", f"--token_ids={','.join(map(str, self.ids))}", "--json", *self.flags)


class Answer(NamedTuple):
    """Numbers as the text that the protos' JSON has, which names every float exactly."""
    ids: tuple
    logprobs: tuple
    ranks: tuple
    candidates: tuple
    prompt_logprobs: tuple

    def values(self):
        return [float(value) for value in self.logprobs]

    def prompt_values(self):
        return [float(value) for value in self.prompt_logprobs]


def random_ids(seed, count, vocabulary=VOCABULARY):
    numbers = random.Random(seed)
    return tuple(numbers.randrange(vocabulary) for _ in range(count))


def make_requests(lengths, new_tokens):
    """One for each length of a prompt: half greedy, half sampled from seeds; some with the prompt's logprobs, some that end
    at the model's end. `new_tokens`: lengths of answers, taken in turn."""
    requests = []
    for index, length in enumerate(lengths):
        flags = [f"--max_new_tokens={new_tokens[index % len(new_tokens)]}", "--candidate_count=2", f"--seed={77 + index}"]
        flags += ["--temperature=0"] if index % 2 == 0 else [
            f"--temperature={(0.7, 1.0, 1.3)[index % 3]}", f"--top_p={(0.95, 1.0)[index % 4 // 2]}",
            f"--top_k={(0, 40)[index % 5 == 0]}"]
        flags += ["--ignore_eos"] if index % 4 != 3 else []
        flags += ["--prompt_logprobs"] if index % 3 == 0 else []
        requests.append(Request(f"prompt of {length}", random_ids(1000 + index, length), tuple(flags)))
    return requests


def scoring(name, ids):
    """Of the whole of `ids`, nothing new."""
    return Request(name, tuple(ids), ("--max_new_tokens=0", "--prompt_logprobs", "--temperature=1"))


def read_answer(text):
    """Of the JSON lines of `m1 generate --json`."""
    tokens, prompt, finished = [], [], False
    for line in text.splitlines():
        message = json.loads(line, parse_float=str)
        if finished:
            raise Failed(f"a message after the end: {line[:200]}")
        prompt += message.get("prompt", {}).get("tokens", [])
        tokens += message.get("delta", {}).get("tokens", [])
        if finished := "finish" in message:
            count = message["finish"]["usage"]["completion_token_count"]
            if count != len(tokens):
                raise Failed(f"{len(tokens)} tokens came, usage says {count}")
    if not finished:
        raise Failed(f"an answer without an end: {text[-200:]!r}")
    return Answer(tuple(token["id"] for token in tokens), tuple(str(token["logprob"]) for token in tokens),
                  tuple(token["rank"] for token in tokens),
                  tuple(tuple((one["id"], str(one["logprob"])) for one in token["candidates"]) for token in tokens),
                  tuple(str(token["logprob"]) for token in prompt))


def _start(programs, target, request):
    return programs.spawn(programs.command("m1", *request.arguments(target)), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True)


def _finish(popen, request):
    out, error = popen.communicate()
    if popen.returncode != 0:
        raise Failed(f"{request.name}: m1 generate ended with {popen.returncode}: {error.strip()[-600:]}")
    return read_answer(out)


class _Reader(threading.Thread):
    """Reads an answer while others are read."""

    def __init__(self, popen, request):
        super().__init__(daemon=True)
        self._popen, self._request = popen, request
        self._answer = self._error = None
        self.start()

    def run(self):
        try:
            self._answer = _finish(self._popen, self._request)
        except Exception as error:  # pylint: disable=broad-except  # raised where the answer is wanted
            self._error = error

    def answer(self):
        self.join()
        if self._error:
            raise self._error
        return self._answer


def ask_alone(programs, cluster, requests):
    """One after another."""
    return [_finish(_start(programs, cluster.target, request), request) for request in requests]


def ask_together(programs, cluster, requests, meanwhile=lambda: None):
    """All at once. `meanwhile()` runs while they are computed."""
    with cluster.held(len(requests)):
        readers = [_Reader(_start(programs, cluster.target, request), request) for request in requests]
    meanwhile()
    return [reader.answer() for reader in readers]


def compare(answers, wanted, requests):
    """Raises Failed naming the requests whose answers differ in any bit."""
    different = []
    for got, want, request in zip(answers, wanted, requests, strict=True):
        fields = [name for name in Answer._fields if getattr(got, name) != getattr(want, name)]
        if fields:
            different.append(f"{request.name} ({', '.join(fields)})")
    if different:
        raise Failed(f"{len(different)} of {len(requests)} answers differ: {'; '.join(different[:5])}", different=len(different))

"""The programs of examples/ against a real cluster, as a newcomer runs them."""

import os
import re
import subprocess
import sys

import pytest

EXAMPLES = sorted(name for name in os.listdir("examples") if name.endswith(".py") and name != "connect.py")


def run(name, cluster, *arguments):
    return subprocess.run([sys.executable, f"examples/{name}", f"--target={cluster.target}", *arguments],
                          capture_output=True, text=True, timeout=120, check=False)


def output(name, cluster, *arguments):
    done = run(name, cluster, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_chat(cluster):
    shown = output("chat.py", cluster, "764 + 621")
    thought, answer = shown.split("[content]")
    assert "[reasoning]" in thought and "1385" in answer
    free, free_thought = map(int, re.search(r"\[(\d+) tokens, (\d+) of thought\]", shown).groups())
    assert 9 < free_thought < free
    # And the newline before </think>.
    assert ", 9 of thought]" in output("chat.py", cluster, "764 + 621", "--thinking_budget=8")


def test_stream(cluster):
    shown = output("stream.py", cluster, "One day", "--max_new_tokens=12")
    assert shown.startswith("One day")
    count = int(re.search(r"\[(?:length|stop) after (\d+) tokens in \d+\.\d\d s\]\n$", shown).group(1))
    assert 1 <= count <= 12


def test_stream_stops(cluster):
    # At once: the first character that comes is one of these.
    letters = [f"--stop={letter}" for letter in "aeiou \n.,13579"]
    text = output("stream.py", cluster, "One day", *letters).split("\n[")[0].removeprefix("One day")
    assert not set(text) & set("aeiou \n.,13579")


def test_tools(cluster):
    shown = output("tools.py", cluster, "What is the weather in Copenhagen?")
    call, answer = shown.split("]\n", 1)
    assert re.match(r'\[get_weather \{"city": "Copenhagen"\} -> rainy, 11 C', call)
    assert "11 C" in answer


def test_logprobs(cluster):
    lines = output("logprobs.py", cluster, "764 + 621 = 1385", "--candidates=3").splitlines()
    head, first, *scored, total = lines
    assert head.split() == ["logprob", "rank", "token"] and len(first.split()) == 1
    logprobs, ranks = zip(*((float(line.split()[0]), int(line.split()[1])) for line in scored))
    assert all(logprob <= 0 for logprob in logprobs) and all(rank >= 1 for rank in ranks)
    assert abs(sum(logprobs) - float(total.split()[1])) < 1e-3
    assert all(line.count("%") == 3 for line in scored)


def test_seeds(cluster):
    shown = output("seeds.py", cluster, "764 + 621", "--samples=6", "--temperature=0.2")
    counts = [int(line.split(" x ")[0]) for line in shown.splitlines()]
    assert sum(counts) == 6 and counts == sorted(counts, reverse=True)
    assert "1385" in shown.splitlines()[0]
    assert output("seeds.py", cluster, "764 + 621", "--samples=6", "--temperature=0.2") == shown


@pytest.mark.parametrize("name", EXAMPLES)
def test_help_and_errors(cluster, name):
    assert "--target" in output(name, cluster, "--help")
    unreachable = subprocess.run([sys.executable, f"examples/{name}", "--target=127.0.0.1:1", "1 + 1"],
                                 capture_output=True, text=True, timeout=120, check=False)
    assert unreachable.returncode == 1
    assert unreachable.stderr.startswith("UNAVAILABLE: "), unreachable.stderr


def test_a_refusal_is_shown(cluster):
    refused = run("logprobs.py", cluster, "x", "--candidates=21")
    assert refused.returncode == 1 and "output.candidate_count" in refused.stderr


def test_each_is_listed():
    with open("examples/README.md", encoding="utf-8") as file:
        readme = file.read()
    assert EXAMPLES and all(f"`{name} " in readme for name in EXAMPLES)
    for name in EXAMPLES:
        with open(f"examples/{name}", encoding="utf-8") as file:
            assert len(file.readlines()) <= 60, name

"""Stages that say whether answers are right: tests, recorded answers, the CPU as specification, one answer, sanitizers."""

import functools
import json
import math
import os
import re
import statistics
import time

from answers import ask_alone, ask_together, compare, make_requests, random_ids, scoring, Request
from programs import Cluster, Layout
from report import Failed, OutOfTime, Skip
from wide_heads import write_with_wide_heads

MODEL = "models/tiny"
GOLDEN = "tests/golden/mini-bf16"
NO_GPU = 77  # exit code of a test that found none
SHARDS = {"memcheck": 4, "racecheck": 16}  # each 1 of so many tests: a sanitizer makes them 10 to 100 times slower

# Bounds of bf16 activations: tests/golden/README.md for the goldens; the embedded model's answers are those of fp32.
GOLDEN_MEAN_ERROR = 0.06
LEAST_SAME_ANSWERS = 0.95
SCORE_MEAN_ERROR, SCORE_CORRELATION = 0.06, 0.998

INPROC = Layout()
LAYOUTS = {"grpc": Layout(expert_workers=2), "shm": Layout(expert_workers=2, prefix="shm:"),
           "nccl": Layout(expert_workers=2, prefix="nccl:")}


def has_transport(programs, name):
    """NCCL refuses two ranks on one GPU, which all workers would share; the simulated one has no such rule."""
    return name != "nccl" or bool(programs.worker_kind)


def test_outcome(code, output):
    """(tests run, tests skipped) of a test program that passed. One that found no GPU has failed."""
    if code == NO_GPU:
        raise Failed("it found no GPU")
    ran = re.search(r"^\[==========\] (\d+) tests? from .* ran", output, re.MULTILINE)
    passed = re.search(r"^\[  PASSED  \] (\d+) test", output, re.MULTILINE)
    if code != 0 or not ran or not passed:
        failed = re.findall(r"^\[  FAILED  \] ([\w/.]+)", output, re.MULTILINE)
        raise Failed(f"exit code {code}" + (f", {', '.join(sorted(set(failed))[:5])}" if failed else f": {output[-300:]}"))
    if int(passed[1]) == 0:
        raise Failed(f"none of {ran[1]} tests ran")
    return int(passed[1]), int(ran[1]) - int(passed[1])


def run_test(programs, test):
    """A stage: every kernel and the backend against the CPU's plain loops, in one test program."""
    passed, skipped = test_outcome(*programs.call(programs.command(*test.command), f"test_{test.name}.log"))
    return {"passed": passed, "skipped": skipped}


def sanitize(programs, tool, tests):
    """A stage: part of the tests under compute-sanitizer."""
    sanitizer = find_tool("compute-sanitizer")
    count, done = 0, 0
    try:
        for test in tests:
            count += sanitize_test(programs, sanitizer, tool, test)
            done += 1
    except OutOfTime:
        if done == 0:
            raise
    if count == 0:
        raise Failed("no test ran under it")
    return {"tests": count, "of": f"1/{SHARDS[tool]}", "programs": f"{done} of {len(tests)} in the time given"}


def sanitize_test(programs, sanitizer, tool, test):
    """How many tests ran without a finding."""
    shard = {"GTEST_TOTAL_SHARDS": str(SHARDS[tool]), "GTEST_SHARD_INDEX": "0"}
    command = [sanitizer, f"--tool={tool}", "--error-exitcode=86", "--", *programs.command(*test.command)]
    code, output = programs.call(command, f"{tool}.log", env=shard)
    if re.search(r"Device not supported|not supported on this", output):
        raise Skip(f"compute-sanitizer refuses this device: see {tool}.log")
    if code == 86 or re.search(r"ERROR SUMMARY: [1-9]", output):
        raise Failed(f"{test.name}: {tool} found errors: see {tool}.log")
    if code == 0 and "[==========] 0 tests from 0 test suites ran" in output:
        return 0  # its few tests are in other shards
    return test_outcome(code, output)[0]


def find_tool(name):
    folders = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/local/cuda/bin", "/usr/local/cuda/compute-sanitizer"]
    found = next((path for path in (os.path.join(folder, name) for folder in folders) if os.access(path, os.X_OK)), None)
    if not found:
        raise Skip(f"this machine has no {name}")
    return found


def recorded_answers(programs, plan):
    """A stage: questions to the embedded model, whose answers an independent implementation computed in fp32."""
    rows = []
    with open(os.path.join(programs.root, MODEL, "eval.jsonl"), encoding="utf-8") as file:
        for row in map(json.loads, file):
            if [message["role"] for message in row["messages"]] == ["user"] and not row["tools"]:
                rows.append(row)
    rows = rows[::max(1, len(rows) // plan.questions)][:plan.questions]
    same = 0
    with Cluster(programs, MODEL, INPROC, attention_flags=plan.attention_flags) as cluster:
        for begin in range(0, len(rows), 32):
            part = rows[begin:begin + 32]
            wanted = [row["output_ids"][:plan.answer_tokens] for row in part]
            requests = [ChatRequest(row["id"], row["messages"][0]["content"], len(ids)) for row, ids in zip(part, wanted)]
            answers = ask_together(programs, cluster, requests)
            same += sum(list(answer.ids) == ids for answer, ids in zip(answers, wanted, strict=True))
    figures = {"questions": len(rows), "same_ids": same}
    if same < LEAST_SAME_ANSWERS * len(rows):
        raise Failed(f"{same} of {len(rows)} answers are the recorded ones, wanted {100 * LEAST_SAME_ANSWERS:.0f} %", **figures)
    return figures


class ChatRequest(Request):
    """A question, greedy."""

    def __new__(cls, name, text, tokens):
        return super().__new__(cls, name, (text,), (f"--max_new_tokens={tokens}", "--temperature=0"))

    def arguments(self, target):
        return ("generate", f"--target={target}", f"--chat={self.ids[0]}", "--json", *self.flags)


def agreement(got, wanted, mean_bound, correlation_bound):
    """Figures of two lists of logprobs; Failed when they are too far apart."""
    if len(got) != len(wanted) or not got:
        raise Failed(f"{len(got)} logprobs, wanted {len(wanted)}")
    errors = [abs(a - b) for a, b in zip(got, wanted)]
    figures = {"tokens": len(got), "mean_error": statistics.fmean(errors), "largest_error": max(errors),
               "correlation": statistics.correlation(list(map(math.exp, got)), list(map(math.exp, wanted)))}
    # Not a number is no agreement.
    if not (figures["mean_error"] <= mean_bound and figures["correlation"] >= correlation_bound):
        raise Failed(f"mean error {figures['mean_error']:.4f} (bound {mean_bound}), correlation of probabilities "
                     f"{figures['correlation']:.5f} (bound {correlation_bound})", **figures)
    return figures


def golden_logprobs(programs, plan, scratch):
    """A stage: prompt and recorded continuation, scored, against the reference implementation's logprobs."""
    golden, model = os.path.join(programs.root, GOLDEN), os.path.join(scratch, "golden")
    write_with_wide_heads(golden, model)
    with open(os.path.join(golden, "golden.json"), encoding="utf-8") as file:
        cases = [case for case in json.load(file)["cases"] if len(case["prompt_ids"]) <= plan.golden_tokens]
    cases = cases[:plan.golden_cases]
    got, wanted = [], []
    with Cluster(programs, model, INPROC, attention_flags=plan.attention_flags) as cluster:
        requests = [scoring(case["name"], case["prompt_ids"] + case["greedy_ids"]) for case in cases]
        for case, answer in zip(cases, ask_together(programs, cluster, requests), strict=True):
            got += answer.prompt_values()[1:]
            wanted += case["prompt_logprobs"][1:] + case["greedy_logprobs"]
    return agreement(got, wanted, GOLDEN_MEAN_ERROR, plan.golden_correlation)


def against_cpu(programs, plan, model):
    """A stage: random prompts scored by the processes on the CPU, which are the specification, and on the GPU."""
    requests = [scoring(f"{count} tokens", random_ids(count, count)) for count in plan.score_tokens]
    with Cluster(programs, model, INPROC, flags=["--activation_dtype=bf16"], attention_flags=["--max_sequences=4"],
                 cpu=True) as cluster:
        wanted = ask_together(programs, cluster, requests)
    with Cluster(programs, model, INPROC, attention_flags=plan.attention_flags) as cluster:
        got = ask_together(programs, cluster, requests)
    lists = ([value for answer in answers for value in answer.prompt_values()[1:]] for answers in (got, wanted))
    return agreement(*lists, SCORE_MEAN_ERROR, SCORE_CORRELATION)


class OneAnswer:
    """Stages: the same requests under other circumstances have the same answers, bit for bit."""

    def __init__(self, programs, plan):
        self.programs, self.plan = programs, plan
        self.requests = make_requests(plan.lengths, plan.new_tokens)
        self.baseline = None

    def _cluster(self, layout, *flags):
        return Cluster(self.programs, MODEL, layout, attention_flags=[*self.plan.attention_flags, *flags])

    def alone(self):
        """One process, one request after another: what all others must equal."""
        with self._cluster(INPROC) as cluster:
            answers = ask_alone(self.programs, cluster, self.requests)
        if len(set(answers)) != len(answers):
            raise Failed("different requests have the same answer")
        self.baseline = answers
        return {"requests": len(answers), "tokens": sum(len(answer.ids) for answer in answers)}

    def together(self, layout, *flags):
        """All at once."""
        self._need_baseline()
        with self._cluster(layout, *flags) as cluster:
            answers = ask_together(self.programs, cluster, self.requests)
            rows, steps = (cluster.metric(f"m1_attention_step_rows_{part}") for part in ("sum", "count"))
        compare(answers, self.baseline, self.requests)
        figures = {"requests": len(answers), "steps": int(steps), "rows_a_step": rows / steps}
        if rows / steps < self.plan.least_rows:
            raise Failed(f"{rows / steps:.1f} rows a step, wanted {self.plan.least_rows}: little ran together", **figures)
        return figures

    def killed(self, layout):
        """An expert worker dies by SIGKILL while answers are computed, and comes back."""
        self._need_baseline()
        with self._cluster(layout) as cluster:
            held = []

            def kill_and_restart():
                while cluster.metric("m1_attention_step_rows_sum") < self.plan.kill_after_rows:
                    time.sleep(0.005)
                cluster.experts[-1].kill()
                held.append(int(cluster.metric("m1_attention_sequences")))
                cluster.experts[-1].start()

            answers = ask_together(self.programs, cluster, self.requests, kill_and_restart)
        compare(answers, self.baseline, self.requests)
        if held[0] == 0:
            raise Failed("the answers were over when the worker died")
        return {"requests": len(answers), "sequences_at_its_death": held[0]}

    def _need_baseline(self):
        if self.baseline is None:
            raise Failed("there is nothing to compare with: see the stage \"one answer: alone\"")


def one_answer_stages(programs, plan):
    """[(name, work)]."""
    suite = OneAnswer(programs, plan)
    stages = [("one answer: alone", suite.alone), ("one answer: inproc, together", lambda: suite.together(INPROC))]
    for count in plan.step_tokens:
        stages.append((f"one answer: {count} tokens a step",
                       functools.partial(suite.together, INPROC, f"--max_step_tokens={count}")))

    def spread(name):
        if not has_transport(programs, name):
            raise Skip("NCCL refuses two ranks on one GPU")
        return suite.together(LAYOUTS[name])

    stages += [(f"one answer: 2 expert workers, {name}", functools.partial(spread, name)) for name in plan.layouts]
    stages += [(f"one answer: an expert worker killed, {name}", functools.partial(suite.killed, LAYOUTS[name]))
               for name in plan.layouts if name != "nccl"]
    return stages

"""Stages with a time limit each, and what is written of them: result.json and a table."""

import json
import os
import signal
import time
import traceback

FORMAT = 1  # of result.json


class Skip(Exception):
    """The stage cannot run here; says why. Only what the machine lacks is a reason, never a failure."""


class Failed(Exception):
    """Says what was got and what was wanted; `figures` are kept."""

    def __init__(self, why, **figures):
        super().__init__(why)
        self.figures = figures


class OutOfTime(Exception):
    """The time of a stage is over."""


class Clock:
    """Seconds since the start of the check, and what is left of the budget."""

    def __init__(self, budget_seconds, now=time.monotonic):
        self._now, self._begin, self._budget = now, now(), budget_seconds

    def elapsed(self):
        return self._now() - self._begin

    def left(self):
        return self._budget - self.elapsed()


def _raise_out_of_time(*_):
    raise OutOfTime


def with_limit(seconds, work):
    """What `work()` returns; raises OutOfTime inside it when that takes longer. In the main thread only."""
    previous = signal.signal(signal.SIGALRM, _raise_out_of_time)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        return work()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


class Report:
    """Runs stages and keeps their outcomes. A stage that fails, or has no time left, does not stop the others."""

    def __init__(self, path, clock, facts, say=print, clean_up=lambda: None):
        """`facts`: of the whole run, into result.json. `clean_up` runs after each stage, however it ended."""
        self.path, self.clock, self.facts, self.say, self.clean_up = path, clock, facts, say, clean_up
        self.stages = []

    def run(self, name, limit_seconds, work):
        """`work()` returns the stage's figures, a dict. Returns whether it passed."""
        begin, figures, why = self.clock.elapsed(), {}, ""
        seconds = min(limit_seconds, self.clock.left())
        self.say(f"[{begin:5.0f} s] {name}")
        try:
            if seconds < 1:
                raise Failed("no time was left for it")
            figures, status = with_limit(seconds, work), "pass"
        except Skip as skip:
            status, why = "skipped", str(skip)
        except OutOfTime:
            status, why = "fail", f"not done within {seconds:.0f} s"
        except Failed as failure:
            status, why, figures = "fail", str(failure), failure.figures
        except Exception as error:  # pylint: disable=broad-except  # a bug in one stage must not hide the others
            status, why = "fail", f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-3)}"
        self.clean_up()
        self.stages.append({"stage": name, "status": status, "why": why,
                            "seconds": round(self.clock.elapsed() - begin, 2), "figures": figures or {}})
        if status != "pass":
            self.say(f"          {status}: {why}")
        self.write()
        return status == "pass"

    def passed(self):
        return bool(self.stages) and all(stage["status"] != "fail" for stage in self.stages)

    def figures(self, name):
        """Of a stage that passed; empty: it did not, or did not run."""
        return next((stage["figures"] for stage in self.stages if stage["stage"] == name and stage["status"] == "pass"), {})

    def write(self):
        """After each stage: what is killed later leaves what was known."""
        partial = f"{self.path}.partial"
        with open(partial, "w", encoding="utf-8") as file:
            json.dump({"format": FORMAT, **self.facts, "seconds": round(self.clock.elapsed(), 1), "passed": self.passed(),
                       "stages": self.stages}, file, indent=1)
            file.write("\n")
        os.replace(partial, self.path)


def _cell(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(figures):
    """Those that fit into a line, and those of objects within; lists stay in result.json."""
    flat = [(key, value) for outer, inner in figures.items()
            for key, value in (inner.items() if isinstance(inner, dict) else [(outer, inner)])]
    return ", ".join(f"{key} {_cell(value)}" for key, value in flat
                     if isinstance(value, (bool, int, float, str)) and len(str(value)) < 60)


def table(stages):
    """Lines of Markdown."""
    lines = ["| stage | status | s | what |", "|---|---|---|---|"]
    for stage in stages:
        text = stage["why"].splitlines()[0] if stage["why"] else _plain(stage["figures"])
        lines.append(f"| {stage['stage']} | {stage['status']} | {stage['seconds']:.1f} | {text.replace('|', '/')} |")
    return lines


def kernel_table(kernels):
    """Lines of Markdown, of gpu_bench's figures. No line without them."""
    if not kernels:
        return []
    lines = ["| operation | size | us | GB/s | of the copy bandwidth | T/s | of the peak |", "|---|---|---|---|---|---|---|"]
    for one in kernels:
        lines.append(f"| {one['op']} | {one['size']} | {one['us']:.2f} | {one['gb_per_s']:.0f} | {one['bandwidth_percent']:.0f} % | "
                     f"{one['tera_per_s']:.1f} | {one['peak_percent']:.0f} % |")
    return lines

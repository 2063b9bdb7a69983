"""Trains the model of config.json on the rows of make_data.py. Usage: train.py --data DIR --out DIR

One epoch: every row is seen once, in order. Many small steps first (2 rows), then larger ones (4 rows); the learning
rate rises, stays, then falls linearly. A run that was stopped goes on where its last snapshot was made, with the same
result. DIR gets
  snapshot.pt   everything to go on from; `model` in it is what export.py reads
  log.csv       one line every --log_every steps, and the accuracies on held-out questions now and then
  curve.png     both as a picture
"""

import argparse
import csv
import dataclasses
import pathlib
import sys
import time

import numpy as np
import torch
from conversation import END
from model import Config, MiniMaxM1, Packing, generate
from questions import encode_prompt, is_right, read_questions
from tokenizers import Tokenizer
from torch.nn import functional as F

HERE = pathlib.Path(__file__).resolve().parent
WATCHED = ("add3", "sub3", "mul2x1", "compare", "sort", "letters", "reverse", "tool_call")
LOG_COLUMNS = ("step", "tokens", "cpu_seconds", "loss", "balance", "gradient_norm", "learning_rate", *WATCHED)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Which rows a step takes and at what learning rate. `rows`: rows in all."""

    rows: int
    peak: float
    small: int = 2
    large: int = 4
    small_part: float = 0.4  # of the rows, taken in steps of `small`
    warm_up_steps: int = 100
    flat_part: float = 0.2  # of the rows, before the learning rate begins to fall
    final: float = 0.02  # of the peak, at the end

    @property
    def small_steps(self):
        return int(self.rows * self.small_part) // self.small

    @property
    def steps(self):
        return self.small_steps + (self.rows - self.small_steps * self.small) // self.large

    def first_row(self, step):
        if step <= self.small_steps:
            return step * self.small
        return self.small_steps * self.small + (step - self.small_steps) * self.large

    def batch(self, step):
        return slice(self.first_row(step), self.first_row(step + 1))

    def learning_rate(self, step):
        part = self.first_row(step) / self.rows
        fall = max(0.0, (part - self.flat_part) / (1 - self.flat_part))
        return self.peak * min(1.0, (step + 1) / self.warm_up_steps) * (1 - (1 - self.final) * fall)


class Rows:
    """The packed rows on disk."""

    def __init__(self, folder):
        self.ids, self.learnt, self.documents = (
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("ids", "learnt", "documents")
        )

    def __len__(self):
        return len(self.ids)

    def batch(self, rows):
        """Token ids and documents [B, T], and the mask [B, T] of the positions whose next token is learnt."""
        ids, learnt, documents = (
            torch.from_numpy(np.asarray(array[rows]).astype(dtype))
            for array, dtype in ((self.ids, np.int64), (self.learnt, bool), (self.documents, np.int64))
        )
        wanted = torch.zeros_like(learnt)
        wanted[:, :-1] = learnt[:, 1:] & (documents[:, 1:] == documents[:, :-1])
        return ids, documents, wanted


def make_optimizer(model, weight_decay):
    plain = [p for name, p in model.named_parameters() if p.dim() < 2 or "embed_tokens" in name]
    matrices = [p for name, p in model.named_parameters() if not (p.dim() < 2 or "embed_tokens" in name)]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.985), eps=1e-10, fused=True)


class Trainer:
    def __init__(self, options):
        self.options = options
        torch.manual_seed(options.seed)
        torch.set_num_threads(options.threads)
        self.rows = Rows(options.data)
        self.schedule = Schedule(len(self.rows), options.learning_rate)
        self.model = MiniMaxM1(Config.load(HERE / "config.json"))
        self.optimizer = make_optimizer(self.model, options.weight_decay)
        self.step, self.cpu_before, self.log = 0, 0.0, []
        self.snapshot = options.out / "snapshot.pt"
        if self.snapshot.exists():
            self.load()

    def cpu_seconds(self):
        return self.cpu_before + time.process_time()

    def load(self):
        saved = torch.load(self.snapshot, weights_only=False)
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.log = saved["step"], saved["log"]
        self.cpu_before = saved["cpu_seconds"] - time.process_time()
        print(f"going on at step {self.step} of {self.schedule.steps}", file=sys.stderr)

    def save(self):
        new = self.snapshot.with_suffix(".new")
        torch.save(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "log": self.log,
                "cpu_seconds": self.cpu_seconds(),
            },
            new,
        )
        new.replace(self.snapshot)
        with open(self.options.out / "log.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, LOG_COLUMNS)
            writer.writeheader()
            writer.writerows(self.log)
        draw_curve(self.log, self.options.out / "curve.png")

    def train_step(self):
        """One update; returns loss, load-balance loss and gradient norm."""
        rate = self.schedule.learning_rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        ids, documents, wanted = self.rows.batch(self.schedule.batch(self.step))
        logits, balance = self.model(ids, Packing(documents), wanted)
        targets = ids.roll(-1, dims=1)[wanted]
        loss = F.cross_entropy(logits, targets)
        self.optimizer.zero_grad()
        (loss + self.options.balance_weight * balance).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return loss.item(), balance.item(), norm.item()

    def run(self):
        options, schedule = self.options, self.schedule
        questions = Questions(options.data, options.questions)
        means, started, saved_at, first = Means(), time.monotonic(), time.monotonic(), self.step
        while self.step < schedule.steps:
            means.add(self.train_step())
            last = self.step == schedule.steps
            if self.step % options.log_every == 0 or last:
                loss, balance, norm = means.take()
                line = {
                    "step": self.step,
                    "tokens": schedule.first_row(self.step) * self.rows.ids.shape[1],
                    "cpu_seconds": round(self.cpu_seconds()),
                    "loss": f"{loss:.4f}",
                    "balance": f"{balance:.3f}",
                    "gradient_norm": f"{norm:.3f}",
                    "learning_rate": f"{schedule.learning_rate(self.step - 1):.2e}",
                }
                if self.step % options.evaluate_every == 0 or last:
                    line |= questions.accuracies(self.model)
                self.log.append(line)
                report(line, schedule, self.step, first, started)
            if time.monotonic() - saved_at > options.save_every or last:
                self.save()
                saved_at = time.monotonic()


class Means:
    def __init__(self):
        self.values = []

    def add(self, values):
        self.values.append(values)

    def take(self):
        means = np.mean(self.values, axis=0)
        self.values.clear()
        return means


class Questions:
    """The first few held-out questions of each watched task."""

    def __init__(self, folder, per_task):
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        questions = read_questions(folder / "held_out.jsonl")
        self.questions = [q for task in WATCHED for q in [q for q in questions if q["task"] == task][:per_task]]
        self.prompts = [encode_prompt(self.tokenizer, q["prompt"]) for q in self.questions]

    def accuracies(self, model):
        """{task: per cent of answers that are right to the letter}."""
        outputs = generate(model, self.prompts, self.tokenizer.token_to_id(END), 200)
        right = {task: [] for task in WATCHED}
        for question, ids in zip(self.questions, outputs):
            right[question["task"]].append(is_right(question, self.tokenizer.decode(ids)))
        return {task: round(100 * float(np.mean(values))) for task, values in right.items()}


def report(line, schedule, step, first, started):
    rate = (step - first) / (time.monotonic() - started)
    remaining = (
        (schedule.rows - schedule.first_row(step))
        / max(schedule.first_row(step) - schedule.first_row(first), 1)
        * (time.monotonic() - started)
    )
    accuracies = " ".join(f"{task} {line[task]}" for task in WATCHED if task in line)
    print(
        f"step {step}/{schedule.steps}  loss {line['loss']}  balance {line['balance']}  lr {line['learning_rate']}  {rate:.1f} steps/s  "
        f"{remaining / 60:.0f} min left  {accuracies}",
        file=sys.stderr,
        flush=True,
    )


def draw_curve(log, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (top, bottom) = pyplot.subplots(2, 1, figsize=(8, 7), sharex=True)
    tokens = [line["tokens"] / 1e6 for line in log]
    top.semilogy(tokens, [float(line["loss"]) for line in log])
    top.set_ylabel("loss, nats per learnt token")
    evaluated = [line for line in log if WATCHED[0] in line]
    for task in WATCHED:
        bottom.plot(
            [line["tokens"] / 1e6 for line in evaluated], [line[task] for line in evaluated], marker=".", label=task
        )
    bottom.set_ylabel("held-out accuracy, %")
    bottom.set_xlabel("million tokens")
    bottom.legend(ncol=2, fontsize="small")
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="what make_data.py made")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--weight_decay", type=float, default=0.05)
    parser.add_argument("--balance_weight", type=float, default=0.03)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--log_every", type=int, default=50)
    parser.add_argument("--evaluate_every", type=int, default=1000, help="steps; a multiple of --log_every")
    parser.add_argument("--questions", type=int, default=40, help="held-out questions a watched task")
    parser.add_argument("--save_every", type=float, default=120, help="seconds")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    Trainer(options).run()


if __name__ == "__main__":
    main()

"""Makes the tokenizer, the training rows and the held-out questions. Usage: make_data.py --out DIR [--tokens N]

Everything follows from --seed. DIR gets
  tokenizer.json    byte-level BPE of 512 tokens
  ids.npy           [rows, 512] uint16: whole documents packed first-fit
  learnt.npy        [rows, 512] bool: the tokens that carry loss (the assistant's)
  documents.npy     [rows, 512] uint8: the number of the document within its row; padding counts as one
  held_out.jsonl    300 questions a task (fewer where there are not so many): id, task, messages, tools, prompt, expected
"""

import argparse
import json
import pathlib
import random
import sys
import time

import drills
import numpy as np
import tasks
from conversation import (
    BEGIN,
    BEGIN_DOCUMENT,
    CLOSE_THOUGHT,
    END,
    OPEN_THOUGHT,
    Encoder,
    pieces,
    prompt_text,
)
from phrases import SYSTEM
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

ROW_TOKENS = 512
VOCAB_SIZE = 512
SPECIAL_TOKENS = (BEGIN, END, "<end_of_document>", BEGIN_DOCUMENT)
PATTERN = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)

# (weight, kind): documents of conversations; and of drills, which stand in from the start and fade (see `mix`).
CONVERSATIONS = (
    (15, lambda maker: tasks.add(maker, digits(maker))),
    (21, lambda maker: tasks.subtract(maker, digits(maker))),
    (4, tasks.chain),
    (11, lambda maker: tasks.multiply(maker, maker.rng.choice((1, 2, 2, 2, 3, 3)))),
    (11, tasks.compare),
    (17, tasks.sort),
    (13, tasks.letters),
    (9, tasks.reverse),
    (3, tasks.spell),
    (6, tasks.repeat),
    (6, tasks.two_turns),
    (13, tasks.tool_call),
    (7, tasks.tool_answer),
    (4, tasks.small_talk),
)
FACT_DRILLS_EARLY, FACT_DRILLS_LATE, EARLY = 30, 8, 0.25  # weights, and the part of the training that is early
DRILLS = ((6, drills.winners), (4, drills.removals), (12, drills.words), (6, drills.copies))


def digits(maker):
    return maker.rng.choices((1, 2, 3, 4, 5), (8, 22, 46, 20, 4))[0]


def byte_alphabet():
    """The GPT-2 letters of bytes 0..255: printable ones stand for themselves, the others for 256, 257, ..."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters, following = {byte: chr(byte) for byte in printable}, 256
    for byte in range(256):
        if byte not in letters:
            letters[byte] = chr(following)
            following += 1
    return letters


def base_tokenizer(model):
    tokenizer = Tokenizer(model)
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train_tokenizer(texts):
    """256 bytes in numeric order, 252 merges without digits, 4 special tokens."""
    trained = base_tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=1200, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    trained.train_from_iterator(texts, trainer)
    merges = [tuple(merge) for merge in json.loads(trained.to_str())["model"]["merges"]]
    # No other merge depends on one with a digit: the pattern keeps digits apart.
    merges = [merge for merge in merges if not any(c.isdigit() for c in "".join(merge))][
        : VOCAB_SIZE - 256 - len(SPECIAL_TOKENS)
    ]
    vocab = {letter: byte for byte, letter in byte_alphabet().items()}
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    tokenizer = base_tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise RuntimeError(f"the tokenizer has {tokenizer.get_vocab_size()} tokens instead of {VOCAB_SIZE}")
    return tokenizer


def tokenizer_texts(rng):
    """Conversations without the words to be spelt: these stay in small pieces."""
    maker = tasks.Maker(rng)
    for _ in range(6000):
        make = rng.choices([make for _, make in CONVERSATIONS], [weight for weight, _ in CONVERSATIONS])[0]
        if make not in (tasks.letters, tasks.reverse, tasks.spell, tasks.repeat):
            yield "".join(text if not is_control else " " for text, is_control, _ in pieces(make(maker)))


def mix(progress):
    """(weight, is drill, kind) at this part of the training, 0..1."""
    facts = FACT_DRILLS_EARLY if progress < EARLY else FACT_DRILLS_LATE
    drilled = [(weight, True, make) for weight, make in ((facts, drills.facts), *DRILLS)]
    return drilled + [(weight, False, make) for weight, make in CONVERSATIONS]


def random_document(maker, encoder, progress):
    """(ids, learnt flags) of one document."""
    kinds = mix(progress)
    _, is_drill, make = maker.rng.choices(kinds, [weight for weight, _, _ in kinds])[0]
    if is_drill:
        return encoder.document(drills.document(make(maker)))
    conversation = make(maker)
    if maker.chance(0.2):
        conversation.system = maker.rng.choice(SYSTEM)
    if not conversation.tools and maker.chance(0.04):
        tasks.with_unused_tools(maker, conversation)
    shape = maker.rng.choices(("stripped", "whole", "cut"), (4, 5, 1))[0]
    if shape == "cut":
        return cut_document(maker, encoder, conversation)
    if shape == "stripped":  # earlier thoughts are gone, as clients send them; nothing to learn there
        return stripped_document(encoder, conversation)
    return encoder.document(pieces(conversation))


def stripped_document(encoder, conversation):
    for turn in conversation.turns[:-1]:
        turn.thought = None
    parts = list(pieces(conversation))
    learnt = len(parts) - 3  # the last answer's text, its end and the line break
    return encoder.document((text, control, own and i >= learnt) for i, (text, control, own) in enumerate(parts))


def cut_document(maker, encoder, conversation):
    """A thought that was closed by the server before its end, as a thinking budget does it: only the answer is learnt."""
    for turn in conversation.turns[:-1]:
        turn.thought = None
    answer = conversation.turns[-1]
    prompt = encoder.prompt(conversation)
    thought = encoder.encode(f"{OPEN_THOUGHT}\n{answer.thought}")
    if maker.chance(0.2):  # a budget of 0
        closed = (
            encoder.encode(OPEN_THOUGHT + CLOSE_THOUGHT)
            if maker.chance(0.5)
            else encoder.encode(OPEN_THOUGHT) + encoder.encode(CLOSE_THOUGHT)
        )
    else:
        opened = len(encoder.encode(f"{OPEN_THOUGHT}\n"))
        closed = thought[: maker.rng.randint(min(opened + 1, len(thought)), len(thought))] + encoder.encode(
            CLOSE_THOUGHT
        )
    tail = encoder.encode(answer.text) + [encoder.control[END]]
    return prompt + closed + tail, [False] * (len(prompt) + len(closed)) + [True] * len(tail)


class Packer:
    """First-fit: an open row takes the first document that fits; a row is full when it has been passed over often."""

    OPEN_ROWS = 24

    def __init__(self, pad_token):
        self.pad_token = pad_token
        self.open, self.done = [], []

    def add(self, document):
        size = len(document[0])
        for row in self.open:
            if sum(len(ids) for ids, _ in row) + size <= ROW_TOKENS:
                row.append(document)
                return
        self.open.append([document])
        if len(self.open) > self.OPEN_ROWS:
            self.done.append(self.arrays(self.open.pop(0)))

    def arrays(self, row):
        ids = np.full(ROW_TOKENS, self.pad_token, np.uint16)
        learnt, documents = np.zeros(ROW_TOKENS, bool), np.full(ROW_TOKENS, len(row), np.uint8)
        start = 0
        for number, (own, flags) in enumerate(row):
            end = start + len(own)
            ids[start:end], learnt[start:end], documents[start:end] = own, flags, number
            start = end
        return ids, learnt, documents


def make_rows(rng, encoder, row_count):
    maker, packer = tasks.Maker(rng), Packer(encoder.control[END])
    started, left_out = time.monotonic(), 0
    while len(packer.done) < row_count:
        ids, flags = random_document(maker, encoder, len(packer.done) / row_count)
        if len(ids) > ROW_TOKENS:
            left_out += 1
            continue
        packer.add((ids, flags))
        if maker.chance(0.001) and sys.stderr.isatty():
            show_progress(len(packer.done), row_count, started)
    print(f"\n{left_out} documents of more than {ROW_TOKENS} tokens were left out", file=sys.stderr)
    return [np.stack(arrays) for arrays in zip(*packer.done)]


def show_progress(done, total, started):
    seconds = time.monotonic() - started
    print(
        f"\r{done} of {total} rows, {done * ROW_TOKENS / max(seconds, 1e-9) / 1000:.0f} k tokens/s ",
        end="",
        file=sys.stderr,
        flush=True,
    )


def message_dicts(conversation):
    """The turns before the answer; results of several tools stand in one message."""
    messages = []
    for turn in conversation.turns[:-1]:
        if turn.role != "tool":
            messages.append({"role": turn.role, "content": turn.text})
            continue
        if messages[-1]["role"] != "tool":
            messages.append({"role": "tool", "content": []})
        messages[-1]["content"].append({"name": turn.tool, "text": turn.text})
    return messages


def held_out_questions(rng, per_task):
    """Different prompts only; thoughts of earlier turns are left away, as clients send them."""
    for task, make in tasks.EVALUATED.items():
        maker, seen = tasks.Maker(rng, held_out=task not in tasks.NOT_HELD_OUT), set()
        for _ in range(per_task * 20):
            conversation = make(maker)
            for turn in conversation.turns[:-1]:
                turn.thought = None
            prompt = prompt_text(conversation)
            if prompt in seen:
                continue
            seen.add(prompt)
            yield {
                "id": f"{task}-{len(seen) - 1:03}",
                "task": task,
                "messages": message_dicts(conversation),
                "tools": conversation.tools,
                "prompt": prompt,
                "expected": conversation.turns[-1].text,
            }
            if len(seen) == per_task:
                break


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--tokens", type=float, default=18e6, help="tokens of training rows")
    parser.add_argument("--questions", type=int, default=300, help="held-out questions a task")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    tokenizer = train_tokenizer(tokenizer_texts(random.Random(f"tokenizer {options.seed}")))
    tokenizer.save(str(options.out / "tokenizer.json"))
    with open(options.out / "held_out.jsonl", "w", encoding="utf-8") as file:
        for question in held_out_questions(random.Random(f"questions {options.seed}"), options.questions):
            file.write(json.dumps(question) + "\n")
    rows = make_rows(random.Random(f"rows {options.seed}"), Encoder(tokenizer), int(options.tokens) // ROW_TOKENS)
    for name, array in zip(("ids", "learnt", "documents"), rows):
        np.save(options.out / f"{name}.npy", array)
    ids, learnt, documents = rows
    print(
        f"{len(ids)} rows, {documents.max(1).sum()} documents, {learnt.mean():.0%} of the tokens carry loss",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()

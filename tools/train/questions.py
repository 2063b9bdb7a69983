"""Held-out questions: reading them, and judging an answer. One JSON object a line:

id, task, messages (role, content; a tool's content lists {name, text}), tools, prompt (what the chat template makes of
them), expected (the answer's text, after the thought).
"""

import json
import re

from conversation import BEGIN, BEGIN_DOCUMENT, CLOSE_THOUGHT, END

CONTROL = re.compile("(" + "|".join(map(re.escape, (BEGIN_DOCUMENT, BEGIN, END))) + ")")


def read_questions(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def encode_prompt(tokenizer, prompt):
    """Ids of a rendered prompt: control tokens by themselves, the text between two of them together."""
    ids = []
    for part in CONTROL.split(prompt):
        if CONTROL.fullmatch(part):
            ids.append(tokenizer.token_to_id(part))
        elif part:
            ids += tokenizer.encode(part, add_special_tokens=False).ids
    return ids


def answer_of(text):
    """The answer in a model's whole text."""
    return text.split(CLOSE_THOUGHT, 1)[-1]


def is_right(question, text):
    """Right to the letter, thought aside."""
    return answer_of(text) == question["expected"]


def by_task(questions, right):
    """{task: (right answers, questions)} in order of first appearance."""
    counts = {}
    for question, value in zip(questions, right, strict=True):
        good, of = counts.get(question["task"], (0, 0))
        counts[question["task"]] = (good + value, of + 1)
    return counts


def percent(good, of):
    return f"{100 * good / of:.1f}"

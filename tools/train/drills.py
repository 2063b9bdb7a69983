"""Drills: training-only documents of many short facts and copies, the rest of each thought left away.

Structure is learnt from few conversations, facts (8+7=15, 4,5 <) from many repetitions; a drill holds about three
times as many per token. Each yields (given, learnt) pieces of text; only the learnt ones carry loss.
"""

import thoughts
from conversation import ASSISTANT, BEGIN, BEGIN_DOCUMENT, OPEN_THOUGHT


def document(lines):
    """Conversation pieces (see conversation.pieces) of a drill."""
    yield BEGIN_DOCUMENT, True, False
    yield BEGIN, True, False
    yield f"{ASSISTANT}{OPEN_THOUGHT}\n", False, False
    for given, learnt in lines:
        yield from ((given, False, False), (learnt + "\n", False, True))


def facts(maker):
    make = maker.rng.choices(
        (add_column, subtract_column, multiply_column, plus_carry, compare_column), (6, 8, 5, 5, 4)
    )[0]
    return [make(maker) for _ in range(maker.rng.randint(14, 22))]


def place(maker):
    return maker.rng.choice(thoughts.PLACES[:5])


def add_column(maker):
    terms = [maker.rng.randrange(10), maker.rng.randrange(10)] + [1] * maker.chance(0.5)
    total = sum(terms)
    return f"{place(maker)}: {'+'.join(map(str, terms))}", f"={total}" + (", carry 1" if total > 9 else "")


def subtract_column(maker):
    terms = [maker.rng.randrange(10), maker.rng.randrange(10)] + [1] * maker.chance(0.5)
    difference = terms[0] - sum(terms[1:])
    rest = f"={difference}" if difference >= 0 else f"+10={difference + 10}, borrow 1"
    return f"{place(maker)}: {'-'.join(map(str, terms))}", rest


def multiply_column(maker):
    a, b = maker.rng.randrange(10), maker.rng.randint(2, 9)
    return f"ones: {a}*{b}", f"={a * b}" + (f", carry {a * b // 10}" if a * b > 9 else "")


def plus_carry(maker):
    """What is carried into a column is less than the factor."""
    factor = maker.rng.randint(2, 9)
    product, carry = maker.rng.randrange(10) * factor, maker.rng.randrange(1, factor)
    total = product + carry
    return f"{product}+{carry}", f"={total}" + (f", carry {total // 10}" if total > 9 else "")


def compare_column(maker):
    a, b = maker.rng.randrange(10), maker.rng.randrange(10)
    return f"{place(maker)}: {a},{b}", f" {thoughts.sign(a, b)}"


def winners(maker):
    """The comparisons of sorting, without the lists around them."""
    descending = maker.chance(0.5)
    lines = [("max of" if descending else "min of", "")]
    for _ in range(maker.rng.randint(12, 18)):
        digits = maker.rng.choice((1, 2, 2, 2, 3))
        a, b = maker.pair(digits)
        if maker.chance(0.3):
            b = a // 10 * 10 + maker.rng.randrange(10)
        lines.append((f"{a},{b}:", str(max(a, b) if descending else min(a, b))))
    return lines


def removals(maker):
    """Taking one number out of a list."""
    lines = []
    for _ in range(maker.rng.randint(8, 12)):
        numbers = maker.rng.sample(range(10 ** maker.rng.choice((1, 2, 2, 2, 3))), maker.rng.randint(3, 5))
        out = maker.rng.choice(numbers)
        numbers_text = ",".join(map(str, numbers))
        numbers.remove(out)
        lines.append((f"{numbers_text}\nmin {out}, left ", ",".join(map(str, numbers))))
    return lines


def copies(maker):
    """Names and numbers written once more."""
    lines = []
    for _ in range(maker.rng.randint(7, 11)):
        text = " ".join(
            maker.rng.choice((maker.word, maker.city, lambda: str(maker.number(maker.rng.randint(1, 5)))))()
            for _ in range(maker.rng.randint(1, 4))
        )
        lines.append((f"{text}\n", text))
    return lines


def words(maker):
    """Spelling, spelling with a running count, joining, and joining backwards."""
    lines = []
    for _ in range(maker.rng.randint(6, 9)):
        word = maker.word()
        kind = maker.rng.randrange(4)
        if kind == 0:
            lines.append((f"{word}.\n", thoughts.spelled(word)))
        elif kind == 1:
            letter = maker.rng.choice(word)
            counted = thoughts.count_letter(word, letter)[0].split("\n")[0].removeprefix(f"count {letter}: ")
            lines.append((f"{word}.\ncount {letter}: ", counted))
        elif kind == 2:
            lines.append((f"{thoughts.spelled(word)}\n", word))
        else:
            thought, answer = thoughts.reverse(word)
            lines.append((f"{thought}\n", answer))
    return lines

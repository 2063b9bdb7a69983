"""How the model thinks: the exact thought and answer of every task, functions of the operands alone.

A thought restates its task in one canonical form first, so that all phrasings meet at one place. Numbers are then
worked on column by column; a decision is written only after everything it depends on stands in the text.
"""

PLACES = ("ones", "tens", "hundreds", "thousands", "ten-thousands", "hundred-thousands")


def digit(number, place):
    return number // 10**place % 10


def result_line(columns, value):
    """`columns`: the digits as the columns gave them, perhaps with zeros in front."""
    return f"result: {columns}" if columns == str(value) else f"result: {columns} = {value}"


def add_lines(a, b):
    carry, columns, lines = 0, "", []
    for place in range(max(len(str(a)), len(str(b)))):
        terms = [digit(a, place), digit(b, place)] + [carry] * (carry > 0)
        total = sum(terms)
        carry = total // 10
        lines.append(f"{PLACES[place]}: {'+'.join(map(str, terms))}={total}" + (f", carry {carry}" if carry else ""))
        columns = str(total % 10) + columns
    if carry:
        lines.append(f"{PLACES[len(columns)]}: {carry}")
        columns = str(carry) + columns
    return lines + [result_line(columns, a + b)]


def compare_lines(a, b):
    """First the numbers of digits, then digit by digit from the left up to the first difference."""
    pairs = [("digits", len(str(a)), len(str(b)))]
    if len(str(a)) == len(str(b)):
        pairs += [(PLACES[place], digit(a, place), digit(b, place)) for place in reversed(range(len(str(a))))]
    lines = []
    for name, left, right in pairs:
        lines.append(f"{name}: {left},{right} {sign(left, right)}")
        if left != right:
            break
    return lines


def sign(a, b):
    return "=" if a == b else "<" if a < b else ">"


def subtract_lines(a, b):
    lines = compare_lines(a, b)
    if a < b:
        lines.append(f"so minus {b}-{a}")
        a, b = b, a
    borrow, columns = 0, ""
    for place in range(len(str(a))):
        terms = [digit(a, place), digit(b, place)] + [borrow] * borrow
        difference = terms[0] - sum(terms[1:])
        borrow = int(difference < 0)
        difference += 10 * borrow
        lines.append(
            f"{PLACES[place]}: {'-'.join(map(str, terms))}"
            + ("+10" if borrow else "")
            + f"={difference}"
            + (", borrow 1" if borrow else "")
        )
        columns = str(difference) + columns
    return lines + [result_line(columns, a - b)]


def multiply_lines(a, factor):
    carry, columns, lines = 0, "", []
    for place in range(len(str(a))):
        product = digit(a, place) * factor
        line = f"{PLACES[place]}: {digit(a, place)}*{factor}={product}"
        if carry:
            line += f", {product}+{carry}={product + carry}"
        carry, rest = divmod(product + carry, 10)
        lines.append(line + (f", carry {carry}" if carry else ""))
        columns = str(rest) + columns
    if carry:
        lines.append(f"{PLACES[len(columns)]}: {carry}")
        columns = str(carry) + columns
    return lines + [result_line(columns, a * factor)]


def add(a, b):
    return "\n".join([f"{a}+{b}", *add_lines(a, b)]), f"{a} + {b} = {a + b}."


def subtract(a, b):
    return "\n".join([f"{a}-{b}", *subtract_lines(a, b)]), f"{a} - {b} = {a - b}."


def multiply(a, factor):
    return "\n".join([f"{a}*{factor}", *multiply_lines(a, factor)]), f"{a} * {factor} = {a * factor}."


def chain(numbers):
    lines, total = ["+".join(map(str, numbers))], numbers[0]
    for number in numbers[1:]:
        lines += [f"{total}+{number}", *add_lines(total, number)]
        total += number
    return "\n".join(lines), f"{' + '.join(map(str, numbers))} = {total}."


def compare(a, b, larger):
    best, name = (max(a, b), "larger") if larger else (min(a, b), "smaller")
    lines = [f"{name} of {a} and {b}", *compare_lines(a, b)]
    if a == b:
        return "\n".join([*lines, f"result: {a}={b}"]), f"{a} and {b} are equal."
    return "\n".join([*lines, f"{name}: {best}"]), f"{best} is {name}."


def sort(numbers, descending):
    """Selection: the best so far against each of the rest, then the best is taken out."""
    best_of, name = (max, "max") if descending else (min, "min")
    lines, left, ordered = [f"{name} of {','.join(map(str, numbers))}"], list(numbers), []
    while len(left) > 1:
        best, steps = left[0], []
        for number in left[1:]:
            winner = best_of(best, number)
            steps.append(f"{best},{number}:{winner}")
            best = winner
        left.remove(best)
        ordered.append(best)
        lines += [" ".join(steps), f"{name} {best}, left {','.join(map(str, left))}"]
    answer = ", ".join(map(str, ordered + left))
    return "\n".join([*lines, f"result: {answer}"]), answer


def spelled(word):
    """The letters with their places: a letter that occurs twice still stands at one place only."""
    return " ".join(f"{i}{letter}" for i, letter in enumerate(word, 1))


def count_letter(word, letter):
    seen, steps = 0, []
    for i, own in enumerate(word, 1):
        seen += own == letter
        steps.append(f"{i}{own}{seen}")
    return f"count {letter}: {' '.join(steps)}\nresult: {seen}", f"{word} has {seen} {letter}."


def length(word):
    return f"count all: {spelled(word)}\nresult: {len(word)}", f"{word} has {len(word)} letters."


def reverse(word):
    backwards = " ".join(f"{i}{word[i - 1]}" for i in range(len(word), 0, -1))
    return f"{spelled(word)}\n{backwards}", word[::-1]


def spell(word):
    return spelled(word), "-".join(word)


def call_tools(what, calls):
    """calls: (name, arguments); what: what the user asks for, in a few words."""
    names = " and ".join(dict.fromkeys(name for name, _ in calls))
    return f"The user asks for {what}. I call {names}."


def tool_result(texts):
    return "The tool says: " + "; ".join(texts)

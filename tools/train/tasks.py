"""The tasks: each makes one conversation whose last turn is the right answer.

`held_out` chooses between the questions of training and those that are kept for evaluation: of sums, products,
comparisons and lists about 4 %, chosen by a hash of the operands; of words and cities the lists in phrases.py.
"""

import dataclasses
import random

import phrases
import thoughts
from conversation import Conversation, Turn, call_text

HASH_FACTORS = (7919, 104729, 1299709, 15485863, 32452843)


def is_held_out(*numbers):
    return (sum(factor * number for factor, number in zip(HASH_FACTORS, numbers)) + 13) % 97 < 4


@dataclasses.dataclass
class Maker:
    """What the tasks draw from: `rng`, and which side of the hold-out they are on."""

    rng: random.Random
    held_out: bool = False

    def chance(self, probability):
        return self.rng.random() < probability

    def operands(self, draw):
        """`draw()` until its tuple is on the right side. Sums below 20 are so few that training has all of them."""
        while True:
            numbers = draw()
            if is_held_out(*numbers) == self.held_out or (not self.held_out and max(numbers) < 20):
                return numbers

    def number(self, digits):
        return self.rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)

    def pair(self, digits):
        """Two numbers, the longer one of `digits` digits; a quarter of the time the other is shorter."""
        numbers = [
            self.number(digits),
            self.number(self.rng.randint(1, digits - 1) if digits > 1 and self.chance(0.25) else digits),
        ]
        self.rng.shuffle(numbers)
        return tuple(numbers)

    def word(self):
        if self.held_out:
            return self.rng.choice(phrases.HELD_OUT_WORDS)
        makes = (lambda: self.rng.choice(phrases.WORDS), self.spliced_word, self.invented_word)
        word = self.rng.choices(makes, (3, 4, 3))[0]()
        return self.word() if word in phrases.HELD_OUT_WORDS else word  # one may come about by chance

    def spliced_word(self):
        """The beginning of one word and the end of another: 3 to 10 letters, in the pieces that real words are made of."""
        while True:
            head, tail = self.rng.choice(phrases.WORDS), self.rng.choice(phrases.WORDS)
            word = head[: self.rng.randint(1, len(head))] + tail[self.rng.randint(1, len(tail) - 1) :]
            if 3 <= len(word) <= 10:
                return word

    def invented_word(self):
        """3 to 9 letters, mostly speakable, sometimes with a letter doubled."""
        size, letters = self.rng.randint(3, 9), ""
        while len(letters) < size:
            letter = self.rng.choice(phrases.VOWELS if len(letters) % 2 else phrases.CONSONANTS)
            if self.chance(0.15):
                letter = self.rng.choice(phrases.VOWELS + phrases.CONSONANTS)
            letters += letter * (2 if self.chance(0.12) else 1)
        return letters[:size] if self.chance(0.7) else letters[1 : size + 1].ljust(3, "e")

    def city(self):
        """In training half of them are invented, so that names are copied and not known by heart."""
        if self.held_out:
            return self.rng.choice(phrases.HELD_OUT_CITIES)
        city = self.rng.choice(phrases.CITIES) if self.chance(0.5) else self.word().capitalize()
        return self.city() if city in phrases.HELD_OUT_CITIES else city

    def vary(self, question):
        """Small changes that people make to a question."""
        if self.chance(0.7):
            return question
        kind = self.rng.randrange(4)
        if kind == 0:
            return question[0].lower() + question[1:]
        if kind == 1:
            return question.rstrip(".?")
        if kind == 2:
            return self.rng.choice(phrases.BEFORE) + question
        return question + self.rng.choice(phrases.AFTER)

    def ask(self, templates, answer, **fields):
        """A conversation of one question; answer: (thought, text)."""
        question = self.vary(self.rng.choice(templates).format(**fields))
        return Conversation([Turn("user", question), assistant(answer)])


def assistant(answer):
    thought, text = answer
    return Turn("assistant", text, thought)


def add(maker, digits):
    a, b = maker.operands(lambda: maker.pair(digits))
    return maker.ask(phrases.ADD, thoughts.add(a, b), a=a, b=b)


def subtract(maker, digits):
    def draw():
        a, b = maker.pair(digits)
        if maker.chance(0.2) and digits > 1:  # numbers that begin alike: the comparison goes past the first digit
            b = (
                a // 10 * 10 + maker.rng.randrange(10)
                if maker.chance(0.5)
                else a // 10 ** (digits - 1) * 10 ** (digits - 1) + maker.rng.randrange(10 ** (digits - 1))
            )
        return (b, a) if a < b and maker.chance(0.7) else (a, b)

    a, b = maker.operands(draw)
    return maker.ask(phrases.SUBTRACT, thoughts.subtract(a, b), a=a, b=b)


def multiply(maker, digits):
    a, b = maker.operands(lambda: (maker.number(digits), maker.rng.randint(2, 9)))
    return maker.ask(phrases.MULTIPLY, thoughts.multiply(a, b), a=a, b=b)


def chain(maker):
    numbers = maker.operands(
        lambda: tuple(maker.number(maker.rng.choice((1, 2, 2, 2))) for _ in range(maker.rng.choice((3, 3, 4))))
    )
    return maker.ask(
        phrases.CHAIN, thoughts.chain(numbers), sum=" + ".join(map(str, numbers)), list=spoken_list(maker, numbers)
    )


def spoken_list(maker, items):
    if maker.chance(0.5):
        return ", ".join(map(str, items))
    return ", ".join(map(str, items[:-1])) + f" and {items[-1]}"


def compare(maker):
    def draw():
        digits = maker.rng.choice((1, 2, 2, 3, 3, 3, 4))
        a, b = maker.pair(digits)
        if maker.chance(0.35):  # alike from the left, or the same
            keep = 10 ** maker.rng.randrange(digits)
            b = a // keep * keep + maker.rng.randrange(keep)
        return a, b

    a, b = maker.operands(draw)
    larger = maker.chance(0.6)
    return maker.ask(phrases.LARGER if larger else phrases.SMALLER, thoughts.compare(a, b, larger), a=a, b=b)


def sort(maker):
    def draw():
        digits = maker.rng.choice((1, 2, 2, 2, 2, 2, 3))
        numbers = set()
        while len(numbers) < size:
            numbers.add(maker.number(maker.rng.randint(max(digits - 1, 1), digits) if maker.chance(0.4) else digits))
        return tuple(maker.rng.sample(sorted(numbers), size))

    size = maker.rng.choice((3, 3, 4, 4, 5))
    numbers = maker.operands(draw)
    descending = maker.chance(0.4)
    templates = phrases.DESCENDING if descending else phrases.ASCENDING
    return maker.ask(templates, thoughts.sort(numbers, descending), list=spoken_list(maker, numbers))


def letters(maker):
    word = maker.word()
    written = f'"{word}"' if maker.chance(0.25) else word
    if maker.chance(0.25):
        return maker.ask(phrases.LENGTH, thoughts.length(word), word=written)
    letter = maker.rng.choice(word) if maker.chance(0.85) else maker.rng.choice(phrases.VOWELS + phrases.CONSONANTS)
    return maker.ask(phrases.COUNT, thoughts.count_letter(word, letter), word=written, letter=letter)


def reverse(maker):
    word = maker.word()
    return maker.ask(phrases.REVERSE, thoughts.reverse(word), word=f'"{word}"' if maker.chance(0.2) else word)


def spell(maker):
    word = maker.word()
    return maker.ask(phrases.SPELL, thoughts.spell(word), word=word)


def repeat(maker):
    items = [
        maker.word() if maker.chance(0.5) else str(maker.number(maker.rng.randint(1, 4)))
        for _ in range(maker.rng.randint(1, 4))
    ]
    text = " ".join(items)
    return maker.ask(phrases.REPEAT, (f"The user wants {text}", text), text=text)


def two_turns(maker):
    """A sum, then a second one that goes on from its result."""
    a, b = maker.pair(maker.rng.choice((1, 2, 2)))
    minus = a > b and maker.chance(0.4)
    first = thoughts.subtract(a, b) if minus else thoughts.add(a, b)
    total = a - b if minus else a + b
    kind = maker.rng.choice("+-*") if 0 < total < 1000 else "+"
    second = maker.number(maker.rng.choice((1, 1, 2)))
    if kind == "*":
        second = maker.rng.randint(2, 9)
        follow, answer = phrases.FOLLOW_MULTIPLY, thoughts.multiply(total, second)
    elif kind == "-" and second < total:
        follow, answer = phrases.FOLLOW_SUBTRACT, thoughts.subtract(total, second)
    else:
        follow, answer = phrases.FOLLOW_ADD, thoughts.add(total, second)
    questions = (phrases.SUBTRACT if minus else phrases.ADD, follow)
    opening, following = (maker.rng.choice(q).format(a=a, b=n) for q, n in zip(questions, (b, second)))
    return Conversation([Turn("user", opening), assistant(first), Turn("user", following), assistant(answer)])


def small_talk(maker):
    if maker.chance(0.5):
        questions, thought, answer = maker.rng.choice(phrases.CHAT)
        return Conversation([Turn("user", maker.rng.choice(questions)), assistant((thought, answer))])
    return maker.ask(phrases.UNKNOWN_QUESTIONS, phrases.UNKNOWN, word=maker.rng.choice(phrases.WORDS))


@dataclasses.dataclass
class ToolUse:
    """question -> calls -> one result per call -> answer."""

    tools: list
    question: str
    what: str
    calls: list
    results: list
    answer: str


WEATHER_QUESTIONS = (
    "What is the weather in {city}?",
    "How is the weather in {city}?",
    "Weather in {city}?",
    "Is it warm in {city}?",
    "Tell me the weather in {city}.",
    "Do I need a coat in {city}?",
    "What is the weather like in {city} today?",
)
TIME_QUESTIONS = (
    "What time is it in {city}?",
    "Tell me the time in {city}.",
    "How late is it in {city}?",
    "What is the time in {city}?",
    "Time in {city}?",
)


def parameter_schema(maker, name, kind, description):
    inner = {"type": kind} | ({"description": description} if maker.chance(0.5) else {})
    schema = {"type": "object", "properties": {name: inner}}
    if maker.chance(0.5):
        schema["required"] = [name]
    keys = list(schema)
    maker.rng.shuffle(keys)
    return {key: schema[key] for key in keys}


def tool(maker, name, description, parameters):
    return (
        {"name": name}
        | ({"description": maker.rng.choice(description)} if maker.chance(0.7) else {})
        | {"parameters": parameters}
    )


def city_tool(maker, name, descriptions):
    return tool(maker, name, descriptions, parameter_schema(maker, "city", "string", "name of the city"))


def weather_tool(maker):
    return city_tool(maker, "get_weather", ("Weather of a city", "Get the weather of a city.", "The weather now"))


def time_tool(maker):
    return city_tool(maker, "get_time", ("Time in a city", "Get the time of a city.", "The time now"))


def calculate_tool(maker):
    return tool(
        maker,
        "calculate",
        ("Calculate a value.", "Works out an expression", "A calculator"),
        parameter_schema(maker, "expression", "string", "the expression"),
    )


def invented_tool(maker):
    name = maker.rng.choice(phrases.TOOL_PREFIXES) + "".join(
        maker.rng.choice(phrases.TOOL_SYLLABLES) for _ in range(maker.rng.randint(1, 3))
    )
    argument, kind = maker.rng.choice(phrases.ARGUMENTS), maker.rng.choice(("string", "number"))
    return tool(
        maker,
        name,
        ("Runs a job", "Looks something up.", "A tool of the house"),
        parameter_schema(maker, argument, kind, "what to use"),
    )


def weather_use(maker):
    if maker.chance(0.12):
        pair = list(dict.fromkeys((maker.city(), maker.city())))
    else:
        pair = [maker.city()]
    results = [f"{maker.rng.choice(phrases.WEATHER)}, {maker.rng.randint(-9, 35)} C" for _ in pair]
    place = " and ".join(pair)
    question = maker.rng.choice(WEATHER_QUESTIONS).format(city=place)
    answer = f"The weather in {place}: {'; '.join(results)}."
    return ToolUse(
        [weather_tool(maker)],
        question,
        f"the weather in {place}",
        [("get_weather", {"city": city}) for city in pair],
        results,
        answer,
    )


def time_use(maker):
    city, result = maker.city(), f"{maker.rng.randrange(24):02}:{maker.rng.randrange(60):02}"
    question = maker.rng.choice(TIME_QUESTIONS).format(city=city)
    return ToolUse(
        [time_tool(maker)],
        question,
        f"the time in {city}",
        [("get_time", {"city": city})],
        [result],
        f"The time in {city}: {result}.",
    )


def calculate_use(maker):
    sign = maker.rng.choice("+-*")
    templates = {"+": phrases.ADD, "-": phrases.SUBTRACT, "*": phrases.MULTIPLY}[sign]
    a, b = maker.operands(lambda: (maker.number(maker.rng.randint(1, 4)), maker.number(maker.rng.randint(1, 4))))
    result = str({"+": a + b, "-": a - b, "*": a * b}[sign])
    question = maker.rng.choice(templates).format(a=a, b=b)
    return ToolUse(
        [calculate_tool(maker)],
        question,
        f"{a}{sign}{b}",
        [("calculate", {"expression": f"{a}{sign}{b}"})],
        [result],
        f"{a} {sign} {b} = {result}.",
    )


def invented_use(maker):
    own = invented_tool(maker)
    ((argument, schema),) = own["parameters"]["properties"].items()
    value = maker.number(maker.rng.randint(1, 4)) if schema["type"] == "number" else maker.word()
    result = maker.rng.choice(phrases.RESULTS) + (
        f" {maker.number(maker.rng.randint(1, 3))}" if maker.chance(0.5) else ""
    )
    name = own["name"]
    question = maker.rng.choice(
        ("Use {t} with {a} = {v}.", "Call {t} with {a} {v}.", "Run {t}: {a} = {v}", "Please use {t} with {a} = {v}.")
    ).format(t=name, a=argument, v=value)
    return ToolUse([own], question, name, [(name, {argument: value})], [result], f"The result of {name}: {result}.")


def tool_use(maker):
    """One use of a tool, with up to two other tools on offer."""
    use = maker.rng.choices((weather_use, time_use, calculate_use, invented_use), (3, 2, 2, 4))[0](maker)
    others = [make(maker) for make in (weather_tool, time_tool, invented_tool)]
    maker.rng.shuffle(others)
    names = {use.tools[0]["name"]}
    for other in others[: maker.rng.randint(0, 2)]:
        if other["name"] not in names:
            use.tools.append(other)
            names.add(other["name"])
    maker.rng.shuffle(use.tools)
    return use


def tool_call(maker):
    use = tool_use(maker)
    call = Turn("assistant", call_text(use.calls), thoughts.call_tools(use.what, use.calls))
    return Conversation([Turn("user", use.question), call], use.tools)


def tool_answer(maker):
    use = tool_use(maker)
    conversation = Conversation([Turn("user", use.question)], use.tools)
    conversation.turns.append(Turn("assistant", call_text(use.calls), thoughts.call_tools(use.what, use.calls)))
    conversation.turns += [Turn("tool", result, tool=name) for result, (name, _) in zip(use.results, use.calls)]
    conversation.turns.append(assistant((thoughts.tool_result(use.results), use.answer)))
    return conversation


def with_unused_tools(maker, conversation):
    """Tools on offer that the question has no need of."""
    offered = [weather_tool(maker), time_tool(maker), invented_tool(maker)]
    conversation.tools = maker.rng.sample(offered, maker.rng.randint(1, 2))
    return conversation


# What is evaluated, by name.
EVALUATED = {
    **{f"add{digits}": lambda maker, digits=digits: add(maker, digits) for digits in (1, 2, 3, 4, 5)},
    **{f"sub{digits}": lambda maker, digits=digits: subtract(maker, digits) for digits in (2, 3, 4, 5)},
    "mul2x1": lambda maker: multiply(maker, 2),
    "mul3x1": lambda maker: multiply(maker, 3),
    "chain": chain,
    "compare": compare,
    "sort": sort,
    "letters": letters,
    "reverse": reverse,
    "two_turns": two_turns,
    "tool_call": tool_call,
    "tool_answer": tool_answer,
    "repeat": repeat,
    "chat": small_talk,
}
NOT_HELD_OUT = ("add1", "two_turns", "repeat", "chat")  # their questions may occur in training

"""What tools/train teaches: thoughts are right, held-out questions are never asked, prompts are the server's."""

import json
import random
import re

import conversation as template
import phrases
import tasks

EQUATION = re.compile(r"(?<![\d*+-])(\d+(?:[-+*]\d+)+)=(\d+)")
COMPARISON = re.compile(r"(\d+),(\d+) ([<>=])")


def conversations(held_out, count):
    maker = tasks.Maker(random.Random("test"), held_out)
    for name, make in tasks.EVALUATED.items():
        for _ in range(count):
            yield name, make(maker)


def test_every_line_of_a_thought_is_right():
    equations = comparisons = 0
    for name, conversation in conversations(held_out=False, count=300):
        thought = conversation.turns[-1].thought
        for left, right in EQUATION.findall(thought):
            equations += 1
            assert eval(left) == int(right), f"{name}: {thought}"  # only digits and + - *
        for a, b, sign in COMPARISON.findall(thought):
            comparisons += 1
            assert sign == ("=" if int(a) == int(b) else "<" if int(a) < int(b) else ">"), f"{name}: {thought}"
    assert equations > 5000 and comparisons > 1000


def test_answers_are_right():
    checked = 0
    for name, conversation in conversations(held_out=True, count=300):
        text, question = conversation.turns[-1].text, conversation.turns[0].text
        if name.startswith(("add", "sub", "mul", "chain")):
            left, right = text.rstrip(".").split(" = ")
            assert eval(left) == int(right)
            assert sorted(re.findall(r"\d+", left)) == sorted(re.findall(r"\d+", question)), (question, text)
            checked += 1
        elif name == "sort":
            numbers = [int(number) for number in re.findall(r"\d+", question)]
            answer = [int(number) for number in text.split(", ")]
            assert answer in (sorted(numbers), sorted(numbers, reverse=True))
            checked += 1
    assert checked == 300 * 13


def test_held_out_operands_are_never_asked_in_training():
    for name, conversation in conversations(held_out=False, count=1000):
        if name in ("add2", "add3", "sub2", "sub3", "mul2x1", "mul3x1"):
            a, b = re.findall(r"\d+", conversation.turns[-1].text)[:2]
            assert not tasks.is_held_out(int(a), int(b)) or max(int(a), int(b)) < 20, conversation.turns[0].text
    for name, conversation in conversations(held_out=True, count=100):
        if name in ("add2", "add3", "sub3", "mul2x1"):
            a, b = re.findall(r"\d+", conversation.turns[-1].text)[:2]
            assert tasks.is_held_out(int(a), int(b))


def test_held_out_words_and_cities_are_never_asked_in_training():
    held_out = set(phrases.HELD_OUT_WORDS) | set(phrases.HELD_OUT_CITIES)
    for name, conversation in conversations(held_out=False, count=1000):
        if name in ("letters", "reverse", "repeat", "tool_call", "tool_answer"):
            assert not held_out & set(re.findall("[A-Za-z]+", conversation.turns[0].text)), conversation.turns[0].text


def test_prompts_are_the_servers(client):
    pb = client.pb
    for name, made in conversations(held_out=True, count=6):
        request = pb.TokenizeRequest()
        for turn in made.turns[:-1]:
            role = pb.Role.Value("ROLE_" + turn.role.upper())
            request.chat.messages.add(role=role, text=turn.full_text(), tool_name=turn.tool)
        for tool in made.tools:
            request.chat.tools.add(name=tool["name"], description=tool.get("description"),
                                   parameters_json=json.dumps(tool["parameters"]))
        ids = client.inference.Tokenize(request).ids
        text = client.inference.Detokenize(pb.DetokenizeRequest(ids=ids)).text
        assert text == template.prompt_text(made), name

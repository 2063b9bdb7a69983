"""Conversations, and how they become token ids: the chat template in Python, with what is trained on marked."""

import dataclasses
import json

BEGIN_DOCUMENT, BEGIN, END = "<begin_of_document>", "<beginning_of_sentence>", "<end_of_sentence>"
ASSISTANT = "ai name=assistant\n"
OPEN_THOUGHT, CLOSE_THOUGHT = "<think>", "\n</think>\n\n"

TOOLS_BEFORE = "system tool_setting=tools\nYou are provided with these tools:\n<tools>\n"
TOOLS_AFTER = (
    "</tools>\n\nIf you need to call tools, please respond with <tool_calls></tool_calls> XML tags, and provide tool-name and "
    "json-object of arguments, following the format below:\n<tool_calls>\n{name: <tool-name-1>, arguments: <args-json-object-1>}\n"
    "...\n</tool_calls>"
)


@dataclasses.dataclass
class Turn:
    """role: user, assistant or tool. `thought` is an assistant's, without the tags; `tool` names the tool that spoke."""

    role: str
    text: str
    thought: str | None = None
    tool: str | None = None

    def full_text(self):
        if self.thought is None:
            return self.text
        return f"{OPEN_THOUGHT}\n{self.thought}{CLOSE_THOUGHT}{self.text}"


@dataclasses.dataclass
class Conversation:
    """`tools`: dicts with name, description (may be absent) and parameters. The last turn is the answer asked for."""

    turns: list
    tools: list = dataclasses.field(default_factory=list)
    system: str | None = None


def call_text(calls):
    """An assistant's text that calls tools; calls: (name, arguments)."""
    lines = "".join(json.dumps({"name": name, "arguments": arguments}) + "\n" for name, arguments in calls)
    return f"<tool_calls>\n{lines}</tool_calls>"


def pieces(conversation):
    """The rendered conversation as (text, is control token, is the assistant's) in order, without generation suffix."""
    yield BEGIN_DOCUMENT, True, False
    heads = []
    if conversation.system is not None:
        heads.append(f"system ai_setting=assistant\n{conversation.system}")
    if conversation.tools:
        heads.append(TOOLS_BEFORE + "".join(json.dumps(tool) + "\n" for tool in conversation.tools) + TOOLS_AFTER)
    for head in heads:
        yield from block(head)
    turns = conversation.turns
    for i, turn in enumerate(turns):
        if turn.role == "assistant":
            yield BEGIN, True, False
            yield ASSISTANT, False, False
            yield turn.full_text(), False, True
            yield END, True, True
            yield "\n", False, False
        elif turn.role == "user":
            yield from block(f"user name=user\n{turn.text}")
        else:  # the results of one message stand in one block
            if turns[i - 1].role != "tool":
                yield BEGIN, True, False
                yield "tool name=tools\n", False, False
            yield f"tool name: {turn.tool}\ntool result: {turn.text}\n\n", False, False
            if i + 1 == len(turns) or turns[i + 1].role != "tool":
                yield END, True, False
                yield "\n", False, False


def block(text):
    yield BEGIN, True, False
    yield text, False, False
    yield END, True, False
    yield "\n", False, False


def prompt_text(conversation):
    """What the server's template makes of all turns but the last, ready for the answer."""
    earlier = dataclasses.replace(conversation, turns=conversation.turns[:-1])
    return "".join(text for text, _, _ in pieces(earlier)) + BEGIN + ASSISTANT


class Encoder:
    """Token ids of conversations. `tokenizer` is one of Hugging Face's `tokenizers`."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.control = {text: tokenizer.token_to_id(text) for text in (BEGIN_DOCUMENT, BEGIN, END)}
        self.known = {}

    def encode(self, text):
        """Ids of plain text; the template's fixed texts come again and again."""
        if text not in self.known:
            if len(self.known) > 20_000:
                self.known.clear()
            self.known[text] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return self.known[text]

    def document(self, parts):
        """(ids, flags) of pieces; a flag says that the token is learnt. As the server does it, text between two
        control tokens is encoded together, but an assistant's text starts afresh after the generation suffix."""
        ids, flags, waiting = [], [], ""
        for text, is_control, learnt in parts:
            if not is_control and not learnt:
                waiting += text
                continue
            plain = self.encode(waiting) if waiting else []
            own = [self.control[text]] if is_control else self.encode(text)
            ids += plain + own
            flags += [False] * len(plain) + [learnt] * len(own)
            waiting = ""
        plain = self.encode(waiting) if waiting else []
        return ids + plain, flags + [False] * len(plain)

    def prompt(self, conversation):
        earlier = dataclasses.replace(conversation, turns=conversation.turns[:-1])
        parts = [*pieces(earlier), (BEGIN, True, False), (ASSISTANT, False, False)]
        return self.document(parts)[0]

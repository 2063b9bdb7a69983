"""Questions of a checkpoint's eval.jsonl and held_out.jsonl as requests."""

from m1_client import add_chat
from questions import read_questions as read_rows

__all__ = ["chat_request", "read_rows"]


def chat_request(client, row, max_new_tokens):
    """The row as a greedy chat."""
    request = client.request(chat=[], temperature=0, max_new_tokens=max_new_tokens)
    add_chat(client.pb, request, row)
    return request

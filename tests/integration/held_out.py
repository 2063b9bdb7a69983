"""Questions of a checkpoint's eval.jsonl and held_out.jsonl as requests."""

import json


def read_rows(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def chat_request(client, row, max_new_tokens):
    """The row as a greedy chat. A tool message holds the results of several tools; ours hold one each."""
    request = client.request(chat=[], temperature=0, max_new_tokens=max_new_tokens)
    for message in row["messages"]:
        role = client.pb.Role.Value("ROLE_" + message["role"].upper())
        if message["role"] == "tool":
            for result in message["content"]:
                request.chat.messages.add(role=role, text=result["text"], tool_name=result["name"])
        else:
            request.chat.messages.add(role=role, text=message["content"])
    for tool in row["tools"]:
        request.chat.tools.add(
            name=tool["name"], description=tool.get("description"), parameters_json=json.dumps(tool["parameters"])
        )
    return request

"""A tool call and back: the model calls get_weather, this program answers, the model says what it was told.

    .venv/bin/python examples/tools.py "What is the weather in Copenhagen?"
"""

import json

from connect import connect, options

CITY = {"type": "object", "properties": {"city": {"type": "string", "description": "name of the city"}},
        "required": ["city"]}


def get_weather(arguments):
    return "rainy, 11 C" if arguments.get("city") else "which city?"


def ask(pb, client, chat):
    """(text, tool calls) of the model's turn."""
    text, calls = "", []
    for response in client.Generate(pb.GenerateRequest(chat=chat, sampling=pb.Sampling(temperature=0),
                                                       stopping=pb.Stopping(max_new_tokens=400))):
        if response.delta.HasField("tool_call"):  # whole, never in pieces
            calls.append(response.delta.tool_call)
        elif response.delta.channel == pb.CHANNEL_CONTENT:
            text += response.delta.text
    return text, calls


def main():
    parser = options(__doc__)
    parser.add_argument("question")
    args = parser.parse_args()
    with connect(args.target) as (pb, client):
        chat = pb.Chat(
            messages=[pb.ChatMessage(role=pb.ROLE_USER, text=args.question)],
            tools=[pb.Tool(name="get_weather", description="Weather of a city", parameters_json=json.dumps(CITY))],
        )
        text, calls = ask(pb, client, chat)
        if calls:
            chat.messages.add(role=pb.ROLE_ASSISTANT, text=text, tool_calls=calls)
        for call in calls:
            result = get_weather(json.loads(call.arguments_json)) if call.name == "get_weather" else "no such tool"
            print(f"[{call.name} {call.arguments_json} -> {result}]")
            chat.messages.add(role=pb.ROLE_TOOL, tool_name=call.name, text=result)
        print(ask(pb, client, chat)[0] if calls else text)


if __name__ == "__main__":
    main()

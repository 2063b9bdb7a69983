"""Asks one question and prints the thought and the answer as they come.

    .venv/bin/python examples/chat.py "764 + 621"
    .venv/bin/python examples/chat.py "764 + 621" --thinking_budget 8     # at most 8 tokens, then the thought is closed
"""

from connect import connect, options


def main():
    parser = options(__doc__)
    parser.add_argument("question")
    parser.add_argument("--thinking_budget", type=int, help="tokens of thought at most")
    args = parser.parse_args()
    with connect(args.target) as (pb, client):
        request = pb.GenerateRequest(
            chat=pb.Chat(messages=[pb.ChatMessage(role=pb.ROLE_USER, text=args.question)]),
            sampling=pb.Sampling(temperature=0),
            stopping=pb.Stopping(max_new_tokens=400),
            thinking=pb.Thinking(budget_tokens=args.thinking_budget),  # None: no bound
        )
        shown = None
        for response in client.Generate(request):
            if response.WhichOneof("event") == "delta" and response.delta.text:
                if response.delta.channel != shown:
                    shown = response.delta.channel
                    print(f"\n[{pb.Channel.Name(shown).removeprefix('CHANNEL_').lower()}]")
                print(response.delta.text, end="", flush=True)
            elif response.WhichOneof("event") == "finish":
                usage = response.finish.usage
                print(f"\n[{usage.completion_token_count} tokens, {usage.reasoning_token_count} of thought]")


if __name__ == "__main__":
    main()

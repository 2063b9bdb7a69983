"""Goes on with a text and prints it as it comes, then why it ended and how long it took.

    .venv/bin/python examples/stream.py "One day" --max_new_tokens 40
"""

from connect import connect, options


def main():
    parser = options(__doc__)
    parser.add_argument("text")
    parser.add_argument("--max_new_tokens", type=int, default=60)
    parser.add_argument("--stop", action="append", help="ends the answer before this text; may be repeated")
    args = parser.parse_args()
    with connect(args.target) as (pb, client):
        request = pb.GenerateRequest(
            text=args.text,
            sampling=pb.Sampling(temperature=0.8, top_p=0.9, seed=1),
            stopping=pb.Stopping(max_new_tokens=args.max_new_tokens, stop_strings=args.stop),
        )
        print(args.text, end="")
        for response in client.Generate(request):
            # First the prompt, then deltas, last the finish.
            if response.WhichOneof("event") == "delta":
                print(response.delta.text, end="", flush=True)
            elif response.WhichOneof("event") == "finish":
                finish = response.finish
                reason = pb.FinishReason.Name(finish.reason).removeprefix("FINISH_REASON_").lower()
                seconds = finish.timing.total.ToTimedelta().total_seconds()
                print(f"\n[{reason} after {finish.usage.completion_token_count} tokens in {seconds:.2f} s]")


if __name__ == "__main__":
    main()

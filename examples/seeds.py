"""Asks one question for many answers at once and counts them. A seed always gives the same answers.

    .venv/bin/python examples/seeds.py "764 + 621" --samples 16 --seed 7 --temperature 1.2
"""

import collections

from connect import connect, options


def main():
    parser = options(__doc__)
    parser.add_argument("question")
    parser.add_argument("--samples", type=int, default=16, help="answers, 1 to 64")
    parser.add_argument("--seed", type=int, default=0, help="of the first answer; the others' are derived from it")
    parser.add_argument("--temperature", type=float, default=1.0)
    args = parser.parse_args()
    with connect(args.target) as (pb, client):
        request = pb.GenerateRequest(
            chat=pb.Chat(messages=[pb.ChatMessage(role=pb.ROLE_USER, text=args.question)]),
            sampling=pb.Sampling(temperature=args.temperature, seed=args.seed, sample_count=args.samples),
            stopping=pb.Stopping(max_new_tokens=400),
        )
        # The samples' messages come mixed, each with its index.
        answers = collections.defaultdict(str)
        for response in client.Generate(request):
            answers[response.sample_index] += (
                response.delta.text if response.delta.channel == pb.CHANNEL_CONTENT else "")
        counts = collections.Counter(answers.values())
        for text, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            print(f"{count:4} x {text!r}")


if __name__ == "__main__":
    main()

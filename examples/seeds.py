"""Asks one question with many seeds at once and counts the answers. A seed always gives the same answer.

    .venv/bin/python examples/seeds.py "764 + 621" --seeds 16 --temperature 1.2
"""

import collections
import concurrent.futures

from connect import connect, options


def main():
    parser = options(__doc__)
    parser.add_argument("question")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--temperature", type=float, default=1.0)
    args = parser.parse_args()
    with connect(args.target) as (pb, client):

        def answer(seed):
            request = pb.GenerateRequest(
                chat=pb.Chat(messages=[pb.ChatMessage(role=pb.ROLE_USER, text=args.question)]),
                sampling=pb.Sampling(temperature=args.temperature, seed=seed),
                stopping=pb.Stopping(max_new_tokens=400),
            )
            return "".join(response.delta.text for response in client.Generate(request)
                           if response.delta.channel == pb.CHANNEL_CONTENT)

        # The server runs them in one batch; threads only hold the streams open.
        with concurrent.futures.ThreadPoolExecutor(args.seeds) as pool:
            counts = collections.Counter(pool.map(answer, range(args.seeds)))
        for text, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            print(f"{count:4} x {text!r}")


if __name__ == "__main__":
    main()

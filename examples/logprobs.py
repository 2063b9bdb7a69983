"""Scores a text: how likely the model finds each token, its rank, and what it would rather have read.

    .venv/bin/python examples/logprobs.py "764 + 621 = 1385" --candidates 3
"""

import math

from connect import connect, options


def main():
    parser = options(__doc__)
    parser.add_argument("text")
    parser.add_argument("--candidates", type=int, default=3, help="likeliest tokens to show, 0 to 20")
    args = parser.parse_args()
    with connect(args.target) as (pb, client):
        # No new tokens: the prompt is scored only. Logprobs are of the model itself, whatever the sampling.
        request = pb.GenerateRequest(
            text=args.text,
            stopping=pb.Stopping(max_new_tokens=0),
            output=pb.Output(prompt_logprobs=True, candidate_count=args.candidates),
        )
        tokens = []
        for response in client.Generate(request):
            tokens.extend(response.prompt.tokens)  # a long prompt comes in several messages
        # Candidates are ids; their text is asked for one by one.
        known = {}
        for candidate in (candidate for token in tokens for candidate in token.candidates):
            if candidate.id not in known:
                known[candidate.id] = client.Detokenize(pb.DetokenizeRequest(ids=[candidate.id])).text
        print("   logprob  rank  token")
        for token in tokens:
            shown = repr(token.bytes.decode(errors="replace"))
            if token.rank == 0:  # nothing comes before the first
                print(f"{'':>10}  {'':>4}  {shown}")
                continue
            instead = "  ".join(f"{known[c.id]!r} {math.exp(c.logprob):.0%}" for c in token.candidates)
            print(f"{token.logprob:10.4f}  {token.rank:4}  {shown:12} {instead}")
        print(f"sum {sum(token.logprob for token in tokens):.4f} over {len(tokens) - 1} tokens")


if __name__ == "__main__":
    main()

"""Held-out accuracy of the embedded model with its weights in each format. From the root of the tree, after a release build:

    python tests/bench/quantized_accuracy.py [--stride N]      (every N-th question; 1: all 6300)
"""

import argparse
import os
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
for folder in ("tests/integration", "tools/train"):
    sys.path.append(os.path.join(ROOT, folder))

MODEL = "models/tiny"
FORMATS = {
    "int8-experts": ["--format=int8"],
    "int8-all": ["--format=int8", "--scope=all"],
    "int4-g32-experts": ["--format=int4"],
    "int4-g32-all": ["--format=int4", "--scope=all"],
}


def measure(model, rows):
    """(part of the answers that are right, ids of every answer)"""
    from client import Client
    from cluster import Cluster
    from test_held_out import ask_all, is_right

    with Cluster(model, inproc=True) as cluster, Client(cluster.target) as client:
        answers = ask_all(client, rows)
    return sum(map(is_right, rows, answers)) / len(rows), [answer.ids for answer in answers]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stride", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        from m1_client import make_stubs
        make_stubs(folder)
        sys.path.append(folder)
        from cluster import run_m1
        from held_out import read_rows

        rows = read_rows(f"{MODEL}/held_out.jsonl")[::options.stride]
        accuracy, wanted = measure(MODEL, rows)
        print(f"{len(rows)} questions\n{'format':18} {'right, %':>9} {'points':>7} {'same answer, %':>15}")
        print(f"{'bf16':18} {100 * accuracy:9.2f}", flush=True)
        for name, flags in FORMATS.items():
            model = os.path.join(folder, name)
            made = run_m1("quantize", f"--model={MODEL}", f"--out={model}", *flags)
            assert made.returncode == 0, made.stderr
            own, ids = measure(model, rows)
            same = sum(a == b for a, b in zip(ids, wanted)) / len(rows)
            print(f"{name:18} {100 * own:9.2f} {100 * (own - accuracy):+7.2f} {100 * same:15.1f}", flush=True)


if __name__ == "__main__":
    main()

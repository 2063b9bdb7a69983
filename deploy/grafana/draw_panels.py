"""Draws the dashboards' main panels out of a real Prometheus's answers over a real cluster under load, into pictures/.

    .venv/bin/python deploy/grafana/draw_panels.py [SECONDS]

The expressions are the dashboards' own; the layout is not Grafana's. Wants the release build.
"""

import contextlib
import itertools
import json
import math
import os
import re
import sys
import tempfile
import threading
import time
import urllib.parse

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [os.path.join(ROOT, folder) for folder in ("tests/deploy", "tests/integration", "tools/train")]
os.chdir(ROOT)

import grpc  # noqa: E402
import matplotlib  # noqa: E402

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

from promql import RULE_FILES, substituted  # noqa: E402
from prometheus import Prometheus, cluster_with_ports, get  # noqa: E402

DASHBOARDS = os.path.join(ROOT, "deploy/helm/m1-serve/files/dashboards")
PICTURES = os.path.join(ROOT, "deploy/grafana/pictures")
PANELS = 6  # of each dashboard, the first
WINDOW = "10s"
CLIENTS = 10


def ask(port, expression, begin, end):
    """[(labels, times, values)]"""
    status, body = get(port, "/api/v1/query_range?" + urllib.parse.urlencode(
        {"query": expression, "start": begin, "end": end, "step": 1}))
    assert status == 200, body
    found = []
    for series in json.loads(body)["data"]["result"]:
        points = [(float(at) - begin, float(value)) for at, value in series["values"]]
        points = [(at, value) for at, value in points if math.isfinite(value)]
        if points:
            found.append((series["metric"], *zip(*points)))
    return found


def legend(template, labels):
    text = re.sub(r"\{\{(\w+)\}\}", lambda name: labels.get(name[1], ""), template or "").strip()
    return text if len(text) <= 28 else text[:25] + "..."


def draw_heat_map(axes, series):
    """Rows of layer and expert, at the end."""
    cells = {(int(labels["layer"]), int(labels["expert"])): values[-1] for labels, _, values in series}
    layers, experts = (1 + max(key[i] for key in cells) for i in (0, 1))
    grid = [[cells.get((layer, expert), 0) for expert in range(experts)] for layer in range(layers)]
    image = axes.imshow(grid, aspect="auto", cmap="viridis")
    axes.set_xlabel("expert", fontsize=7)
    axes.set_ylabel("layer", fontsize=7)
    axes.figure.colorbar(image, ax=axes).ax.tick_params(labelsize=6)


def draw_lines(axes, panel, answers):
    for target, series in answers:
        for labels, times, values in series:
            axes.plot(times, values, linewidth=1, label=legend(target.get("legendFormat"), labels))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds", fontsize=7)
    unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "")
    axes.set_ylabel({"s": "seconds", "percentunit": "share", "short": "", "Bps": "bytes/s", "reqps": "requests/s",
                     "ops": "per second"}.get(unit, unit), fontsize=7)
    axes.grid(linewidth=0.3)
    handles, names = axes.get_legend_handles_labels()
    if any(names):
        axes.legend(handles[:6], names[:6], fontsize=6, loc="upper left")


def draw(dashboard, port, begin, end):
    figure, grid = pyplot.subplots(2, PANELS // 2, figsize=(11, 5.2))
    for axes, panel in zip(grid.flat, dashboard["panels"][:PANELS]):
        answers = [(target, ask(port, substituted(target["expr"], WINDOW), begin, end)) for target in panel["targets"]]
        assert any(series for _, series in answers), f"{panel['title']}: no series"
        if panel["type"] == "table":
            draw_heat_map(axes, answers[0][1])
        else:
            draw_lines(axes, panel, answers)
        axes.set_title(panel["title"], fontsize=9)
        axes.tick_params(labelsize=6)
    figure.suptitle(dashboard["title"], fontsize=11)
    figure.tight_layout()
    path = os.path.join(PICTURES, f"{dashboard['uid']}.png")
    figure.savefig(path, dpi=80, metadata={"Software": None}, pil_kwargs={"optimize": True})
    pyplot.close(figure)
    print(f"{os.path.relpath(path, ROOT)}: {os.path.getsize(path) // 1024} KiB")


class Load:
    """Clients that come one after another and leave again: sums, texts of many lengths, a tenth cancelled."""

    def __init__(self, target, seconds):
        self.target, self.seconds, self.begin = target, seconds, time.monotonic()
        self.turn = itertools.count()
        self.threads = [threading.Thread(target=self.run, args=(index,)) for index in range(CLIENTS)]

    def run(self, index):
        from client import Client
        first, last = self.seconds * index / (2 * CLIENTS), self.seconds * (1 - index / (3 * CLIENTS))
        time.sleep(first)
        with Client(self.target) as client:
            while time.monotonic() - self.begin < last:
                self.ask_once(client, next(self.turn))

    @staticmethod
    def ask_once(client, turn):
        if turn % 3 == 0:
            request = client.request(ids=[(7 * turn + at) % 250 for at in range(20 + 40 * (turn % 17))], max_new_tokens=120,
                                     ignore_eos=True, temperature=1, seed=turn)
        else:
            request = client.request(chat=[("user", f"{100 + turn % 800} + {turn % 97}")], max_new_tokens=300, seed=turn)
        stream = client.inference.Generate(request, timeout=60)
        with contextlib.suppress(grpc.RpcError):
            for count, _ in enumerate(stream):
                if turn % 10 == 9 and count == 20:
                    stream.cancel()

    def finish(self):
        for thread in self.threads:
            thread.start()
        for thread in self.threads:
            thread.join()


def main():
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 90
    os.makedirs(PICTURES, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        from m1_client import make_stubs
        make_stubs(folder)
        small = {"attention_flags": ["--max_sequences=6"]}
        with cluster_with_ports(**small) as (cluster, ports), Prometheus(ports, RULE_FILES) as prometheus:
            begin = time.time()
            Load(cluster.target, seconds).finish()
            for name in sorted(os.listdir(DASHBOARDS)):
                with open(os.path.join(DASHBOARDS, name), encoding="utf-8") as file:
                    draw(json.load(file), prometheus.port, begin, time.time())


if __name__ == "__main__":
    main()

"""A real Prometheus over a real cluster whose processes show their metrics."""

import contextlib
import json
import pathlib
import re
import signal
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request

from cluster import Cluster, free_ports, wait_until

COMPONENTS = ("router", "attention-worker", "expert-worker")


def get(port, path):
    """(status, body)"""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def sample(text, name, **labels):
    """The sum of the samples of this name that have these labels."""
    total = 0.0
    for line in text.splitlines():
        match = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        if match and match[1] == name:
            got = dict(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
            if labels.items() <= got.items():
                total += float(match[3])
    return total


class Prometheus:
    """The real server, scraping each component's port as a job of its name and evaluating the rules."""

    def __init__(self, ports, rule_files=()):
        self.folder = tempfile.TemporaryDirectory()
        self.port = free_ports(1)[0]
        config = {"global": {"scrape_interval": "500ms", "scrape_timeout": "400ms", "evaluation_interval": "500ms"},
                  "rule_files": list(rule_files),
                  "scrape_configs": [{"job_name": f"m1-{name}", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
                                     for name, port in ports.items()]}
        path = pathlib.Path(self.folder.name, "prometheus.yml")
        path.write_text(json.dumps(config), encoding="utf-8")
        self.popen = subprocess.Popen(["prometheus", f"--config.file={path}", f"--storage.tsdb.path={self.folder.name}/data",
                                       f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=error"])

    def query(self, expression):
        with contextlib.suppress(urllib.error.URLError):
            status, body = get(self.port, "/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
            if status == 503:  # it starts
                return []
            assert status == 200, body
            data = json.loads(body)["data"]
            samples = [data["result"]] if data["resultType"] == "scalar" else [one["value"] for one in data["result"]]
            return [float(value) for _, value in samples]
        return []

    def __enter__(self):
        wait_until(lambda: len(self.query("up == 1")) == len(COMPONENTS), 30)
        return self

    def __exit__(self, *_):
        self.popen.send_signal(signal.SIGTERM)
        self.popen.wait(20)
        self.folder.cleanup()


@contextlib.contextmanager
def cluster_with_ports(credentials=None, **more_flags):
    """A cluster and the port of each component's metrics; `more_flags`, `credentials` as of Cluster."""
    ports = dict(zip(COMPONENTS, free_ports(len(COMPONENTS))))
    flags = {f"{name.split('-', maxsplit=1)[0]}_flags": [f"--metrics_port={port}"] for name, port in ports.items()}
    for name, more in more_flags.items():
        flags[name] += more
    with Cluster("models/tiny", expert_workers=1, credentials=credentials, **flags) as cluster:
        yield cluster, ports

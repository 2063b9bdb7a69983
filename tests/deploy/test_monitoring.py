"""deploy/monitoring.md against what processes show under all kinds of requests: kind, labels, their values, bounds."""

import re

import grpc
import pytest

import markdown
from tool import read
from cluster import run_m1
from prometheus import COMPONENTS, cluster_with_ports, get, sample

SECTIONS = markdown.sections(read("deploy/monitoring.md"))
HEADINGS = {"router": "Router", "attention-worker": "Attention worker", "expert-worker": "Expert worker"}
# Labels whose values are few and written in the document.
LISTED = {"phase", "transport", "reason", "result", "finish_reason"}
UNITS = {"seconds": "Bounds of seconds", "rows": "Bounds of rows"}


@pytest.fixture(scope="module")
def shown(stubs, tmp_path_factory):
    """{component: text of /metrics} after answers, a refusal and a call that was given up; with TLS, which has metrics of its own."""
    from client import Client
    from test_live import flags_of_tls
    flags, credentials = flags_of_tls(tmp_path_factory.mktemp("monitoring"))
    with cluster_with_ports(credentials=credentials, **flags) as (cluster, ports), Client(cluster.target, credentials=credentials) as client:
        client.generate(ids=[1, 2, 3], max_new_tokens=40, ignore_eos=True)
        client.generate(chat=[("user", "764 + 621")], temperature=0)
        with pytest.raises(grpc.RpcError):
            client.generate(ids=[10**6])
        call = client.inference.Generate(client.request(ids=[1], max_new_tokens=4000, ignore_eos=True))
        next(call)
        call.cancel()
        client.generate(ids=[1], max_new_tokens=2)
        yield {name: get(port, "/metrics")[1] for name, port in ports.items()}


def documented(component):
    """{metric: (kind, labels, meaning)}"""
    table = markdown.rows(SECTIONS["All processes"]) + markdown.rows(SECTIONS[HEADINGS[component]])
    return {cells[0].strip("`"): (cells[1], set(re.findall(r"`(\w+)`", cells[2])), cells[3]) for cells in table}


def samples(text):
    """(name, {label: value}) of every line."""
    for name, labels in re.findall(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
        yield name, dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels))


def by_metric(text):
    """{metric: [labels of each series]}, series of histograms under the histogram's name."""
    kinds = dict(re.findall(r"^# TYPE (\S+) (\w+)$", text, re.MULTILINE))
    found = {name: [] for name in kinds}
    for name, labels in samples(text):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        found[base if kinds.get(base) == "histogram" else name].append(labels)
    return found


@pytest.mark.parametrize("component", COMPONENTS)
def test_kinds(shown, component):
    kinds = dict(re.findall(r"^# TYPE (\S+) (\w+)$", shown[component], re.MULTILINE))
    assert {name: kind for name, (kind, _, _) in documented(component).items()} == kinds


@pytest.mark.parametrize("component", COMPONENTS)
def test_labels(shown, component):
    told, found = documented(component), by_metric(shown[component])
    for name, series in found.items():
        assert series, f"{name}: no series, so nothing can be said of its labels"
        for labels in series:
            assert labels.keys() - {"le"} == told[name][1], f"{name}: {labels}"


@pytest.mark.parametrize("component", COMPONENTS)
def test_values_of_labels(shown, component):
    for name, series in by_metric(shown[component]).items():
        for label in LISTED & documented(component)[name][1]:
            values = {labels[label] for labels in series}
            words = {word for word in re.findall(r"`(\w+)`", documented(component)[name][2]) if not word.startswith("m1_")}
            assert values <= words, f"{name}: {label} {values - words}"
            if name != "m1_router_requests_total":  # its reasons come as they happen
                assert values == words, f"{name}: {label} {words - values} is not shown"


@pytest.mark.parametrize("component", COMPONENTS)
def test_what_a_process_says_it_is(shown, component):
    version = re.search(r"VERSION (\S+) LANGUAGES", read("CMakeLists.txt"))[1]
    fingerprint = run_m1("checkpoint", "fingerprint", "--model=models/tiny").stdout.strip()
    assert len(fingerprint) == 64
    assert sample(shown[component], "m1_ready") == 1
    assert sample(shown[component], "m1_build_info", component=component, version=version) == 1
    assert sample(shown[component], "m1_model_info", fingerprint=fingerprint) == 1


@pytest.mark.parametrize("component", COMPONENTS)
def test_bounds(shown, component):
    text = re.sub(r"\s+", " ", read("deploy/monitoring.md"))
    bounds = {unit: [float(one) for one in re.search(f"{words}: ([0-9., ]+?)\\. ", text)[1].split(", ")] for unit, words in UNITS.items()}
    kinds = dict(re.findall(r"^# TYPE (\S+) (\w+)$", shown[component], re.MULTILINE))
    histograms = [name for name, kind in kinds.items() if kind == "histogram"]
    assert histograms
    for name in histograms:
        first = next(labels for labels in by_metric(shown[component])[name] if "le" in labels)
        wanted = {key: value for key, value in first.items() if key != "le"}
        les = [labels["le"] for labels in by_metric(shown[component])[name] if "le" in labels and wanted.items() <= labels.items()]
        assert les[-1] == "+Inf"
        assert [float(le) for le in les[:-1]] == bounds[name.rsplit("_", 1)[1]], name


def test_bounds_hold_the_objectives():
    """Rules compare buckets by name: each must be a bound."""
    from promql import load_rules
    text = re.sub(r"\s+", " ", read("deploy/monitoring.md"))
    seconds = {float(one) for one in re.search(r"Bounds of seconds: ([0-9., ]+?)\. ", text)[1].split(", ")}
    used = {float(le) for rule in load_rules() for le in re.findall(r'le="([0-9.]+)"', rule.expr)}
    assert used and used <= seconds

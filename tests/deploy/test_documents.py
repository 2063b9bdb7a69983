"""What operators read leads somewhere: links, anchors, files, metrics, alerts and tests that are named, and Helm's commands in the quickstart."""

import functools
import glob
import os
import re
import shlex

import helm_python
import pytest
import yaml

import chart
import markdown
from promql import base_metric, documented_metrics, load_alerts
from tool import ROOT, read

PAGES = sorted([*glob.glob("deploy/**/*.md", root_dir=ROOT, recursive=True), "README.md", "examples/README.md"])
QUICKSTART = "deploy/quickstart.md"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in markdown.links(read(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
        assert os.path.exists(os.path.join(ROOT, found)), f"{page}: {target}"
        if anchor:
            assert anchor in markdown.anchors(read(found)), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_are_there(page):
    """`tests/...`, `deploy/...`, `scripts/...` in backticks."""
    for path in re.findall(r"`((?:tests|deploy|scripts|models|examples)/[\w./-]+\w)`", read(page)):
        assert os.path.exists(os.path.join(ROOT, path)), f"{page}: {path}"


def test_every_page_is_in_the_index():
    index = set(markdown.links(read("deploy/README.md")))
    pages = {os.path.relpath(page, "deploy") for page in PAGES if page.startswith("deploy/") and page.count("/") == 1}
    assert pages - {"README.md"} <= index


def helm_commands():
    return [command for command in markdown.commands(read(QUICKSTART)) if re.match(r"helm (install|upgrade) ", command)]


@pytest.mark.parametrize("command", helm_commands())
def test_helm_commands_of_the_quickstart_render(command):
    words = shlex.split(command)[2:]
    release, path, values = words[0], words[1], {}
    assert os.path.samefile(os.path.join(ROOT, path), chart.CHART)
    for option, value in zip(words[2::2], words[3::2]):
        if option == "-f":
            with open(os.path.join(ROOT, value), encoding="utf-8") as file:
                values = chart.merged(values, yaml.safe_load(file))
        else:
            assert option == "--set"
            values = chart.merged(values, helm_python.parse_set_string(value))
    objects = chart.render(values, release)
    names = {f"{item['kind'].lower()}/{item['metadata']['name']}" for item in objects}
    for other in markdown.commands(read(QUICKSTART)):
        for named in re.findall(r"kubectl .*?((?:deployment|service)/\S+)", other):
            assert named in names


def test_helm_commands_are_there():
    assert len(helm_commands()) >= 2


def test_every_dashboard_has_its_picture():
    shown = set(markdown.links(read("deploy/grafana/README.md")))
    for name in os.listdir(os.path.join(ROOT, "deploy/helm/m1-serve/files/dashboards")):
        picture = f"pictures/{name.removesuffix('.json')}.png"
        assert picture in shown
        with open(os.path.join(ROOT, "deploy/grafana", picture), "rb") as file:
            data = file.read()
        assert data.startswith(b"\x89PNG") and len(data) < 120_000


@pytest.mark.parametrize("page", PAGES)
def test_metrics_and_alerts_that_are_named_exist(page):
    text, alerts = read(page), {alert.name for alert in load_alerts()}
    for name in re.findall(r"`(M1[A-Z]\w+)`", text):
        assert name in alerts, name
    for name in re.findall(r"`(m1_\w+)[`{]", text):
        assert base_metric(name) in documented_metrics(), name


@pytest.mark.parametrize("page", [page for page in PAGES if page != "deploy/runbook.md"])  # a section for each alert
def test_pages_are_short(page):
    assert len(read(page).splitlines()) <= 200


@functools.cache
def names_of_tests(path):
    return set(re.findall(r"^def (test_\w+)|TEST(?:_[FP])?\(\w+, (\w+)\)", read(path), re.MULTILINE))


def test_every_failure_names_its_test():
    sections = markdown.sections(read("deploy/failures.md"))
    seen = 0
    for heading in ("Router", "Attention worker", "Expert worker", "What they stand on"):
        for cells in markdown.rows(sections[heading]):
            assert len(cells) == 5 and all(cells), cells[0]
            for part in cells[4].split("; ") if cells[4] not in ("no test", "as its processes") else ():
                path, *names = re.findall(r"`([^`]+)`", part)
                known = {name for pair in names_of_tests(path) for name in pair}
                assert names and set(names) <= known, f"{cells[0]}: {part}"
                seen += 1
    assert seen >= 25

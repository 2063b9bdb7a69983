"""Every values file and every scenario renders and lints, or is refused with words that help."""

import glob
import os
import re

import helm_python
import pytest
import yaml

import chart

PATH = re.compile(r"\.Values((?:\.\w+)+)")
ROLE_PATH = re.compile(r"\$v((?:\.\w+)+)")


def test_enough_scenarios():
    assert len(chart.GOOD) + len(chart.BAD) >= 20 and len(chart.BAD) >= 6


@pytest.mark.parametrize("name", chart.GOOD)
def test_renders_and_lints(name):
    objects = chart.render(chart.GOOD[name])
    assert {item["kind"] for item in objects} >= {"Deployment", "StatefulSet", "Service", "ConfigMap"}
    result = helm_python.lint(chart.CHART, chart.GOOD[name], strict=True, namespace=chart.NAMESPACE)
    # The name that lint gives the release begins with a dash; "NAMESPACE-..." shows it when the namespace is empty.
    assert result["errors"] == [], result


@pytest.mark.parametrize("name", chart.BAD)
def test_is_refused_with_words_that_help(name):
    values, words = chart.BAD[name]
    with pytest.raises(helm_python.HelmError) as refused:
        chart.render(values)
    assert words in str(refused.value)


def templates():
    for folder, _, names in os.walk(os.path.join(chart.CHART, "templates")):
        for name in names:
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                yield name, file.read()


def lookup(values, path):
    for key in path.strip(".").split("."):
        if not isinstance(values, dict) or key not in values:
            return False
        values = values[key]
    return True


# Rendered only where they are set: free maps and optional keys of them.
OPTIONAL = {".attentionWorker.config.expert_loss_timeout"}


def test_every_path_of_a_template_exists_in_values():
    defaults = chart.default_values()
    seen = 0
    for name, text in templates():
        for path in PATH.findall(text):
            seen += 1
            assert path in OPTIONAL or lookup(defaults, path), f"{name}: .Values{path} is not in values.yaml"
        for path in ROLE_PATH.findall(text):
            seen += 1
            for role in chart.COMPONENTS.values():
                assert lookup(defaults[role], path), f"{name}: $v{path} is not in values.yaml's {role}"
    assert seen > 100


def leaf_paths(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaf_paths(value, f"{prefix}.{key}")
        else:
            yield f"{prefix}.{key}"


# Maps that templates render as they are.
WHOLE = {"updateStrategy", "resources", "config", "podSecurityContext", "containerSecurityContext"}


def test_every_value_is_used_by_a_template():
    text = "\n".join(body for _, body in templates())
    names = set(re.findall(r"\w+", text))
    unused = [path for path in leaf_paths(chart.default_values())
              if path.rsplit(".", 1)[1] not in names and not WHOLE & set(path.split("."))]
    assert unused == []


def test_notes_warn_of_what_is_open():
    open_notes = chart.render_texts({})["m1-serve/templates/NOTES.txt"]
    assert open_notes.count("WARNING") == 2 and "expertWorker.copies=1" in open_notes
    closed = chart.render_texts(chart.GOOD["multi-node"])["m1-serve/templates/NOTES.txt"]
    assert "WARNING" not in closed and "NOTE" not in closed
    assert "--tls_ca" in closed and "2 to 8 attention workers" in closed and "16 expert workers" in closed


def test_the_chart_packs(tmp_path):
    archive = helm_python.package(chart.CHART, destination=str(tmp_path))
    with helm_python.Chart.load(archive) as packed:
        assert packed.render({}, name="x", namespace="y")


def test_dashboards_and_rules_are_brought_unchanged():
    objects = chart.render({"monitoring": {"podMonitor": True, "prometheusRule": True, "dashboards": True}})
    files = os.path.join(chart.CHART, "files")
    for path in glob.glob(os.path.join(files, "dashboards", "*.json")):
        name = os.path.basename(path)
        with open(path, encoding="utf-8") as file:
            text = file.read()
        maps = [item for item in chart.of_kind(objects, "ConfigMap") if name in item["data"]]
        assert len(maps) == 1 and maps[0]["data"][name].strip() == text.strip()
        assert maps[0]["metadata"]["labels"]["grafana_dashboard"] == "1"
    rules = [item["spec"]["groups"] for item in chart.of_kind(objects, "PrometheusRule")]
    for path in glob.glob(os.path.join(files, "rules", "*.yml")):
        with open(path, encoding="utf-8") as file:
            assert yaml.safe_load(file)["groups"] in rules, path

"""Rules, their cases and their routes, with promtool and amtool."""

import collections
import functools
import glob
import os
import re

import grpc
import pytest
import yaml
from promql import RULE_FILES, Rule, base_metric, documented_metrics, load_alerts, load_rules, selected_names
from tool import ROOT, check_tool, read, run_tool

CASES = sorted(glob.glob(os.path.join(ROOT, "deploy/prometheus/tests/*.yml")))
ALERTMANAGER = "deploy/prometheus/alertmanager.yml"
ALERTS = load_alerts()
RUNBOOK = "https://m1-serve.example/deploy/runbook.md#"
RECEIVERS = {"critical": "pager", "warning": "tickets", "info": "nobody"}


def by_name(alert: Rule) -> str:
    return alert.name


def cases_of(alert_name: str) -> list[tuple[dict, dict]]:
    """Pairs of a promtool test and what it expects of this alert."""
    return [(test, expected) for path in CASES for test in load(path)["tests"]
            for expected in test.get("alert_rule_test", []) if expected["alertname"] == alert_name]


@functools.cache
def load(path: str) -> dict:
    return yaml.safe_load(read(path))


def test_rules_are_valid():
    assert RULE_FILES
    check_tool("promtool", "check", "rules", *RULE_FILES)


def test_every_case_holds():
    assert CASES
    check_tool("promtool", "test", "rules", *CASES)


def test_there_are_enough_and_names_are_unique():
    assert len(ALERTS) >= 15
    twice = [name for name, count in collections.Counter(rule.name for rule in load_rules()).items() if count > 1]
    assert not twice


@pytest.mark.parametrize("alert", ALERTS, ids=by_name)
def test_an_alert_is_complete(alert):
    assert re.fullmatch(r"M1[A-Z][A-Za-z]+", alert.name)
    assert alert.labels["severity"] in RECEIVERS, alert.labels
    assert alert.labels["area"] + ".yml" == alert.file
    for name in ("summary", "description"):
        assert len(alert.annotations[name]) > 20, f"{alert.name}: {name}"
    assert "{{" not in alert.annotations["summary"], "a summary is the same for every series"
    assert alert.annotations["runbook_url"] == RUNBOOK + alert.name.lower()


@pytest.mark.parametrize("alert", ALERTS, ids=by_name)
def test_an_alert_has_a_case_that_fires_and_one_that_is_silent(alert):
    cases = cases_of(alert.name)
    assert any(expected["exp_alerts"] for _, expected in cases), "no case fires"
    silent = [test for test, expected in cases if not expected["exp_alerts"]]
    assert silent, "no case is silent"
    recorded = {rule.name: selected_names(rule.expr) for rule in load_rules() if not rule.is_alert}
    wanted = set().union(*(expand(name, recorded) for name in selected_names(alert.expr)))
    for test in silent:  # silent for want of data would prove nothing
        given = {series["series"].split("{")[0] for series in test["input_series"]}
        assert wanted <= given, f"{test['name']}: no series {wanted - given}"


def expand(name: str, recorded: dict[str, set[str]]) -> set[str]:
    """The scraped metrics behind a name."""
    if name not in recorded:
        return {name}
    return set().union(*(expand(inner, recorded) for inner in recorded[name]))


def test_rules_select_what_is_recorded_or_scraped():
    recorded = {rule.name for rule in load_rules() if not rule.is_alert}
    for rule in load_rules():
        for name in selected_names(rule.expr):
            assert name in recorded or ":" not in name, f"{rule.name}: nobody records {name}"


def test_a_limit_that_moves_is_noticed(tmp_path):
    """The cases are near enough to the limits that changing one turns a case red."""
    for path in RULE_FILES:
        (tmp_path / os.path.basename(path)).write_text(read(path).replace(":used_ratio > 0.8", ":used_ratio > 0.6"))
    cases = tmp_path / "cases.yml"
    cases.write_text(read("deploy/prometheus/tests/router.yml").replace("../../helm/m1-serve/files/rules/", ""))
    code, said = run_tool("promtool", "test", "rules", str(cases))
    assert code == 1 and "M1RouterQueueNearlyFull" in said, said


def test_the_runbook_has_a_section_for_each_alert():
    sections = re.split(r"^## ", read("deploy/runbook.md"), flags=re.MULTILINE)[1:]
    assert sorted(section.splitlines()[0] for section in sections) == sorted(alert.name for alert in ALERTS)
    for section in sections:
        for part in ("**Means.** ", "**Look.** ", "**Do.** ", "**Clients see.** "):
            assert len(section.partition(part)[2].partition("**")[0].strip()) > 5, section.splitlines()[0]


def test_the_runbook_names_metrics_that_are_recorded_or_documented():
    named = set(re.findall(r"[\w:]*\bm1_[a-z0-9_:]+", read("deploy/runbook.md")))
    assert named
    for name in named:
        assert name in {rule.name for rule in load_rules()} or base_metric(name) in documented_metrics(), name


def test_rules_ask_only_for_documented_metrics():
    recorded = {rule.name for rule in load_rules()}
    for rule in load_rules():
        for name in selected_names(rule.expr) - recorded - {"up"}:
            assert base_metric(name) in documented_metrics(), f"{rule.name}: {name}"


def test_codes_are_those_of_grpc():
    patterns = set(re.findall(r'\bcode[=!]~?"([^"]*)"', " ".join(rule.expr for rule in load_rules())))
    assert patterns
    for code in "|".join(patterns).split("|"):
        assert code in grpc.StatusCode.__members__, code


def test_configurations_are_valid():
    check_tool("amtool", "check-config", ALERTMANAGER)
    check_tool("promtool", "check", "config", "--syntax-only", "deploy/prometheus/prometheus.yml")


@pytest.mark.parametrize("severity, receiver", RECEIVERS.items())
def test_an_alert_goes_to_its_receiver(severity, receiver):
    check_tool("amtool", "config", "routes", "test", f"--config.file={ALERTMANAGER}",
               f"--verify.receivers={receiver}", "alertname=M1TargetDown", "namespace=prod", f"severity={severity}")


def test_a_wrong_receiver_is_noticed():
    code, _ = run_tool("amtool", "config", "routes", "test", f"--config.file={ALERTMANAGER}",
                       "--verify.receivers=nobody", "severity=critical")
    assert code != 0


def test_silenced_alerts_exist():
    names = {alert.name for alert in ALERTS}
    for rule in load(ALERTMANAGER)["inhibit_rules"]:
        for matcher in rule["source_matchers"] + rule["target_matchers"]:
            pattern = re.fullmatch(r'alertname=~?"(.+)"', matcher).group(1)
            for one in pattern.split("|"):
                assert any(re.fullmatch(one, name) for name in names), f"no alert {one}"


def test_compose_scrapes_the_jobs_that_rules_select():
    jobs = [config["job_name"] for config in load("deploy/prometheus/prometheus.yml")["scrape_configs"]]
    patterns = set(re.findall(r'job=~"([^"]+)"', " ".join(rule.expr for rule in load_rules())))
    assert patterns
    for pattern in patterns:
        assert sum(bool(re.fullmatch(pattern, job)) for job in jobs) == 3, (pattern, jobs)

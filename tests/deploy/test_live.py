"""A real Prometheus evaluates the rules over a real cluster: every rule and every panel has a series, no alert fires."""

import contextlib
import json
import re
import time

import pytest
from client import Client
from cluster import wait_until
from promql import RULE_FILES, conditions, load_alerts, load_rules
from prometheus import Prometheus, cluster_with_ports, get
from test_dashboards import UIDS, load, substituted

# Compare with an hour ago, which no test waits for.
WITHOUT_PAST = re.compile(r"offset 1h")


@pytest.fixture(scope="module")
def prometheus(stubs):
    with cluster_with_ports() as (cluster, ports), Prometheus(ports, RULE_FILES) as server, Client(cluster.target) as client:
        end = time.monotonic() + 4
        while time.monotonic() < end:  # rates want more than one scrape with traffic
            client.generate(ids=list(range(40)), max_new_tokens=8, ignore_eos=True)
        yield server


def rates_of_unset_labels(expr):
    """A selection of errors has no series in a cluster without errors: then the rest of the rule stands in for it."""
    return re.sub(r'code=~"[^"]*"', 'code="OK"', expr)


@pytest.mark.parametrize("rule", [rule for rule in load_rules() if not rule.is_alert], ids=lambda rule: rule.name)
def test_every_recording_rule_has_a_series(prometheus, rule):
    with contextlib.suppress(AssertionError):
        wait_until(lambda: prometheus.query(rule.name), 10)
    assert prometheus.query(rule.name), rule.expr


@pytest.mark.parametrize("alert", load_alerts(), ids=lambda alert: alert.name)
def test_every_condition_of_an_alert_has_a_series(prometheus, alert):
    for condition in conditions(alert.expr):
        if WITHOUT_PAST.search(condition):
            continue
        with contextlib.suppress(AssertionError):
            wait_until(lambda: prometheus.query(rates_of_unset_labels(condition)), 10)  # pylint: disable=cell-var-from-loop
        assert prometheus.query(rates_of_unset_labels(condition)), condition


@pytest.mark.parametrize("uid", UIDS)
def test_every_panel_has_a_series(prometheus, uid):
    expressions = [substituted(target["expr"]) for panel in load(uid)["panels"] for target in panel["targets"]]
    assert expressions

    def without_series():
        return [expression for expression in expressions if not prometheus.query(expression)]

    with contextlib.suppress(AssertionError):
        wait_until(lambda: not without_series(), 10)
    assert not without_series()


def test_a_healthy_cluster_fires_nothing(prometheus):
    status, body = get(prometheus.port, "/api/v1/alerts")
    assert status == 200
    alerts = json.loads(body)["data"]["alerts"]
    assert not [alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"], alerts

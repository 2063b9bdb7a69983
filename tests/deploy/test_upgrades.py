"""deploy/upgrades.md: what is compared at connect, who restarts, and two releases that do not meet."""

import re

import pytest

import chart
import markdown
from tool import read

SECTIONS = markdown.sections(read("deploy/upgrades.md"))


def test_what_must_agree_is_what_is_compared():
    told = [cells[0].strip("`") for cells in markdown.rows(SECTIONS["What must agree"])]
    assert told == re.findall(r'compare_\w+\("(\w+)"', read("common/exchange/identity.cc")), "workers compare other fields"
    fleet = re.search(r"struct FleetIdentity \{(.*?)\n\};", read("router/worker_protocol.h"), re.DOTALL)[1]
    assert told == re.findall(r"^  \S+ (\w+)(?: = 0)?;$", fleet, re.MULTILINE), "routers compare other fields"


@pytest.mark.parametrize("name", ["host path", "everything"])
def test_two_releases_share_nothing(name):
    """No object of one has a name of the other's, and nothing of one selects a pod of the other."""
    old, new = (chart.render(chart.GOOD[name], release) for release in ("m1", "m1-next"))
    names = [{(item["kind"], item["metadata"]["name"]) for item in objects} for objects in (old, new)]
    assert not names[0] & names[1]
    pods = [metadata["labels"] for _, metadata, _ in chart.pods(new)]
    selecting = chart.of_kind(old, "Service", "NetworkPolicy", "PodDisruptionBudget", "StatefulSet", "Deployment")
    assert pods and selecting
    for item in selecting:
        selector = item["spec"].get("selector", item["spec"].get("podSelector"))
        selector = selector.get("matchLabels", selector)
        assert selector and not any(selector.items() <= labels.items() for labels in pods), item["metadata"]["name"]


def pod_templates(values):
    return {name: item["spec"]["template"] for name, item in chart.workloads(chart.render(values)).items()}


OTHER_TOKENS = {"auth": {"tokens": [{"name": "carol", "sha256": "c" * 64}]}}


@pytest.mark.parametrize("before, change, restarted", [
    ({}, {"router": {"replicas": 5}, "networkPolicy": {"enabled": False}, "metricsPort": 9464}, set()),
    ({}, {"monitoring": {"podMonitor": True, "prometheusRule": True, "dashboards": True}}, set()),
    ({}, {"router": {"podDisruptionBudget": {"enabled": False}}, "expertWorker": {"copies": 2}, "attentionWorker": {"replicas": 9}}, set()),
    (chart.TOKENS, OTHER_TOKENS, set()),
    ({}, {"router": {"config": {"queue_size": 77}}}, {"router"}),
    ({}, {"attentionWorker": {"config": {"max_sequences": 9}}}, {"attention-worker"}),
    ({}, {"expertWorker": {"resources": {"limits": {"memory": "3Gi"}}}}, {"expert-worker"}),
    ({}, {"image": {"tag": "0.1.1"}}, set(chart.COMPONENTS)),
])
def test_a_change_restarts_only_whom_it_concerns(before, change, restarted):
    old, new = pod_templates(before), pod_templates(chart.merged(before, change))
    assert {name for name in old if old[name] != new[name]} == restarted

"""Dashboards: made by their generator, complete, and asking only for metrics that exist."""

import json
import os
import re
import sys

import promql_parser
import pytest
from promql import CHART_FILES, base_metric, documented_metrics, load_rules, selected_names, substituted
from tool import ROOT

sys.path.append(os.path.join(ROOT, "deploy/grafana"))
import make_dashboards  # noqa: E402  pylint: disable=wrong-import-position

UIDS = sorted(make_dashboards.DASHBOARDS)
UNITS = {"short", "s", "percentunit", "reqps", "ops", "bytes", "Bps"}


def load(uid: str) -> dict:
    with open(os.path.join(CHART_FILES, "dashboards", f"{uid}.json"), encoding="utf-8") as file:
        return json.load(file)


def test_there_are_no_others():
    assert sorted(os.listdir(os.path.join(CHART_FILES, "dashboards"))) == [f"{uid}.json" for uid in UIDS]


@pytest.mark.parametrize("uid", UIDS)
def test_the_committed_file_is_what_the_generator_writes(uid):
    assert load(uid) == json.loads(make_dashboards.render(uid))


@pytest.mark.parametrize("uid", UIDS)
def test_panels_are_complete(uid):
    board = load(uid)
    panels = board["panels"]
    assert board["uid"] == uid and {v["name"] for v in board["templating"]["list"]} == {"datasource", "namespace"}
    for key in ("id", "title"):
        assert len({one[key] for one in panels}) == len(panels), f"a {key} twice"
    for one in panels:
        assert one["datasource"]["uid"] == "${datasource}", one["title"]
        assert len(one["description"]) > 10 and one["fieldConfig"]["defaults"]["unit"] in UNITS, one["title"]
        assert one["gridPos"]["x"] + one["gridPos"]["w"] <= 24 and one["targets"], one["title"]


@pytest.mark.parametrize("uid", UIDS)
def test_expressions_ask_for_what_exists(uid):
    recorded = {rule.name for rule in load_rules() if not rule.is_alert}
    known = {*recorded, *documented_metrics()}
    for one in load(uid)["panels"]:
        for target in one["targets"]:
            expr = target["expr"]
            assert "[" not in expr or set(re.findall(r"\[(.*?)\]", expr)) == {"$__rate_interval"}, expr
            promql_parser.parse(substituted(expr))
            for name in selected_names(substituted(expr)):
                assert {name, base_metric(name)} & known, f"{one['title']}: {name}"

"""What rules and dashboards ask: files, expressions, the metrics in them."""

import dataclasses
import functools
import glob
import os
import re
from collections.abc import Iterator

import promql_parser
import yaml
from tool import ROOT, read

CHART_FILES = os.path.join(ROOT, "deploy/helm/m1-serve/files")
RULE_FILES = sorted(glob.glob(os.path.join(CHART_FILES, "rules/*.yml")))
SET_OPERATORS = {"and", "or", "unless"}
COMPARISONS = {"==", "!=", ">", "<", ">=", "<="}


@dataclasses.dataclass(frozen=True)
class Rule:
    """A recording rule or an alert."""
    name: str
    expr: str
    file: str
    is_alert: bool
    labels: dict
    annotations: dict


@functools.cache
def load_rules() -> list[Rule]:
    found = []
    for path in RULE_FILES:
        with open(path, encoding="utf-8") as file:
            groups = yaml.safe_load(file)["groups"]
        for rule in (rule for group in groups for rule in group["rules"]):
            found.append(Rule(rule.get("alert") or rule["record"], rule["expr"], os.path.basename(path),
                              "alert" in rule, rule.get("labels", {}), rule.get("annotations", {})))
    return found


def load_alerts() -> list[Rule]:
    return [rule for rule in load_rules() if rule.is_alert]


def selectors(node) -> Iterator[promql_parser.VectorSelector]:
    """Of a parsed expression, those of ranges among them. (promql_parser.walk() wants a function in some versions and a
    visitor in others.)"""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    elif isinstance(node, promql_parser.MatrixSelector):
        yield node.vector_selector
    for child in children(node):
        yield from selectors(child)


def selected_names(expr: str) -> set[str]:
    """Names of all series that the expression selects."""
    return {selector.name for selector in selectors(promql_parser.parse(expr))}


def children(expr) -> list:
    if isinstance(expr, promql_parser.BinaryExpr):
        return [expr.lhs, expr.rhs]
    if isinstance(expr, promql_parser.Call):
        return list(expr.args)
    if isinstance(expr, promql_parser.AggregateExpr):
        return [part for part in (expr.expr, expr.param) if part is not None]
    if isinstance(expr, (promql_parser.ParenExpr, promql_parser.UnaryExpr, promql_parser.SubqueryExpr)):
        return [expr.expr]
    return []


def substituted(expr: str, window: str = "1m") -> str:
    """As Grafana would send what a panel asks."""
    return expr.replace("$__rate_interval", window).replace("$namespace", ".*")


def base_metric(name: str) -> str:
    """The name under which a histogram's series are documented."""
    return re.sub(r"_(bucket|sum|count)$", "", name)


@functools.cache
def documented_metrics() -> frozenset[str]:
    """Those that deploy/monitoring.md lists."""
    return frozenset(re.findall(r"^\| `(\w+)`", read("deploy/monitoring.md"), re.MULTILINE))


def conditions(expr: str) -> Iterator[str]:
    """What an alert compares: the parts of its expression that have a value also while it is silent."""
    def split(node) -> Iterator[str]:
        if isinstance(node, promql_parser.ParenExpr):
            yield from split(node.expr)
        elif isinstance(node, promql_parser.BinaryExpr) and str(node.op) in SET_OPERATORS | COMPARISONS:
            yield from split(node.lhs)
            yield from split(node.rhs)
        elif isinstance(node, promql_parser.Call) and node.func.name == "absent":
            yield from split(node.args[0])
        elif children(node) or not isinstance(node, promql_parser.NumberLiteral):
            yield node.prettify()
    yield from split(promql_parser.parse(expr))

"""values.schema.json is closed and described, and refuses typos and wrong types wherever they stand."""

import copy
import os
import random
import re

import helm_python
import pytest

import chart
from cluster import known_flags

BIN = os.environ.get("M1_BIN", "build/release/bin")
MUTATIONS = 200
# Maps whose keys the operator chooses, and objects that Kubernetes defines: the API server checks these.
FREE = {"additionalProperties", "propertyNames"}


def objects_of(node, path=""):
    """Every schema of an object below `node`, with its path."""
    if isinstance(node, dict):
        if node.get("type") == "object":
            yield path, node
        for key, child in node.items():
            yield from objects_of(child, f"{path}/{key}")
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from objects_of(child, f"{path}/{index}")


def test_closed():
    closed, free = 0, []
    for path, node in objects_of(chart.schema()):
        if node.get("additionalProperties") is False:
            closed += 1
        elif not isinstance(node.get("additionalProperties"), dict):  # a map of strings is closed in its own way
            free.append(path)
    assert closed > 40
    kubernetes = re.compile(r"/(global|affinity/.*|namedObject|peer/.*|extraVolumeMounts/items|topologySpreadConstraints/items|"
                            r"extraObjects/items)$")
    assert [path for path in free if not kubernetes.search(path)] == []


def test_described():
    missing = []
    for path, node in objects_of(chart.schema()):
        for name, child in node.get("properties", {}).items():
            if not child.get("description", "").strip():
                missing.append(f"{path}/{name}")
    assert missing == []


def places(values, node, root, path=()):
    """("typo", path): a key that the schema names; ("flip", path): a value whose type it knows; ("lose", path): one that
    must be there (null takes a default away)."""
    node = root["$defs"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node
    if isinstance(values, dict):
        if node.get("additionalProperties") is False:
            for key in values:
                yield "typo", (*path, key)
        for key, value in values.items():
            child = node.get("properties", {}).get(key)
            if child is None and isinstance(node.get("additionalProperties"), dict):
                child = node["additionalProperties"]
            if child is not None:
                yield "flip", (*path, key)
                if key in node.get("required", []):
                    yield "lose", (*path, key)
                yield from places(value, child, root, (*path, key))
    elif isinstance(values, list) and "items" in node:
        for index, value in enumerate(values):
            yield "flip", (*path, index)
            yield from places(value, node["items"], root, (*path, index))


def misspelt(key, numbers):
    index = numbers.randrange(len(key))
    return numbers.choice([key[:index] + key[index + 1:] + "x", key[:index] + "q" + key[index:], key + key[-1], key.swapcase()])


def other_type(value, numbers):
    """A value of a type that no schema here takes beside the one it has. Numbers and strings may both be quantities."""
    choices = [["a list"], {"a": "map"}]
    if isinstance(value, (list, dict)):
        choices = ["text", 7, True]
    elif isinstance(value, bool):
        choices += ["true", 1]
    elif isinstance(value, int):
        choices += [f"x{value}", True]
    else:
        choices += [True]
    return numbers.choice(choices)


def mutated(values, kind, path, numbers):
    values = copy.deepcopy(values)
    parent = values
    for key in path[:-1]:
        parent = parent[key]
    if kind == "lose":
        parent[path[-1]] = None
    elif kind == "typo":
        key = misspelt(path[-1], numbers)
        if key in parent:
            return None
        parent[key] = parent.pop(path[-1])
    else:
        parent[path[-1]] = other_type(parent[path[-1]], numbers)
    return values


def test_typos_and_flipped_types_are_refused():
    """200 random ones, out of the whole of values.yaml and of a scenario that sets what it leaves empty."""
    numbers = random.Random(7)
    full = chart.merged(chart.default_values(), *(chart.GOOD[name] for name in (
        "everything", "names", "extras", "flags", "load balancer", "gpus")))
    candidates = list(places(full, chart.schema(), chart.schema()))
    assert len(candidates) > 400
    refused, accepted, made = 0, [], 0
    with helm_python.Chart.load(chart.CHART) as loaded:
        loaded.validate_schema(full)
        while made < MUTATIONS:
            kind, path = numbers.choice(candidates)
            values = mutated(full, kind, path, numbers)
            if values is None:
                continue
            made += 1
            try:
                loaded.validate_schema(values)
                accepted.append((kind, path))
            except helm_python.HelmValuesError as error:
                assert str(error).strip()
                refused += 1
    assert accepted == [], f"{refused} of {MUTATIONS} refused"


@pytest.mark.parametrize("component, role", chart.COMPONENTS.items())
def test_tuning_flags_are_flags_of_the_server(component, role):
    known = known_flags(f"m1-{component}")
    set_by_chart = set(chart.flags(chart.workloads(chart.render(chart.GOOD["everything"]))[component]["spec"]["template"]
                                   ["spec"]["containers"][0])) - {"flagfile"}
    tuning = set(chart.schema()["properties"][role]["properties"]["config"]["properties"])
    assert tuning <= known
    assert set_by_chart <= known
    # What neither names would be out of an operator's reach but for extraArgs.
    assert known - tuning - set_by_chart <= {"experts", "insecure", "metrics_address", "shared_memory"}

"""Of all connections that could be tried, the network policies allow those of the role graph and no others."""

import itertools

import pytest

import chart

PORTS = {"router": 50051, "attention-worker": 50052, "expert-worker": 50053}
METRICS = 9464
APP = {"app.kubernetes.io/name": "m1-serve", "app.kubernetes.io/instance": chart.RELEASE}
OUR_NAMESPACE = {"kubernetes.io/metadata.name": chart.NAMESPACE}


def pod(namespace, **labels):
    return {"namespace": {"kubernetes.io/metadata.name": namespace, **({"team": "apps"} if namespace == "apps" else {})},
            "labels": labels}


def ours(component, instance=chart.RELEASE, namespace=chart.NAMESPACE):
    return pod(namespace, **{**APP, "app.kubernetes.io/instance": instance, "app.kubernetes.io/component": component})


WORLD = {
    **{name: ours(name) for name in PORTS},
    "test": ours("test"),
    "stranger here": pod(chart.NAMESPACE, app="other"),
    "client": pod("apps", app="client"),
    "prometheus": pod("monitoring", app="prometheus"),
    "dns": pod("kube-system", **{"k8s-app": "kube-dns"}),
    "router of another release": ours("router", instance="second"),
    "router of another namespace": ours("router", namespace="staging"),
}


def selects(selector, labels):
    if selector is None:
        return True
    assert not set(selector) - {"matchLabels"}
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def peer_is(peer, other):
    """A peer without namespaceSelector means the policy's own namespace."""
    assert "ipBlock" not in peer
    here = other["namespace"] == OUR_NAMESPACE if "namespaceSelector" not in peer else selects(
        peer["namespaceSelector"], other["namespace"])
    return here and selects(peer.get("podSelector"), other["labels"])


def side_allows(policies, direction, subject, other, port, protocol):
    """Whether the policies that select `subject` let it talk to `other`; without any they do."""
    rules_key, peers_key = ("ingress", "from") if direction == "Ingress" else ("egress", "to")
    chosen = [policy["spec"] for policy in policies if subject["namespace"] == OUR_NAMESPACE
              and selects(policy["spec"]["podSelector"], subject["labels"]) and direction in policy["spec"]["policyTypes"]]
    if not chosen:
        return True
    for rule in itertools.chain.from_iterable(spec.get(rules_key, []) for spec in chosen):
        port_fits = "ports" not in rule or any(
            entry["port"] == port and entry.get("protocol", "TCP") == protocol for entry in rule["ports"])
        peer_fits = peers_key not in rule or any(peer_is(peer, other) for peer in rule[peers_key])
        if port_fits and peer_fits:
            return True
    return False


def edges(objects):
    policies = chart.of_kind(objects, "NetworkPolicy")
    allowed = set()
    for (source, a), (target, b) in itertools.permutations(WORLD.items(), 2):
        for port, protocol in [*((port, "TCP") for port in (*PORTS.values(), METRICS, 53, 443)), (53, "UDP")]:
            if (source in PORTS or target in PORTS) and side_allows(policies, "Egress", a, b, port, protocol) and side_allows(
                    policies, "Ingress", b, a, port, protocol):
                allowed.add((source, target, port, protocol))
    return allowed


def role_graph(clients):
    graph = {("router", "attention-worker", 50052, "TCP"), ("attention-worker", "expert-worker", 50053, "TCP")}
    graph |= {(client, "router", 50051, "TCP") for client in clients}
    graph |= {("prometheus", name, METRICS, "TCP") for name in PORTS}
    graph |= {(name, "dns", 53, protocol) for name in ("router", "attention-worker") for protocol in ("TCP", "UDP")}
    return graph


def test_edges_are_the_role_graph():
    # Anybody may call the routers, but no worker may call back.
    clients = set(WORLD) - set(PORTS)
    assert edges(chart.render({})) == role_graph(clients)


def test_edges_with_named_clients():
    objects = chart.render(chart.GOOD["closed policies"])
    graph = {edge for edge in role_graph({"client", "test"}) if edge[2] != METRICS}
    assert edges(objects) == graph


@pytest.mark.parametrize("broken", ["expert-worker", "attention-worker", "router"])
def test_a_missing_policy_is_seen(broken):
    objects = [item for item in chart.render({}) if item["kind"] != "NetworkPolicy" or chart.component(item) != broken]
    assert edges(objects) != role_graph(set(WORLD) - set(PORTS))


def test_other_ports_are_followed():
    objects = chart.render({"expertWorker": {"port": 6000}})
    assert ("attention-worker", "expert-worker", 50053, "TCP") not in edges(objects)
    policies = chart.of_kind(objects, "NetworkPolicy")
    assert side_allows(policies, "Ingress", WORLD["expert-worker"], WORLD["attention-worker"], 6000, "TCP")
    assert side_allows(policies, "Egress", WORLD["attention-worker"], WORLD["expert-worker"], 6000, "TCP")

"""A release's life through Helm's own path against an API stub: install, upgrade, a refused upgrade, rollback, uninstall."""

import helm_python
import pytest
import yaml

import chart
from kube_stub import KubeStub

DEAD = yaml.safe_dump({"apiVersion": "v1", "kind": "Config", "current-context": "x",
                       "clusters": [{"name": "x", "cluster": {"server": "http://127.0.0.1:9"}}],
                       "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
                       "users": [{"name": "x", "user": {}}]})


@pytest.fixture
def stub():
    with KubeStub() as running:
        yield running


@pytest.fixture
def helm(stub):
    config = helm_python.Config(kubeconfig_content=stub.kubeconfig, namespace=chart.NAMESPACE, storage_driver="memory")
    yield config
    config.close()


def replicas(stub, component):
    kind = "deployments" if component == "router" else "statefulsets"
    return stub.named(kind, f"demo-m1-serve-{component}")["spec"]["replicas"]


def test_install_upgrade_rollback_uninstall(stub, helm):
    helm.install(chart.CHART, "demo", chart.GOOD["defaults"], namespace=chart.NAMESPACE, timeout=120)
    expected = {(item["kind"], item["metadata"]["name"]) for item in chart.render({}) if item["kind"] != "Pod"}
    assert {(item["kind"], item["metadata"]["name"]) for item in stub.objects.values()} == expected
    assert replicas(stub, "expert-worker") == 2

    helm.upgrade(chart.CHART, "demo", {"expertWorker": {"copies": 3}, "autoscaling": {"enabled": True}}, timeout=120)
    assert replicas(stub, "expert-worker") == 6
    assert stub.named("horizontalpodautoscalers", "demo-m1-serve-attention-worker")

    before = dict(stub.objects)
    with pytest.raises(helm_python.HelmError, match="minReplicas is 5"):
        helm.upgrade(chart.CHART, "demo", chart.BAD["autoscaling backwards"][0], timeout=120)
    with pytest.raises(helm_python.HelmError, match="replicaCount"):
        helm.upgrade(chart.CHART, "demo", chart.BAD["an unknown key"][0], timeout=120)
    assert stub.objects == before, "a refused upgrade changed something"

    helm.rollback("demo", version=1, timeout=120)
    assert replicas(stub, "expert-worker") == 2
    assert not any(path.endswith("/horizontalpodautoscalers/demo-m1-serve-attention-worker") for path in stub.objects)

    helm.uninstall("demo", timeout=120)
    assert stub.objects == {}


def test_the_claim_outlives_the_release(stub, helm):
    helm.install(chart.CHART, "demo", chart.GOOD["made claim"], namespace=chart.NAMESPACE, timeout=120)
    helm.uninstall("demo", timeout=120)
    assert [item["kind"] for item in stub.objects.values()] == ["PersistentVolumeClaim"]


@pytest.mark.parametrize("name", ["everything", "host path", "service monitor"])
def test_installs(stub, helm, name):
    helm.install(chart.CHART, "demo", chart.GOOD[name], namespace=chart.NAMESPACE, timeout=120)
    expected = {(item["kind"], item["metadata"]["name"]) for item in chart.render(chart.GOOD[name]) if item["kind"] != "Pod"}
    assert {(item["kind"], item["metadata"]["name"]) for item in stub.objects.values()} == expected


def test_dry_run_needs_no_cluster():
    config = helm_python.Config(kubeconfig_content=DEAD, namespace=chart.NAMESPACE, storage_driver="memory")
    release = config.install(chart.CHART, "demo", {}, namespace=chart.NAMESPACE, dry_run="client")
    assert "demo-m1-serve-router" in str(release)
    config.close()

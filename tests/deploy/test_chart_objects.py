"""The objects of every scenario against the schemas of Kubernetes 1.27 and 1.37, and what schemas cannot say."""

import re

import jsonschema
import kubernetes_validate
import pytest
from cloudcoil.models.prometheus_operator import v1 as operator

import chart

VERSIONS = ("1.27", "1.37")
OPERATOR = {"PodMonitor": operator.PodMonitor, "ServiceMonitor": operator.ServiceMonitor, "PrometheusRule": operator.PrometheusRule}
QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|[kMGTPE]|[KMGTPE]i)?")

pytestmark = pytest.mark.parametrize("objects", [pytest.param(chart.render(values), id=name)
                                                 for name, values in chart.GOOD.items()])


def closed(schema):
    """The same schema with no room for unknown fields."""
    if isinstance(schema, dict):
        schema = {key: closed(value) for key, value in schema.items()}
        if isinstance(schema.get("pattern"), str):  # Go takes flags anywhere, Python at the start
            schema["pattern"] = re.sub(r"^(.+)(\(\?i\))", r"\2\1", schema["pattern"])
        if "properties" in schema and schema.get("type") == "object":
            schema["additionalProperties"] = False
        return schema
    return [closed(item) for item in schema] if isinstance(schema, list) else schema


def test_schemas(objects):
    for item in objects:
        if item["kind"] in OPERATOR:
            assert item["apiVersion"] == "monitoring.coreos.com/v1"
            jsonschema.validate(item, closed(OPERATOR[item["kind"]].model_json_schema(by_alias=True)))
            continue
        for version in VERSIONS:
            kubernetes_validate.validate(item, version, strict=True)  # an unknown kind raises


def test_names_and_labels(objects):
    names = [(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in objects]
    assert len(set(names)) == len(names)
    for item in objects:
        assert re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?", item["metadata"]["name"])
        if item["metadata"]["name"].endswith("-extra"):
            continue
        labels = item["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == chart.RELEASE
        assert {"app.kubernetes.io/name", "app.kubernetes.io/version", "app.kubernetes.io/managed-by", "helm.sh/chart"} <= set(labels)
        assert all(re.fullmatch(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?", str(value)) for value in labels.values())
        if item["kind"] != "PersistentVolume":
            assert item["metadata"]["namespace"] == chart.NAMESPACE


def matches(selector, labels):
    expressions = all(labels.get(rule["key"]) in rule["values"] for rule in selector.get("matchExpressions", []))
    return expressions and all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def test_selectors(objects):
    """Each selector finds the pods of its own component and no others."""
    pods = chart.pods(objects)

    def found(selector):
        return {metadata["labels"]["app.kubernetes.io/component"] for _, metadata, _ in pods
                if matches(selector, metadata["labels"])}

    for item in objects:
        if item["kind"] in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
            assert found(item["spec"]["selector"]) == {chart.component(item)}
        elif item["kind"] == "Service":
            assert found({"matchLabels": item["spec"]["selector"]}) == {chart.component(item)}
        elif item["kind"] == "PodMonitor":
            assert found(item["spec"]["selector"]) == set(chart.COMPONENTS)
        elif item["kind"] == "ServiceMonitor":
            services = [service for service in chart.of_kind(objects, "Service")
                        if matches(item["spec"]["selector"], service["metadata"]["labels"])]
            assert sorted(map(chart.component, services)) == sorted(chart.COMPONENTS)
            assert all(any(port["name"] == "metrics" for port in service["spec"]["ports"]) for service in services)
        elif item["kind"] == "HorizontalPodAutoscaler":
            target = item["spec"]["scaleTargetRef"]
            owner = chart.workloads(objects)["attention-worker"]
            assert (target["kind"], target["name"]) == (owner["kind"], owner["metadata"]["name"])
            assert "replicas" not in owner["spec"], "the chart and the autoscaler would fight"
    for item in chart.workloads(objects).values():
        for constraint in item["spec"]["template"]["spec"].get("topologySpreadConstraints", []):
            if "labelSelector" in constraint:
                assert found(constraint["labelSelector"]) == {chart.component(item)}


def test_ports(objects):
    """Flag, container port, service and the address that callers are given say the same number."""
    servers = {name: item["spec"]["template"]["spec"]["containers"][0] for name, item in chart.workloads(objects).items()}
    for name, container in servers.items():
        flags = chart.flags(container)
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports == {"grpc": int(flags["port"]), "metrics": int(flags["metrics_port"])}
        assert len(set(ports.values())) == 2 and all(1024 <= port <= 65535 for port in ports.values())
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"]["port"] == "metrics"
        for service in chart.of_kind(objects, "Service"):
            if chart.component(service) == name:
                for port in service["spec"]["ports"]:
                    assert port["targetPort"] in ports and port["port"] == ports[port["targetPort"]]
    for caller, flag, callee in (("router", "attention_workers", "attention-worker"),
                                 ("attention-worker", "expert_workers", "expert-worker")):
        address = chart.flags(servers[caller])[flag]
        name, namespace, rest = re.fullmatch(r"dns:///([^.]+)\.([^.]+)\.svc\.(.+)", address).groups()
        headless = [service for service in chart.of_kind(objects, "Service") if service["metadata"]["name"] == name]
        assert len(headless) == 1 and chart.component(headless[0]) == callee and namespace == chart.NAMESPACE
        assert headless[0]["spec"]["clusterIP"] == "None" and headless[0]["spec"]["publishNotReadyAddresses"] is True
        assert int(rest.rsplit(":", 1)[1]) == int(chart.flags(servers[callee])["port"])
    for item in chart.of_kind(objects, "StatefulSet"):
        assert item["spec"]["serviceName"] in {service["metadata"]["name"] for service in chart.of_kind(objects, "Service")
                                               if chart.component(service) == chart.component(item)}


def test_the_grace_period_is_longer_than_pre_stop_and_drain(objects):
    for name, item in chart.workloads(objects).items():
        spec = item["spec"]["template"]["spec"]
        container = spec["containers"][0]
        pre_stop = int(container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [0, 0])[1])
        drain = int(chart.flags(container).get("drain_timeout", "5s").removesuffix("s"))
        assert spec["terminationGracePeriodSeconds"] >= pre_stop + drain + 5, name


def test_shards(objects):
    """Every shard has as many pods as any other."""
    item = chart.workloads(objects)["expert-worker"]
    pod, shards = chart.flags(item["spec"]["template"]["spec"]["containers"][0])["shard"].split("/")
    assert pod == "$(POD_NAME)" and item["spec"]["replicas"] % int(shards) == 0


def test_probes_differ(objects):
    for item in chart.workloads(objects).values():
        container = item["spec"]["template"]["spec"]["containers"][0]
        paths = [container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")]
        assert paths == ["/startupz", "/readyz", "/healthz"]
        startup = container["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 60


def test_pod_security_restricted(objects):
    """The rules of the Pod Security Standard "restricted", and a root that is read-only."""
    volumes = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
    for name, _, spec in chart.pods(objects):
        assert not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")), name
        assert spec["automountServiceAccountToken"] is False
        for volume in spec.get("volumes", []):
            assert set(volume) - {"name"} <= volumes, volume
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] is True and pod["runAsUser"] > 0 and pod["seccompProfile"]["type"] == "RuntimeDefault"
        assert not pod.get("sysctls")
        for container in chart.all_containers(spec):
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False and own["readOnlyRootFilesystem"] is True
            assert own["capabilities"] == {"drop": ["ALL"]} and not own.get("privileged")
            assert all("hostPort" not in port for port in container.get("ports", []))


def test_mounts_and_quantities(objects):
    claims = {item["metadata"]["name"] for item in chart.of_kind(objects, "PersistentVolumeClaim")}
    configs = {item["metadata"]["name"] for item in chart.of_kind(objects, "ConfigMap")}
    for name, _, spec in chart.pods(objects):
        volumes = [volume["name"] for volume in spec.get("volumes", [])]
        assert len(set(volumes)) == len(volumes)
        for volume in spec.get("volumes", []):
            if "configMap" in volume:
                assert volume["configMap"]["name"] in configs
            if "persistentVolumeClaim" in volume and claims:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
        for container in chart.all_containers(spec):
            mounts = container.get("volumeMounts", [])
            assert {mount["name"] for mount in mounts} <= set(volumes), name
            assert len({mount["mountPath"] for mount in mounts}) == len(mounts)
            assert all(mount.get("readOnly") for mount in mounts if mount["name"] in ("model", "tls", "tokens", "flags"))
            for amounts in container["resources"].values():
                assert all(QUANTITY.fullmatch(str(amount)) for amount in amounts.values())
            check_paths(container, mounts)


def check_paths(container, mounts):
    """Files that flags name lie in a mount, or are the embedded model."""
    for argument in container["args"]:
        path = argument.partition("=")[2]
        if path.startswith("/") and not path.startswith("/usr/share/m1/"):
            assert any(path == mount["mountPath"] or path.startswith(mount["mountPath"] + "/") for mount in mounts), argument


def test_model_check_comes_before_workers(objects):
    for name, item in chart.workloads(objects).items():
        spec = item["spec"]["template"]["spec"]
        mounted = any(volume["name"] == "model" for volume in spec["volumes"])
        assert ("initContainers" in spec) == (mounted and name != "router")
        for check in spec.get("initContainers", []):
            assert check["args"][:2] == ["checkpoint", "fingerprint"]
            assert chart.flags(spec["containers"][0])["model"] == check["args"][2].removeprefix("--model=")

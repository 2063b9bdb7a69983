"""The chart through the real Helm engine: values to objects, and the values that tests render."""

import copy
import json
import os
import re

import helm_python
import yaml

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CHART = os.path.join(ROOT, "deploy/helm/m1-serve")
SIZES = ("single-node", "8xh200", "multi-node")
NAMESPACE = "prod"
RELEASE = "demo"
COMPONENTS = {"router": "router", "attention-worker": "attentionWorker", "expert-worker": "expertWorker"}
FINGERPRINT = "0123456789abcdef" * 4

TLS = {"tls": {"enabled": True, "insecure": False, "existingSecrets": {
    "router": "router-tls", "attentionWorker": "attention-tls", "expertWorker": "expert-tls"}}}
CLAIM = {"model": {"source": "persistentVolumeClaim", "fingerprint": FINGERPRINT,
                   "persistentVolumeClaim": {"existingClaim": "weights", "subPath": "m1/40k"}}}
TOKENS = {"auth": {"enabled": True, "tokens": [{"name": "alice", "sha256": "a" * 64}, {"name": "bob", "sha256": "b" * 64, "admin": True}]},
          "helmTest": {"tokenSecret": "test-token"}}
PEER = [{"namespaceSelector": {"matchLabels": {"team": "apps"}}}]


def values_file(size):
    with open(os.path.join(CHART, f"values-{size}.yaml"), encoding="utf-8") as file:
        return yaml.safe_load(file)


def default_values():
    with open(os.path.join(CHART, "values.yaml"), encoding="utf-8") as file:
        return yaml.safe_load(file)


def schema():
    with open(os.path.join(CHART, "values.schema.json"), encoding="utf-8") as file:
        return json.load(file)


def merged(*layers):
    """As Helm merges values files: maps key by key, everything else replaced."""
    result = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if both else copy.deepcopy(value)
    return result


# Values that must render, beside the three sizes.
GOOD = {
    "defaults": {},
    **{size: values_file(size) for size in SIZES},
    "cuda": merged(values_file("single-node"), values_file("cuda")),
    "tls": TLS,
    "tokens": TOKENS,
    "token secret": {"auth": {"enabled": True, "existingSecret": "tokens"}, "helmTest": {"enabled": False}},
    "claim": CLAIM,
    "made claim": {"model": {"source": "persistentVolumeClaim", "persistentVolumeClaim": {
        "create": True, "storageClassName": "fast", "volumeName": "weights", "size": "1500Gi",
        "accessModes": ["ReadWriteOnce", "ReadOnlyMany"]}}},
    "host path": {"model": {"source": "hostPath", "hostPath": {"path": "/srv/models/m1"}}, "commonAnnotations": {"a": "b"}},
    "autoscaling": {"autoscaling": {"enabled": True, "minReplicas": 2, "maxReplicas": 9}},
    "pod monitor": {"monitoring": {"podMonitor": True, "prometheusRule": True, "dashboards": True, "labels": {"release": "p"}}},
    "service monitor": {"monitoring": {"serviceMonitor": True, "interval": "30s"}},
    "no policies": {"networkPolicy": {"enabled": False}},
    "closed policies": {"networkPolicy": {"clientsFrom": PEER, "metricsFrom": []}},
    "gpus": {"attentionWorker": {"gpus": 1, "runtimeClassName": "nvidia"}, "expertWorker": {"gpus": 2, "resources": {}},
             "gpuResourceName": "amd.com/gpu"},
    "copies": {"expertWorker": {"shards": 16, "copies": 3}, "workersInOneZone": "required"},
    "names": {"nameOverride": "minimax", "fullnameOverride": "m1-prod", "clusterDomain": "k8s.example.org",
              "commonLabels": {"team": "inference"}, "imagePullSecrets": [{"name": "registry"}],
              "image": {"registry": "registry.example.org:5000/ai", "tag": "1.2.3"},
              "router": {"image": {"digest": "sha256:" + "c" * 64}},
              "serviceAccount": {"create": False, "name": "inference"}},
    "load balancer": {"router": {"service": {"type": "LoadBalancer", "externalTrafficPolicy": "Local",
                                             "annotations": {"x": "y"}, "loadBalancerSourceRanges": ["10.0.0.0/8"]}}},
    "extras": {"router": {"extraArgs": ["--priority_ageing=30s"], "extraEnv": [{"name": "TZ", "value": "UTC"}],
                          "extraVolumes": [{"name": "x", "emptyDir": {}}],
                          "extraVolumeMounts": [{"name": "x", "mountPath": "/x"}]},
               "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-extra"}}]},
    "scheduling": {role: {"nodeSelector": {"pool": "m1"}, "priorityClassName": "high", "podLabels": {"a": "b"},
                          "podAnnotations": {"c": "d"}, "tolerations": [{"key": "m1", "operator": "Exists"}],
                          "affinity": {"nodeAffinity": {}}, "spread": {"enabled": False},
                          "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
                                                         "whenUnsatisfiable": "DoNotSchedule"}],
                          "podDisruptionBudget": {"enabled": False}} for role in COMPONENTS.values()},
    "flags": {"router": {"config": {"queue_size": 7, "repetition_probability": 0.5}},
              "attentionWorker": {"config": {"kv_bytes": 68719476736, "target_itl": "120ms", "threads": 3, "pin": True}},
              "expertWorker": {"config": {"weights": "mmap"}}},
    "drain": {"router": {"drainSeconds": 3600, "preStopSeconds": 0}, "expertWorker": {"preStopSeconds": 3},
              "listenAddress": "::", "metricsPort": 9000, "logLevel": "debug"},
    "everything": merged(TLS, TOKENS, CLAIM, {"monitoring": {"podMonitor": True, "dashboards": True, "prometheusRule": True},
                                              "autoscaling": {"enabled": True}, "networkPolicy": {"clientsFrom": PEER}}),
}

# Values that must be refused, and what the message must say to help.
BAD = {
    "tls without secrets": (merged(TLS, {"tls": {"existingSecrets": {"expertWorker": ""}}}),
                            "tls.existingSecrets.expertWorker to a Secret with tls.crt"),
    "neither tls nor consent": ({"tls": {"enabled": False, "insecure": False}}, "tls.insecure=true"),
    "tokens nowhere": ({"auth": {"enabled": True}}, "set auth.existingSecret, or list"),
    "a test without token": (merged(TOKENS, {"helmTest": {"tokenSecret": ""}}), "set helmTest.tokenSecret"),
    "host path without path": ({"model": {"source": "hostPath"}}, "set model.hostPath.path"),
    "no claim": ({"model": {"source": "persistentVolumeClaim"}}, "existingClaim, or create=true"),
    "two claims": (merged(CLAIM, {"model": {"persistentVolumeClaim": {"create": True}}}), "wanted one of them"),
    "autoscaling backwards": ({"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 2}},
                              "minReplicas is 5, above autoscaling.maxReplicas 2"),
    "scraped twice": ({"monitoring": {"podMonitor": True, "serviceMonitor": True}}, "scraped twice"),
    "a port behind the chart's back": ({"router": {"extraArgs": ["--port=1"]}}, "the chart sets --port itself"),
    "a flag twice": ({"router": {"extraArgs": ["--queue_size=1"]}}, "router.config.queue_size says the same"),
    "an unknown key": ({"router": {"replicaCount": 2}}, "'replicaCount' not allowed"),
    "an unknown flag": ({"router": {"config": {"queue_sise": 2}}}, "'queue_sise' not allowed"),
    "no shard": ({"expertWorker": {"shards": 0}}, "/expertWorker/shards"),
    "cuda without a GPU": ({"expertWorker": {"config": {"device": "cuda"}}}, "set expertWorker.gpus to 1"),
    "a fingerprint cut short": ({"model": {"fingerprint": "abc"}}, "/model/fingerprint"),
    "a privileged container": ({"containerSecurityContext": {"allowPrivilegeEscalation": True}}, "/containerSecurityContext"),
}


def render_texts(values, release=RELEASE):
    with helm_python.Chart.load(CHART) as chart:
        return chart.render(values, name=release, namespace=NAMESPACE)


def render(values, release=RELEASE):
    """All objects, the pod of `helm test` among them."""
    objects = []
    for path, text in render_texts(values, release).items():
        if not path.endswith("NOTES.txt"):
            objects += [document for document in yaml.safe_load_all(text) if document]
    return objects


def of_kind(objects, *kinds):
    return [item for item in objects if item["kind"] in kinds]


def component(item):
    return item["metadata"]["labels"].get("app.kubernetes.io/component")


def workloads(objects):
    """{component: Deployment or StatefulSet}"""
    return {component(item): item for item in of_kind(objects, "Deployment", "StatefulSet")}


def pods(objects):
    """[(name, metadata, spec)] of all pods that the objects make."""
    found = [(item["metadata"]["name"], item["spec"]["template"]["metadata"], item["spec"]["template"]["spec"])
             for item in workloads(objects).values()]
    return found + [(item["metadata"]["name"], item["metadata"], item["spec"]) for item in of_kind(objects, "Pod")]


def all_containers(spec):
    return spec.get("initContainers", []) + spec["containers"]


def flags(container):
    """{flag: value} of a server's arguments; a flag alone is "true"."""
    parsed = {}
    for argument in container["args"]:
        name, _, value = re.fullmatch(r"--([a-z_]+)(=(.*))?", argument).group(1, 2, 3)
        parsed[name] = "true" if value is None else value
    return parsed


def flag_file(objects, component_name):
    """The tuning flags of a component, as its container reads them from the ConfigMap."""
    maps = [item for item in of_kind(objects, "ConfigMap") if f"{component_name}.flags" in item["data"]]
    assert len(maps) == 1
    return maps[0]["data"][f"{component_name}.flags"]

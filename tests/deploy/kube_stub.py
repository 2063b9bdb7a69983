"""An API server for Helm on loopback that stores what it is sent. It admits everything and runs nothing.

    with KubeStub() as stub:
        config = helm_python.Config(kubeconfig_content=stub.kubeconfig, namespace="prod", storage_driver="memory")
"""

import http.server
import json
import threading

import yaml

KINDS = [  # group/version, kind, plural, namespaced
    ("v1", "Service", "services", True), ("v1", "ConfigMap", "configmaps", True), ("v1", "Secret", "secrets", True),
    ("v1", "ServiceAccount", "serviceaccounts", True), ("v1", "Pod", "pods", True),
    ("v1", "PersistentVolumeClaim", "persistentvolumeclaims", True), ("v1", "PersistentVolume", "persistentvolumes", False),
    ("v1", "Namespace", "namespaces", False),
    ("apps/v1", "Deployment", "deployments", True), ("apps/v1", "StatefulSet", "statefulsets", True),
    ("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", True),
    ("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", True),
    ("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", True),
    ("monitoring.coreos.com/v1", "PodMonitor", "podmonitors", True),
    ("monitoring.coreos.com/v1", "ServiceMonitor", "servicemonitors", True),
    ("monitoring.coreos.com/v1", "PrometheusRule", "prometheusrules", True),
]
VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


def resource_list(version):
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": [
        {"name": plural, "singularName": kind.lower(), "namespaced": namespaced, "kind": kind, "verbs": VERBS}
        for of_version, kind, plural, namespaced in KINDS if of_version == version]}


def group_list():
    groups = []
    for version in sorted({row[0] for row in KINDS} - {"v1"}):
        entry = {"groupVersion": version, "version": version.split("/")[1]}
        groups.append({"name": version.split("/")[0], "versions": [entry], "preferredVersion": entry})
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def openapi(version):
    """Enough for the client to know that PATCH validates fields."""
    group, _, name = version.rpartition("/")
    paths = {}
    for of_version, kind, plural, _ in KINDS:
        if of_version == version:
            paths[f"/{version}/{plural}/{{name}}"] = {"patch": {
                "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
                "x-kubernetes-group-version-kind": {"group": group, "version": name, "kind": kind}}}
    return {"openapi": "3.0.0", "info": {"title": "stub", "version": "1"}, "paths": paths}


class KubeStub:
    """`objects`: {path: object} of what is there; `calls`: (method, path) as they came."""

    def __init__(self):
        self.objects = {}
        self.calls = []
        stub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self, code, body):
                data = json.dumps(body).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def handle_call(self):
                path, _, query = self.path.partition("?")
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                stub.calls.append((self.command, path))
                self.answer(*stub.answer(self.command, path, query, body))

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = handle_call

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        host = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.kubeconfig = yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "stub",
            "clusters": [{"name": "stub", "cluster": {"server": host}}],
            "contexts": [{"name": "stub", "context": {"cluster": "stub", "user": "nobody", "namespace": "prod"}}],
            "users": [{"name": "nobody", "user": {}}]})

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, method, path, query, body):
        discovery = self._discovery(path)
        if discovery is not None:
            return 200, discovery
        if method == "POST":
            item = yaml.safe_load(body)
            path = f"{path}/{item['metadata']['name']}"
            if "dryRun" not in query:
                self.objects[path] = item
            return 201, item
        if method in ("PATCH", "PUT"):
            item = yaml.safe_load(body)
            item["metadata"].setdefault("uid", "1")
            if "dryRun" not in query:
                self.objects[path] = item
            return 200, item
        if path not in self.objects:
            return 404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404,
                         "message": f"{path} not found"}
        if method == "DELETE":
            return 200, self.objects.pop(path)
        return 200, self.objects[path]

    @staticmethod
    def _discovery(path):
        if path == "/version":
            return {"major": "1", "minor": "30", "gitVersion": "v1.30.0"}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            return group_list()
        versions = {row[0] for row in KINDS}
        for version in versions:
            prefix = "api" if version == "v1" else "apis"
            if path == f"/{prefix}/{version}":
                return resource_list(version)
            if path == f"/openapi/v3/{prefix}/{version}":
                return openapi(version)
        if path == "/openapi/v3":
            return {"paths": {f"{'api' if version == 'v1' else 'apis'}/{version}": {
                "serverRelativeURL": f"/openapi/v3/{'api' if version == 'v1' else 'apis'}/{version}"} for version in versions}}
        return None

    def named(self, plural, name):
        return next(item for path, item in self.objects.items() if path.endswith(f"/{plural}/{name}"))

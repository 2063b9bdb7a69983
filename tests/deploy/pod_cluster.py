"""The chart's pods as processes of this machine: the rendered arguments, each pod on a loopback address of its own.

    with PodCluster({"expertWorker": {"copies": 2}}, folder) as cluster:
        cluster.wait_ready()
        client = Client(cluster.routers[0].address)

What Kubernetes does between a manifest and a process is done here: `$(POD_NAME)` and `$(CPU_LIMIT)` are put in, ConfigMaps and
Secrets lie in files, `dns:///` names stand for the addresses of their pods, probes are sent as the pod describes them. Everything
else in the arguments is the chart's own.
"""

import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request

import chart
from cluster import wait_until

BIN = os.environ.get("M1_BIN", "build/release/bin")
MODEL = "models/tiny"
START_SECONDS = 30


class Pod:
    """One container of the chart. Started again, it has the same name and address, as a StatefulSet's pod has its name."""

    def __init__(self, component, name, host, container, grace_seconds):
        self.name = name
        self.binary = f"m1-{component}"
        self.host = host
        self.container = container
        self.grace_seconds = grace_seconds
        self.address = f"{host}:{next(p['containerPort'] for p in container['ports'] if p['name'] == 'grpc')}"
        self.arguments = []
        self.popen = None
        self.log_path = None

    def map_arguments(self, folder, addresses, identity=None):
        """`addresses`: {name that DNS knows: addresses behind it}. `identity`: what is mounted as its certificate."""
        replaced = {"$(POD_NAME)": self.name, "$(CPU_LIMIT)": "1", "/etc/m1/flags": folder, "/etc/m1/tokens": folder,
                    "/usr/share/m1/models/tiny": MODEL, "/models/MiniMax-M1": MODEL,
                    "--address=0.0.0.0": f"--address={self.host}"}
        if identity is not None:
            replaced["/etc/m1/tls"] = str(identity.folder)
        self.log_path = os.path.join(folder, f"{self.name}.log")
        for argument in self.container["args"]:
            for old, new in replaced.items():
                argument = argument.replace(old, new)
            flag, _, value = argument.removeprefix("--").partition("=")
            if value.startswith("dns:///"):
                argument = f"--{flag}=" + ",".join(addresses[re.split("[.:]", value.removeprefix("dns:///"))[0]])
            self.arguments.append(argument)

    def start(self):
        with open(self.log_path, "a", encoding="utf-8") as log:
            self.popen = subprocess.Popen([os.path.join(BIN, self.binary), *self.arguments], stdout=log, stderr=log)

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def probe(self, kind):
        """Whether the container's probe of this kind ("startup", "readiness", "liveness") succeeds now."""
        assert self.popen.poll() is None, f"{self.name} ended with {self.popen.returncode}:\n{self.log()[-3000:]}"
        wanted = self.container[f"{kind}Probe"]
        port = next(p["containerPort"] for p in self.container["ports"] if p["name"] == wanted["httpGet"]["port"])
        try:
            url = f"http://{self.host}:{port}{wanted['httpGet']['path']}"
            with urllib.request.urlopen(url, timeout=wanted["timeoutSeconds"]) as answer:
                return answer.status == 200
        except urllib.error.HTTPError:
            return False
        except OSError:  # nobody listens yet, or for long
            return False

    def started(self):
        return self.probe("startup")

    def ready(self):
        return self.started() and self.probe("readiness")

    def terminate(self):
        """As the kubelet: SIGTERM, and an end within the grace period. Returns the seconds it took."""
        started = time.monotonic()
        os.truncate(self.log_path, 0)
        self.popen.send_signal(signal.SIGTERM)
        assert self.popen.wait(self.grace_seconds) == 0, self.log()[-3000:]
        return time.monotonic() - started

    def restart(self):
        seconds = self.terminate()
        self.start()
        wait_until(self.ready, START_SECONDS, f"{self.name} ready again")
        return seconds

    def end(self):
        if self.popen is not None and self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(10)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()


class PodGroup:
    """Pods that are started and ended together: those of all()."""

    def __enter__(self):
        try:
            for pod in self.all():
                pod.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for pod in self.all():
            pod.end()


class PodCluster(PodGroup):
    def __init__(self, values, folder, identities=None, release=chart.RELEASE):
        """`identities`: {component: what is mounted as its certificate}, for values with TLS."""
        self.folder = str(folder)
        self.objects = chart.render(values, release)
        self.pods = {name: [] for name in chart.COMPONENTS}
        network = 1 + os.getpid() % 200  # beside another run on this machine
        for number, (name, item) in enumerate(sorted(chart.workloads(self.objects).items())):
            spec = item["spec"]["template"]["spec"]
            for ordinal in range(item["spec"]["replicas"]):
                self.pods[name].append(Pod(name, f"{item['metadata']['name']}-{ordinal}", f"127.{network}.{number + 1}.{ordinal + 1}",
                                           spec["containers"][0], spec["terminationGracePeriodSeconds"]))
        self._map(identities or {})

    def _map(self, identities):
        for config in chart.of_kind(self.objects, "ConfigMap", "Secret"):
            for name, text in config.get("data", config.get("stringData")).items():
                with open(os.path.join(self.folder, name), "w", encoding="utf-8") as file:
                    file.write(text)
        addresses = {service["metadata"]["name"]: [pod.address for pod in self.pods[chart.component(service)]]
                     for service in chart.of_kind(self.objects, "Service") if service["spec"].get("clusterIP") == "None"}
        for component, pods in self.pods.items():
            for pod in pods:
                pod.map_arguments(self.folder, addresses, identities.get(component))

    def all(self):
        return [pod for pods in self.pods.values() for pod in pods]

    @property
    def routers(self):
        return self.pods["router"]

    def wait_ready(self):
        for pod in self.all():
            wait_until(pod.ready, START_SECONDS, f"{pod.name} ready")

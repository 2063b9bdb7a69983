"""deploy/compose/compose.yaml as Docker Compose itself reads it, and its servers as processes of this machine."""

import functools
import json
import os
import re
import subprocess

from cluster import wait_until
from images import SERVERS, stages
from pod_cluster import BIN, Pod, PodGroup
from tool import ROOT, check_tool, run_tool

FILE = "deploy/compose/compose.yaml"
START_SECONDS = 60


# The settings are the file's own; with the services that only run when asked for.
CONFIG = ("--env-file", "/dev/null", "--profile", "*", "--file")


def read_config(path: str = FILE) -> tuple[int, str]:
    """Exit code, and what Docker Compose says of the file: for that it needs no daemon."""
    return run_tool("docker-compose", *CONFIG, path, "config", "--format", "json")


@functools.cache
def config() -> dict:
    return json.loads(check_tool("docker-compose", *CONFIG, FILE, "config", "--format", "json"))


def services() -> dict[str, dict]:
    return config()["services"]


def component(service: dict) -> str:
    """The target of the Dockerfile; empty for images of others."""
    return service.get("build", {}).get("target", "")


def servers() -> dict[str, dict]:
    return {name: service for name, service in services().items() if component(service) in SERVERS}


def flags(service: dict) -> dict[str, str]:
    """What the process is started with: the image's own flags, and those of the file, which come last."""
    words = stages()[component(service)].entrypoint()[1:] + service["command"]
    return dict(re.fullmatch(r"--(\w+)=?(.*)", word).groups() for word in words)


def names_on(network: str) -> dict[str, set[str]]:
    """{what Docker's DNS resolves on this network: services behind the name}"""
    found: dict[str, set[str]] = {}
    for name, service in services().items():
        if network in service["networks"]:
            for alias in [name, *((service["networks"][network] or {}).get("aliases") or [])]:
                found.setdefault(alias, set()).add(name)
    return found


def reachable(caller: str, name: str) -> set[str]:
    """Services that `caller` reaches by this name."""
    return set().union(*(names_on(network).get(name, set()) for network in services()[caller]["networks"]))


def seconds(duration: str) -> int:
    minutes, rest = re.fullmatch(r"(?:(\d+)m)?(\d+)s", duration).groups()
    return 60 * int(minutes or 0) + int(rest)


class ComposeCluster(PodGroup):
    """The file's servers, each on a loopback address of its own in place of a container's."""

    def __init__(self, folder):
        network = 1 + os.getpid() % 200
        self.processes = {}
        for number, (name, service) in enumerate(sorted(servers().items())):
            arguments = stages()[component(service)].entrypoint()[1:] + service["command"]
            container = {"args": arguments, "ports": [{"name": "grpc", "containerPort": int(flags(service)["port"])}]}
            self.processes[name] = Pod(component(service), name, f"127.{network}.9.{number + 1}", container,
                                       seconds(service["stop_grace_period"]))
        addresses = {name: [self.processes[one].address for one in sorted(found & set(self.processes))]
                     for name, found in names_on("fleet").items()}
        for process in self.processes.values():
            process.map_arguments(str(folder), addresses)

    def all(self):
        return list(self.processes.values())

    def check_health(self, name: str) -> subprocess.CompletedProcess:
        """The health check of the service, as the file says it, asked of its process."""
        kind, program, *words = services()[name]["healthcheck"]["test"]
        assert kind == "CMD" and program == "/usr/bin/m1"
        host = self.processes[name].host
        return subprocess.run([os.path.join(ROOT, BIN, "m1"), *(word.replace("127.0.0.1", host) for word in words)],
                              capture_output=True, text=True, timeout=120, check=False)

    def healthy(self, name: str) -> bool:
        process = self.processes[name]
        assert process.popen.poll() is None, f"{name} ended with {process.popen.returncode}:\n{process.log()[-3000:]}"
        return self.check_health(name).returncode == 0

    def wait_healthy(self, name: str) -> None:
        wait_until(lambda: self.healthy(name), START_SECONDS, f"{name} healthy")

"""The chart with certificates as deploy/security.md has them made: the fleet answers `helm test` and the command of the notes."""

import dataclasses
import os
import pathlib
import re
import shlex
import shutil
import subprocess

import pytest

import chart
import markdown
from certificates import Identity, token_line
from documented_certificates import RELEASE, WAYS
from pod_cluster import BIN, PodCluster
from tool import read

TOKEN = "a-secret-of-alice"
TOKENS = {"auth": {"enabled": True, "tokens": [{"name": "alice", "sha256": token_line("alice", TOKEN).split()[1]}]},
          "helmTest": {"tokenSecret": "test-token"}}
VALUES = chart.merged(chart.GOOD["single-node"], {"attentionWorker": {"config": {"kv_bytes": 16777216}}}, chart.TLS, TOKENS)
NOTES = "m1-serve/templates/NOTES.txt"
OPTION = "--tls_server_name"


def container_command(values) -> list[str]:
    """Arguments of m1 in the container of `helm test`."""
    return chart.of_kind(chart.render(values, RELEASE), "Pod")[0]["spec"]["containers"][0]["args"]


def notes_command(values) -> list[str]:
    """Arguments of m1 in the notes, written as the container's: --NAME=VALUE."""
    [line] = [line for line in chart.render_texts(values, RELEASE)[NOTES].splitlines() if line.startswith("  m1 ")]
    return shlex.split(re.sub(r" (--\w+) ", r" \1=", line))[1:]


@dataclasses.dataclass
class Fleet:
    pods: PodCluster
    router: Identity
    # What a client has: ca.crt and token, where the test's container mounts them and where the notes' reader has them.
    folder: pathlib.Path

    def ask(self, command: list[str], without: str = "--none", **replaced: str) -> subprocess.CompletedProcess:
        """Runs m1 with these arguments, at the router's loopback address in place of a name of the cluster's DNS."""
        words = [word.replace("/etc/m1/tls", str(self.folder)).replace("/etc/m1/token/", f"{self.folder}/")
                 for word in command if not word.startswith(without)]
        for option, value in {"target": self.pods.routers[0].address, **replaced}.items():
            words = [f"--{option}={value}" if word.startswith(f"--{option}=") else word for word in words]
        return subprocess.run([os.path.abspath(os.path.join(BIN, "m1")), *words], cwd=self.folder, capture_output=True, text=True,
                              timeout=120, check=False)


@pytest.fixture(name="fleet", scope="module", params=WAYS)
def _fleet(request, stubs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fleet")
    identities = WAYS[request.param](folder / "certificates")
    (folder / "client").mkdir()
    shutil.copy(identities["router"].path("ca.crt"), folder / "client")
    (folder / "client/token").write_text(TOKEN)
    with PodCluster(VALUES, folder, identities, RELEASE) as pods:
        pods.wait_ready()
        yield Fleet(pods, identities["router"], folder / "client")


@pytest.fixture(name="command", params=["helm test", "notes"])
def _command(request):
    return container_command(VALUES) if request.param == "helm test" else notes_command(VALUES)


def test_it_answers(fleet, command):
    asked = fleet.ask(command)
    assert asked.returncode == 0 and "1385" in asked.stdout, asked.stderr


def test_it_would_notice(fleet, command):
    """The server's name, the authority and the token are all needed, and all looked at."""
    assert fleet.ask(command, without=OPTION).returncode != 0, "the certificate has the address, too: that shows nothing"
    assert fleet.ask(command, tls_server_name="m1-serve-router").returncode != 0
    assert fleet.ask(command, without="--tls_").returncode != 0
    assert "no token" in fleet.ask(command, without="--token_file").stderr


def test_nothing_is_open(fleet):
    from client import Client
    assert "neither encrypted" not in "".join(pod.log() for pod in fleet.pods.all())
    [name] = [word.partition("=")[2] for word in notes_command(VALUES) if word.startswith(OPTION)]
    with Client(fleet.pods.routers[0].address, channel_options=[("grpc.ssl_target_name_override", name)],
                credentials=fleet.router.credentials(TOKEN, show=False)) as client:
        assert client.generate(ids=[5, 6, 7], max_new_tokens=3).ids


@pytest.mark.parametrize("given, name", [("", "m1-m1-serve-router"), ("m1.example.com", "m1.example.com")])
def test_one_value_is_the_name_everywhere(given, name):
    values = chart.merged(VALUES, {"tls": {"serverName": given}})
    for words in (container_command(values), notes_command(values)):
        assert [word for word in words if word.startswith(OPTION)] == [f"{OPTION}={name}"]


def test_the_document_says_which_name():
    services = {item["metadata"]["name"] for item in chart.of_kind(chart.render(VALUES, RELEASE), "Service")}
    text = re.sub(r"\s+", " ", read("deploy/security.md"))
    assert re.search(rf"`([a-z0-9-]+)` for the release `{RELEASE}`", text)[1] in services


def test_the_command_that_prints_the_name():
    [command] = [line for line in markdown.commands(read("deploy/security.md")) if line.startswith("helm template ")]
    words, wanted = (shlex.split(part) for part in command.split("|"))
    assert words[2] == RELEASE and os.path.samefile(words[3], chart.CHART) and wanted[0] == "grep"
    text = chart.render_texts(VALUES, RELEASE)["m1-serve/" + words[words.index("--show-only") + 1]]
    assert [line.strip() for line in text.splitlines() if wanted[1] in line] == [f"- {OPTION}=m1-m1-serve-router"]

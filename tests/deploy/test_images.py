"""The images' Dockerfile: linted, hardened, and in agreement with the binaries, the chart and CMake."""

import fnmatch
import os
import re
import subprocess

import chart
import pytest
from cluster import known_flags
from images import BINARIES, DOCKERFILE, SERVERS, TARGETS, argument, copy_context, stages
from pod_cluster import BIN
from tool import check_tool, read, run_tool, with_change

USER = 65532
VERSION = argument("VERSION")
# Of every image of Debian, whatever is installed in it.
ESSENTIAL = {"libc6"}


def test_hadolint_finds_nothing():
    check_tool("hadolint", DOCKERFILE)
    assert "hadolint ignore" not in read(DOCKERFILE)


@pytest.mark.parametrize("old, new, rule", [
    ("libssl3=3.0.*", "libssl3", "DL3008"),
    (" --no-install-recommends", "", "DL3015"),
    ("FROM ${DEBIAN} AS runtime", "FROM debian:latest AS runtime", "DL3007"),
    ('ENTRYPOINT ["/usr/bin/m1"]', "ENTRYPOINT /usr/bin/m1", "DL3025"),
    ("COPY models/tiny", "ADD models/tiny", "DL3020"),
    ("WORKDIR /src", "WORKDIR src", "DL3000"),
])
def test_hadolint_would_find(tmp_path, old, new, rule):
    code, said = run_tool("hadolint", with_change(DOCKERFILE, old, new, tmp_path))
    assert code == 1 and rule in said, said


def test_the_base_is_fixed():
    assert re.fullmatch(r"docker\.io/library/debian:bookworm-\d{8}-slim", argument("DEBIAN"))
    assert {stage.base for stage in stages().values()} == {"${DEBIAN}"}


def test_targets_are_the_images_of_the_chart():
    values = chart.default_values()
    components = {**chart.COMPONENTS, "cli": "cli"}
    assert set(components) == set(TARGETS)
    for target, key in components.items():
        assert values[key]["image"]["repository"] == f"m1-serve/{target}"
        assert target in stages()
    assert re.search(r"VERSION (\S+) LANGUAGES", read("CMakeLists.txt"))[1] == VERSION
    assert f'appVersion: "{VERSION}"' in read("deploy/helm/m1-serve/Chart.yaml")


@pytest.mark.parametrize("page", ["deploy/images/README.md", "deploy/sizing.md", "deploy/helm/m1-serve/README.md",
                                  "deploy/helm/m1-serve/values-8xh200.yaml"])
def test_what_is_said_of_cuda_is_so(page):
    said = re.search(r"no CUDA image exists", re.sub(r"\s+", " ", read(page)), re.IGNORECASE)
    assert bool(said) != ("cuda" in read(DOCKERFILE).lower())


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_runs_unprivileged(target):
    stage = stages()[target]
    context = chart.default_values()["podSecurityContext"]
    assert context["runAsUser"] == context["runAsGroup"] == USER
    assert stage.last("USER") == f"{USER}:{USER}"
    assert stage.values("STOPSIGNAL") == ["SIGTERM"]
    assert not stage.values("ADD") and not stage.values("VOLUME")
    assert os.path.basename(stage.entrypoint()[0]) in BINARIES
    assert all(path.endswith("/usr/bin/") for path in stage.values("COPY") if path.startswith("--from"))
    labels = " ".join(stage.values("LABEL"))
    for name in ("title", "description", "version", "revision", "vendor"):
        assert f"org.opencontainers.image.{name}=" in labels


@pytest.mark.parametrize("target", SERVERS)
def test_a_server_exposes_and_checks_its_ports(target):
    values = chart.default_values()
    stage = stages()[target]
    binary, *flags = stage.entrypoint()
    assert binary == f"/usr/bin/m1-{target}"
    assert flags == [f"--metrics_port={values['metricsPort']}"]
    assert "metrics_port" in known_flags(f"m1-{target}")
    assert stage.ports() == {values[chart.COMPONENTS[target]]["port"], values["metricsPort"]}
    assert stage.health_command() == ["/usr/bin/m1", "health", "--service=startup", f"--target=127.0.0.1:{values['metricsPort']}"]
    assert "/usr/share/m1/models/tiny" in " ".join(stage.values("COPY")), "the chart's model.source embedded"


@pytest.mark.parametrize("flag, said", [
    ("--target=localhost", "--target \"localhost\" is no HOST:PORT"),
    ("--target=127.0.0.1:70000", "port of 1..65535"),
    ("--service=ready", "--service is \"ready\", wanted readiness, startup or liveness"),
    ("--timeout=0s", "--timeout is 0, wanted 1ms..10m"),
    ("--timeout=soon", "--timeout"),
    ("--port=9464", "--port"),
])
def test_a_health_check_refuses_bad_flags(flag, said):
    checked = subprocess.run([os.path.join(BIN, "m1"), "health", flag], capture_output=True, text=True, timeout=30, check=False)
    assert checked.returncode == 2 and said in checked.stderr, checked.stderr


def test_the_command_line_is_not_checked():
    assert stages()["cli"].last("HEALTHCHECK") == "NONE"
    assert not stages()["cli"].ports()


def linked_libraries(binary: str) -> set[str]:
    """Paths of the libraries that the binary itself names; what these need, their packages depend on."""
    path = os.path.join(BIN, binary)
    dynamic = subprocess.run(["readelf", "--dynamic", path], capture_output=True, text=True, check=True).stdout
    needed = set(re.findall(r"\(NEEDED\).*\[(\S+)\]", dynamic))
    resolved = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
    paths = dict(re.findall(r"(\S+) => (/\S+)", resolved))
    assert needed and needed <= set(paths), f"{binary} links {needed - set(paths)}, which are not there"
    return {paths[name] for name in needed}


def packages_of(paths: set[str]) -> set[str]:
    """Of /lib, as the loader calls it, and /usr/lib: one folder with two names, of which dpkg knows either."""
    found = set()
    for path in paths:
        names = {path, os.path.realpath(path), path.removeprefix("/usr"), "/usr" + path.removeprefix("/usr")}
        said = subprocess.run(["dpkg", "--search", *names], capture_output=True, text=True, check=False).stdout
        owners = {line.split(":")[0] for line in said.splitlines()}
        assert owners, f"no package owns {path}"
        found |= owners
    return found


def installed_packages() -> dict[str, str]:
    """{package of the runtime stage: pattern of its version}"""
    install = next(value for value in stages()["runtime"].values("RUN") if "apt-get install" in value)
    words = re.search(r"--no-install-recommends (.*?) &&", install)[1].split()
    return dict(word.split("=") for word in words)


def test_the_runtime_has_what_the_binaries_link_and_no_more():
    linked = set().union(*(linked_libraries(binary) for binary in BINARIES))
    assert packages_of(linked) - ESSENTIAL == set(installed_packages())


@pytest.mark.parametrize("package, pattern", installed_packages().items())
def test_versions_are_those_of_debian_12(package, pattern):
    version = subprocess.run(["dpkg-query", "--show", "--showformat=${Version}", package], capture_output=True, text=True,
                             check=True).stdout
    assert fnmatch.fnmatchcase(version, pattern)
    assert pattern[0].isdigit() and pattern.endswith("*"), "a fixed upstream version, open for Debian's updates"


@pytest.fixture(name="context", scope="module")
def _context(tmp_path_factory):
    folder = tmp_path_factory.mktemp("context")
    copy_context(str(folder))
    return folder


def test_the_context_is_what_the_build_reads(context):
    """It configures, with every source that CMake names, and knows its commit without a checkout."""
    assert not any((context / name).exists() for name in ("tests", "deploy/helm", "README.md", ".git", "tools/train"))
    assert (context / DOCKERFILE).exists()
    size = sum(path.stat().st_size for path in context.rglob("*") if path.is_file())
    assert size < 16 << 20, f"{size} bytes travel to each build"
    made = subprocess.run(["cmake", "--preset", "release", "-DM1_BUILD_TESTS=OFF", "-DM1_COMMIT=c0ffee"], cwd=context,
                          capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    ninja = (context / "build/release/build.ninja").read_text()
    assert 'M1_COMMIT=\\"c0ffee\\"' in ninja
    for binary in BINARIES:
        assert f"build bin/{binary}:" in ninja


def test_the_image_holds_a_whole_model(stubs, context):
    from client import Client
    from cluster import Cluster
    with Cluster(str(context / "models/tiny"), expert_workers=1) as cluster, Client(cluster.target) as client:
        assert "1385" in client.generate(chat=[("user", "764 + 621")], temperature=0).text

"""The images' Dockerfile: linted, hardened, and in agreement with the binaries, the chart and CMake."""

import fnmatch
import os
import re
import subprocess

import chart
import pytest
from cluster import known_flags
from images import BINARIES, CUDA_TARGETS, CUDA_WHEELS, DOCKERFILE, SERVERS, TARGETS, argument, copy_context, stages
from pod_cluster import BIN
from tool import check_tool, read, run_tool, with_change

USER = 65532
VERSION = argument("VERSION")
# Of every image of Debian, whatever is installed in it.
ESSENTIAL = {"libc6"}
# Where a build with CUDA would be (preset cuda, scripts/gpu_bundle.sh).
CUDA_BUILDS = ("build/cuda/bin", "build/gpu/bin")


def test_hadolint_finds_nothing():
    check_tool("hadolint", DOCKERFILE)
    assert "hadolint ignore" not in read(DOCKERFILE)


@pytest.mark.parametrize("old, new, rule", [
    ("libssl3=3.0.*", "libssl3", "DL3008"),
    (" --no-install-recommends python3-pip", " python3-pip", "DL3015"),
    ("FROM ${DEBIAN} AS runtime", "FROM debian:latest AS runtime", "DL3007"),
    ('ENTRYPOINT ["/usr/bin/m1"]', "ENTRYPOINT /usr/bin/m1", "DL3025"),
    ("COPY models/tiny", "ADD models/tiny", "DL3020"),
    ("WORKDIR /src", "WORKDIR src", "DL3000"),
    ("-r deploy/images/cuda.txt &&", "nvidia-cuda-nvcc &&", "DL3013"),
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
                                  "deploy/helm/m1-serve/values-8xh200.yaml", "deploy/configuration.md"])
def test_what_is_said_of_cuda_is_so(page):
    text = re.sub(r"\s+", " ", read(page))
    assert not re.search(r"no CUDA image exists", text, re.IGNORECASE)
    named = re.findall(r"\b[a-z]+-worker-[a-z]+\b|\bvalues-cuda\.yaml\b", text)
    assert named and set(named) <= {*CUDA_TARGETS, "values-cuda.yaml"}


@pytest.mark.parametrize("size", ["cuda", "8xh200"])
def test_values_for_gpus_choose_the_cuda_images(size):
    values = chart.merged(chart.default_values(), chart.GOOD[size])
    for target in CUDA_TARGETS:
        worker = values[chart.COMPONENTS[target.removesuffix("-cuda")]]
        assert worker["image"]["repository"] == f"m1-serve/{target}" and target in stages()
        assert worker["config"]["device"] == "cuda" and worker["gpus"] == 1
    rendered = chart.workloads(chart.render(chart.GOOD[size]))
    for target in CUDA_TARGETS:
        container, = rendered[target.removesuffix("-cuda")]["spec"]["template"]["spec"]["containers"]
        assert container["image"] == f"localhost/m1-serve/{target}:{VERSION}"
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    container, = rendered["router"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"localhost/m1-serve/router:{VERSION}" and "nvidia.com/gpu" not in container["resources"]["limits"]


@pytest.mark.parametrize("target", TARGETS + CUDA_TARGETS)
def test_a_target_runs_unprivileged(target):
    stage = stages()[target]
    context = chart.default_values()["podSecurityContext"]
    assert context["runAsUser"] == context["runAsGroup"] == USER
    assert stage.last("USER") == f"{USER}:{USER}"
    assert stage.values("STOPSIGNAL") == ["SIGTERM"]
    assert not stage.values("ADD") and not stage.values("VOLUME")
    assert os.path.basename(stage.entrypoint()[0]) in BINARIES
    copied = [path for path in stage.values("COPY") if path.startswith("--from")]
    assert all(path.endswith("/usr/bin/") for path in copied if not path.startswith("--from=cuda-toolchain"))
    labels = " ".join(stage.values("LABEL"))
    for name in ("title", "description", "version", "revision", "vendor"):
        assert f"org.opencontainers.image.{name}=" in labels


@pytest.mark.parametrize("target", SERVERS + CUDA_TARGETS)
def test_a_server_exposes_and_checks_its_ports(target):
    values = chart.default_values()
    stage = stages()[target]
    server = target.removesuffix("-cuda")
    binary, *flags = stage.entrypoint()
    assert binary == f"/usr/bin/m1-{server}"
    assert flags == [f"--metrics_port={values['metricsPort']}"] + ["--device=cuda"] * (target in CUDA_TARGETS)
    assert {flag[2:].partition("=")[0] for flag in flags} <= known_flags(f"m1-{server}")
    assert stage.ports() == {values[chart.COMPONENTS[server]]["port"], values["metricsPort"]}
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
    checked = subprocess.run([os.path.join(BIN, "m1"), "health", flag], capture_output=True, text=True, timeout=120, check=False)
    assert checked.returncode == 2 and said in checked.stderr, checked.stderr


def test_the_command_line_is_not_checked():
    assert stages()["cli"].last("HEALTHCHECK") == "NONE"
    assert not stages()["cli"].ports()


def linked_libraries(path: str) -> set[str]:
    """Paths of the libraries that the binary itself names; what these need, their packages depend on."""
    dynamic = subprocess.run(["readelf", "--dynamic", path], capture_output=True, text=True, check=True).stdout
    needed = set(re.findall(r"\(NEEDED\).*\[(\S+)\]", dynamic))
    resolved = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
    paths = dict(re.findall(r"(\S+) => (/\S+)", resolved))
    # The loader has no name but its path.
    paths |= {os.path.basename(path): path for path in re.findall(r"^\s*(/\S+) \(", resolved, re.MULTILINE)}
    assert needed and needed <= set(paths), f"{path} links {needed - set(paths)}, which are not there"
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
    linked = set().union(*(linked_libraries(os.path.join(BIN, binary)) for binary in BINARIES))
    assert packages_of(linked) - ESSENTIAL == set(installed_packages())


def test_a_cuda_image_takes_from_the_wheels_what_workers_load():
    """Nobody builds with CUDA for this test; the kernels' loader is the same source everywhere."""
    loaded = set(re.findall(r'dlopen\("(lib[^"]+)"', read("common/nccl/runtime.cu")))
    for target in CUDA_TARGETS:
        copied = [value.split() for value in stages()[target].values("COPY") if "--from=cuda-toolchain" in value]
        libraries = {os.path.basename(source) for _, source, to in copied if to == "/usr/lib/x86_64-linux-gnu/"}
        assert libraries == loaded == {"libnccl.so.2"}
        assert {source for _, source, to in copied if to == "/usr/share/doc/libnccl/"} == {"/out/doc/License.txt"}
        environment = dict(word.split("=", 1) for value in stages()[target].values("ENV") for word in value.split())
        assert environment == {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
                               "NVIDIA_REQUIRE_CUDA": "cuda>=13.0"}


@pytest.mark.parametrize("worker", BINARIES[2:])
def test_workers_with_cuda_need_nothing_else(worker):
    built = [path for path in (os.path.join(folder, worker) for folder in CUDA_BUILDS) if os.path.exists(path)]
    if not built:
        pytest.skip("nothing was built with CUDA here")
    for path in built:
        assert packages_of(linked_libraries(path)) - ESSENTIAL <= set(installed_packages())
        with open(path, "rb") as file:
            named = {name.decode() for name in re.findall(rb"lib(?:cuda|nccl|nv)[\w-]*\.so[.\d]*(?=\0)", file.read())}
        assert named == {"libcuda.so.1", "libnccl.so.2"}, "of the driver, and of the image"


def test_wheels_for_cuda_are_fixed():
    """nvcc with its parts, of the version that CMake asks for, and the NCCL of that CUDA; the context has the list."""
    wheels = {}
    for line in read(CUDA_WHEELS).splitlines():
        if not line.startswith("#"):
            name, version = re.fullmatch(r"([a-z0-9-]+)==([\d.]+) --hash=sha256:[0-9a-f]{64}", line).groups()
            wheels[name] = version
    least = re.search(r"CMAKE_CUDA_COMPILER_VERSION VERSION_LESS (\d+\.\d+)\)", read("common/cmake/m1_cuda.cmake"))[1]
    assert set(wheels) == {"nvidia-nccl-cu13"} | {f"nvidia-{part}" for part in ("cuda-cccl", "cuda-crt", "cuda-nvcc", "cuda-runtime", "nvvm")}
    assert {version.rsplit(".", 1)[0] for name, version in wheels.items() if "nccl" not in name} == {least}
    assert stages()["cuda-server"].last("ENV").endswith(f"cuda>={least}")
    install = next(value for value in stages()["cuda-toolchain"].values("RUN") if "pip install" in value)
    assert "--require-hashes" in install and "--no-deps" in install and CUDA_WHEELS in install


def test_cuda_architectures_are_the_projects():
    said = re.search(r'set\(CMAKE_CUDA_ARCHITECTURES "([^"]+)"\)', read("common/cmake/m1_cuda.cmake"))[1]
    assert argument("CUDA_ARCHITECTURES") == said


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
    assert (context / DOCKERFILE).exists() and (context / CUDA_WHEELS).exists()
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

"""deploy/compose: read by the real Docker Compose, linted, and in agreement with images, servers and monitoring."""

import json
import os
import re

import chart
import pytest
import yaml
from cluster import known_flags
from compose import FILE, component, config, flags, names_on, reachable, read_config, seconds, servers, services
from images import DOCKERFILE, SERVERS, argument
from tool import ROOT, check_tool, read, run_tool, with_change

# Digests are known only where a registry is reached; tags are full versions. Processors: --threads bounds our servers, and
# what would hold back the rest would hold back an answer of Prometheus. Memory is limited, see below.
ACCEPTED_FINDINGS = {"CL-0019", "CL-0026"}
VERSION_TAG = re.compile(r":v?\d+\.\d+\.\d+$")


def load(path: str):
    return yaml.safe_load(read(path))


def mounts(name: str) -> dict[str, dict]:
    return {mount["target"]: mount for mount in services()[name].get("volumes", [])}


def mounted_from(name: str, path: str) -> str:
    """Where in the repository the file or folder lies that the container sees at `path`."""
    for target, mount in mounts(name).items():
        if mount["type"] == "bind" and (path + "/").startswith(target + "/"):
            return os.path.relpath(mount["source"], ROOT) + path[len(target):]
    raise AssertionError(f"{name} has nothing mounted at {path}")


def test_services():
    assert set(services()) == {"router", "attention-worker", "expert-worker-0", "expert-worker-1", "prometheus",
                               "alertmanager", "grafana", "cli"}
    assert {component(service) for service in servers().values()} == set(SERVERS)


@pytest.mark.parametrize("old, new, said", [
    ("    stop_grace_period: 45s\n\n  att", "    stop_grace_perriod: 45s\n\n  att", "stop_grace_perriod"),
    ("pids_limit: 512", "pids_limit: many", "pids_limit"),
    ("networks: [fleet, public]", "networks: [fleet, publik]", "publik"),
    ("- prometheus:/prometheus", "- prometeus:/prometheus", "prometeus"),
    ("condition: service_healthy", "condition: service_helthy", "condition"),
    ("internal: true", "internal: sure", "internal"),
])
def test_compose_refuses(tmp_path, old, new, said):
    code, output = read_config(with_change(FILE, old, new, tmp_path))
    assert code != 0 and said in output, output


def findings(path: str) -> set[str]:
    code, said = run_tool("compose-lint", "check", "--format", "json", "--fail-on", "low", path)
    assert code in (0, 1), said
    return {finding["rule_id"] for finding in json.loads(said)["findings"]}


def test_the_linter_finds_nothing_more():
    assert findings(FILE) <= ACCEPTED_FINDINGS


@pytest.mark.parametrize("old, new, rule", [
    ("read_only: true\n  cap_drop", "read_only: false\n  cap_drop", "CL-0007"),
    ("cap_drop: [ALL]", "cap_drop: []", "CL-0006"),
    ('security_opt: ["no-new-privileges:true"]', "security_opt: []", "CL-0003"),
    ('"127.0.0.1:${M1_PORT:-50051}:50051"', '"50051:50051"', "CL-0005"),
])
def test_the_linter_would_find(tmp_path, old, new, rule):
    assert rule in findings(with_change(FILE, old, new, tmp_path))


@pytest.mark.parametrize("name", services())
def test_a_service_is_hardened(name):
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "user", "network_mode", "pid", "ipc", "devices"} & set(service)
    assert int(service["mem_limit"]) and service["pids_limit"]
    assert VERSION_TAG.search(service["image"])
    for port in service.get("ports", []):
        assert port["host_ip"] == "127.0.0.1"
    for target, mount in mounts(name).items():
        if mount["type"] == "bind":
            assert os.path.exists(mount["source"]), f"{target} is {mount['source']}, which is not there"
            assert mount["read_only"] is True
        else:
            assert mount["source"] in config()["volumes"]


def test_only_the_router_and_the_monitoring_are_published():
    published = {name for name, service in services().items() if service.get("ports")}
    assert published == {"router", "prometheus", "alertmanager", "grafana"}
    assert config()["networks"]["fleet"]["internal"] is True
    for name in servers():
        assert set(services()[name]["networks"]) == ({"fleet", "public"} if name == "router" else {"fleet"})
    assert not any("internal" in config()["networks"][name] for name in ("public", "monitoring"))


@pytest.mark.parametrize("name", servers())
def test_a_server_runs_our_image_with_flags_it_knows(name):
    service = services()[name]
    target = component(service)
    assert service["image"] == f"localhost/m1-serve/{target}:{argument('VERSION')}"
    assert (service["build"]["context"], service["build"]["dockerfile"]) == (ROOT, DOCKERFILE)
    unknown = set(flags(service)) - known_flags(f"m1-{target}")
    assert not unknown, unknown
    assert not service["entrypoint"]
    values = chart.default_values()
    assert int(flags(service)["port"]) == values[chart.COMPONENTS[target]]["port"]
    assert int(flags(service)["metrics_port"]) == values["metricsPort"]
    assert mounted_from(name, flags(service)["model"]) == "models/tiny"
    assert seconds(service["stop_grace_period"]) > seconds(flags(service).get("drain_timeout", "5s"))


def test_servers_find_each_other():
    for caller, flag, target in (("router", "attention_workers", "attention-worker"),
                                 ("attention-worker", "expert_workers", "expert-worker")):
        host, port = flags(services()[caller])[flag].removeprefix("dns:///").split(":")
        found = reachable(caller, host)
        assert found == {name for name, service in servers().items() if component(service) == target}
        assert {flags(services()[name])["port"] for name in found} == {port}
    shards = sorted(flags(services()[name])["shard"] for name in names_on("fleet")["expert-worker"])
    assert shards == [f"{index}/{len(shards)}" for index in range(len(shards))], "each expert once"


def test_the_command_line_reaches_the_router():
    service = services()["cli"]
    assert (component(service), service["profiles"]) == ("cli", ["cli"]), "only when asked for"
    assert service["image"] == f"localhost/m1-serve/cli:{argument('VERSION')}"
    assert reachable("cli", "router") == {"router"} and not reachable("cli", "attention-worker")
    readme = read("deploy/compose/README.md")
    assert f"--target=router:{flags(services()['router'])['port']}" in readme


@pytest.mark.parametrize("name", [name for name in services() if name != "cli"])
def test_a_health_check_asks_its_own_port(name):
    check = services()[name]["healthcheck"]
    kind, program, *words = check["test"]
    assert kind == "CMD"
    service = services()[name]
    if name in servers():
        wanted = "readiness" if name == "router" else "startup"
        assert [program, *words] == ["/usr/bin/m1", "health", f"--service={wanted}",
                                     f"--target=127.0.0.1:{flags(service)['metrics_port']}"]
    else:
        ports = {port["target"] for port in service["ports"]}
        assert program == "wget" and int(re.search(r"//127\.0\.0\.1:(\d+)/", words[-1])[1]) in ports
    assert seconds(check["start_period"]) >= 60 and seconds(check["timeout"]) <= 5


def test_prometheus_reads_what_is_mounted(tmp_path):
    command = dict(re.fullmatch(r"--([\w.-]+)=(.*)", word).groups() for word in services()["prometheus"]["command"])
    path = mounted_from("prometheus", command["config.file"])
    assert mounts("prometheus")[command["storage.tsdb.path"]]["type"] == "volume"
    prometheus = load(path)
    [rules] = prometheus["rule_files"]
    folder = mounted_from("prometheus", os.path.dirname(rules))
    names = [name for name in os.listdir(os.path.join(ROOT, folder)) if name.endswith(".yml")]
    assert os.path.basename(rules) == "*.yml" and names
    prometheus["rule_files"] = [os.path.join(ROOT, folder, "*.yml")]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(prometheus))
    said = check_tool("promtool", "check", "config", str(tmp_path / "prometheus.yml"))
    assert f"{len(names)} rule files found" in said


def test_prometheus_scrapes_every_server():
    scraped = {}
    for job in load("deploy/prometheus/prometheus.yml")["scrape_configs"]:
        for discovery in job.get("dns_sd_configs", []):
            assert discovery["type"] == "A"
            [name] = discovery["names"]
            for found in reachable("prometheus", name):
                scraped[found] = (job["job_name"], discovery["port"])
    assert scraped == {name: (f"m1-{component(service)}", int(flags(service)["metrics_port"]))
                       for name, service in servers().items()}
    for name in servers():
        assert len(set(services()[name]["networks"]) & set(services()["prometheus"]["networks"])) == 1, "one address, one target"


def test_alerts_reach_alertmanager():
    [target] = [target for manager in load("deploy/prometheus/prometheus.yml")["alerting"]["alertmanagers"]
                for static in manager["static_configs"] for target in static["targets"]]
    name, port = target.split(":")
    assert reachable("prometheus", name) == {"alertmanager"}
    assert int(port) in {port["target"] for port in services()["alertmanager"]["ports"]}
    command = dict(re.fullmatch(r"--([\w.-]+)=(.*)", word).groups() for word in services()["alertmanager"]["command"])
    check_tool("amtool", "check-config", mounted_from("alertmanager", command["config.file"]))
    assert mounts("alertmanager")[command["storage.path"]]["type"] == "volume"


def test_grafana_has_its_source_and_its_dashboards():
    provisioning = mounted_from("grafana", "/etc/grafana/provisioning")
    [source] = load(f"{provisioning}/datasources/prometheus.yml")["datasources"]
    name, port = re.fullmatch(r"http://([\w-]+):(\d+)", source["url"]).groups()
    assert reachable("grafana", name) == {"prometheus"}
    assert int(port) in {port["target"] for port in services()["prometheus"]["ports"]}
    [provider] = load(f"{provisioning}/dashboards/m1.yml")["providers"]
    folder = mounted_from("grafana", provider["options"]["path"])
    assert [name for name in os.listdir(os.path.join(ROOT, folder)) if name.endswith(".json")]
    secrets = [name for name in services()["grafana"]["environment"] if "PASSWORD" in name]
    assert not secrets


def test_every_setting_is_in_the_readme():
    settings = set(re.findall(r"\$\{(M1_\w+):-", read(FILE)))
    assert settings == set(re.findall(r"`(M1_\w+)`", read("deploy/compose/README.md")))

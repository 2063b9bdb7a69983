"""deploy/configuration.md names every flag with its default, and no other; ranges that it states are the servers'."""

import glob
import os
import re
import subprocess

import pytest

import markdown
from tool import ROOT, read

BIN = os.environ.get("M1_BIN", "build/release/bin")
DOCUMENT = "deploy/configuration.md"
SERVERS = {"m1-router": ["--attention_workers=127.0.0.1:9"], "m1-attention-worker": ["--expert_workers=127.0.0.1:9"],
           "m1-expert-worker": []}
CONNECTING = ("m1 generate", "m1 chat", "m1 bench serve")
COMMANDS = ("m1 up", "m1 health", "m1 token", "m1 checkpoint fingerprint", "m1 quantize")


def run(name: str, *arguments: str) -> tuple[int, str]:
    done = subprocess.run([os.path.join(ROOT, BIN, name), *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120,
                          check=False)
    return done.returncode, done.stdout + done.stderr


def server_flags(name: str) -> dict[str, str]:
    """{flag: default} of --help."""
    text = re.sub(r"\s+", " ", run(name, "--help")[1].partition("Flags from ")[2])
    found = dict(re.findall(r" --([a-z_]+) \((?:.*?)\); default: (.*?);(?= |$)", text))
    assert set(re.findall(r" --([a-z_]+) \(", text)) == set(found)
    return {flag: value.strip('"') or "empty" for flag, value in found.items()}


def command_flags(command: str) -> dict[str, str]:
    """{flag: what stands in brackets at its end, which is its default}."""
    code, text = run(*command.split(), "--help")
    assert code == 0, text
    rows = re.findall(r"^  --([a-z_]+)(?: [A-Z0-9][A-Za-z0-9]*)?(?:\n)? +(.*)$", text, re.MULTILINE)
    return {flag: match[1] if (match := re.search(r"\(([^()]*)\)$", said)) else "" for flag, said in rows}


def documented(heading: str) -> dict[str, list[str]]:
    """{flag: the other cells} of a section's table."""
    table = markdown.rows(markdown.sections(read(DOCUMENT))[heading])
    found = {cells[0].strip("`").removeprefix("--"): cells[1:] for cells in table}
    assert len(found) == len(table), f"{heading}: a flag twice"
    return found


def documented_of_server(name: str) -> dict[str, list[str]]:
    parts = ["All servers", name] + ([] if name == "m1-router" else ["Workers"])
    return {flag: cells for part in parts for flag, cells in documented(part).items()}


def default(cells: list[str]) -> str:
    return cells[0].strip("`")


@pytest.mark.parametrize("name", SERVERS)
def test_every_flag_of_a_server_and_no_other(name):
    assert {flag: default(cells) for flag, cells in documented_of_server(name).items()} == server_flags(name)
    for flag, cells in documented_of_server(name).items():
        assert len(cells) == 3 and len(cells[2]) > 6, f"--{flag}: default, range and meaning"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_of_a_command_and_no_other(command):
    told = {flag: default(cells) for flag, cells in documented(command).items()}
    flags = command_flags(command)
    assert told.keys() == flags.keys()
    for flag, value in told.items():
        assert not value or value == flags[flag], f"{command} --{flag}"


def test_flags_of_connections():
    told = {flag: default(cells) for flag, cells in documented(", ".join(CONNECTING)).items()}
    for command in CONNECTING:
        flags = command_flags(command)
        assert told == {flag: flags.get(flag) for flag in told}, command
        others = {flag for flag in flags if re.match("tls_|token_file|target", flag)} - told.keys()
        assert not others, f"{command}: {others}"


def refused_values(limits: str) -> list[str]:
    """Values just outside a range as the document writes it."""
    if match := re.fullmatch(r"(\d+)\.\.(\d+)", limits):
        return [str(int(match[1]) - 1), str(int(match[2]) + 1)]
    values = []
    unit = "" if "< 1" in limits else "s"
    for part in limits.split(", "):
        sign, bound = re.fullmatch(r"([<>≤≥]) (\S+)", part).groups()
        if sign in "<>":
            values.append(bound + unit)
        elif sign == "≥":
            values.append("-1s")
        else:
            number, unit_of_bound = re.fullmatch(r"(\d+)(\w+)", bound).groups()
            values.append(f"{int(number) + 1}{unit_of_bound}")
    return values


RANGES = [(name, flag, value) for name in SERVERS for flag, cells in documented_of_server(name).items() if cells[1]
          for value in refused_values(cells[1])]


@pytest.mark.parametrize("name, flag, value", RANGES, ids=lambda part: str(part))
def test_what_is_outside_a_range_is_refused(name, flag, value):
    code, log = run(name, "--model=models/tiny", *SERVERS[name], f"--{flag}={value}")
    assert code == 2 and (f"--{flag}" in log or f"'{flag}'" in log), (code, log)


def test_environment():
    """What any source reads of it is documented."""
    sources = [path for folder in ("common", "router", "attention_worker", "expert_worker", "tools")
               for path in glob.glob(os.path.join(ROOT, folder, "**/*.cc"), recursive=True)]
    text = "".join(read(path) for path in sources)
    assert len(re.findall(r"\bgetenv\(", text)) == 1, "a variable that the document may not have"
    assert re.findall(r'kTokenVariable\[\] = "(\w+)"', text) == ["M1_TOKEN"]
    table = markdown.rows(markdown.sections(read(DOCUMENT))["Environment and files"])
    assert [cells[0] for cells in table if re.fullmatch(r"`M1_\w+`", cells[0])] == ["`M1_TOKEN`"]

"""Certificates as deploy/security.md says to make them, with the names that it gives and no others."""

import pathlib
import re
import shutil
import subprocess

import yaml

import chart
import markdown
from certificates import Authority, Identity
from tool import read

RELEASE = "m1"  # the release whose names the document writes
SECTION = markdown.sections(read("deploy/security.md"))["Certificates"]
MAKES_AUTHORITY = "openssl req -x509 "
NAMES = re.compile(r"(?<=subjectAltName=)[^\\']+")


def names_of_workers() -> dict[str, list[str]]:
    """{component: alternative names} of the table's rows for workers."""
    found = {cells[0].replace(" ", "-"): re.findall(r"`([A-Z]+:[^`]+)`", cells[1]) for cells in markdown.rows(SECTION)}
    return {component: found[component] for component in chart.COMPONENTS if component != "router"}


def names_of_the_cert_manager_example() -> list[str]:
    [text] = [block for block in markdown.blocks(SECTION) if "kind: Certificate" in block]
    spec = yaml.safe_load(text)["spec"]
    return [*(f"DNS:{name}" for name in spec["dnsNames"]), *(f"URI:{uri}" for uri in spec["uris"])]


def run_openssl_commands(commands: list[str], folder: pathlib.Path) -> Identity:
    made = subprocess.run(["bash", "-ec", "\n".join(commands)], cwd=folder, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return Identity(folder)


def made_with_openssl(folder: pathlib.Path) -> dict[str, Identity]:
    """By the document's own commands; workers with their rows' names in place of the router's."""
    commands = [command for command in markdown.commands(SECTION) if re.match(r"(openssl|printf) ", command)]
    for component in chart.COMPONENTS:
        (folder / component).mkdir(parents=True)
    found = {"router": run_openssl_commands(commands, folder / "router")}
    for component, names in names_of_workers().items():
        for name in ("ca.key", "ca.crt"):
            shutil.copy(folder / "router" / name, folder / component)
        own = [NAMES.sub(",".join(names), command) for command in commands if not command.startswith(MAKES_AUTHORITY)]
        found[component] = run_openssl_commands(own, folder / component)
    return found


def made_with_cert_manager(folder: pathlib.Path) -> dict[str, Identity]:
    """As cert-manager would, from the example and the table."""
    authority = Authority(folder)
    names = {"router": names_of_the_cert_manager_example(), **names_of_workers()}
    return {component: authority.issue(component, hosts=names[component]) for component in chart.COMPONENTS}


WAYS = {"openssl": made_with_openssl, "cert-manager": made_with_cert_manager}

"""The Dockerfile's targets, with what each inherits from the stages it is built from."""

import dataclasses
import functools
import json
import os
import shutil

from docker.utils.build import exclude_paths
from dockerfile_parse import DockerfileParser
from tool import ROOT

DOCKERFILE = "deploy/images/Dockerfile"
TARGETS = ("router", "attention-worker", "expert-worker", "cli")
SERVERS = TARGETS[:3]
# Of the workers, for NVIDIA GPUs.
CUDA_TARGETS = ("attention-worker-cuda", "expert-worker-cuda")
BINARIES = ("m1", "m1-router", "m1-attention-worker", "m1-expert-worker")
# What these take from NVIDIA's wheels.
CUDA_WHEELS = "deploy/images/cuda.txt"


@dataclasses.dataclass
class Stage:
    base: str
    # [(instruction, value)], those of the stages below first.
    instructions: list[tuple[str, str]]

    def values(self, instruction: str) -> list[str]:
        return [value for name, value in self.instructions if name == instruction]

    def last(self, instruction: str) -> str:
        """The one that counts."""
        values = self.values(instruction)
        assert values, f"no {instruction}"
        return values[-1]

    def ports(self) -> set[int]:
        return {int(port) for value in self.values("EXPOSE") for port in value.split()}

    def entrypoint(self) -> list[str]:
        return json.loads(self.last("ENTRYPOINT"))

    def health_command(self) -> list[str]:
        options, _, command = self.last("HEALTHCHECK").partition("CMD ")
        assert command, options
        return json.loads(command)


def instructions(path: str = DOCKERFILE) -> list[tuple[str, str]]:
    with open(os.path.join(ROOT, path), "rb") as file:
        return [(line["instruction"], line["value"]) for line in DockerfileParser(fileobj=file).structure
                if line["instruction"] != "COMMENT"]


@functools.cache
def stages() -> dict[str, Stage]:
    found: dict[str, Stage] = {}
    name = ""
    for instruction, value in instructions():
        if instruction == "FROM":
            base, _, name = value.split()
            below = found.get(base)
            found[name] = Stage(below.base if below else base, list(below.instructions) if below else [])
        elif name:
            found[name].instructions.append((instruction, value))
    return found


def argument(name: str) -> str:
    """The default of an ARG."""
    defaults = {value.partition("=")[2].strip('"') for instruction, value in instructions()
                if instruction == "ARG" and value.partition("=")[0] == name}
    assert len(defaults) == 1, f"{name}: {defaults}"
    return defaults.pop()


def copy_context(folder: str) -> None:
    """What a build sees of the tree, by Docker's own reading of the ignore file."""
    with open(os.path.join(ROOT, f"{DOCKERFILE}.dockerignore"), encoding="utf-8") as file:
        patterns = [line.strip() for line in file if line.strip() and not line.startswith("#")]
    for path in exclude_paths(ROOT, patterns, dockerfile=DOCKERFILE):
        source, copy = os.path.join(ROOT, path), os.path.join(folder, path)
        if os.path.isfile(source):
            os.makedirs(os.path.dirname(copy), exist_ok=True)
            shutil.copy2(source, copy)

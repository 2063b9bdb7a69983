"""What a Python client of the server needs: stubs made of proto/, and recorded conversations as requests."""

import json
import pathlib
import sys

import grpc_tools
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[2]


def make_stubs(folder):
    """Python stubs of proto/ in `folder`, which goes onto the path."""
    protos = [str(path) for path in sorted((ROOT / "proto/m1/v1").glob("*.proto"))]
    well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    includes = [f"-I{ROOT / 'proto'}", f"-I{well_known}"]
    if protoc.main(["", *includes, f"--python_out={folder}", f"--grpc_python_out={folder}", *protos]) != 0:
        raise SystemExit("generating the stubs failed")
    sys.path.insert(0, str(folder))


def add_chat(pb, request, question):
    """Messages and tools of a question (see questions.py) into request.chat. A tool message of a question holds the
    results of several tools; those of a request hold one each."""
    for message in question["messages"]:
        role = pb.Role.Value("ROLE_" + message["role"].upper())
        if message["role"] == "tool":
            for result in message["content"]:
                request.chat.messages.add(role=role, text=result["text"], tool_name=result["name"])
        else:
            request.chat.messages.add(role=role, text=message["content"])
    for tool in question["tools"]:
        request.chat.tools.add(
            name=tool["name"], description=tool.get("description"), parameters_json=json.dumps(tool["parameters"])
        )

"""What every example begins with: the command line's --target, stubs made of proto/, and a channel."""

import argparse
import contextlib
import pathlib
import sys
import tempfile

import grpc
import grpc_tools
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parent.parent


def options(description):
    """A parser with --target; examples add what else they take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="127.0.0.1:50051", help="HOST:PORT of the router")
    return parser


def make_stubs():
    """Generates and imports them; an application would generate them once and keep the files."""
    protos = [str(path) for path in sorted((ROOT / "proto/m1/v1").glob("*.proto"))]
    well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    includes = [f"-I{ROOT / 'proto'}", f"-I{well_known}"]
    with tempfile.TemporaryDirectory() as folder:
        if protoc.main(["", *includes, f"--python_out={folder}", f"--grpc_python_out={folder}", *protos]) != 0:
            raise SystemExit("generating the stubs failed")
        sys.path.insert(0, folder)
        from m1.v1 import inference_pb2, inference_pb2_grpc
    return inference_pb2, inference_pb2_grpc


@contextlib.contextmanager
def connect(target):
    """(messages, client of m1.v1.Inference). A request that fails ends the program with the server's reason."""
    messages, services = make_stubs()
    with grpc.insecure_channel(target) as channel:
        try:
            yield messages, services.InferenceStub(channel)
        except grpc.RpcError as error:
            raise SystemExit(f"{error.code().name}: {error.details()}") from error

"""Asks a server one question and prints its thought and its answer as they come.

    .venv/bin/python examples/chat.py 127.0.0.1:50051 "764 + 621"
    .venv/bin/python examples/chat.py 127.0.0.1:50051 "764 + 621" 8     # at most 8 tokens of thought

Needs grpcio and grpcio-tools; the stubs are generated from proto/ into a temporary folder.
"""

import pathlib
import sys
import tempfile

import grpc
import grpc_tools
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parent.parent


def make_stubs(folder):
    protos = [str(path) for path in sorted((ROOT / "proto/m1/v1").glob("*.proto"))]
    well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
    includes = [f"-I{ROOT / 'proto'}", f"-I{well_known}"]
    if protoc.main(["", *includes, f"--python_out={folder}", f"--grpc_python_out={folder}", *protos]) != 0:
        raise SystemExit("generating the stubs failed")
    sys.path.insert(0, folder)


def main():
    if len(sys.argv) not in (3, 4):
        raise SystemExit(f"usage: {sys.argv[0]} HOST:PORT QUESTION [THINKING_BUDGET]")
    target, question = sys.argv[1:3]
    with tempfile.TemporaryDirectory() as folder:
        make_stubs(folder)
        from m1.v1 import inference_pb2, inference_pb2_grpc
    with grpc.insecure_channel(target) as channel:
        client = inference_pb2_grpc.InferenceStub(channel)
        request = inference_pb2.GenerateRequest(
            chat=inference_pb2.Chat(messages=[
                inference_pb2.ChatMessage(role=inference_pb2.ROLE_USER, text=question),
            ]),
            sampling=inference_pb2.Sampling(temperature=0),
            stopping=inference_pb2.Stopping(max_new_tokens=400),
        )
        if len(sys.argv) == 4:
            request.thinking.budget_tokens = int(sys.argv[3])
        shown = None
        for response in client.Generate(request):
            if response.WhichOneof("event") == "delta" and response.delta.text:
                if response.delta.channel != shown:
                    shown = response.delta.channel
                    print(f"\n[{inference_pb2.Channel.Name(shown).removeprefix('CHANNEL_').lower()}]")
                print(response.delta.text, end="", flush=True)
            elif response.WhichOneof("event") == "finish":
                usage = response.finish.usage
                print(f"\n[{usage.completion_token_count} tokens, {usage.reasoning_token_count} of thought]")


if __name__ == "__main__":
    main()

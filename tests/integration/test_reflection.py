"""A generic client: it knows an address and nothing else. All it sends and reads is made of reflected descriptors."""

import grpc
import pytest
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICES = {"m1.v1.Inference", "m1.v1.Control"}


class GenericClient:
    """Calls methods by name, with requests and answers as JSON values. Thread-compatible."""

    def __init__(self, channel):
        self.channel = channel
        self.database = ProtoReflectionDescriptorDatabase(channel)
        self.pool = descriptor_pool.DescriptorPool(self.database)  # not the default one: no generated code is in it

    def call(self, service, method, request):
        """All messages of the answer."""
        described = self.pool.FindServiceByName(service).FindMethodByName(method)
        kind = self.channel.unary_stream if described.server_streaming else self.channel.unary_unary
        stub = kind(f"/{service}/{method}",
                    request_serializer=lambda message: message.SerializeToString(),
                    response_deserializer=message_factory.GetMessageClass(described.output_type).FromString)
        message = message_factory.GetMessageClass(described.input_type)()
        answer = stub(json_format.ParseDict(request, message), timeout=60)
        messages = answer if described.server_streaming else [answer]
        return [json_format.MessageToDict(message, preserving_proto_field_name=True) for message in messages]


@pytest.fixture(scope="module")
def generic(cluster):
    with grpc.insecure_channel(cluster.target) as channel:
        yield GenericClient(channel)


def test_services_are_listed(generic):
    assert SERVICES | {"grpc.health.v1.Health"} <= set(generic.database.get_services())


def test_every_method_has_its_messages(generic):
    for service in SERVICES:
        for method in generic.pool.FindServiceByName(service).methods:
            assert method.input_type.full_name and method.output_type.full_name


def test_files_are_reflected_with_what_they_import(generic):
    for name in ("m1/v1/inference.proto", "m1/v1/control.proto"):
        file = generic.pool.FindFileByName(name)
        waiting, seen = [file], set()
        while waiting:
            file = waiting.pop()
            seen.add(file.name)
            waiting.extend(imported for imported in file.dependencies if imported.name not in seen)
        assert "google/protobuf/duration.proto" in seen


def test_model_info(generic, client):
    [info] = generic.call("m1.v1.Inference", "GetModelInfo", {})
    wanted = client.inference.GetModelInfo(client.pb.GetModelInfoRequest())
    assert info == json_format.MessageToDict(wanted, preserving_proto_field_name=True)


def test_generate_equals_the_generated_stubs(generic, client):
    messages = generic.call("m1.v1.Inference", "Generate", {
        "chat": {"messages": [{"role": "ROLE_USER", "text": "764 + 621"}]},
        "sampling": {"temperature": 0},
        "stopping": {"max_new_tokens": 200},
    })
    wanted = client.generate(chat=[("user", "764 + 621")], temperature=0, max_new_tokens=200)
    deltas = [message["delta"] for message in messages if "delta" in message]
    assert "prompt" in messages[0] and "finish" in messages[-1]
    assert [token["id"] for delta in deltas for token in delta.get("tokens", [])] == wanted.ids
    content = "".join(delta.get("text", "") for delta in deltas if delta["channel"] == "CHANNEL_CONTENT")
    assert content == wanted.text and "1385" in content


def test_control(generic):
    [topology] = generic.call("m1.v1.Control", "GetTopology", {})
    assert topology["attention_workers"]

"""Names of the public contract: what clients and tools spell out must not change."""


def test_services_and_methods(stubs):
    from m1.v1 import control_pb2, inference_pb2

    def methods(descriptor, service):
        return sorted(descriptor.services_by_name[service].methods_by_name)

    assert methods(inference_pb2.DESCRIPTOR, "Inference") == ["Detokenize", "Generate", "GetModelInfo", "Tokenize"]
    assert methods(control_pb2.DESCRIPTOR, "Control") == ["Abort", "Drain", "GetLoad", "GetTopology"]
    assert inference_pb2.DESCRIPTOR.services_by_name["Inference"].full_name == "m1.v1.Inference"


def test_every_scalar_with_a_default_is_optional(stubs):
    from m1.v1 import inference_pb2

    for message in ("Sampling", "Stopping", "Thinking", "Output"):
        for field in inference_pb2.DESCRIPTOR.message_types_by_name[message].fields:
            if not field.is_repeated:
                assert field.has_presence, f"{message}.{field.name}"


def test_enum_zero_is_unspecified(stubs):
    from m1.v1 import inference_pb2

    for enum in inference_pb2.DESCRIPTOR.enum_types_by_name.values():
        assert enum.values_by_number[0].name.endswith("_UNSPECIFIED"), enum.full_name

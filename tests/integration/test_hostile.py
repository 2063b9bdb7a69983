"""Bad input from clients, files and peers: each gets its clear error, and no process ends."""

import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess

import grpc
import pytest

from client import Client, error_details
from cluster import BIN, Cluster, Process, free_ports, is_serving, wait_serving, wait_until

MODEL = "models/tiny"
NAN, INFINITY = float("nan"), float("inf")


@pytest.fixture(scope="module")
def cluster(stubs):
    with Cluster(MODEL, expert_workers=2) as running:
        yield running
        assert all(process.running() for process in (running.router, *running.attention, *running.experts))


def violations(error):
    """{field: description} of the google.rpc.BadRequest in an error's details."""
    from google.rpc import error_details_pb2
    return {violation.field: violation.description
            for bad_request in error_details(error, error_details_pb2.BadRequest)
            for violation in bad_request.field_violations}


def base(client):
    return client.request(ids=[1, 2, 3], max_new_tokens=1)


def set_path(message, path, value):
    *parents, last = path.split(".")
    for parent in parents:
        message = getattr(message, parent)
    setattr(message, last, value)


# Field -> values that must be refused, naming that field.
BAD_SCALARS = {
    "sampling.temperature": [-1.0, 0.00001, 100.5, NAN, INFINITY, -INFINITY, 1e30],
    "sampling.top_p": [0.0, -0.1, 1.5, NAN, INFINITY],
    "sampling.top_k": [-1, -2**31],
    "sampling.min_p": [-0.1, 1.1, NAN, INFINITY],
    "sampling.repetition_penalty": [0.0, -1.0, 10.5, NAN, INFINITY],
    "sampling.presence_penalty": [-10.5, 10.5, NAN, INFINITY, -INFINITY],
    "sampling.frequency_penalty": [-10.5, 10.5, NAN, INFINITY],
    "sampling.sample_count": [0, -1, 65, 2**31 - 1],
    "stopping.max_new_tokens": [-1, -2**31],
    "stopping.min_new_tokens": [-1, 2, 2**31 - 1],
    "thinking.budget_tokens": [-1],
    "thinking.closing_text": ["x" * 4097],
    "output.candidate_count": [-1, 21, 2**31 - 1],
    "priority": [-101, 101, 2**31 - 1, -2**31],
    "request_id": ["", "x" * 129, "tab\t", "ü", "line\nline", "\x7f"],
    "session_id": ["x" * 129, "tab\t", "ü", "\x00"],
    "generated_prompt_token_count": [-1, 4, 2**31 - 1],
}


def scalar_cases():
    return [(path, value) for path, values in BAD_SCALARS.items() for value in values]


def expect_refused(client, request, field):
    with pytest.raises(grpc.RpcError) as caught:
        client.send(request, timeout=20)
    error = caught.value
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, f"{error.code()}: {error.details()}"
    found = violations(error)
    assert any(name == field or name.startswith((field + "[", field + ".")) for name in found), (field, found)
    assert all(description for description in found.values())


@pytest.mark.parametrize("path,value", scalar_cases(), ids=lambda item: repr(item)[:40])
def test_scalar_out_of_range(client, path, value):
    request = base(client)
    set_path(request, path, value)
    expect_refused(client, request, path)


def test_prompts(client):
    empty = client.request(max_new_tokens=1)
    with pytest.raises(grpc.RpcError) as caught:
        client.send(empty)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    for ids in ([], [-1], [512], [1, 2, 2**31 - 1], [3, -2**31]):
        request = base(client)
        request.token_ids.ids[:] = ids
        expect_refused(client, request, "token_ids")
    expect_refused(client, client.request(text="", max_new_tokens=1), "text")
    limit = client.inference.GetModelInfo(client.pb.GetModelInfoRequest()).max_context_tokens
    expect_refused(client, client.request(ids=[1] * (int(limit) + 1), max_new_tokens=1), "token_ids")


def test_lists(client):
    def case(field, change):
        request = base(client)
        change(request)
        expect_refused(client, request, field)

    case("sampling.logit_bias", lambda r: r.sampling.logit_bias.update({5: 101.0}))
    case("sampling.logit_bias", lambda r: r.sampling.logit_bias.update({5: NAN}))
    case("sampling.logit_bias", lambda r: r.sampling.logit_bias.update({512: 1.0}))
    case("sampling.logit_bias", lambda r: r.sampling.logit_bias.update({-1: 1.0}))
    case("stopping.stop_strings", lambda r: r.stopping.stop_strings.extend(["x"] * 17))
    case("stopping.stop_strings", lambda r: r.stopping.stop_strings.append(""))
    case("stopping.stop_strings", lambda r: r.stopping.stop_strings.append("x" * 1025))
    case("stopping.stop_token_ids", lambda r: r.stopping.stop_token_ids.extend([1] * 129))
    case("stopping.stop_token_ids", lambda r: r.stopping.stop_token_ids.append(512))
    case("stopping.stop_token_ids", lambda r: r.stopping.stop_token_ids.append(-5))
    case("queue_timeout", lambda r: r.queue_timeout.FromMilliseconds(0))
    case("queue_timeout", lambda r: r.queue_timeout.FromMilliseconds(-5))


def test_chats(client):
    pb = client.pb

    def case(field, change):
        request = client.request(max_new_tokens=1)
        request.chat.messages.add(role=pb.ROLE_USER, text="hello")
        change(request.chat)
        expect_refused(client, request, field)

    deep = '{"a":' * 65 + "1" + "}" * 65
    case("chat.messages", lambda c: c.messages.__delitem__(0))
    case("chat.messages", lambda c: c.messages.add(role=pb.ROLE_UNSPECIFIED, text="x"))
    case("chat.messages", lambda c: c.messages.add(role=99, text="x"))
    case("chat.messages", lambda c: c.messages.add(role=pb.ROLE_TOOL, text="no name"))
    case("chat.messages", lambda c: c.messages.extend([c.messages[0]] * 4096))
    case("chat.tools", lambda c: c.tools.add(name="", parameters_json="{}"))
    for text in ("", "[]", "1", "{", '{"a":1}}', "nonsense", '{"a":NaN}', deep):
        case("chat.tools", lambda c, text=text: c.tools.add(name="f", parameters_json=text))
        case("chat.messages", lambda c, text=text: c.messages.add(
            role=pb.ROLE_ASSISTANT, text="x", tool_calls=[pb.ToolCall(name="f", arguments_json=text)]))
    case("chat.tools", lambda c: [c.tools.add(name="f", parameters_json="{}") for _ in range(257)])


def test_valid_values_of_every_field_work(client):
    for path, value in (("sampling.repetition_penalty", 1.3), ("sampling.presence_penalty", 0.5),
                        ("sampling.frequency_penalty", -0.5), ("sampling.sample_count", 2),
                        ("stopping.min_new_tokens", 1), ("thinking.budget_tokens", 5),
                        ("thinking.closing_text", "</think>"), ("priority", 3), ("session_id", "s"),
                        ("stopping.include_stop_text", True), ("generated_prompt_token_count", 1)):
        request = base(client)
        set_path(request, path, value)
        assert len(client.send_samples(request)) == max(1, request.sampling.sample_count), path


def test_bytes_that_are_no_message(client):
    call = client.channel.unary_stream("/m1.v1.Inference/Generate", request_serializer=lambda data: data,
                                       response_deserializer=lambda data: data)
    numbers = random.Random(9)
    for _ in range(100):
        data = bytes(numbers.randrange(256) for _ in range(numbers.randrange(1, 60)))
        with pytest.raises(grpc.RpcError) as caught:
            list(call(data, timeout=20))
        assert caught.value.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT,
                                       grpc.StatusCode.UNIMPLEMENTED), caught.value
    bad_utf8 = b"\x12\x02\xff\xfe"  # text: two bytes that are no UTF-8
    with pytest.raises(grpc.RpcError) as caught:
        list(call(bad_utf8, timeout=20))
    assert caught.value.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT)
    assert len(client.generate(ids=[1], max_new_tokens=2, ignore_eos=True).ids) == 2


def test_worker_ports_survive_garbage(cluster):
    numbers = random.Random(11)
    for process in (cluster.router, *cluster.attention, *cluster.experts):
        host, port = process.address.rsplit(":", 1)
        for _ in range(20):
            with socket.create_connection((host, int(port)), timeout=5) as connection:
                connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" if numbers.random() < 0.5 else b"")
                connection.sendall(bytes(numbers.randrange(256) for _ in range(200)))
        assert process.running()
    wait_serving(cluster.target)


# --- malformed files ---------------------------------------------------------------------------------------

def read_tensors(path):
    """(header dict, data bytes) of a safetensors file."""
    with open(path, "rb") as file:
        blob = file.read()
    size = struct.unpack("<Q", blob[:8])[0]
    return json.loads(blob[8:8 + size]), blob[8 + size:]


def write_tensors(path, header, data, pad=True):
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8 if pad else 0)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def names(header, part):
    return sorted(name for name in header if part in name)


EXPERT = "block_sparse_moe.experts."


def truncated(path, header, data):
    write_tensors(path, header, data[:-100])
    return None


def huge_header(path, header, data):
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", 2**63) + b"{}")
    return None


def empty_file(path, header, data):
    open(path, "wb").close()
    return None


def no_json(path, header, data):
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", 8) + b"{\"a\": 1 " + data)
    return None


def missing_tensor(path, header, data):
    """A well-formed file that lacks one tensor: its bytes are cut out and later ones move down."""
    name = names(header, EXPERT)[0]
    begin, end = header.pop(name)["data_offsets"]
    for entry in header.values():
        if entry.get("data_offsets", [0])[0] >= end:
            entry["data_offsets"] = [offset - (end - begin) for offset in entry["data_offsets"]]
    write_tensors(path, header, data[:begin] + data[end:])
    return name


def wrong_shape(path, header, data):
    name = names(header, EXPERT)[0]
    header[name]["shape"] = header[name]["shape"][::-1]
    write_tensors(path, header, data)
    return name


def wrong_dtype(path, header, data):
    name = names(header, EXPERT)[0]
    header[name]["dtype"] = "I32"
    write_tensors(path, header, data)
    return name


def unknown_dtype(path, header, data):
    name = names(header, EXPERT)[0]
    header[name]["dtype"] = "F99"
    write_tensors(path, header, data)
    return name


def past_the_end(path, header, data):
    name = names(header, EXPERT)[0]
    begin, end = header[name]["data_offsets"]
    header[name]["data_offsets"] = [begin + len(data), end + len(data)]
    write_tensors(path, header, data)
    return name


def reversed_offsets(path, header, data):
    name = names(header, EXPERT)[0]
    header[name]["data_offsets"].reverse()
    write_tensors(path, header, data)
    return name


def negative_offset(path, header, data):
    name = names(header, EXPERT)[0]
    begin, end = header[name]["data_offsets"]
    header[name]["data_offsets"] = [begin - end - 1, -1]
    write_tensors(path, header, data)
    return name


def overlapping(path, header, data):
    first, second = names(header, EXPERT)[:2]
    header[second]["data_offsets"] = header[first]["data_offsets"]
    write_tensors(path, header, data)
    return None


def doubled_name(path, header, data):
    name = names(header, EXPERT)[0]
    text = json.dumps(header, separators=(",", ":"))
    text = text[:-1] + "," + json.dumps(name) + ":" + json.dumps(header[name], separators=(",", ":")) + "}"
    text += " " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text.encode() + data)
    return name


FILE_FAULTS = (truncated, huge_header, empty_file, no_json, missing_tensor, wrong_shape, wrong_dtype, unknown_dtype,
               past_the_end, reversed_offsets, negative_offset, overlapping, doubled_name)


def run_to_end(name, model, *flags):
    """Exit code and log of a server that should refuse to start."""
    run = subprocess.run([os.path.join(BIN, name), "--port=0", f"--model={model}", *flags], capture_output=True,
                         text=True, errors="replace", timeout=120, check=False)
    return run.returncode, run.stderr


def copy_of_mini(tmp_path):
    model = tmp_path / "model"
    shutil.copytree("tests/golden/mini-fp32", model)
    return model


@pytest.mark.parametrize("fault", FILE_FAULTS, ids=lambda fault: fault.__name__)
def test_malformed_checkpoint(fault, tmp_path):
    model = copy_of_mini(tmp_path)
    path = model / "model.safetensors"
    tensor = fault(str(path), *read_tensors(path))
    code, log = run_to_end("m1-expert-worker", model, "--experts=0-31")
    assert code == 3, log
    assert "model.safetensors" in log or (tensor and tensor in log), log
    if tensor:
        assert tensor in log, log
    code, log = run_to_end("m1-attention-worker", model, "--expert_workers=inproc")
    assert code == 3, log


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model_type": "llama"}', "\xff\xfe"],
                         ids=["empty", "cut", "array", "nothing", "another-model", "binary"])
def test_malformed_config(text, tmp_path):
    model = copy_of_mini(tmp_path)
    (model / "config.json").write_text(text, encoding="latin-1")
    for name, flags in (("m1-expert-worker", ["--experts=0"]), ("m1-attention-worker", ["--expert_workers=inproc"]),
                        ("m1-router", ["--attention_workers=127.0.0.1:1"])):
        code, log = run_to_end(name, model, *flags)
        assert code == 3, (name, log)
        assert "config.json" in log, (name, log)


@pytest.mark.parametrize("key,value", [("num_local_experts", 0), ("num_local_experts", -1), ("hidden_size", 10**12),
                                       ("num_hidden_layers", 2**40), ("num_attention_heads", 3), ("head_dim", 0),
                                       ("vocab_size", "many"), ("rms_norm_eps", -1), ("num_experts_per_tok", 33)])
def test_config_value_out_of_range(key, value, tmp_path):
    model = copy_of_mini(tmp_path)
    config = json.loads((model / "config.json").read_text())
    config[key] = value
    (model / "config.json").write_text(json.dumps(config))
    code, log = run_to_end("m1-expert-worker", model, "--experts=0-1")
    assert code == 3, log


@pytest.mark.parametrize("text", ["", "{", "{}", '{"model": {"type": "Unigram"}}'])
def test_malformed_tokenizer(text, tmp_path):
    model = copy_of_mini(tmp_path)
    (model / "tokenizer.json").write_text(text)
    code, log = run_to_end("m1-router", model, "--attention_workers=127.0.0.1:1")
    assert code == 3, log
    assert "tokenizer.json" in log, log


@pytest.mark.parametrize("name,flags,wanted", [
    ("m1-expert-worker", ["--experts=5-99"], "experts"),
    ("m1-expert-worker", ["--shard=3/2"], "shard"),
    ("m1-expert-worker", ["--experts=0", "--shard=0/2"], "shard"),
    ("m1-expert-worker", ["--experts=0", "--threads=-1"], "threads"),
    ("m1-expert-worker", ["--experts=0", "--activation_dtype=fp8"], "activation_dtype"),
    ("m1-expert-worker", ["--experts=0", "--cpu_target=z80"], "cpu_target"),
    ("m1-attention-worker", ["--expert_workers="], "expert_workers"),
    ("m1-attention-worker", ["--expert_workers=inproc", "--max_sequences=0"], "max_sequences"),
    ("m1-attention-worker", ["--expert_workers=inproc", "--max_step_tokens=0"], "max_step_tokens"),
    ("m1-attention-worker", ["--expert_workers=inproc", "--exchange_timeout=-1s"], "exchange_timeout"),
    ("m1-router", ["--attention_workers="], "attention_workers"),
    ("m1-router", ["--attention_workers=127.0.0.1:1", "--queue_size=0"], "queue_size"),
    ("m1-router", ["--attention_workers=127.0.0.1:1", "--log_level=loud"], "log_level"),
])
def test_bad_flag_is_named(name, flags, wanted):
    code, log = run_to_end(name, MODEL, *flags)
    assert code == 2, log
    assert wanted in log, log


def test_missing_model_directory():
    for name, flags in (("m1-expert-worker", ["--experts=0"]), ("m1-attention-worker", ["--expert_workers=inproc"]),
                        ("m1-router", ["--attention_workers=127.0.0.1:1"])):
        code, log = run_to_end(name, "/nonexistent/model", *flags)
        assert code in (2, 3), (name, log)
        assert "/nonexistent/model" in log, (name, log)


# --- peers ------------------------------------------------------------------------------------------------

def test_stopped_expert_worker_counts_as_lost_and_comes_back(stubs):
    with Cluster(MODEL, expert_workers=2, attention_flags=["--exchange_timeout=1s"]) as cluster:
        with Client(cluster.target) as client:
            request = client.request(ids=[7, 8, 9], max_new_tokens=400, ignore_eos=True, seed=1)
            wanted = client.send(request)
            stream = client.inference.Generate(request, timeout=60)
            next(stream)
            cluster.experts[1].signal(signal.SIGSTOP)
            try:
                wait_until(lambda: client.topology().attention_workers[0].description.missing_experts, 10,
                           "missing experts named")
                wait_until(lambda: not is_serving(cluster.attention[0].address), 10, "NOT_SERVING")
            finally:
                cluster.experts[1].signal(signal.SIGCONT)
            ids = [token.id for response in stream for token in response.delta.tokens]
            assert ids == wanted.ids
            wait_serving(cluster.target)


def test_experts_missing_for_long_end_their_sequences(stubs):
    flags = ["--exchange_timeout=500ms", "--expert_loss_timeout=2s"]
    with Cluster(MODEL, expert_workers=2, attention_flags=flags) as cluster, Client(cluster.target) as client:
        stream = client.inference.Generate(client.request(ids=[7], max_new_tokens=5000, ignore_eos=True), timeout=60)
        next(stream)
        cluster.experts[0].kill()
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE, caught.value
        cluster.experts[0].start()
        wait_serving(cluster.target)
        assert len(client.generate(ids=[7], max_new_tokens=3, ignore_eos=True).ids) == 3


def test_processes_may_start_in_any_order(stubs):
    """Router first, then the attention worker, experts last and one by one."""
    experts = [Process("m1-expert-worker", f"--model={MODEL}", f"--shard={i}/2") for i in range(2)]
    *expert_ports, attention_port = free_ports(3)
    for process, port in zip(experts, expert_ports):
        process.port = port
    attention = Process("m1-attention-worker", f"--model={MODEL}",
                        "--expert_workers=" + ",".join(f"127.0.0.1:{process.port}" for process in experts))
    attention.port = attention_port
    router = Process("m1-router", f"--model={MODEL}", f"--attention_workers=127.0.0.1:{attention.port}")
    started = []
    try:
        for process in (router, attention, experts[0]):
            process.start()
            started.append(process)
            assert not is_serving(router.address)
        with Client(router.address) as client:
            wait_until(lambda: client.topology().attention_workers[0].description.missing_experts, what="topology")
            missing = client.topology().attention_workers[0].description.missing_experts
            assert len(missing) in (16, 32)
            with pytest.raises(grpc.RpcError) as caught:
                client.generate(ids=[1], max_new_tokens=1, timeout=2)
            assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            experts[1].start()
            started.append(experts[1])
            wait_serving(router.address)
            assert len(client.generate(ids=[1], max_new_tokens=4, ignore_eos=True).ids) == 4
    finally:
        codes = [process.stop() for process in started]
    assert codes == [0] * len(codes)


def test_workers_of_different_checkpoints_do_not_meet(stubs):
    expert = Process("m1-expert-worker", "--model=tests/golden/mini-fp32", "--experts=0-31").start()
    attention = Process("m1-attention-worker", f"--model={MODEL}", f"--expert_workers={expert.address}").start()
    try:
        wait_until(lambda: "fingerprint" in attention.log() or "hidden" in attention.log(), what="mismatch in the log")
        assert not is_serving(attention.address)
        assert expert.running() and attention.running()
    finally:
        codes = [attention.stop(), expert.stop()]
    assert codes == [0, 0]

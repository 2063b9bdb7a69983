"""deploy/sizing.md: its tables are those of sizing.py, whose formulas are what the real programs say of small models."""

import json
import os
import re
import shutil
import subprocess

import pytest

import chart
import markdown
import sizing
from prometheus import cluster_with_ports, get, sample
from tool import ROOT, read

BIN = os.environ.get("M1_BIN", "build/release/bin")
FULL = sizing.Model.load(os.path.join(ROOT, sizing.M1_CONFIG))
TINY = sizing.Model.load(os.path.join(ROOT, "models/tiny/config.json"))
H200_BYTES = 141 * sizing.GB
QUANTIZED = {"int8-experts": ["--format=int8"], "int4-g32-experts": ["--format=int4"], "int8-all": ["--format=int8", "--scope=all"]}


def run_m1(*arguments):
    return subprocess.run([os.path.join(BIN, "m1"), *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True).stdout


def test_tables_are_computed():
    sections = markdown.sections(read("deploy/sizing.md"))
    for heading, lines in sizing.tables(FULL).items():
        assert markdown.rows(sections[heading]) == lines, f"{heading}: python tests/deploy/sizing.py prints it"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """{weight format: directory} of a random model with the shapes of models/tiny."""
    folder = tmp_path_factory.mktemp("sizing")
    made = {"bf16": str(folder / "bf16")}
    run_m1("checkpoint", "make", "--config=models/tiny/config.json", f"--out={made['bf16']}")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(f"models/tiny/{name}", made["bf16"])
    for name, flags in QUANTIZED.items():
        made[name] = str(folder / name)
        run_m1("quantize", f"--model={made['bf16']}", f"--out={made[name]}", *flags)
    return made


@pytest.mark.parametrize("weights", sizing.FORMATS)
def test_weights_are_what_workers_load(stubs, checkpoints, weights):
    from cluster import Process
    for name, flags, wanted in (
            ("m1-attention-worker", ["--expert_workers=127.0.0.1:9"], TINY.attention_bytes(weights)),
            ("m1-expert-worker", ["--shard=1/4"], 8 * TINY.expert_bytes(weights))):
        process = Process(name, f"--model={checkpoints[weights]}", *flags).start()
        log = process.log()
        assert process.stop() == 0
        assert f"weight_format={weights}" in log
        assert int(re.search(r"model=.* bytes=(\d+)", log)[1]) == wanted, name


def test_leases_are_what_a_worker_grants(stubs):
    """As many blocks as --kv_bytes holds, and no more than the slots can fill."""
    from cluster import Process
    for sequences, tokens in ((3, 1000), (2, 8192)):
        wanted = TINY.kv_bytes(sequences, tokens)
        process = Process("m1-attention-worker", "--model=models/tiny", "--expert_workers=127.0.0.1:9", f"--max_sequences={sequences}",
                          f"--kv_bytes={wanted}", f"--max_context_tokens={tokens}").start()
        assert int(re.search(r"kv_blocks=(\d+)", process.log())[1]) * TINY.kv_block_bytes() == wanted
        assert process.stop() == 0


def test_slots_are_counted_when_memory_is_checked():
    """The message that refuses too much memory names the bytes of slots and blocks."""
    sequences, machine = 65536, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    blocks = sequences * (8192 // sizing.BLOCK + 1)
    wanted = sequences * TINY.slot_bytes() + blocks * TINY.kv_block_bytes()
    if wanted <= machine:
        pytest.fail("this machine holds more than the test can ask for: give it a larger model")
    done = subprocess.run([os.path.join(BIN, "m1-attention-worker"), "--model=models/tiny", "--expert_workers=127.0.0.1:9",
                           f"--max_sequences={sequences}", f"--kv_bytes={1 << 50}"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and f"take {round(wanted / sizing.MIB)} MiB" in done.stderr, done.stderr


@pytest.mark.parametrize("context", [128, 8192])
def test_bandwidth_is_that_of_bench_limits(context):
    bench = sizing.Model.load(os.path.join(ROOT, "models/bench/config.json"))
    told = json.loads(run_m1("bench", "limits", "--model=models/bench", "--threads=1", "--seconds=0.001", f"--context={context}", "--json"))
    for streams in (1, 8, 32):
        wanted = bench.decode_attention_bytes(streams, context) + bench.decode_expert_bytes(streams)
        assert told["bounds"][f"decode_{streams}"]["bytes"] == pytest.approx(wanted, rel=1e-6), streams


def test_network_is_what_an_exchange_sends(stubs):
    """With one expert worker a row goes out once and comes back for each of its experts; the rest is frames."""
    from client import Client
    with cluster_with_ports() as (cluster, ports), Client(cluster.target) as client:
        client.generate(ids=list(range(512)), max_new_tokens=1, ignore_eos=True)
        text = get(ports["attention-worker"], "/metrics")[1]
    rows = sample(text, "m1_attention_step_rows_sum") * TINY.layers
    assert rows == 512 * TINY.layers
    sent = sample(text, "m1_attention_exchange_sent_bytes_total") / rows
    back = sample(text, "m1_attention_exchange_received_bytes_total") / rows
    assert TINY.sent_row_bytes() <= sent < TINY.sent_row_bytes() + 32  # which row goes to which expert
    assert TINY.returned_row_bytes() <= back < TINY.returned_row_bytes() + 8


def test_a_shared_memory_connection_is_as_large_as_it_says():
    header = read("common/shm/slots.h")
    num_slots = int(re.search(r"kMaxSlots = (\d+);", header)[1])
    slot_mib = int(re.search(r"slot_bytes = int64_t\{(\d+)\} << 20;", header)[1])
    said = re.sub(r"\s+", " ", read("deploy/sizing.md"))
    assert "num_slots = kMaxSlots;" in header and f"is {2 * num_slots * slot_mib} MiB of memory that both map" in said
    assert f"{num_slots} slots of {slot_mib} MiB each way" in said and f"that is {4 * 2 * num_slots * slot_mib} MiB" in said
    assert "pinned(backend, memory.data(), memory.num_bytes())" in read("expert_worker/shm_source.cc"), "all of it"


def quantity(text):
    number, unit = re.fullmatch(r"(\d+)([MGT]i)", text).groups()
    return int(number) << {"Mi": 20, "Gi": 30, "Ti": 40}[unit]


def attention_need(model, values, weights):
    config = values["attentionWorker"]["config"]
    return (model.attention_bytes(weights) + config["max_sequences"] * model.slot_bytes() + config["kv_bytes"]
            + model.workspace_bytes())


def expert_need(model, values, weights):
    return model.experts // values["expertWorker"]["shards"] * model.expert_bytes(weights)


@pytest.mark.parametrize("size, model, weights", [("single-node", TINY, "bf16"), ("multi-node", FULL, "bf16")])
def test_containers_of_values_files_hold_their_share(size, model, weights):
    values = chart.merged(chart.default_values(), chart.values_file(size))
    for role, need in (("attentionWorker", attention_need), ("expertWorker", expert_need)):
        limit = quantity(values[role]["resources"]["limits"]["memory"])
        assert need(model, values, weights) + (256 << 20) <= limit, f"{size} {role}"


def test_gpus_of_the_values_file_would_hold_their_share():
    values = chart.merged(chart.default_values(), chart.values_file("8xh200"))
    assert values["attentionWorker"]["replicas"] + values["expertWorker"]["shards"] == 8
    assert attention_need(FULL, values, "int8-experts") < 0.95 * H200_BYTES
    assert expert_need(FULL, values, "int8-experts") < 0.95 * H200_BYTES

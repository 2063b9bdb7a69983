"""`m1 bench`: keys, counts and order of what it reports. Speeds are not judged."""

import json
import subprocess
import sys

import pytest

from cluster import BIN, run_m1

TIMES = ("ttft", "tpot", "itl", "e2el")


def serve(cluster, *flags, code=0):
    run = run_m1("bench", "serve", f"--target={cluster.target}", "--json", *flags)
    assert run.returncode == code, run.stderr
    return json.loads(run.stdout)


def check_times(result):
    for name in TIMES:
        values = [result[f"{p}_{name}_ms"] for p in ("p50", "p90", "p95", "p99")]
        assert values == sorted(values) and values[0] >= 0, (name, values)
        assert result[f"median_{name}_ms"] == values[0]
        assert result[f"mean_{name}_ms"] > 0 and result[f"std_{name}_ms"] >= 0


def test_closed_loop(cluster):
    result = serve(cluster, "--num_prompts=12", "--max_concurrency=4", "--input_len=uniform:2:20", "--output_len=9")
    assert (result["completed"], result["failed"], result["num_prompts"]) == (12, 0, 12)
    assert result["total_output_tokens"] == 12 * 9 and result["output_lens"] == [9] * 12
    assert result["total_input_tokens"] == sum(result["input_lens"])
    assert all(2 <= length <= 20 for length in result["input_lens"])
    assert result["request_rate"] == "inf" and result["max_concurrency"] == 4
    assert result["request_goodput"] is None
    assert result["output_throughput"] == pytest.approx(12 * 9 / result["duration"])
    assert result["total_token_throughput"] == pytest.approx(
        (result["total_input_tokens"] + 12 * 9) / result["duration"])
    check_times(result)


def test_open_loop_repeats_by_seed(cluster):
    flags = ("--num_prompts=10", "--request_rate=50", "--input_len=lognormal:8:0.5:2:30", "--output_len=uniform:1:6")
    first = serve(cluster, *flags, "--seed=3", "--goodput=ttft:60000", "--goodput=e2el:60000")
    again = serve(cluster, *flags, "--seed=3")
    other = serve(cluster, *flags, "--seed=4")
    for key in ("input_lens", "output_lens"):
        assert first[key] == again[key]
    assert first["input_lens"] != other["input_lens"]
    assert first["request_goodput"] == pytest.approx(first["request_throughput"])
    assert first["start_times"] == sorted(first["start_times"]) and first["request_rate"] == 50
    check_times(first)


def test_failed_requests_are_counted(cluster):
    result = serve(cluster, "--num_prompts=3", "--num_warmups=0", "--input_len=4", "--output_len=4", "--timeout=1us", code=1)
    assert (result["completed"], result["failed"]) == (0, 3)
    assert all(result["errors"])


def test_result_file_and_table(cluster, tmp_path):
    path = tmp_path / "result.json"
    run = run_m1("bench", "serve", f"--target={cluster.target}", "--num_prompts=2", "--output_len=3", f"--result={path}")
    assert run.returncode == 0 and "output_throughput" in run.stdout, run.stderr
    assert json.loads(path.read_text())["completed"] == 2
    assert run.stderr == ""  # no bar where there is no terminal


def test_limits():
    run = run_m1("bench", "limits", "--threads=1", "--seconds=0.001", "--model=models/bench", "--json")
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    (limits,) = result["limits"]
    assert limits["threads"] == 1
    assert all(limits[key] > 0 for key in ("read_gb_per_s", "cache_gb_per_s", "fp32_gflops", "bf16_gflops"))
    assert set(result["bounds"]) == {"decode_1", "decode_8", "decode_32", "prefill_512", "prefill_2048", "prefill_8192"}
    one = result["bounds"]["decode_1"]
    assert one["tokens_per_s"] == pytest.approx(limits["read_gb_per_s"] * 1e9 / one["bytes"])


OPERATIONS = {
    "Embed", "RmsNorm", "Round", "Linear", "GatedUp", "ExpertFfn", "ScaledAdd", "SigmoidMul", "TopKGate", "CombineExperts",
    "SharedExpertMix", "Rotary", "AppendKv", "SoftmaxAttention", "LightningAttention", "LogSumExp", "DrawTokens",
    "ScoreTokens"
}


def test_kernels_names_every_operation():
    run = run_m1("bench", "kernels", "--model=models/tiny", "--m1=false", "--rows=2", "--threads=1", "--seconds=0.001",
                 "--json")
    result = json.loads(run.stdout)
    assert run.returncode == (1 if result["void"] else 0), run.stderr
    assert {figure["op"] for figure in result["figures"]} == OPERATIONS
    for figure in result["figures"]:
        assert figure["seconds"] > 0 and figure["bound_seconds"] > 0
        assert figure["void"] == (figure["ratio"] > 1)


def test_exchange_holds_each_transport_against_its_raw_way():
    run = run_m1("bench", "exchange", "--rows=1,70", "--hidden=8192", "--rounds=20", "--repeats=2", "--json")
    assert run.returncode == 0, run.stderr
    figures = {(figure["way"], figure["rows"]): figure for figure in json.loads(run.stdout)["figures"]}
    assert set(figures) == {(way, rows) for way in ("raw_futex", "shm", "raw_socket", "grpc") for rows in (1, 70)}
    for (way, rows), figure in figures.items():
        assert figure["bytes"] == rows * 8192 * 2 and 0 < figure["p50_us"] <= figure["p99_us"]
        assert figure["gb_per_s"] == pytest.approx(2 * figure["bytes"] / figure["p50_us"] * 1e-3)
        if way.startswith("raw"):
            assert "ratio" not in figure
        else:
            assert figure["raw"] == {"shm": "raw_futex", "grpc": "raw_socket"}[way]
            assert figure["ratio"] == pytest.approx(figure["p50_us"] / figures[(figure["raw"], rows)]["p50_us"])


def test_quick_run_of_everything(tmp_path):
    path = tmp_path / "bench.md"
    run = subprocess.run([sys.executable, "tools/bench/run_bench.py", f"--bin={BIN}", "--model=models/tiny", f"--out={path}",
                          "--repeats=1", "--quick"], capture_output=True, text=True, timeout=400, check=False)
    assert run.returncode == 0, run.stderr
    text = path.read_text()
    for row in ("| decode 1 |", "| decode 8 |", "| prefill 512 |", "| 20 |", "| shm |", "| grpc |"):
        assert text.count(row) == 1, text


@pytest.mark.parametrize("arguments, named", [
    (("serve", "--request_rate=0"), "--request_rate"),
    (("serve", "--input_len=uniform:9:3"), "--input_len"),
    (("serve", "--goodput=itl:3"), "--goodput"),
    (("serve", "--num_prompts=0"), "--num_prompts"),
    (("serve", "--percentiles=101"), "--percentiles"),
    (("limits", "--threads=-1"), "--threads"),
    (("limits", "--seconds=nan"), "--seconds"),
    (("limits", "--threads=1", "--seconds=0.001", "--cpu_target=z80"), "--cpu_target"),
    (("kernels", "--rows=0"), "--rows"),
    (("kernels", "--cpu_target=z80"), "z80"),
    (("exchange", "--rows=8193"), "--rows"),
    (("exchange", "--hidden=0"), "--hidden"),
    (("exchange", "--rounds=9"), "--rounds"),
    (("exchange", "--repeats=0"), "--repeats"),
    (("exchange", "--spin=21us"), "--spin"),
    (("wires",), "wires"),
])
def test_bad_flags(arguments, named):
    run = run_m1("bench", *arguments)
    assert run.returncode == 2 and named in run.stderr, run.stderr

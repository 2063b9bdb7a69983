"""tools/bench: the export to transformers and the pure parts of peers.py, without torch. From the root of the tree."""

import json
import os
import struct
import sys
import tempfile
import unittest

sys.path.insert(0, "tools/bench")

import export_to_transformers as exporter  # noqa: E402
import peers  # noqa: E402

GOLDEN = "tests/golden/mini-bf16"  # 3 files, fp32 gates, 8 of 16 elements rotated


def small_config(**changes):
    return {"attn_type_list": [0, 1], "head_dim": 4, "hidden_size": 6, "intermediate_size": 3, "num_attention_heads": 2,
            "num_experts_per_tok": 1, "num_hidden_layers": 2, "num_key_value_heads": 1, "num_local_experts": 2,
            "vocab_size": 5, "postnorm": True, "rotary_dim": 2, "rope_theta": 100, "rms_norm_eps": 1e-6,
            "layernorm_full_attention_alpha": 2, "layernorm_linear_attention_beta": 3, "layernorm_mlp_alpha": 4} | changes


def official_shapes(config):
    hidden, inner, dim = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    shapes = {"model.embed_tokens": (config["vocab_size"], hidden), "model.norm": (hidden,),
              "lm_head": (config["vocab_size"], hidden)}
    for layer, kind in enumerate(config["attn_type_list"]):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.input_layernorm": (hidden,), f"{at}.post_attention_layernorm": (hidden,),
                   f"{at}.block_sparse_moe.gate": (config["num_local_experts"], hidden)}
        own = {"q_proj": (q, hidden), "k_proj": (kv, hidden), "v_proj": (kv, hidden), "o_proj": (hidden, q)} if kind else {
            "qkv_proj": (3 * q, hidden), "output_gate": (q, hidden), "norm": (q,), "out_proj": (hidden, q)}
        shapes |= {f"{at}.self_attn.{name}": shape for name, shape in own.items()}
        for expert in range(config["num_local_experts"]):
            part = f"{at}.block_sparse_moe.experts.{expert}"
            shapes |= {f"{part}.w1": (inner, hidden), f"{part}.w3": (inner, hidden), f"{part}.w2": (hidden, inner)}
    return {f"{name}.weight": shape for name, shape in shapes.items()}


def fake_tensors(config, dtype="BF16"):
    return {name: exporter.Tensor("file", 0, 2 * exporter.math.prod(shape), dtype, shape)
            for name, shape in official_shapes(config).items()}


def plan_of(config):
    return {target.name: target for target in exporter.export_plan(config, fake_tensors(config))}


class ConfigTest(unittest.TestCase):
    def test_keys(self):
        theirs = exporter.transformers_config(small_config())
        self.assertEqual(theirs["layer_types"], ["linear_attention", "full_attention"])
        self.assertEqual([theirs[f"{kind}_{factor}_factor"] for kind in ("full_attn", "linear_attn", "mlp")
                          for factor in ("alpha", "beta")], [2, 1, 1, 3, 4, 1])
        self.assertEqual((theirs["model_type"], theirs["head_dim"], theirs["rms_norm_eps"]), ("minimax", 4, 1e-6))

    def test_rotary_embedding(self):
        self.assertEqual(exporter.transformers_config(small_config())["rope_parameters"],
                         {"rope_type": "proportional", "rope_theta": 100.0 ** 2, "partial_rotary_factor": 0.5})
        for whole in (small_config(rotary_dim=4), {k: v for k, v in small_config().items() if k != "rotary_dim"}):
            self.assertEqual(exporter.transformers_config(whole)["rope_parameters"],
                             {"rope_type": "default", "rope_theta": 100.0})

    def test_what_it_cannot_express_is_named(self):
        for key, value in [("postnorm", False), ("shared_intermediate_size", 8), ("num_attention_heads", 6),
                           ("tie_word_embeddings", True), ("hidden_act", "gelu"), ("rotary_dim", 6), ("attn_type_list", [1])]:
            with self.assertRaisesRegex(exporter.ExportError, key):
                exporter.transformers_config(small_config(**{key: value}))
        with self.assertRaisesRegex(exporter.ExportError, "attn_type_list is missing"):
            exporter.transformers_config({"model_type": "minimax"})


class PlanTest(unittest.TestCase):
    def test_every_tensor_has_its_name_and_shape(self):
        plan = plan_of(small_config())
        at = "model.layers.1"
        wanted = {f"{at}.self_attn.{name}.weight" for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
        wanted |= {f"{at}.{name}.weight" for name in ("input_layernorm", "post_attention_layernorm", "mlp.gate")}
        wanted |= {f"{at}.mlp.experts.gate_up_proj", f"{at}.mlp.experts.down_proj"}
        self.assertEqual({name for name in plan if name.startswith(at)}, wanted)
        self.assertEqual(plan[f"{at}.mlp.experts.gate_up_proj"].shape, (2, 6, 6))
        self.assertEqual(plan[f"{at}.mlp.experts.down_proj"].shape, (2, 6, 3))
        for name in ("qkv_proj", "output_gate", "norm", "out_proj"):
            self.assertIn(f"model.layers.0.self_attn.{name}.weight", plan)
        for target in plan.values():
            self.assertEqual(sum(count for _, _, count in target.pieces), 2 * exporter.math.prod(target.shape), target.name)

    def test_w1_stands_above_w3(self):
        pieces = plan_of(small_config())["model.layers.0.mlp.experts.gate_up_proj"].pieces
        self.assertEqual([name.split("experts.")[1] for name, _, _ in pieces],
                         ["0.w1.weight", "0.w3.weight", "1.w1.weight", "1.w3.weight"])

    def test_rotated_rows_are_reordered_within_each_head(self):
        row = 2 * 6
        pieces = plan_of(small_config())["model.layers.1.self_attn.q_proj.weight"].pieces
        self.assertEqual([first // row for _, first, _ in pieces], [0, 2, 1, 3, 4, 6, 5, 7])
        self.assertEqual(len(plan_of(small_config())["model.layers.1.self_attn.v_proj.weight"].pieces), 1)
        self.assertEqual(len(plan_of(small_config(rotary_dim=4))["model.layers.1.self_attn.q_proj.weight"].pieces), 1)

    def test_pairs_meet(self):
        for head_dim, rotary_dim in [(16, 8), (128, 64), (8, 2), (8, 6)]:
            order = exporter.rotary_order(head_dim, rotary_dim)
            self.assertEqual(sorted(order), list(range(head_dim)))
            for k in range(rotary_dim // 2):
                self.assertEqual((order[k], order[k + head_dim // 2]), (k, k + rotary_dim // 2))

    def test_missing_unknown_and_quantised_tensors_are_named(self):
        config = small_config()
        tensors = fake_tensors(config)
        with self.assertRaisesRegex(exporter.ExportError, "lm_head.weight is missing"):
            exporter.export_plan(config, {name: value for name, value in tensors.items() if name != "lm_head.weight"})
        with self.assertRaisesRegex(exporter.ExportError, "extra is no tensor"):
            exporter.export_plan(config, tensors | {"extra": tensors["lm_head.weight"]})
        with self.assertRaisesRegex(exporter.ExportError, "is of type I8"):
            exporter.export_plan(config, fake_tensors(config, "I8"))
        name = "model.layers.0.block_sparse_moe.experts.1.w3.weight"
        with self.assertRaisesRegex(exporter.ExportError, name):
            exporter.export_plan(config, tensors | {name: tensors[name]._replace(shape=(6, 3))})


class FileTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def test_bytes_arrive(self):
        exporter.export(GOLDEN, self.folder)
        config = exporter.read_config(GOLDEN)
        ours = {}
        for path in exporter.weight_files(GOLDEN):
            ours |= exporter.read_header(path)
        theirs = exporter.read_header(os.path.join(self.folder, "model.safetensors"))

        def data(tensor):
            with open(tensor.path, "rb") as file:
                file.seek(tensor.begin)
                return file.read(tensor.num_bytes)

        at = "model.layers.7"
        self.assertEqual(sum(tensor.num_bytes for tensor in theirs.values()), sum(tensor.num_bytes for tensor in ours.values()))
        self.assertEqual(theirs[f"{at}.mlp.gate.weight"].dtype, "F32")
        self.assertEqual(data(theirs["lm_head.weight"]), data(ours["lm_head.weight"]))
        fused = b"".join(data(ours[f"{at}.block_sparse_moe.experts.{expert}.{part}.weight"])
                         for expert in range(config["num_local_experts"]) for part in ("w1", "w3"))
        self.assertEqual(data(theirs[f"{at}.mlp.experts.gate_up_proj"]), fused)
        row = 2 * config["hidden_size"]
        before, after = (data(tensors[f"{at}.self_attn.k_proj.weight"]) for tensors in (ours, theirs))
        for head in range(config["num_key_value_heads"]):  # element 4 of a head is the partner of element 0: 8 of 16 rotate
            old, new = (16 * head + 4) * row, (16 * head + 8) * row
            self.assertEqual(after[new:new + row], before[old:old + row])

    def test_damaged_files_are_named(self):
        path = os.path.join(self.folder, "model.safetensors")
        entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
        for content in [b"", b"1234567", struct.pack("<Q", 1 << 40), struct.pack("<Q", 4) + b"{..}", struct.pack("<Q", 2) + b"[]",
                        *(struct.pack("<Q", len(text)) + text + bytes(8) for text in (
                            json.dumps({"a": entry | change}).encode() for change in (
                                {"data_offsets": [0, 9]}, {"data_offsets": [8, 0]}, {"shape": [3]}, {"shape": 1})))]:
            with open(path, "wb") as file:
                file.write(content)
            with self.assertRaisesRegex(exporter.ExportError, "model.safetensors"):
                exporter.read_header(path)


class PeersTest(unittest.TestCase):
    def test_small_config_has_both_kinds(self):
        config = small_config(attn_type_list=[0] * 15 + [1], num_hidden_layers=16)
        small = peers.small_config(config)
        self.assertEqual((small["attn_type_list"], small["num_hidden_layers"]), ([0] * 7 + [1], 8))
        self.assertEqual((small["head_dim"], small["rotary_dim"]), (4, 2))

    def test_answers_are_compared(self):
        theirs = {"logprobs": [-1.0, -2.0, -3.0], "best": [-0.5, -2.0, -2.75]}
        self.assertEqual(peers.compare_answers([-1.0, -2.5, -3.0], theirs, 2), (0.5, 0.25))
        with self.assertRaisesRegex(peers.PeerError, "2 logprobs"):
            peers.compare_answers([-1.0, -2.0], theirs, 1)

    def test_llama_bench(self):
        rows = [{"n_prompt": 512, "n_gen": 0, "avg_ts": 400.5}, {"n_prompt": 0, "n_gen": 64, "avg_ts": 40},
                {"n_prompt": 512, "n_gen": 64, "avg_ts": 1}]
        self.assertEqual(peers.llama_bench_rates(json.dumps(rows)), {"prefill_512": 400.5, "decode_1": 40})
        for text in ("", "{}x", "[{}]", "3"):
            with self.assertRaisesRegex(peers.PeerError, "llama-bench"):
                peers.llama_bench_rates(text)

    def test_table_has_medians_of_ratios(self):
        lines = peers.table(["decode_1", "decode_8"], {"decode_1": [(10, 0.5), (20, 0.75), (30, 0.7)], "decode_8": [(8, 0.9)]},
                            {"a": {"decode_1": [5, 20, 10], "decode_8": [4]}, "b": {"decode_1": [10, 10, 10]}})
        self.assertEqual(lines[2], "| decode 1 | 20.0 | 70 % | 10.0 | 2.00 | 10.0 | 2.00 |")
        self.assertEqual(lines[3], "| decode 8 | 8.0 | 90 % | 4.0 | 2.00 |  |  |")


if __name__ == "__main__":
    unittest.main()

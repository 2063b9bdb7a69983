"""Writes a checkpoint of the official MiniMax-M1 format as transformers' `minimax` model reads it. Standard library only.

Usage: export_to_transformers.py --model DIR --out DIR

The numbers stay as they are, in their types; only names, the order of bytes and the config change:
- experts are fused: `mlp.experts.gate_up_proj` [experts, 2 * intermediate, hidden] (w1 above w3) and `down_proj` [experts,
  hidden, intermediate]; all else of a layer keeps its name;
- transformers pairs element i of a head with i + head_dim / 2 for the rotation, the official model with i + rotary_dim / 2.
  Rows of q_proj and k_proj are put into the order that makes the pairs meet (scores do not depend on a common order), and the
  `proportional` rotary embedding leaves the other elements alone.

What that model cannot express is refused with a message: see `transformers_config`.
"""

import argparse
import json
import math
import os
import struct
import sys
from typing import NamedTuple

COPY_BYTES = 16 << 20
MAX_HEADER_BYTES = 100 << 20  # of a safetensors file, as its own library has it
ELEMENT_BYTES = {"F32": 4, "BF16": 2, "F16": 2}


class ExportError(Exception):
    """Names the field, file or tensor, its value and what is wanted."""


class Tensor(NamedTuple):
    """Where a stored tensor is: `begin` counts bytes from the start of the file."""
    path: str
    begin: int
    num_bytes: int
    dtype: str
    shape: tuple


class Target(NamedTuple):
    """A tensor to write: the bytes of its pieces (name, first byte within that tensor, number of bytes), one after another."""
    name: str
    dtype: str
    shape: tuple
    pieces: list


def head_dim_of(config):
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def transformers_config(config):
    """The config.json of the same model for transformers. Raises ExportError for what its `minimax` cannot express."""
    def want(key, default, wanted):
        if config.get(key, default) != wanted:
            raise ExportError(f"config.json: {key} is {json.dumps(config.get(key, default))}; transformers' minimax knows "
                              f"only {json.dumps(wanted)}")

    for key in ("attn_type_list", "hidden_size", "intermediate_size", "num_attention_heads", "num_experts_per_tok",
                "num_hidden_layers", "num_key_value_heads", "num_local_experts", "vocab_size"):
        if key not in config:
            raise ExportError(f"config.json: {key} is missing; wanted a checkpoint of the official format")
    want("postnorm", False, True)
    want("shared_intermediate_size", 0, 0)
    want("tie_word_embeddings", False, False)
    want("hidden_act", "silu", "silu")
    heads, head_dim, layers = config["num_attention_heads"], head_dim_of(config), config["num_hidden_layers"]
    rotary_dim = config.get("rotary_dim", head_dim)
    if heads & (heads - 1):
        raise ExportError(f"config.json: num_attention_heads is {heads}; transformers has the official slopes only for powers "
                          "of two")
    if len(config["attn_type_list"]) != layers:
        raise ExportError(f"config.json: attn_type_list has {len(config['attn_type_list'])} entries, num_hidden_layers is {layers}")
    if head_dim % 2 or rotary_dim % 2 or not 0 < rotary_dim <= head_dim:
        raise ExportError(f"config.json: rotary_dim is {rotary_dim}, wanted an even number up to head_dim, {head_dim}")
    # The proportional kind counts exponents in head_dim: theta^(2k / rotary_dim) = (theta^(head_dim / rotary_dim))^(2k / head_dim).
    theta = float(config.get("rope_theta", 10000))
    rope = {"rope_type": "default", "rope_theta": theta} if rotary_dim == head_dim else {
        "rope_type": "proportional", "rope_theta": theta ** (head_dim / rotary_dim),
        "partial_rotary_factor": rotary_dim / head_dim}
    result = {key: config[key] for key in (
        "hidden_size", "intermediate_size", "num_attention_heads", "num_experts_per_tok", "num_hidden_layers",
        "num_key_value_heads", "num_local_experts", "vocab_size")}
    for theirs, ours in (("full_attn", "full_attention"), ("linear_attn", "linear_attention"), ("mlp", "mlp")):
        for factor in ("alpha", "beta"):
            result[f"{theirs}_{factor}_factor"] = config.get(f"layernorm_{ours}_{factor}", 1)
    return result | {
        "architectures": ["MiniMaxForCausalLM"], "model_type": "minimax", "head_dim": head_dim, "hidden_act": "silu",
        "layer_types": ["full_attention" if kind else "linear_attention" for kind in config["attn_type_list"]],
        "block_size": 256, "rms_norm_eps": config.get("rms_norm_eps", 1e-5), "rope_parameters": rope,
        "max_position_embeddings": config.get("max_position_embeddings", 32768), "tie_word_embeddings": False,
        "bos_token_id": config.get("bos_token_id"), "eos_token_id": config.get("eos_token_id"), "pad_token_id": None}


def rotary_order(head_dim, rotary_dim):
    """For each row of a head as transformers wants it, the row of the official head. Empty: they are the same."""
    if rotary_dim == head_dim:
        return []
    half, rotated, rest = head_dim // 2, rotary_dim // 2, range(rotary_dim, head_dim)
    unrotated = half - rotated
    return [*range(rotated), *rest[:unrotated], *range(rotated, rotary_dim), *rest[unrotated:]]


def export_plan(config, tensors):
    """What to write, in order, for the tensors {official name: Tensor}. Raises ExportError for a missing or unknown one."""
    left = dict(tensors)

    def take(name):
        if name not in left:
            raise ExportError(f"{name} is missing in the checkpoint")
        tensor = left.pop(name)
        if tensor.dtype not in ELEMENT_BYTES:
            raise ExportError(f"{name} is of type {tensor.dtype}, wanted one of {', '.join(ELEMENT_BYTES)}")
        return tensor

    def whole(name, new_name=None):
        tensor = take(name)
        return Target(new_name or name, tensor.dtype, tensor.shape, [(name, 0, tensor.num_bytes)])

    def stacked(new_name, groups):
        """[[w1, w3], ...] as [experts, rows of all of a group, columns]."""
        parts = {name: take(name) for group in groups for name in group}
        first = next(iter(parts.values()))
        for name, tensor in parts.items():
            if (tensor.dtype, tensor.shape) != (first.dtype, first.shape):
                raise ExportError(f"{name} is {tensor.dtype} {list(tensor.shape)}, others of {new_name} are {first.dtype} "
                                  f"{list(first.shape)}")
        rows, columns = first.shape
        return Target(new_name, first.dtype, (len(groups), rows * len(groups[0]), columns),
                      [(name, 0, tensor.num_bytes) for name, tensor in parts.items()])

    head_dim = head_dim_of(config)
    order = rotary_order(head_dim, config.get("rotary_dim", head_dim))

    def rotated(name):
        target = whole(name)
        rows, columns = target.shape
        row = columns * ELEMENT_BYTES[target.dtype]
        if not order:
            return target
        return target._replace(pieces=[(name, (head + i) * row, row) for head in range(0, rows, head_dim) for i in order])

    plan = [whole(name) for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")]
    for layer, is_softmax in enumerate(config["attn_type_list"]):
        at = f"model.layers.{layer}"
        plan += [whole(f"{at}.{name}.weight") for name in ("input_layernorm", "post_attention_layernorm")]
        if is_softmax:
            plan += [rotated(f"{at}.self_attn.{name}.weight") for name in ("q_proj", "k_proj")]
        names = ("v_proj", "o_proj") if is_softmax else ("qkv_proj", "output_gate", "norm", "out_proj")
        plan += [whole(f"{at}.self_attn.{name}.weight") for name in names]
        plan.append(whole(f"{at}.block_sparse_moe.gate.weight", f"{at}.mlp.gate.weight"))
        experts = [f"{at}.block_sparse_moe.experts.{e}" for e in range(config["num_local_experts"])]
        plan.append(stacked(f"{at}.mlp.experts.gate_up_proj", [[f"{e}.w1.weight", f"{e}.w3.weight"] for e in experts]))
        plan.append(stacked(f"{at}.mlp.experts.down_proj", [[f"{e}.w2.weight"] for e in experts]))
    if left:
        raise ExportError(f"{min(left)} is no tensor of this model ({len(left)} such in the checkpoint)")
    return plan


def read_header(path):
    """{name: Tensor} of a safetensors file."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise ExportError(f"{path}: no safetensors file: its header does not fit into it")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            tensors = {name: Tensor(path, 8 + length + entry["data_offsets"][0],
                                    entry["data_offsets"][1] - entry["data_offsets"][0], entry["dtype"], tuple(entry["shape"]))
                       for name, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ExportError(f"{path}: no safetensors file: its header is damaged ({error!r})") from error
    for name, tensor in tensors.items():
        wanted = math.prod(tensor.shape) * ELEMENT_BYTES.get(tensor.dtype, 0)
        if tensor.num_bytes < 0 or tensor.begin + tensor.num_bytes > size or wanted not in (0, tensor.num_bytes):
            raise ExportError(f"{path}: {name} has {tensor.num_bytes} bytes at {tensor.begin}: not those of {tensor.dtype} "
                              f"{list(tensor.shape)} in a file of {size}")
    return tensors


def read_config(folder):
    path = os.path.join(folder, "config.json")
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise ExportError(f"{path}: {error}") from error


def weight_files(folder):
    """Those that the index names, else model.safetensors."""
    index = os.path.join(folder, "model.safetensors.index.json")
    if not os.path.exists(index):
        return [os.path.join(folder, "model.safetensors")]
    try:
        with open(index, encoding="utf-8") as file:
            names = set(json.load(file)["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ExportError(f"{index}: no index of weights ({error!r})") from error
    return [os.path.join(folder, name) for name in sorted(names)]


def write(plan, tensors, path):
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for target in plan:
        size = sum(count for _, _, count in target.pieces)
        header[target.name] = {"dtype": target.dtype, "shape": list(target.shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 64)
    sources = {source: open(source, "rb") for source in sorted({tensor.path for tensor in tensors.values()})}
    try:
        with open(path, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for target in plan:
                for name, first, count in target.pieces:
                    source = sources[tensors[name].path]
                    source.seek(tensors[name].begin + first)
                    while count > 0:
                        data = source.read(min(count, COPY_BYTES))
                        if not data:
                            raise ExportError(f"{tensors[name].path}: ends within {name}")
                        file.write(data)
                        count -= len(data)
    finally:
        for source in sources.values():
            source.close()


def export(model, out):
    """Makes the folder `out` from the checkpoint folder `model`. The config comes last: a folder with one is complete."""
    config = read_config(model)
    theirs = transformers_config(config)
    tensors = {}
    for path in weight_files(model):
        tensors |= read_header(path)
    plan = export_plan(config, tensors)
    os.makedirs(out, exist_ok=True)
    write(plan, tensors, os.path.join(out, "model.safetensors"))
    with open(os.path.join(out, "config.json"), "w", encoding="utf-8") as file:
        json.dump(theirs, file, indent=2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint directory of the official format")
    parser.add_argument("--out", required=True, help="directory to make")
    flags = parser.parse_args()
    try:
        export(flags.model, flags.out)
    except (ExportError, OSError) as error:
        print(f"export_to_transformers: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

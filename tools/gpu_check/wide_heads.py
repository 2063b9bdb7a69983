"""A checkpoint of the original format with wider heads that means the same: GPUs take no heads of 16. Standard library only.

Each head of q, k, v, gates and lightning outputs gets zeros behind it, until it is four times as wide. What depends on the width is
undone by powers of two, so no weight is rounded: q_proj twice as large (the scale of scores halves), the norm over lightning
outputs half as large (their mean square is a quarter). Its epsilon alone weighs four times as much.
"""

import array
import json
import os
import shutil
import struct

TIMES = 4
EXPONENT = 0x80  # the lowest bit of it in a bf16 number: adding it doubles
ROWS = ("self_attn.qkv_proj.weight", "self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight",
        "self_attn.output_gate.weight", "self_attn.norm.weight")
COLUMNS = ("self_attn.out_proj.weight", "self_attn.o_proj.weight")


def doublings(name):
    return {"self_attn.q_proj.weight": 1, "self_attn.norm.weight": -1}.get(name, 0)


def scaled(data, steps):
    """bf16 numbers times 2^steps; none may be too small for that."""
    numbers = array.array("H", data)
    for i, number in enumerate(numbers):
        if steps and number & 0x7FFF:
            if not 1 < number >> 7 & 0xFF < 254:
                raise ValueError("a weight cannot be scaled without rounding")
            numbers[i] = number + steps * EXPONENT
    return numbers.tobytes()


def widened(data, head_bytes):
    """With zeros behind every head."""
    zeros = bytes((TIMES - 1) * head_bytes)
    return b"".join(data[at:at + head_bytes] + zeros for at in range(0, len(data), head_bytes))


def converted(name, dtype, shape, data, head_dim):
    """(shape, bytes)."""
    part = ".".join(name.split(".")[-3:])
    if part not in ROWS + COLUMNS:
        return shape, data
    if dtype != "BF16":
        raise ValueError(f"{name} is {dtype}, wanted BF16")
    if part in COLUMNS:
        return [shape[0], TIMES * shape[1]], widened(data, 2 * head_dim)
    inner = shape[1] if len(shape) > 1 else 1
    return [TIMES * shape[0], *shape[1:]], widened(scaled(data, doublings(part)), 2 * head_dim * inner)


def tensors(folder):
    """(name, dtype, shape, bytes) of all files, larger elements first: none is misaligned."""
    found = []
    for file_name in sorted(os.listdir(folder)):
        if file_name.startswith("model") and file_name.endswith(".safetensors"):
            with open(os.path.join(folder, file_name), "rb") as file:
                text = file.read()
            begin = 8 + struct.unpack("<Q", text[:8])[0]
            header = json.loads(text[8:begin])
            header.pop("__metadata__", None)
            found += [(name, entry["dtype"], entry["shape"], text[begin + entry["data_offsets"][0]:begin + entry["data_offsets"][1]])
                      for name, entry in header.items()]
    return sorted(found, key=lambda tensor: tensor[1] != "F32")


def write_with_wide_heads(folder, out):
    """The copy, with the tokenizer's files."""
    os.makedirs(out)
    for name in os.listdir(folder):
        if name.startswith("tokenizer"):
            shutil.copy(os.path.join(folder, name), out)
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    header, parts, end = {}, [], 0
    for name, dtype, shape, data in tensors(folder):
        shape, data = converted(name, dtype, shape, data, config["head_dim"])
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + len(data)]}
        parts.append(data)
        end += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(out, "model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(parts))
    with open(os.path.join(out, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config | {"head_dim": TIMES * config["head_dim"]}, file)

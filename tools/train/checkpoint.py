"""The official checkpoint format: names and types of the tensors, both ways."""

import torch
from model import Config, MiniMaxM1
from safetensors.torch import load_file, save_file


def official_tensors(model):
    """{official name: tensor}: gates in fp32, all else in bf16; the experts' stacked matrices taken apart."""
    tensors = {}
    for name, value in model.state_dict().items():
        prefix, _, leaf = name.rpartition(".block_sparse_moe.")
        if leaf in ("w13", "w2"):
            inner = value.shape[1] // 2
            for expert, matrix in enumerate(value):
                parts = {"w1": matrix[:inner], "w3": matrix[inner:]} if leaf == "w13" else {"w2": matrix}
                for part, own in parts.items():
                    tensors[f"model.{prefix}.block_sparse_moe.experts.{expert}.{part}.weight"] = own
        else:
            tensors[name if name.startswith("lm_head") else f"model.{name}"] = value
    return {
        name: value.detach().to(torch.float32 if name.endswith("moe.gate.weight") else torch.bfloat16).contiguous()
        for name, value in tensors.items()
    }


def save(model, path):
    save_file(official_tensors(model), str(path), metadata={"format": "pt"})


def load(folder):
    """The model of a checkpoint folder; arithmetic in fp32 on the stored weights."""
    tensors = {name: value.float() for name, value in load_file(str(folder / "model.safetensors")).items()}
    model = MiniMaxM1(Config.load(folder / "config.json"))
    experts = range(model.config.num_local_experts)

    def take(name):
        prefix, _, leaf = name.rpartition(".block_sparse_moe.")
        if leaf not in ("w13", "w2"):
            return tensors.pop(name if name.startswith("lm_head") else f"model.{name}")
        parts = ("w1", "w3") if leaf == "w13" else ("w2",)
        at = f"model.{prefix}.block_sparse_moe.experts"
        return torch.stack(
            [torch.cat([tensors.pop(f"{at}.{expert}.{part}.weight") for part in parts]) for expert in experts]
        )

    model.load_state_dict({name: take(name) for name in model.state_dict()})
    if tensors:
        raise ValueError(f"{folder}: unknown tensors {sorted(tensors)[:5]}")
    return model

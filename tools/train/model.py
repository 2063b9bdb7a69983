"""MiniMax-M1 in PyTorch, for training at small sizes on a CPU.

The mathematics of the official model (lightning attention, softmax attention with partial rotary, post-norm with
alpha and beta, top-2 experts without capacity limit), twice: `forward` works on packed rows of whole documents in
chunks and is what training differentiates; `Decoder` is the plain recurrence, one token at a time, and is what
evaluation runs. That both agree is checked by `check_model.py`.

B rows, T tokens a row, H heads, D head size, C chunk size, E experts. All arithmetic is fp32.
"""

import dataclasses
import json
import math

import torch
from torch import nn
from torch.nn import functional as F

LIGHTNING, SOFTMAX = 0, 1
ATTENTION_NORM_EPS = 1e-6  # of the norm over all heads' outputs in lightning layers; the reference has it fixed


@dataclasses.dataclass(frozen=True)
class Config:
    """The keys of the official config.json that the mathematics needs, under their own names."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rotary_dim: int
    rope_theta: float
    num_local_experts: int
    num_experts_per_tok: int
    rms_norm_eps: float
    attn_type_list: tuple
    layernorm_linear_attention_alpha: float
    layernorm_linear_attention_beta: float
    layernorm_full_attention_alpha: float
    layernorm_full_attention_beta: float
    layernorm_mlp_alpha: float
    layernorm_mlp_beta: float

    @classmethod
    def load(cls, path):
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
        if not values["postnorm"]:
            raise ValueError(f"{path}: postnorm is false; only the post-norm model is trained")
        values["attn_type_list"] = tuple(values["attn_type_list"])
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})


class RmsNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def linear(inputs, outputs):
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=inputs**-0.5)
    return layer


@dataclasses.dataclass
class Packing:
    """What the layers must know of where the documents of packed rows lie; made once a step.

    documents: [B, T], the number of each token's document within its row, ascending. T is a multiple of `chunk`.
    """

    documents: torch.Tensor
    chunk: int = 32

    def __post_init__(self):
        rows, tokens = self.documents.shape
        chunks = self.documents.view(rows, tokens // self.chunk, self.chunk)
        last = chunks[:, :, -1]
        # The state before chunk n belongs to the document of the last token of chunk n - 1.
        before = torch.cat([torch.full_like(last[:, :1], -1), last[:, :-1]], dim=1)
        self.within = (chunks[:, :, :, None] == chunks[:, :, None, :]).float()  # [B, N, C, C]
        self.reads = (chunks == before[:, :, None]).float()  # [B, N, C]: may read the state before the chunk
        self.writes = (chunks == last[:, :, None]).float()  # [B, N, C]: is part of the state after the chunk
        self.carries = (before[:, :, None] == last[:, None, :]).float()  # [B, N, M]: chunk m is part of state n
        causal = torch.ones(tokens, tokens, dtype=torch.bool).tril()
        self.softmax_mask = (self.documents[:, :, None] == self.documents[:, None, :]) & causal


def slopes(heads):
    """Decay slopes of `heads` heads; of the sizes that are no power of two as the official code does it."""
    floor = 2 ** math.floor(math.log2(heads))
    power = [2 ** (-8 * (j + 1) / floor) for j in range(floor)]
    return power if floor == heads else power + slopes(2 * floor)[0::2][: heads - floor]


class LightningAttention(nn.Module):
    """S_t = exp(-s) S_{t-1} + k_t v_t^T and o_t = q_t S_t per head, then norm, gate and projection."""

    def __init__(self, config, layer):
        super().__init__()
        self.heads, self.head_dim = config.num_attention_heads, config.head_dim
        width = self.heads * self.head_dim
        self.qkv_proj = linear(config.hidden_size, 3 * width)
        self.output_gate = linear(config.hidden_size, width)
        self.out_proj = linear(width, config.hidden_size)
        self.norm = RmsNorm(width, ATTENTION_NORM_EPS)
        factor = 1 - layer / max(config.num_hidden_layers - 1, 1) + 1e-5
        self.register_buffer("decay", factor * torch.tensor(slopes(self.heads)), persistent=False)  # [H]

    def project(self, x):
        """q, k, v, each [..., H, D]; the three lie inside each head."""
        qkv = F.silu(self.qkv_proj(x)).view(*x.shape[:-1], self.heads, 3 * self.head_dim)
        return qkv.split(self.head_dim, dim=-1)

    def finish(self, x, out):
        return self.out_proj(torch.sigmoid(self.output_gate(x)) * self.norm(out))

    def forward(self, x, packing):
        rows, tokens, _ = x.shape
        chunk = packing.chunk
        count = tokens // chunk
        # [B, H, N, C, D]
        q, k, v = (
            t.view(rows, count, chunk, self.heads, self.head_dim).permute(0, 3, 1, 2, 4) for t in self.project(x)
        )
        place = torch.arange(chunk, dtype=torch.float32)
        decay = self.decay[:, None]
        distance = place[:, None] - place[None, :]
        inside = torch.exp(-decay[:, :, None] * distance.clamp(min=0)) * (distance >= 0)  # [H, C, C]
        scores = (q @ k.transpose(-1, -2)) * (inside[None, :, None] * packing.within[:, None])
        out = scores @ v
        if count > 1:
            to_end = torch.exp(-decay * (chunk - 1 - place))  # [H, C]
            writes = to_end[None, :, None] * packing.writes[:, None]  # [B, H, N, C]
            added = (k * writes[..., None]).transpose(-1, -2) @ v  # [B, H, N, D, D]: what each chunk adds
            steps = torch.arange(count, dtype=torch.float32)
            gap = steps[:, None] - 1 - steps[None, :]  # whole chunks between chunk m's end and chunk n's start
            carry = torch.exp(-decay[:, :, None] * chunk * gap.clamp(min=0)) * (gap >= 0)  # [H, N, M]
            carry = carry[None] * packing.carries[:, None]
            state = (carry @ added.flatten(3)).view_as(added)
            reads = torch.exp(-decay * (place + 1))[None, :, None] * packing.reads[:, None]
            out = out + (q * reads[..., None]) @ state
        return self.finish(x, out.permute(0, 2, 3, 1, 4).reshape(rows, tokens, -1))


class SoftmaxAttention(nn.Module):
    """Grouped-query attention; rotary on the first rotary_dim of each head, in halves."""

    def __init__(self, config):
        super().__init__()
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.rotary_dim = config.head_dim, config.rotary_dim
        self.q_proj = linear(config.hidden_size, self.heads * self.head_dim)
        self.k_proj = linear(config.hidden_size, self.kv_heads * self.head_dim)
        self.v_proj = linear(config.hidden_size, self.kv_heads * self.head_dim)
        self.o_proj = linear(self.heads * self.head_dim, config.hidden_size)
        exponents = torch.arange(0, self.rotary_dim, 2, dtype=torch.float32) / self.rotary_dim
        self.register_buffer("frequencies", config.rope_theta**-exponents, persistent=False)

    def rotate(self, x, positions):
        """x: [..., heads, D]; positions: one for each of the leading elements."""
        angles = positions[..., None].float() * self.frequencies
        cos, sin = torch.cos(angles)[..., None, :], torch.sin(angles)[..., None, :]
        low, high, rest = x.split([self.rotary_dim // 2, self.rotary_dim // 2, self.head_dim - self.rotary_dim], -1)
        return torch.cat([low * cos - high * sin, high * cos + low * sin, rest], dim=-1)

    def project(self, x, positions):
        """q [..., H, D], k and v [..., kv heads, D]."""
        q, k, v = (layer(x).view(*x.shape[:-1], -1, self.head_dim) for layer in (self.q_proj, self.k_proj, self.v_proj))
        return self.rotate(q, positions), self.rotate(k, positions), v

    def attend(self, q, k, v, mask):
        """q [B, T, H, D], k and v [B, S, kv heads, D], mask [B, T, S] -> [B, T, H * D]."""
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None], enable_gqa=True)
        return self.o_proj(out.transpose(1, 2).flatten(2))

    def forward(self, x, packing):
        # Only differences of positions matter, so those of the row serve every document in it.
        positions = torch.arange(x.shape[1]).expand(x.shape[:2])
        return self.attend(*self.project(x, positions), packing.softmax_mask)


class GroupedExperts(torch.autograd.Function):
    """w2(silu(w1 x) * w3 x) for rows sorted by expert, one product per expert and matrix.

    x: [R, hidden]; counts: rows of each expert; w13: [E, 2 * inner, hidden], w1 above w3; w2: [E, hidden, inner].
    """

    @staticmethod
    def forward(ctx, x, counts, w13, w2):
        inner = w2.shape[2]
        both = x.new_empty(x.shape[0], 2 * inner)
        for rows, e in spans(counts):
            torch.mm(x[rows], w13[e].t(), out=both[rows])
        gate, up = both[:, :inner], both[:, inner:]
        act = F.silu(gate) * up
        out = torch.empty_like(x)
        for rows, e in spans(counts):
            torch.mm(act[rows], w2[e].t(), out=out[rows])
        ctx.save_for_backward(x, both, act, w13, w2)
        ctx.counts = counts
        return out

    @staticmethod
    def backward(ctx, d_out):
        x, both, act, w13, w2 = ctx.saved_tensors
        inner = w2.shape[2]
        d_out = d_out.contiguous()
        d_act, d_w2, d_w13 = torch.empty_like(act), torch.zeros_like(w2), torch.zeros_like(w13)
        for rows, e in spans(ctx.counts):
            torch.mm(d_out[rows], w2[e], out=d_act[rows])
            torch.mm(d_out[rows].t(), act[rows], out=d_w2[e])
        gate, up = both[:, :inner], both[:, inner:]
        sigmoid = torch.sigmoid(gate)
        silu = gate * sigmoid
        d_both = torch.cat([d_act * up * (sigmoid + silu * (1 - sigmoid)), d_act * silu], dim=1)
        d_x = torch.empty_like(x)
        for rows, e in spans(ctx.counts):
            torch.mm(d_both[rows], w13[e], out=d_x[rows])
            torch.mm(d_both[rows].t(), x[rows], out=d_w13[e])
        return d_x, None, d_w13, d_w2


def spans(counts):
    """(rows, expert) of every expert that has rows."""
    start = 0
    for expert, count in enumerate(counts):
        if count:
            yield slice(start, start + count), expert
        start += count


class SparseMoe(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.experts, self.top_k = config.num_local_experts, config.num_experts_per_tok
        hidden, inner = config.hidden_size, config.intermediate_size
        self.gate = nn.Linear(hidden, self.experts, bias=False)
        nn.init.normal_(self.gate.weight, std=0.02)
        self.w13 = nn.Parameter(torch.randn(self.experts, 2 * inner, hidden) * hidden**-0.5)
        self.w2 = nn.Parameter(torch.randn(self.experts, hidden, inner) * inner**-0.5)

    def forward(self, x):
        """x: [R, hidden] -> the experts' weighted sum and the load-balance loss (1 when all are used alike)."""
        probabilities = torch.softmax(self.gate(x), dim=-1)
        weights, chosen = probabilities.topk(self.top_k, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)
        order = chosen.flatten().argsort(stable=True)
        counts = torch.bincount(chosen.flatten(), minlength=self.experts)
        rows = torch.div(order, self.top_k, rounding_mode="floor")
        out = GroupedExperts.apply(x[rows], counts.tolist(), self.w13, self.w2)
        mixed = torch.zeros_like(x).index_add(0, rows, out * weights.flatten()[order, None])
        balance = self.experts * (counts / counts.sum() * probabilities.mean(0)).sum()
        return mixed, balance


class DecoderLayer(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        lightning = config.attn_type_list[layer] == LIGHTNING
        self.self_attn = LightningAttention(config, layer) if lightning else SoftmaxAttention(config)
        kind = "linear" if lightning else "full"
        self.attention_alpha = getattr(config, f"layernorm_{kind}_attention_alpha")
        self.attention_beta = getattr(config, f"layernorm_{kind}_attention_beta")
        self.mlp_alpha, self.mlp_beta = config.layernorm_mlp_alpha, config.layernorm_mlp_beta
        self.input_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.block_sparse_moe = SparseMoe(config)

    def forward(self, x, attend):
        """`attend` maps the normalised rows to the attention's output. Returns x and the load-balance loss."""
        h = self.input_layernorm(x)
        x = self.attention_alpha * h + self.attention_beta * attend(h)
        h = self.post_attention_layernorm(x)
        mixed, balance = self.block_sparse_moe(h.flatten(0, -2))
        return self.mlp_alpha * h + self.mlp_beta * mixed.view_as(h), balance


class MiniMaxM1(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        nn.init.normal_(self.embed_tokens.weight, std=0.5)
        self.layers = nn.ModuleList(DecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = linear(config.hidden_size, config.vocab_size)

    def forward(self, tokens, packing, wanted):
        """tokens [B, T] -> logits [wanted, vocab] of the positions where the mask `wanted` [B, T] is set, and the
        load-balance loss, mean over the layers."""
        x = self.embed_tokens(tokens)
        balances = []
        for layer in self.layers:
            x, balance = layer(x, lambda h, layer=layer: layer.self_attn(h, packing))
            balances.append(balance)
        return self.lm_head(self.norm(x[wanted])), torch.stack(balances).mean()


class Decoder:
    """The recurrence: a batch of sequences that advance by one token a step, each from its own start."""

    def __init__(self, model, batch, capacity):
        self.model = model
        config = model.config
        self.positions = 0
        self.cache = []
        for kind in config.attn_type_list:
            if kind == LIGHTNING:
                shape = (batch, config.num_attention_heads, config.head_dim, config.head_dim)
                self.cache.append(torch.zeros(shape))
            else:
                shape = (2, batch, capacity, config.num_key_value_heads, config.head_dim)
                self.cache.append(torch.zeros(shape))

    def keep(self, rows):
        """Goes on with these sequences only (a mask or indexes)."""
        self.cache = [c[rows] if c.dim() == 4 else c[:, rows] for c in self.cache]

    @torch.no_grad()
    def step(self, tokens):
        """tokens [batch], the next one of each sequence -> logits [batch, vocab]."""
        x = self.model.embed_tokens(tokens)
        for layer, cache in zip(self.model.layers, self.cache):
            lightning = isinstance(layer.self_attn, LightningAttention)
            attend = self._lightning if lightning else self._softmax
            x, _ = layer(x, lambda h, attend=attend, layer=layer, cache=cache: attend(layer.self_attn, cache, h))
        self.positions += 1
        return self.model.lm_head(self.model.norm(x))

    def _lightning(self, attention, state, h):
        q, k, v = attention.project(h)
        state.mul_(torch.exp(-attention.decay)[:, None, None]).add_(k[..., :, None] * v[..., None, :])
        return attention.finish(h, (q[..., None, :] @ state).flatten(1))

    def _softmax(self, attention, cache, h):
        position = self.positions
        q, k, v = attention.project(h, torch.full(h.shape[:1], position))
        cache[0][:, position], cache[1][:, position] = k, v
        mask = torch.ones(h.shape[0], 1, position + 1, dtype=torch.bool)
        return attention.attend(q[:, None], cache[0][:, : position + 1], cache[1][:, : position + 1], mask)[:, 0]


def generate(model, prompts, end_token, max_new_tokens):
    """Greedy continuations of the prompts (lists of ids), ties to the lowest id, each with its end token."""
    limits = [len(prompt) + max_new_tokens for prompt in prompts]
    sequences = [list(prompt) for prompt in prompts]
    alive = list(range(len(prompts)))
    decoder = Decoder(model, len(prompts), max(limits, default=0))
    position = 0
    while alive:
        logits = decoder.step(torch.tensor([sequences[i][position] for i in alive]))
        position += 1
        best = logits.argmax(-1).tolist()
        going = []
        for row, i in enumerate(alive):
            if position == len(sequences[i]):  # the prompt is through: this step's token is new
                sequences[i].append(best[row])
                if best[row] == end_token or len(sequences[i]) == limits[i]:
                    continue
            going.append(row)
        if len(going) < len(alive):
            decoder.keep(torch.tensor(going, dtype=torch.long))
            alive = [alive[row] for row in going]
    return [sequence[len(prompt) :] for sequence, prompt in zip(sequences, prompts)]

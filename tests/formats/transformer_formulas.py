"""Second forwards of transformer families, in float64, written from the formulas on the programs' own state dicts.

They share no code with diffrep and take the loops by hand where a library would hide an order.
"""

import math

import torch
from torch import Tensor

State = dict[str, Tensor]


def linear(s: State, name: str, x: Tensor) -> Tensor:
    out = x @ s[f"{name}.weight"].double().T
    return out + s[f"{name}.bias"].double() if f"{name}.bias" in s else out


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def layer_norm(x: Tensor, eps: float, s: State | None = None, name: str = "") -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    out = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + eps)
    return out if s is None else out * s[f"{name}.weight"].double() + s[f"{name}.bias"].double()


def rms_norm(x: Tensor, s: State, name: str) -> Tensor:
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-6) * s[f"{name}.weight"].double()


def sinusoid(t: Tensor, width: int) -> Tensor:
    """[cos, sin] of t * 10000 ** (-k / half)."""
    half = width // 2
    phases = t.double()[:, None] * torch.tensor([10000.0 ** (-k / half) for k in range(half)], dtype=torch.float64)
    return torch.cat([phases.cos(), phases.sin()], dim=1)


def patches(s: State, name: str, x: Tensor) -> Tensor:
    """The patch convolution as one product per patch, row by row."""
    weight, bias = s[f"{name}.weight"].double(), s[f"{name}.bias"].double()
    p = weight.shape[2]
    rows, columns = x.shape[2] // p, x.shape[3] // p
    tokens = []
    for r in range(rows):
        for c in range(columns):
            piece = x.double()[:, :, r * p : (r + 1) * p, c * p : (c + 1) * p]
            tokens.append(piece.flatten(1) @ weight.flatten(1).T + bias)
    return torch.stack(tokens, dim=1)


def images(tokens: Tensor, side: int, patch: int, channels: int) -> Tensor:
    """Patches whose numbers are ordered row, column, channel, put in their places."""
    out = torch.zeros(len(tokens), channels, side * patch, side * patch, dtype=tokens.dtype)
    for n in range(side * side):
        for p in range(patch):
            for q in range(patch):
                start = (p * patch + q) * channels
                row, column = n // side * patch + p, n % side * patch + q
                out[:, :, row, column] = tokens[:, n, start : start + channels]
    return out


def turn(x: Tensor, side: int) -> Tensor:
    """Rotate pairs of channels (2j, 2j + 1): the first half of a head by the token's row, the second by its column."""
    out = x.clone()
    half = x.shape[-1] // 2
    for n in range(x.shape[-2]):
        for place, start in ((n // side, 0), (n % side, half)):
            for j in range(half // 2):
                angle = place * 10000.0 ** (-2 * j / half)
                a, b = x[..., n, start + 2 * j], x[..., n, start + 2 * j + 1]
                out[..., n, start + 2 * j] = a * math.cos(angle) - b * math.sin(angle)
                out[..., n, start + 2 * j + 1] = b * math.cos(angle) + a * math.sin(angle)
    return out


def attention(s: State, name: str, x: Tensor, heads: int, side: int | None = None, qk: str | None = None) -> Tensor:
    """Rows of qkv: all q, all k, all v, each head by head; `side` turns q and k, `qk` normalizes them."""
    width = x.shape[-1]
    d = width // heads
    qkv = linear(s, f"{name}.qkv", x)
    mixed = []
    for h in range(heads):
        q, k, v = (qkv[..., part * width + h * d : part * width + (h + 1) * d] for part in range(3))
        if qk == "layer":
            q, k = layer_norm(q, 1e-5, s, f"{name}.q_norm"), layer_norm(k, 1e-5, s, f"{name}.k_norm")
        if qk == "rms":
            q, k = rms_norm(q, s, f"{name}.q_norm"), rms_norm(k, s, f"{name}.k_norm")
        if side is not None:
            q, k = turn(q, side), turn(k, side)
        scores = torch.exp(q @ k.transpose(-2, -1) / math.sqrt(d))
        mixed.append(scores / scores.sum(-1, keepdim=True) @ v)
    return linear(s, f"{name}.proj", torch.cat(mixed, dim=-1))


def adaptive(s: State, x: Tensor, t: Tensor, y: Tensor | None, heads: int, **kind: bool) -> tuple[Tensor, list[Tensor]]:
    """DiT, SiT, REPA and LightningDiT; returns what the program returns and the tokens after each block.

    kind: rms (norms with a scale), gated (SwiGLU), rotary, qk_norm, discard (a second half of the output is dropped).
    """
    weight = s["x_embedder.proj.weight"]
    channels, patch, width = weight.shape[1], weight.shape[2], weight.shape[0]
    side = x.shape[2] // patch
    c = linear(s, "t_embedder.mlp.2", silu(linear(s, "t_embedder.mlp.0", sinusoid(t, 256))))
    if y is not None:
        c = c + s["y_embedder.embedding_table.weight"].double()[y]
    h = patches(s, "x_embedder.proj", x) + s["pos_embed"].double()
    depth = len({name.split(".")[1] for name in s if name.startswith("blocks.")})
    normed = "rms" if kind.get("rms") else "layer"

    def norm(z: Tensor, name: str) -> Tensor:
        return rms_norm(z, s, name) if kind.get("rms") else layer_norm(z, 1e-6)

    kept = []
    for i in range(depth):
        m = linear(s, f"blocks.{i}.adaLN_modulation.1", silu(c))[:, None]
        parts = [m[..., k * width : (k + 1) * width] for k in range(m.shape[-1] // width)]
        if len(parts) == 4:
            parts = [torch.zeros_like(parts[0]), parts[0], parts[1], torch.zeros_like(parts[0]), parts[2], parts[3]]
        shift1, scale1, gate1, shift2, scale2, gate2 = parts
        z = norm(h, f"blocks.{i}.norm1") * (1 + scale1) + shift1
        qk = normed if kind.get("qk_norm") else None
        h = h + gate1 * attention(s, f"blocks.{i}.attn", z, heads, side if kind.get("rotary") else None, qk)
        z = norm(h, f"blocks.{i}.norm2") * (1 + scale2) + shift2
        if kind.get("gated"):
            both = linear(s, f"blocks.{i}.mlp.w12", z)
            half = both.shape[-1] // 2
            z = linear(s, f"blocks.{i}.mlp.w3", silu(both[..., :half]) * both[..., half:])
        else:
            z = linear(s, f"blocks.{i}.mlp.fc2", gelu_tanh(linear(s, f"blocks.{i}.mlp.fc1", z)))
        h = h + gate2 * z
        kept.append(h)
    m = linear(s, "final_layer.adaLN_modulation.1", silu(c))[:, None]
    z = norm(h, "final_layer.norm_final") * (1 + m[..., width:]) + m[..., :width]
    out = images(linear(s, "final_layer.linear", z), side, patch, s["final_layer.linear.bias"].numel() // patch**2)
    return out[:, :channels] if kind.get("discard") else out, kept


def uvit(s: State, x: Tensor, t: Tensor, y: Tensor | None, heads: int) -> tuple[Tensor, list[Tensor]]:
    """U-ViT: the prediction, and the patches' tokens after each block."""
    weight = s["patch_embed.proj.weight"]
    channels, patch, width = weight.shape[1], weight.shape[2], weight.shape[0]
    time = sinusoid(t, width)
    if "time_embed.0.weight" in s:
        time = linear(s, "time_embed.2", silu(linear(s, "time_embed.0", time)))
    extra = [time[:, None]] if y is None else [s["label_emb.weight"].double()[y][:, None], time[:, None]]
    h = torch.cat([*extra, patches(s, "patch_embed.proj", x)], dim=1) + s["pos_embed"].double()
    half = len({name.split(".")[1] for name in s if name.startswith("in_blocks.")})
    names = [f"in_blocks.{k}" for k in range(half)] + ["mid_block"] + [f"out_blocks.{k}" for k in range(half)]
    outputs: list[Tensor] = []
    for k, name in enumerate(names):
        if k > half:
            h = linear(s, f"{name}.skip_linear", torch.cat([h, outputs[2 * half - k]], dim=-1))
        h = h + attention(s, f"{name}.attn", layer_norm(h, 1e-5, s, f"{name}.norm1"), heads)
        inner = gelu(linear(s, f"{name}.mlp.fc1", layer_norm(h, 1e-5, s, f"{name}.norm2")))
        h = h + linear(s, f"{name}.mlp.fc2", inner)
        outputs.append(h)
    tokens = linear(s, "decoder_pred", layer_norm(h, 1e-5, s, "norm"))[:, len(extra) :]
    out = images(tokens, x.shape[2] // patch, patch, channels)
    if "final_layer.weight" in s:
        out = torch.conv2d(out, s["final_layer.weight"].double(), s["final_layer.bias"].double(), padding=1)
    return out, [kept[:, len(extra) :] for kept in outputs]

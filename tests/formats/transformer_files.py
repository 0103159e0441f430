"""Random state dicts in the programs' own names and shapes, as files for `dr.load`."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffrep.denoiser import Denoiser
from diffrep.formats import load

State = dict[str, Tensor]


def random_state(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> State:
    """Every tensor random and of a size that keeps the numbers near 1; scales of norms near 1."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        fan = max(1, torch.Size(shape[1:]).numel()) if len(shape) > 1 and "embed" not in name.split(".")[-1] else 4
        is_scale = "norm" in name.split(".")[-2:][0] and name.endswith("weight")
        state[name] = 1 + 0.1 * values if is_scale else values / fan**0.5
    return state


def adaptive_shapes(
    *,
    width: int = 32,
    depth: int = 2,
    heads: int = 2,
    channels: int = 4,
    side: int = 4,
    patch: int = 2,
    rows: int = 11,
    out_channels: int = 4,
    rms: bool = False,
    gated: bool = False,
    rotary: bool = False,
    qk_norm: bool = False,
    parts: int = 6,
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of DiT, SiT, REPA and LightningDiT."""
    inner = int(2 / 3 * 4 * width) if gated else 4 * width
    first, second = ("w12", "w3") if gated else ("fc1", "fc2")
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, side * side, width),
        **linear("x_embedder.proj", width, channels, patch, patch),
        **linear("t_embedder.mlp.0", width, 256),
        **linear("t_embedder.mlp.2", width, width),
        "y_embedder.embedding_table.weight": (rows, width),
    }
    if rotary:
        shapes |= {f"feat_rope.freqs_{wave}": (side * side, width // heads) for wave in ("cos", "sin")}
    for i in range(depth):
        block = f"blocks.{i}"
        shapes |= linear(f"{block}.attn.qkv", 3 * width, width) | linear(f"{block}.attn.proj", width, width)
        if rms:
            shapes |= {f"{block}.norm{k}.weight": (width,) for k in (1, 2)}
        if qk_norm:
            shapes |= {f"{block}.attn.{k}_norm.weight": (width // heads,) for k in "qk"}
            shapes |= {} if rms else {f"{block}.attn.{k}_norm.bias": (width // heads,) for k in "qk"}
        shapes |= linear(f"{block}.mlp.{first}", inner * (2 if gated else 1), width)
        shapes |= linear(f"{block}.mlp.{second}", width, inner)
        shapes |= linear(f"{block}.adaLN_modulation.1", parts * width, width)
    if rms:
        shapes["final_layer.norm_final.weight"] = (width,)
    shapes |= linear("final_layer.linear", patch**2 * out_channels, width)
    return shapes | linear("final_layer.adaLN_modulation.1", 2 * width, width)


def uvit_shapes(
    *,
    width: int = 32,
    half: int = 2,
    channels: int = 3,
    side: int = 4,
    patch: int = 2,
    rows: int | None = None,
    bias: bool = False,
    time_layers: bool = False,
    conv: bool = True,
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of U-ViT."""
    extras = 1 if rows is None else 2
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, extras + side * side, width),
        **linear("patch_embed.proj", width, channels, patch, patch),
    }
    if time_layers:
        shapes |= linear("time_embed.0", 4 * width, width) | linear("time_embed.2", width, 4 * width)
    if rows is not None:
        shapes["label_emb.weight"] = (rows, width)
    for name in [f"in_blocks.{k}" for k in range(half)] + ["mid_block"] + [f"out_blocks.{k}" for k in range(half)]:
        shapes |= {f"{name}.norm1.weight": (width,), f"{name}.norm1.bias": (width,)}
        shapes |= (
            linear(f"{name}.attn.qkv", 3 * width, width) if bias else {f"{name}.attn.qkv.weight": (3 * width, width)}
        )
        shapes |= linear(f"{name}.attn.proj", width, width)
        shapes |= {f"{name}.norm2.weight": (width,), f"{name}.norm2.bias": (width,)}
        shapes |= linear(f"{name}.mlp.fc1", 4 * width, width) | linear(f"{name}.mlp.fc2", width, 4 * width)
        shapes |= linear(f"{name}.skip_linear", width, 2 * width) if name.startswith("out") else {}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)} | linear("decoder_pred", patch**2 * channels, width)
    return shapes | (linear("final_layer", channels, channels, 3, 3) if conv else {})


def linear(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def open_file(path: Path, architecture: dict[str, Any] | None = None) -> Denoiser:
    """The denoiser of a file, with facts that it cannot tell."""
    return load(path, architecture=architecture)


def batch(channels: int = 4, size: int = 8, count: int = 3) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))

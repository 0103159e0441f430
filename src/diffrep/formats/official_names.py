"""State-dict names of the official U-Net programs, in their files' order, beside ours.

Each function lists (official name, our name) for one network. The order matters: the programs' check values fill
tensors by their position in the file. Shapes differ where the program has 1x1 convolutions for our linear layers;
`load_official` reshapes them, and takes nothing but whole files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from diffrep.autoencoder import SemanticEncoder, ShiftEstimator
from diffrep.errors import FormatError
from diffrep.networks import UNet
from diffrep.networks.blocks import Attention, Downsample, ResBlock, Upsample
from diffrep.networks.unet import Block, parts_of

Names = list[tuple[str, str]]
Table = dict[str, str]

DDAE_RES = {
    "norm1": "norm1",
    "conv1": "conv1",
    "norm2": "norm2",
    "conv2.1": "conv2",
    "shortcut": "shortcut",
    "time_emb.1": "time",
}
DDAE_ATTENTION = {"norm": "norm", "projection": "qkv", "output": "out"}
ADM_RES = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time",
    "cond_emb_layers.1": "code",  # Diff-AE
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "shortcut",
}
SHIFT_RES = {"emb_z_layers.1" if a == "cond_emb_layers.1" else a: b for a, b in ADM_RES.items()}
ADM_ATTENTION = {"norm": "norm", "qkv": "qkv", "proj_out": "out"}
DDPM_RES = {
    "norm1": "norm1",
    "conv1": "conv1",
    "temb_proj": "time",
    "norm2": "norm2",
    "conv2": "conv2",
    "nin_shortcut": "shortcut",
}


def ddae(network: UNet) -> Names:
    """DDAE's U-Net (spec/ddae.md 2.2.5): layouts ddpm and ddpmpp."""
    parts = {"image_proj": "enc.1", "time_emb.aug_emb": "time.augment"}
    parts |= {"time_emb.lin1": "time.linear1", "time_emb.lin2": "time.linear2"}
    for i, ours in enumerate(f"enc.{k}" for k in range(2, len(network.enc) + 1)):
        parts |= _ddae_element(network, f"down.{i}", ours)
    parts |= _moved(DDAE_RES, "middle.res1", "mid.res1")
    parts |= _moved(DDAE_ATTENTION, "middle.attn", "mid.attention")
    parts |= _moved(DDAE_RES, "middle.res2", "mid.res2")
    for i, ours in enumerate(_decoder_in_order(network)):
        parts |= _ddae_element(network, f"up.{i}", ours)
    return _tensors(network, parts | {"norm": "head.norm", "final": "head.conv"})


def adm(network: UNet, time: str = "time_embed") -> Names:
    """guided-diffusion, improved-diffusion, PDAE and Diff-AE (spec/pdae.md 2.1): layouts adm and beatgans."""
    parts = {f"{time}.0": "time.linear1", f"{time}.2": "time.linear2", "label_emb": "time.classes"}
    for k in range(1, len(network.enc) + 1):
        parts |= _adm_entry(network, f"input_blocks.{k - 1}", [f"enc.{k}"])
    parts |= _adm_entry(network, "middle_block", ["mid.res1", "mid.attention", "mid.res2"])
    for k in range(1, len(network.dec) + 1):
        modules = [f"dec.{k}"] + ([f"up.{k}"] if str(k) in network.up else [])
        parts |= _adm_entry(network, f"output_blocks.{k - 1}", modules)
    return _tensors(network, parts | {"out.0": "head.norm", "out.2": "head.conv"})


def shift(estimator: ShiftEstimator) -> Names:
    """The trained half of PDAE's shift U-Net (spec/pdae.md 2.3)."""
    parts = {"label_emb": "code"}
    for i, ours in enumerate(("middle.first", "middle.attention", "middle.last")):
        parts |= _moved(ADM_ATTENTION if i == 1 else SHIFT_RES, f"shift_middle_block.{i}", ours)
    for k, level in enumerate(estimator.decoder):
        there = [name for name in ("block", "attention", "up") if getattr(level, name) is not None]
        for i, name in enumerate(there):
            table = ADM_ATTENTION if name == "attention" else SHIFT_RES
            parts |= _moved(table, f"shift_output_blocks.{k}.{i}", f"decoder.{k}.{name}")
    return _tensors(estimator, parts | {"shift_out.0": "head.norm", "shift_out.2": "head.conv"})


def pdae_encoder(encoder: SemanticEncoder) -> Names:
    """PDAE's semantic encoders (spec/pdae.md 2.2), whose one Sequential ends in a flattening and a linear layer."""
    parts: Table = {}
    for i, module in enumerate(encoder.layers):
        table = ADM_ATTENTION if isinstance(module, Attention) else {"": ""}
        parts |= {_join(f"encoder.{i}", a): _join(f"layers.{i}", b) for a, b in table.items()}
    return _tensors(encoder, parts | {f"encoder.{len(encoder.layers) + 1}": "head"})


def pytorch_diffusion(network: UNet) -> Names:
    """pytorch_diffusion's U-Net (spec/ddae.md 5.3), once q, k and v are one tensor named qkv; layout ddpm."""
    parts = {"temb.dense.0": "time.linear1", "temb.dense.1": "time.linear2"}
    for official, ours in _ddpm_elements(network):
        module = network.get_submodule(ours)
        table = {"norm": "norm", "qkv": "qkv", "proj_out": "out"} if isinstance(module, Attention) else DDPM_RES
        parts |= _moved(table, official, ours) if isinstance(module, Attention | ResBlock) else {official: ours}
    return _tensors(network, parts | {"norm_out": "head.norm", "conv_out": "head.conv"})


def latent_mlp(network: nn.Module) -> Names:
    """The latent net of Diff-AE and PDAE (spec/pdae.md 2.4); what files store twice is listed once."""
    count = len(list(network.get_submodule("time").children()))
    parts = {f"time_embed.{2 * k}": f"time.linear{k + 1}" for k in range(count)}
    table = {"linear": "linear", "linear_emb": "scale", "norm": "norm"}
    for i, _ in network.get_submodule("layers").named_children():
        parts |= _moved(table, f"layers.{i}", f"layers.{i}")
    return _tensors(network, parts)


def beatgans_encoder(network: nn.Module) -> Names:
    """Diff-AE's semantic encoder."""
    parts: Table = {}
    blocks = network.get_submodule("blocks")
    for i, module in enumerate(blocks.children()):
        if isinstance(module, nn.Conv2d):
            parts[f"input_blocks.{i}.0"] = f"blocks.{i}"
            continue
        if isinstance(module.get_submodule("res"), Downsample):
            parts[f"input_blocks.{i}.0.op"] = f"blocks.{i}.res.conv"
            continue
        parts |= _moved(ADM_RES, f"input_blocks.{i}.0", f"blocks.{i}.res")
        parts |= _moved(ADM_ATTENTION, f"input_blocks.{i}.1", f"blocks.{i}.attention")
    for i, ours in enumerate(("first", "attention", "last")):
        parts |= _moved(ADM_ATTENTION if i == 1 else ADM_RES, f"middle_block.{i}", f"middle.{ours}")
    return _tensors(network, parts | {"out.0": "norm", "out.3": "head"})


def load_official(module: nn.Module, state: Mapping[str, Tensor], names: Sequence[tuple[str, str]], file: Path) -> None:
    """Load a whole official state dict in float32, or say by official names what does not fit.

    Args:
        module: is filled; on the meta device it gets its memory only when everything fits.
        state: tensors by official name; float16 and others are converted.
        names: (official, ours), all tensors of `module`.
        file: for the message.

    Errors:
        FormatError: naming the first five tensors that are missing, left over or of another shape.
    """
    own, known = module.state_dict(), dict(names)
    problems = {
        "missing": [name for name in known if name not in state],
        "left over": [name for name in state if name not in known],
        "of another shape": [
            f"{a} {tuple(state[a].shape)} for {tuple(own[b].shape)}"
            for a, b in names
            if a in state and _core(state[a].shape) != _core(own[b].shape)
        ],
    }
    texts = [f"{len(found)} {what}: {', '.join(found[:5])}" for what, found in problems.items() if found]
    if texts:
        raise FormatError(
            f"the tensors in {file} do not fit its architecture ({'; '.join(texts)})",
            "is the config beside it, or architecture=, another model's?",
        )
    tensors = {b: state[a].to(torch.float32).reshape(own[b].shape) for a, b in names}
    if any(tensor.is_meta for tensor in own.values()):
        module.to_empty(device="cpu")
    module.load_state_dict(tensors)


def _core(shape: torch.Size) -> tuple[int, ...]:
    """A shape without the kernel of a 1x1 convolution."""
    sizes = tuple(shape)
    while len(sizes) > 2 and sizes[-1] == 1:
        sizes = sizes[:-1]
    return sizes


def _ddae_element(network: UNet, official: str, ours: str) -> Table:
    module = network.get_submodule(ours)
    if isinstance(module, Block):
        attention = _moved(DDAE_ATTENTION, f"{official}.attn", f"{ours}.attention") if module.attention else {}
        return _moved(DDAE_RES, f"{official}.res", f"{ours}.res") | attention
    if isinstance(module, ResBlock):
        return _moved(DDAE_RES, f"{official}.op", ours)
    return {f"{official}.conv": f"{ours}.conv"}


def _adm_entry(network: UNet, official: str, ours: list[str]) -> Table:
    flat = [name for path in ours for name in _halves(network, path)]
    parts: Table = {}
    for i, path in enumerate(flat):
        module = network.get_submodule(path)
        if isinstance(module, ResBlock):
            parts |= _moved(ADM_RES, f"{official}.{i}", path)
        elif isinstance(module, Attention):
            parts |= _moved(ADM_ATTENTION, f"{official}.{i}", path)
        elif isinstance(module, Downsample):
            parts[f"{official}.{i}.op"] = f"{path}.conv"
        elif isinstance(module, Upsample):
            parts[f"{official}.{i}.conv"] = f"{path}.conv"
        else:
            parts[f"{official}.{i}"] = path
    return parts


def _ddpm_elements(network: UNet) -> Iterator[tuple[str, str]]:
    """pytorch_diffusion counts blocks within a level; `up` is numbered by level, not in the order of running."""
    yield "conv_in", "enc.1"
    level = block = 0
    for k in range(2, len(network.enc) + 1):
        if isinstance(network.enc[str(k)], Downsample):
            yield f"down.{level}.downsample.conv", f"enc.{k}.conv"
            level, block = level + 1, 0
            continue
        yield from _ddpm_block(network, f"down.{level}", block, f"enc.{k}")
        block += 1
    yield from (("mid.block_1", "mid.res1"), ("mid.attn_1", "mid.attention"), ("mid.block_2", "mid.res2"))
    block = 0
    for k in range(1, len(network.dec) + 1):
        yield from _ddpm_block(network, f"up.{level}", block, f"dec.{k}")
        block += 1
        if str(k) in network.up:
            yield f"up.{level}.upsample.conv", f"up.{k}.conv"
            level, block = level - 1, 0


def _ddpm_block(network: UNet, official: str, block: int, ours: str) -> Iterator[tuple[str, str]]:
    for kind, path in zip(("block", "attn"), _halves(network, ours), strict=False):
        yield f"{official}.{kind}.{block}", path


def _halves(network: UNet, path: str) -> list[str]:
    return parts_of(path, network.get_submodule(path))


def _decoder_in_order(network: UNet) -> Iterator[str]:
    for k in network.dec:
        yield f"dec.{k}"
        if k in network.up:
            yield f"up.{k}"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if name else path


def _moved(table: Table, official: str, ours: str) -> Table:
    return {f"{official}.{a}": f"{ours}.{b}" for a, b in table.items()}


def _tensors(network: nn.Module, parts: Table) -> Names:
    """The parts' weights and biases that the network has; a part of two programs goes by the name that is right."""
    known = network.state_dict().keys()
    both = [(f"{a}.{kind}", f"{b}.{kind}") for a, b in parts.items() for kind in ("weight", "bias")]
    names = [(a, b) for a, b in both if b in known]
    if left := set(known) - {b for _, b in names}:
        raise ValueError(f"tensors without an official name: {sorted(left)[:5]}")
    return names

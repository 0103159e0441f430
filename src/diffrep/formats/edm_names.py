"""Names in EDM's and EDM2's pickles (spec: ecosystem, 5.4 and 5.5), in their files' order, beside ours.

The official names of blocks carry the resolution: they are the aliases of the taps. Below a block, one table per
program says what is what.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from diffrep.formats.official_names import Names
from diffrep.networks.edm2 import EDM2
from diffrep.networks.edm_unet import EDMUNet
from diffrep.networks.unet import Block

RES = {
    "norm0": "norm1",
    "conv0": "conv1",
    "affine": "time",
    "norm1": "norm2",
    "conv1": "conv2",
    "skip": "shortcut",
}
ATTENTION = {"norm2": "norm", "qkv": "qkv", "proj": "out"}
MP_BLOCK = {
    "emb_gain": "gain",
    "conv_res0": "conv1",
    "emb_linear": "time",
    "conv_res1": "conv2",
    "conv_skip": "shortcut",
    "attn_qkv": "attention.qkv",
    "attn_proj": "attention.out",
}


def edm(network: EDMUNet, size: int) -> Names:
    """SongUNet's or DhariwalUNet's tensors, without the resampling filters, which are no weights.

    Args:
        network: layout edm_song or edm_dhariwal.
        size: height and width of its images.
    """
    early = {"map_label": "time.labels", "map_augment": "time.augment"}
    layers = {"map_layer0": "time.linear1", "map_layer1": "time.linear2"}
    song = network.config["layout"] == "edm_song"
    parts = {"map_noise.freqs": "time.frequencies"}
    parts |= early | layers if song else {"map_augment": "time.augment"} | layers | {"map_label": "time.classes"}
    for official, ours in _blocks(network, size).items():
        module = network.get_submodule(ours)
        if isinstance(module, Block):
            parts |= _below(official, f"{ours}.res", RES) | _below(official, f"{ours}.attention", ATTENTION)
        else:
            parts |= {official: ours, f"{official}.": f"{ours}.conv"} | _below(official, ours, RES)
    ends = (f"dec.{size}x{size}_aux_norm", f"dec.{size}x{size}_aux_conv") if song else ("out_norm", "out_conv")
    return _tensors(network, parts | dict(zip(ends, ("head.norm", "head.conv"), strict=True)))


def edm2(network: EDM2, size: int) -> Names:
    """The tensors of EDM2's `unet`."""
    parts = {
        "emb_fourier.freqs": "time.frequencies",
        "emb_fourier.phases": "time.phases",
        "emb_noise": "time.noise",
        "emb_label": "time.labels",
    }
    for official, ours in _blocks(network, size).items():
        parts |= {official: ours} | _below(official, ours, MP_BLOCK)
    return _tensors(network, {"out_gain": "gain"} | parts | {"out_conv": "head"})


def _blocks(network: EDMUNet | EDM2, size: int) -> dict[str, str]:
    """Official name of each block -> the path of our module."""
    return {alias: place.module for place in network.places((size, size)) for alias in place.aliases} | _middle(
        network, size
    )


def _middle(network: EDMUNet | EDM2, size: int) -> dict[str, str]:
    """The second middle block is our module mid.in1, though the tap is called mid."""
    return {
        alias: "mid.in1" for place in network.places((size, size)) if place.name == "mid" for alias in place.aliases
    }


def _below(official: str, ours: str, table: Mapping[str, str]) -> dict[str, str]:
    return {f"{official}.{a}": f"{ours}.{b}" for a, b in table.items()}


def _tensors(network: nn.Module, parts: Mapping[str, str]) -> Names:
    """What the network has of these parts: weights, biases, and tensors that are named as such."""
    own = network.state_dict()
    kinds = ("", ".weight", ".bias")
    names = [
        (f"{a.rstrip('.')}{kind}", f"{b}{kind}") for a, b in parts.items() for kind in kinds if f"{b}{kind}" in own
    ]
    if left := set(own) - {ours for _, ours in names}:
        raise ValueError(f"tensors without an official name: {sorted(left)[:5]}")
    return names

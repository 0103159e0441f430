"""Pickles of NVIDIA's EDM2 (Karras et al. 2024): one magnitude-preserving U-Net, EDM's preconditioning.

Weights are stored in float16 and cast up; gains are first divided in float16, as the program does (`rounded`). The
parts that estimated the loss's variance in training (`logvar_*`) are left out: no prediction passes through them.
Models of 512-pixel images work on latents that EDM2 normalizes in its own way: that becomes the `scaling` of the
`InputSpec`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffrep.denoiser import Denoiser, InputSpec, LabelSpec
from diffrep.errors import FormatError
from diffrep.formats import edm_names
from diffrep.formats.content import Content, Family
from diffrep.formats.edm import LICENSE, arguments, check_beside, check_caller, ema_of, inner, loss_of, outline
from diffrep.formats.edm_preconditioning import edm_settings, number
from diffrep.formats.folder import build_network
from diffrep.formats.inert import Inert
from diffrep.formats.official_names import load_official
from diffrep.formats.state_dicts import module_tensors
from diffrep.input_spec import LatentScaling
from diffrep.networks.edm2 import EDM2

LOG = logging.getLogger("diffrep.formats")
DEFAULTS = {
    "label_dim": 0,
    "model_channels": 192,
    "channel_mult": [1, 2, 3, 4],
    "channel_mult_noise": None,
    "channel_mult_emb": None,
    "num_blocks": 3,
    "attn_resolutions": [16, 8],
    "label_balance": 0.5,
    "concat_balance": 0.5,
    "resample_filter": [1, 1],
    "channels_per_head": 64,
    "dropout": 0.0,
    "res_balance": 0.3,
    "attn_balance": 0.3,
    "clip_act": 256,
}
"""Defaults of the official constructors of the U-Net and its blocks."""
PIXEL_ENCODERS = ("StandardRGBEncoder", "Encoder")
MEAN, DEVIATION, STD = (5.81, 3.25, 0.12, -2.15), (4.17, 4.62, 3.71, 3.28), 0.5
"""Of the VAE's latents as EDM2 assumes them, per channel, and of the model's latents."""
PIXELS = (0.0, 1.0)
"""EDM2 shows its VAE pixels in [0, 1], not in [-1, 1]."""


def recognizes(content: Content) -> bool:
    """Whether the file is a dictionary whose `ema` is a `Precond` around a `UNet`."""
    ema = ema_of(content)
    return ema is not None and ema.class_name == "Precond" and inner(ema, "unet") is not None


def load(content: Content) -> Denoiser:
    """Make the denoiser.

    Errors:
        FormatError: another resampling filter, or tensors that are missing or left over.
    """
    precond = ema_of(content)
    unet = inner(precond, "unet") if precond else None
    assert precond is not None and unet is not None  # noqa: PT018 (recognized)
    facts = {**DEFAULTS, **arguments(unet, content, needed=("img_channels",))}
    check_caller(content, {**facts, "sigma_data": number(precond, "sigma_data", 0.5)})
    network = build_network(recipe := _recipe(facts, content))
    assert isinstance(network, EDM2)
    size, channels = int(facts["img_resolution"]), int(facts["img_channels"])
    check_beside(content, "unet.", known=("logvar_",))
    left = [name for name in module_tensors(precond) if name.startswith("logvar_")]
    LOG.warning("%s: the estimator of the loss's variance is left out: %s", content.name, ", ".join(left))
    load_official(network, rounded(module_tensors(unet)), edm_names.edm2(network, size), content.path)
    denoiser = Denoiser(
        network,
        input=InputSpec(channels, size, latent=is_latent(content, channels), scaling=scaling_of(content, channels)),
        labels=LabelSpec(recipe["classes"], optional=True) if recipe["classes"] else None,
        source=str(content.path.resolve()),
        **edm_settings(precond, loss_of(content)),
    )
    return denoiser.eval()


def is_latent(content: Content, channels: int) -> bool:
    """Whether the model works on latents: its encoder says so, or without one, its number of channels."""
    encoder = encoder_of(content)
    return encoder.class_name not in PIXEL_ENCODERS if encoder else channels not in (1, 3)


def encoder_of(content: Content) -> Inert | None:
    """The pickled encoder; None where there is none."""
    encoder = content.data.get("encoder") if isinstance(content.data, dict) else None
    return encoder if isinstance(encoder, Inert) else None


def rounded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with gains of which gain / sqrt(n) is what the program gets: it divides in the gain's own float16.

    Args:
        tensors: by official name; `emb_gain` belongs to its block's `emb_linear`, `out_gain` to `out_conv`.
    """
    out = dict(tensors)
    for name, gain in tensors.items():
        place, _, last = name.rpartition(".")
        owner = {"emb_gain": f"{place}.emb_linear.weight", "out_gain": "out_conv.weight"}.get(last, "")
        if owner in tensors and gain.dtype != torch.float32:
            root = math.sqrt(tensors[owner][0].numel())
            out[name] = (gain / root).float() * root
    return out


def scaling_of(content: Content, channels: int) -> LatentScaling | None:
    """How latents are made of the VAE's: by what the stored encoder says, x * scale + bias of pixels in [0, 1].

    Where a snapshot of a model of latents has no such encoder, by the constants of the published ones.
    """
    if not is_latent(content, channels):
        return None
    encoder = encoder_of(content)
    stored = {name: encoder.get(name) for name in ("scale", "bias")} if encoder else {}
    if all(isinstance(value, Tensor) and value.numel() == channels for value in stored.values()) and stored:
        scale, bias = stored["scale"].double().flatten(), stored["bias"].double().flatten()
        return LatentScaling(tuple((-bias / scale).tolist()), tuple(scale.tolist()), PIXELS)
    return LatentScaling(MEAN, tuple(STD / deviation for deviation in DEVIATION), PIXELS) if channels == 4 else None


def _recipe(facts: dict[str, Any], content: Content) -> dict[str, Any]:
    if list(facts["resample_filter"]) != [1, 1]:
        raise FormatError(f"{content.name} resamples with {facts['resample_filter']}", "expected [1, 1]")
    widths = {
        ours: int(facts["model_channels"] * facts[official]) if facts[official] is not None else None
        for ours, official in (("noise_width", "channel_mult_noise"), ("time_width", "channel_mult_emb"))
    }
    return {
        "layout": "edm2",
        "image_channels": int(facts["img_channels"]),
        "head_width": int(facts["channels_per_head"]),
        "label_balance": float(facts["label_balance"]),
        "skip_balance": float(facts["concat_balance"]),
        "balance": float(facts["res_balance"]),
        "attention_balance": float(facts["attn_balance"]),
        "clip": float(facts["clip_act"]) if facts["clip_act"] is not None else None,
        **widths,
        **outline(facts),
    }


FAMILY = Family("EDM2", recognizes, load, LICENSE, compared=False)

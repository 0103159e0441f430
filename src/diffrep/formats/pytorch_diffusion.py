"""State dicts of pytorch_diffusion, a port of DDPM's own checkpoints (Ho et al. 2020).

A flat dictionary with one convolution each for q, k and v, and `up` counted by level. Down-sampling pads right and
bottom only; GroupNorm has eps 1e-6; time is the whole t, from 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from diffrep.denoiser import Denoiser, InputSpec, SamplingSpec
from diffrep.errors import FormatError
from diffrep.formats import official_names
from diffrep.formats.content import Content, require
from diffrep.formats.families import Family
from diffrep.formats.guided_diffusion import built, tensor
from diffrep.formats.state_dicts import state_dict
from diffrep.formats.told import Levels, check_told, truth, whole
from diffrep.networks import UNet
from diffrep.schedules import DiscreteSchedule

VARIANCES = {"fixedlarge": "upper", "fixedsmall": "posterior"}


def recognizes(content: Content) -> bool:
    """Whether the file is a flat state dict with the port's names."""
    names = state_dict(content.data).keys()
    return any(n.startswith("temb.dense.") for n in names) and any(n.startswith("mid.block_") for n in names)


def load(content: Content) -> Denoiser:
    """Make the denoiser.

    Errors:
        FormatError: facts are missing, or tensors are missing or left over.
    """
    family = "a pytorch_diffusion checkpoint"
    require(content, family, ["resolution", "beta_schedule", "beta_start", "beta_end", "num_diffusion_timesteps"])
    if not truth(content, "resamp_with_conv", True):
        raise FormatError(f"{content.name} resamples without convolutions (resamp_with_conv false)", "this is not read")
    variance = content.fact("model_var_type", None)
    if variance is not None and variance not in VARIANCES:
        raise FormatError(f'model_var_type is "{variance}"', f"expected one of {', '.join(VARIANCES)}")
    state = with_qkv(state_dict(content.data))
    shape = outline(state, content.path)
    told = {
        "ch": shape["channels"],
        "ch_mult": shape["multipliers"],
        "num_res_blocks": shape["blocks"],
        "attn_resolutions": Levels(shape["attention"], whole(content, "resolution")),
        "in_channels": shape["image_channels"],
        "out_ch": shape["image_channels"],
    }
    check_told(content, told)
    config = shape | {"dropout": float(content.fact("dropout", 0.0))}
    network = cast(UNet, built(config, content.path))
    official_names.load_official(network, state, official_names.pytorch_diffusion(network), content.path)
    denoiser = Denoiser(
        network,
        schedule=schedule_of(content),
        input=InputSpec(config["image_channels"], whole(content, "resolution")),
        sampling=SamplingSpec(rule="guided-diffusion", variance=VARIANCES.get(variance or "")),
        source=str(content.path),
    )
    return denoiser.eval()


FAMILY = Family("pytorch_diffusion", recognizes, load, "MIT", compared=True)


def schedule_of(content: Content) -> DiscreteSchedule:
    """The program's schedules by name: "linear", "quad", "const" and "jsd".

    Errors:
        FormatError: another name.
    """
    steps, kind = whole(content, "num_diffusion_timesteps"), str(content.fact("beta_schedule"))
    start, end = float(content.fact("beta_start")), float(content.fact("beta_end"))
    if kind == "linear":
        return DiscreteSchedule.linear(steps, start, end)
    betas = {
        "quad": torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2,
        "const": torch.full((steps,), end, dtype=torch.float64),
        "jsd": 1 / torch.linspace(steps, 1, steps, dtype=torch.float64),
    }
    if kind not in betas:
        raise FormatError(f'beta_schedule is "{kind}"', f"expected linear, {', '.join(betas)}")
    return DiscreteSchedule(torch.cumprod(1 - betas[kind], 0))


def with_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put the three convolutions q, k and v of each attention together as qkv; what is not complete stays."""
    joined = dict(state)
    for name in state:
        place, _, kind = name.rpartition(".")
        parts = [f"{place.removesuffix('.q')}.{part}.{kind}" for part in "qkv"]
        if place.endswith(".q") and all(part in state for part in parts):
            joined[f"{place}kv.{kind}"] = torch.cat([joined.pop(part) for part in parts])
    return joined


def outline(state: Mapping[str, Tensor], file: Path) -> dict[str, Any]:
    """What names and shapes tell: arguments of `networks.ddpm`.

    Errors:
        FormatError: a tensor is missing without which nothing can be told.
    """
    stem = tensor(state, "conv_in.weight", file)
    parts = [name.split(".") for name in state if name.startswith("down.")]
    levels = 1 + max((int(part[1]) for part in parts), default=0)
    widths = [tensor(state, f"down.{k}.block.0.conv1.weight", file).shape[0] for k in range(levels)]
    return {
        "layout": "ddpm",
        "image_channels": stem.shape[1],
        "channels": stem.shape[0],
        "multipliers": [width // stem.shape[0] for width in widths],
        "attention": [any(part[1:3] == [str(k), "attn"] for part in parts) for k in range(levels)],
        "blocks": len({part[3] for part in parts if part[1:3] == ["0", "block"]}),
        "order": "qkv",
        "head_groups": 32,
        "eps": 1e-6,
        "padding": "right",
        "names": "pytorch-diffusion",
    }

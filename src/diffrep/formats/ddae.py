"""Checkpoints of DDAE (Xiang et al. 2023): `.pth` with MODEL, EMA and opt, beside a YAML config.

DDPM and EDM models have the same tensors, so the config must travel with the file. The program counts t from 1 and
shows the network t / n_T; its DDIM sampler walks another table than training (DDAE 1.1.2). Tables are float32.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from diffrep.continuous import EDMSchedule
from diffrep.denoiser import Conditioning, Denoiser, InputSpec, SamplingSpec
from diffrep.errors import FormatError
from diffrep.formats import official_names
from diffrep.formats.content import Content, require
from diffrep.formats.families import Family
from diffrep.formats.guided_diffusion import built, tensor
from diffrep.formats.state_dicts import tensors_in
from diffrep.formats.told import MOST, check_told, whole
from diffrep.networks import UNet
from diffrep.schedules import DiscreteSchedule

DEFAULT_SHAPE = [3, 32, 32]
EDM_FACTS = ("sigma_data", "p_mean", "p_std", "sigma_min", "sigma_max", "rho")
WRAPPED = r"((module|_orig_mod)\.)*"
PLACES = (("EMA", rf"ema_model\.{WRAPPED}nn_model\."), ("MODEL", rf"{WRAPPED}nn_model\."))
"""Where the network's tensors are, the best first: the moving average, as the program's own features use."""
UNUSED = ("online_model.", "initted", "step")
"""What else is in ema-pytorch's state: the raw weights once more, and counters."""


def recognizes(content: Content) -> bool:
    """Whether a state dict with the program's prefixes, or its bare network, is inside."""
    return _find(content) is not None


def load(content: Content) -> Denoiser:
    """Make the denoiser.

    Errors:
        FormatError: model type, head width or another fact is missing, or tensors are missing or left over.
    """
    state = _find(content) or {}
    family = "a DDAE checkpoint"
    kind = str(content.fact("model_type", "")).upper()
    more = ("n_T", "betas") if kind == "DDPM" else EDM_FACTS if kind == "EDM" else ()
    # In a whole config what is absent has the program's default; a fact that was left out of a few has none.
    defaults = [] if content.has("network.n_channels") else ["attn_channels_per_head", "image_shape"]
    require(content, family, ["model_type", *defaults, *more])
    if kind not in ("DDPM", "EDM"):
        raise FormatError(f'{content.path} has model_type "{content.fact("model_type")}"', "expected DDPM or EDM")
    shape = content.fact("image_shape", DEFAULT_SHAPE)
    if not (isinstance(shape, list | tuple) and len(shape) == 3 and shape[1] == shape[2] and _is_size(shape[1])):
        raise FormatError(f"image_shape is {shape!r:.80}", "expected [channels, size, size]: images are square")
    channels, size = shape[:2]
    network = _network(content, state)
    if channels != network.config["image_channels"]:
        raise FormatError(f"image_shape says {channels} channels, {content.path} {network.config['image_channels']}")
    settings = _edm(content) if kind == "EDM" else _ddpm(content)
    return Denoiser(network, input=InputSpec(channels, size), source=str(content.path), **settings).eval()


FAMILY = Family("DDAE", recognizes, load, "none stated", compared=True)


def tables(beta_start: float, beta_end: float, steps: int) -> tuple[Tensor, Tensor]:
    """Alpha-bar at t = 0..steps as the program rounds it: exp(cumsum(log(1 - beta))) in float32 (DDAE 1.1.2).

    Returns:
        (training, DDIM), each (steps + 1,). Training has beta 0 at t = 0; DDIM has the first beta there.
    """

    def abar(betas: Tensor) -> Tensor:
        return torch.exp(torch.cumsum(torch.log(1 - betas), dim=0))

    line = torch.linspace(beta_start, beta_end, steps, dtype=torch.float32)
    other = torch.linspace(beta_start, beta_end, steps + 1, dtype=torch.float32)
    return abar(torch.cat([torch.zeros(1), line])), abar(other)


def outline(state: Mapping[str, Tensor], file: Path) -> dict[str, Any]:
    """What names and shapes tell: arguments of `networks.ddpm` and `networks.ddpmpp`, and the layout.

    Errors:
        FormatError: a tensor is missing without which nothing can be told.
    """
    stem = tensor(state, "image_proj.weight", file)
    count = len({name.split(".")[1] for name in state if name.startswith("down.")})
    kinds = [_kind(state, k) for k in range(count)]
    levels: list[list[int]] = [[]]
    for k, kind in enumerate(kinds):
        if kind == "res":
            levels[-1].append(k)
        else:
            levels.append([])
    if not all(levels):
        raise FormatError(f"the blocks in {file} are no levels: {', '.join(kinds)}", "is the file whole?")
    widths = [tensor(state, f"down.{level[0]}.res.conv1.weight", file).shape[0] for level in levels]
    augment = state.get("time_emb.aug_emb.weight")
    return {
        "layout": "ddpmpp" if "op" in kinds else "ddpm",
        "image_channels": stem.shape[1],
        "channels": stem.shape[0],
        "multipliers": [width // stem.shape[0] for width in widths],
        "attention": [any(f"down.{level[0]}.attn.{p}.weight" in state for p in ("norm", "output")) for level in levels],
        "blocks": len(levels[0]),
        "augment_dim": 0 if augment is None else augment.shape[1],
    }


def _find(content: Content) -> dict[str, Tensor] | None:
    data = content.data if isinstance(content.data, Mapping) else {}
    flat = tensors_in(data)
    for key, prefix in PLACES:
        part = tensors_in(data.get(key)) or flat
        state = {re.sub(f"^{prefix}", "", name): t for name, t in part.items() if re.match(prefix, name)}
        if "image_proj.weight" in state:
            others = {name: t for name, t in part.items() if not re.match(prefix, name)}
            return state | {name: t for name, t in others.items() if not name.startswith(UNUSED)}
    bare = {name.removeprefix("nn_model."): t for name, t in flat.items()}
    return bare if {"image_proj.weight", "final.weight"} <= bare.keys() else None


def _network(content: Content, state: Mapping[str, Tensor]) -> UNet:
    head_width = content.fact("attn_channels_per_head", None)
    shape = outline(state, content.path)
    told: dict[str, Any] = {
        "n_channels": shape["channels"],
        "ch_mults": shape["multipliers"],
        "is_attn": shape["attention"],
        "n_blocks": shape["blocks"],
        "augment_dim": shape["augment_dim"],
    }
    if len(shape["multipliers"]) > 1:  # one level is never resampled
        told["use_res_for_updown"] = shape["layout"] == "ddpmpp"
    check_told(content, told)
    config = {
        **shape,
        "head_width": None if head_width is None else whole(content, "attn_channels_per_head"),
        "dropout": float(content.fact("dropout", 0.0)),
    }
    network = cast(UNet, built(config, content.path))
    official_names.load_official(network, state, official_names.ddae(network), content.path)
    return network


def _ddpm(content: Content) -> dict[str, Any]:
    steps = whole(content, "n_T")
    start, end = _betas(content)
    training, sampling = (table.double() for table in tables(start, end, steps))
    walked = DiscreteSchedule(sampling[1:], clean=float(sampling[0]))
    return {
        "schedule": DiscreteSchedule(training[1:], clean=float(training[0])),
        "conditioning": Conditioning(scale=1 / steps, offset=1),
        "sampling": SamplingSpec(clip=True, rule="ddae", variance="upper", table=walked.config(), quiet_end=True),
    }


def _betas(content: Content) -> tuple[float, float]:
    """First and last beta; an optimizer in the same config can have betas too."""
    given = content.fact("diffusion.betas", content.fact("betas"))
    try:
        start, end = (float(beta) for beta in given)
    except (TypeError, ValueError):
        start, end = 0.0, 0.0
    if not 0 < start < end < 1:
        raise FormatError(f"betas is {given!r:.80}", "expected the first and the last, rising, between 0 and 1")
    return start, end


def _edm(content: Content) -> dict[str, Any]:
    facts: dict[str, Any] = {name: float(content.fact(name)) for name in EDM_FACTS}
    habits = SamplingSpec(clip=True, rule="karras")
    low, high = (
        float(content.fact(f"S_{end}", own)) for end, own in zip(("min", "max"), habits.churn_range, strict=True)
    )
    scale = float(content.fact("S_noise", habits.churn_noise))
    return {
        "sigma_data": facts.pop("sigma_data"),
        "schedule": EDMSchedule(**facts),
        "parameterization": "edm",
        "conditioning": Conditioning("log-sigma", scale=0.25),
        "sampling": replace(habits, churn_range=(low, high), churn_noise=scale),
    }


def _is_size(value: object) -> bool:
    return isinstance(value, int) and 1 <= value <= MOST


def _kind(state: Mapping[str, Tensor], k: int) -> str:
    kinds = {name.split(".")[2] for name in state if name.startswith(f"down.{k}.")}
    return next((kind for kind in ("op", "conv") if kind in kinds), "res")

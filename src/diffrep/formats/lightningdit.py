"""Files of LightningDiT: a state dict or a training checkpoint, velocities towards the image, normalized latents.

The statistics by which latents were normalized belong to the model and lie in a file of their own,
`latents_stats.pt`; without them the model cannot be used, so they are asked for (DDAE 5.6). They become the `scaling`
of its `InputSpec`. Where the program's config is there, what it leaves out is what the program takes then.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diffrep.continuous import FlowSchedule
from diffrep.denoiser import Denoiser
from diffrep.errors import FormatError
from diffrep.formats.content import Content
from diffrep.formats.dit import check_path
from diffrep.formats.dit_program import STATISTICS, fact, program_of
from diffrep.formats.dit_tensors import filled, flow, labels_of, official, outline, ratio, velocity
from diffrep.formats.families import Family
from diffrep.formats.state_dicts import read_file, state_dict
from diffrep.input_spec import LatentScaling

LEFT_OUT = 0.18215
"""The program's `latent_multiplier` where its config has none."""


def recognizes(content: Content) -> bool:
    """Whether the file holds LightningDiT's tensors."""
    return program_of(content) == "LightningDiT"


def load(content: Content) -> Denoiser:
    """The denoiser of a LightningDiT file, on the CPU, in eval mode; it takes normalized latents.

    Errors:
        FormatError: no statistics of latents, unknown heads or classes, or tensors that do not fit.
    """
    check_path(content)
    tensors = state_dict(content.data)
    statistics = latent_statistics(content)
    missing = [name for name, value in statistics.items() if value is None]
    shape = outline(content, tensors, "LightningDiT", missing)
    recipe = {"layout": "lightningdit", **shape, **parts(content, tensors)}
    scaling = scaling_of(content, statistics, recipe["image_channels"])
    tensors = velocity(content, tensors, recipe, turned=True)
    gated = recipe["feed_forward"] == "swiglu"
    network = filled(recipe, tensors, content, lambda name: official(name, gated))
    labels = labels_of(content, tensors)
    return flow(network, recipe, labels, content, data_at_one=True, schedule=schedule_of(content), scaling=scaling)


def parts(content: Content, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Which of LightningDiT's parts the network has, by the tensors that are there.

    Errors:
        FormatError: another number of modulations, or settings that the tensors contradict.
    """
    width = tensors["pos_embed"].shape[2]
    gated = "blocks.0.mlp.w12.weight" in tensors
    hidden = tensors["blocks.0.mlp.w3.weight" if gated else "blocks.0.mlp.fc1.weight"].numel() // width
    rows = tensors["blocks.0.adaLN_modulation.1.weight"].shape[0]
    if rows not in (4 * width, 6 * width):
        raise FormatError(f"{content.path} has {rows} rows of modulation", f"expected {4 * width} or {6 * width}")
    has = {
        "use_rmsnorm": "blocks.0.norm1.weight" in tensors,
        "use_swiglu": gated,
        "use_rope": "feat_rope.freqs_cos" in tensors,
        "use_qknorm": "blocks.0.attn.q_norm.weight" in tensors,
        "wo_shift": rows == 4 * width,
    }
    for name, value in has.items():
        if (said := fact(content, name)) is not None and bool(said) != value:
            raise FormatError(
                f"{content.path} has {name} = {value}, but {content.origin_of(name)} says {said}", "is it another's?"
            )
    return {
        "norm": "rms" if has["use_rmsnorm"] else "layer",
        "feed_forward": "swiglu" if gated else "gelu",
        "mlp_ratio": ratio(math.ceil(1.5 * hidden) if gated else hidden, width),
        "rotary": has["use_rope"],
        "shift": not has["wo_shift"],
    }


def configured(content: Content) -> bool:
    """Whether the program's own config is known, so that what it leaves out has the program's default."""
    return any(isinstance(content.fact(section, None), Mapping) for section in ("data", "transport", "vae"))


def schedule_of(content: Content) -> FlowSchedule:
    """Straight paths; times logit-normal, as of the published models, unless a config says otherwise.

    The program's `timestep_shift` k pulls the sampler's times t (image at 1) to k t / (1 + (k - 1) t).
    """
    lognormal = fact(content, "use_lognorm", not configured(content))
    shift = fact(content, "timestep_shift", 0)
    shift = float(shift) if isinstance(shift, int | float) and shift > 0 else 1.0
    return FlowSchedule("logit-normal" if lognormal else "uniform", shift=1 / shift)


def latent_statistics(content: Content) -> dict[str, Any]:
    """Mean and standard deviation of each latent channel, as they are told or lie beside the checkpoint, or None.

    They are facts (`latent_mean`, `latent_std`), or stand in the statistics' file. A config that says
    `latent_norm: false`, or does not say it, uses none: {}.
    """
    if not fact(content, "latent_norm", not configured(content)):
        return {}
    statistics = _beside(content.path)
    return {
        "latent_mean": fact(content, "latent_mean", statistics.get("mean")),
        "latent_std": fact(content, "latent_std", statistics.get("std")),
    }


def scaling_of(content: Content, statistics: Mapping[str, Any], channels: int) -> LatentScaling:
    """How latents were normalized: (z - mean) / std * `latent_multiplier`; without statistics, by the factor alone.

    Errors:
        FormatError: not one finite number per channel, or a standard deviation that is not positive.
    """
    multiplier = float(fact(content, "latent_multiplier", LEFT_OUT if configured(content) else 1.0))
    if not statistics:
        return LatentScaling(scale=(multiplier,))
    numbers = {name: _numbers(value) or [] for name, value in statistics.items()}
    for name, found in numbers.items():
        whole = len(found) == channels and all(map(math.isfinite, found))
        if not whole or (name == "latent_std" and min(found) <= 0):
            raise FormatError(
                f"{name} is {found or statistics[name]!r:.200}",
                f"{content.path} needs {channels} finite numbers, one per channel, and of std positive ones",
            )
    return LatentScaling(
        tuple(numbers["latent_mean"]), tuple(multiplier / deviation for deviation in numbers["latent_std"])
    )


def _beside(path: Path) -> Mapping[str, Any]:
    """The statistics in the checkpoint's folder or up to two above it; {} where there are none."""
    for folder in list(path.resolve().parents)[:3]:
        if (folder / STATISTICS).is_file():
            statistics = read_file(folder / STATISTICS)
            return statistics if isinstance(statistics, Mapping) else {}
    return {}


def _numbers(value: Any) -> list[float] | None:  # noqa: ANN401 (whatever the file says)
    """A list of numbers, whatever its shape; None where it is none."""
    flat = value.flatten().tolist() if isinstance(value, Tensor) else value
    if not isinstance(flat, list | tuple) or not all(isinstance(number, int | float) for number in flat):
        return None
    return [float(number) for number in flat]


FAMILY = Family("LightningDiT", recognizes, load, license="MIT", compared=False)

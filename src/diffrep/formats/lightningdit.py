"""Files of LightningDiT: a state dict or a training checkpoint, velocities towards the image, normalized latents.

The statistics by which latents were normalized belong to the model and lie in a file of their own,
`latents_stats.pt`; without them the model cannot be used, so they are asked for (DDAE 5.6). They become the `scaling`
of its `InputSpec`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diffrep.denoiser import Denoiser
from diffrep.errors import FormatError
from diffrep.formats.content import Content, read_file, require
from diffrep.formats.dit import check_path
from diffrep.formats.dit_tensors import (
    fact,
    filled,
    flow,
    is_adaptive,
    is_lightning,
    labels_of,
    outline,
    ratio,
    tensors_of,
    velocity,
)
from diffrep.formats.families import Family
from diffrep.input_spec import LatentScaling

STATISTICS = "latents_stats.pt"


def recognizes(content: Content) -> bool:
    """Whether the file holds LightningDiT's tensors."""
    tensors = tensors_of(content)
    return is_adaptive(tensors) and is_lightning(content, tensors)


def load(content: Content) -> Denoiser:
    """The denoiser of a LightningDiT file, on the CPU, in eval mode; it takes normalized latents.

    Errors:
        FormatError: no statistics of latents, unknown heads or classes, or tensors that do not fit.
    """
    check_path(content)
    tensors = tensors_of(content)
    recipe = {"layout": "lightningdit", **outline(content, tensors, "LightningDiT"), **parts(content, tensors)}
    scaling = scaling_of(content, recipe["image_channels"])
    tensors = velocity(content, tensors, recipe, turned=True)
    times = "logit-normal" if fact(content, "use_lognorm", True) else "uniform"
    network = filled(recipe, tensors, content)
    labels = labels_of(content, tensors)
    return flow(network, recipe, labels, content, data_at_one=True, times=times, scaling=scaling)


def parts(content: Content, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Which of LightningDiT's parts the network has, by the tensors that are there."""
    width = tensors["pos_embed"].shape[2]
    gated = "blocks.0.mlp.w12.weight" in tensors
    hidden = tensors["blocks.0.mlp.w3.weight" if gated else "blocks.0.mlp.fc1.weight"].numel() // width
    rows = tensors["blocks.0.adaLN_modulation.1.weight"].shape[0]
    if rows not in (4 * width, 6 * width):
        raise FormatError(f"{content.path} has {rows} rows of modulation", f"expected {4 * width} or {6 * width}")
    return {
        "norm": "rms" if "blocks.0.norm1.weight" in tensors else "layer",
        "feed_forward": "swiglu" if gated else "gelu",
        "mlp_ratio": ratio(math.ceil(1.5 * hidden) if gated else hidden, width),
        "rotary": "feat_rope.freqs_cos" in tensors,
        "shift": rows == 6 * width,
    }


def scaling_of(content: Content, channels: int) -> LatentScaling:
    """How latents were normalized: (z - mean) / std * multiplier.

    Mean and standard deviation of each channel are facts (`latent_mean`, `latent_std`), or stand in the statistics'
    file beside the checkpoint; the factor is `latent_multiplier`. Where a config says `latent_norm: false`, there is
    the factor alone.

    Errors:
        FormatError: nothing says how latents were normalized, or not one number per channel.
    """
    multiplier = float(fact(content, "latent_multiplier", 1.0))
    if fact(content, "latent_norm") is False:
        return LatentScaling(scale=(multiplier,))
    statistics, found = _beside(content.path), {}
    for ours, theirs in (("latent_mean", "mean"), ("latent_std", "std")):
        value = fact(content, ours, statistics.get(theirs))
        found[ours] = _numbers(value) if value is not None else None
    missing = [name for name, numbers in found.items() if numbers is None]
    require(content, f"a LightningDiT checkpoint ({STATISTICS} is not beside it)", missing)
    for name, numbers in found.items():
        if numbers is None or len(numbers) != channels:
            raise FormatError(f"{name} is {numbers}", f"{content.path} needs {channels} numbers, one per channel")
    mean, std = found["latent_mean"] or [], found["latent_std"] or []
    return LatentScaling(tuple(mean), tuple(multiplier / deviation for deviation in std))


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
    if not isinstance(flat, list) or not all(isinstance(number, int | float) for number in flat):
        return None
    return [float(number) for number in flat]


FAMILY = Family("LightningDiT", recognizes, load, license="MIT", compared=False)

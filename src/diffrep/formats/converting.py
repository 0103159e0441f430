"""Another program's checkpoint as a model folder of diffrep: safetensors, config.json and a card that says it all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import torch

import diffrep
from diffrep.autoencoder import ConditionalAutoencoder
from diffrep.denoiser import Denoiser, Tap
from diffrep.errors import UsageError
from diffrep.files import sha256_of
from diffrep.formats import folder as own
from diffrep.formats.content import Content
from diffrep.formats.foreign import Loaded, load_foreign
from diffrep.formats.loading import locate
from diffrep.formats.uvit import discrete
from diffrep.schedules import DiscreteSchedule, Schedule

NOT_COMPARED = "not compared with the official program"
SCHEDULES: dict[str, Callable[[], Schedule]] = {
    "linear": DiscreteSchedule.linear,
    "cosine": DiscreteSchedule.cosine,
    "scaled-linear": discrete,
}
"""Schedules of 1000 steps by name: DDPM's, that of improved DDPM, and Stable Diffusion's."""


def convert(
    source: str | Path,
    out: str | Path,
    architecture: Mapping[str, Any] | None = None,
    *,
    schedule: Schedule | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a foreign checkpoint as a model folder; what is written computes the same without the original.

    Args:
        source: a file, a folder with one checkpoint in it, a diffrep card's name or a hub id.
        out: the folder to write; new or empty, or an earlier model folder with `overwrite`.
        architecture: facts that the file cannot tell, under the official constructors' names.
        schedule: replaces the recorded noise schedule; needed where none is recorded, as for a bare network.
        overwrite: replace an earlier model folder.

    Returns:
        The folder.

    Errors:
        UsageError: the source is a model folder already, `out` is taken, or no schedule is known.
        InputError, FormatError: as for `load`.

    Example:
        >>> convert("model_1999.pth", "ddae-cifar10")  # doctest: +SKIP
    """
    path, is_own = locate(source)
    target = Path(out).expanduser()
    if is_own:
        raise UsageError(f"{source} is a model folder of diffrep already", "load it as it is")
    if target.is_file() or (target.is_dir() and any(target.iterdir()) and not overwrite):
        raise UsageError(f"{target} is there already", "choose another folder, or say overwrite")
    loaded = load_foreign(path, name=str(source), architecture=architecture, schedule=schedule)
    if denoiser_of(loaded.model).schedule.convention == "unknown":
        raise UsageError(
            f"{source} comes without its noise schedule",
            "name it: schedule=dr.DiscreteSchedule.linear() (--schedule linear), or the one it was trained with",
        )
    origin = {"family": loaded.family.name, "license": loaded.family.license}
    return own.save(loaded.model, target, card=card_of(loaded, target.name), origin=origin)


def card_of(loaded: Loaded, title: str) -> str:
    """The model card of a converted checkpoint, as Markdown."""
    model, family, content = loaded.model, loaded.family, loaded.content
    denoiser = denoiser_of(model)
    facts = {
        "source": content.name,
        "sha256": content.sha256 or source_hash(content),
        "family": family.name + ("" if family.compared else f" ({NOT_COMPARED})"),
        "license of the weights": family.license,
        "facts from": content.origin or "the file itself",
        "kind": type(model).__name__,
        "parameterization": denoiser.parameterization,
        "schedule": json.dumps(short(denoiser.schedule.config())),
        "conditioning": json.dumps(denoiser.config()["conditioning"]),
        "preprocessing": preprocessing(denoiser),
        "labels": json.dumps(denoiser.config()["labels"]),
        **more_of(model, denoiser),
        "identity": model.identity if isinstance(model, ConditionalAutoencoder) else denoiser.identity,
        "converted": f"{date.today().isoformat()} by diffrep {diffrep.__version__}",
    }
    lines = [f"# {title}", "", f"Converted from {family.name}; load it with `diffrep.load`.", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    return "\n".join([*lines, "", "## Taps", "", *tap_table(denoiser.taps), ""])


def more_of(model: Any, denoiser: Denoiser) -> dict[str, str]:  # noqa: ANN401 (a Denoiser or an Autoencoder)
    """What only some models have: EDM's constant, what a network is told, an autoencoder's parts."""
    found: dict[str, str] = {}
    if denoiser.parameterization == "edm":
        found["sigma_data"] = str(denoiser.sigma_data)
    told: tuple[str, ...] = getattr(denoiser.network, "told", ())
    if told:
        shapes = [f"{name} {tuple(getattr(denoiser.network, name).shape)}" for name in told]
        found["told beside image and time"] = ", ".join(shapes)
    there = {"statistics of codes": "code_stats", "prior": "prior", "classifier": "classifier"}
    if not isinstance(model, Denoiser):
        parts = [name for name, part in there.items() if getattr(model, part) is not None]
        found["with"] = ", ".join(parts) or "neither prior nor classifier nor statistics of codes"
    return found


def denoiser_of(model: Any) -> Denoiser:  # noqa: ANN401 (a Denoiser or an Autoencoder)
    """The denoiser whose conventions an autoencoder has."""
    if isinstance(model, ConditionalAutoencoder):
        return model.at(torch.zeros(1, model.code_dim))
    found: Denoiser = model if isinstance(model, Denoiser) else model.denoiser
    return found


def preprocessing(denoiser: Denoiser) -> str:
    """What an input is, in words."""
    spec, (low, high) = denoiser.input, denoiser.input.range
    kind = f"pixels in [{low:g}, {high:g}]"
    if spec.latent:
        kind = "latents as its VAE's own config scales them"
    if spec.scaling is not None:
        shift, scale, pixels = spec.scaling.shift, spec.scaling.scale, spec.scaling.pixels
        kind = f"latents (z - {list(shift)}) * {list(scale)} of a VAE of pixels in {list(pixels)}"
    return f"{spec.channels} channels, {spec.size}x{spec.size}, {kind}"


def tap_table(taps: tuple[Tap, ...]) -> list[str]:
    """The taps with their official names, as a Markdown table."""
    rows = [f"| {t.name} | {t.channels} | {t.resolution} | {', '.join(t.aliases)} |" for t in taps]
    return ["| tap | channels | resolution | official names |", "|---|---|---|---|", *rows]


def short(config: dict[str, Any]) -> dict[str, Any]:
    """A schedule's config without its table."""
    return {key: f"{len(v)} values" if isinstance(v, list) and len(v) > 12 else v for key, v in config.items()}


def source_hash(content: Content) -> str:
    """The sha256 of a file, or of each weight file of a folder."""
    if content.path.is_file():
        return sha256_of(content.path)
    return ", ".join(f"{sha256_of(path)} ({path.name})" for path in content.data.weights.files)

"""Components of diffusers: a network's config, its weight files, and the scheduler that lies with them.

A component is a folder with config.json and weights, alone, in a pipeline (model_index.json above it or, as the first
ones on the hub have it, beside it); or one weight file, whose config lies beside it or is told. Python files,
`auto_map` and custom pipelines are never looked at.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from diffrep.errors import FormatError, InputError
from diffrep.formats import facts
from diffrep.formats.state_dicts import read_file, tensors_in

INSIDE = ("unet", "transformer", "prior")
"""Where a pipeline has the network that denoises."""
STEM = "diffusion_pytorch_model"
SUFFIXES = ("safetensors", "bin")
BLOCKS = re.compile(r"(^|\.)(down_blocks|up_blocks|(single_)?transformer_blocks)\.\d+\.")
"""In the names of all networks of diffusers that denoise, and of its VAEs."""
MAX_INDEX = 10_000_000


@dataclass(frozen=True)
class Component:
    """A network of diffusers.

    Args:
        folder: where its config and weights lie.
        config: what its config.json says, with what the caller says otherwise.
        weights: name -> tensor.
        scheduler: the config of its scheduler, {} where none lies there.
        index: model_index.json of its pipeline, {} where it is in none.
        pipeline: the folder of the pipeline, for the components beside it.
    """

    folder: Path
    config: Mapping[str, Any]
    weights: Weights
    scheduler: Mapping[str, Any]
    index: Mapping[str, Any]
    pipeline: Path

    @property
    def class_name(self) -> str:
        """The class of diffusers that its config names; "" for none."""
        return str(self.config.get("_class_name") or "")


class Weights(Mapping[str, Tensor]):
    """The tensors of weight files, on the CPU, opened when first asked for; shards are put together."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.files = list(files)
        self._tensors: dict[str, Tensor] | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Name -> tensor."""
        if self._tensors is None:
            self._tensors = {}
            for file in self.files:
                self._tensors |= tensors_in(read_file(file))
        return self._tensors

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def is_component(folder: Path) -> bool:
    """Whether a folder is a pipeline or a component of diffusers (or claims to be one)."""
    if (folder / "model_index.json").is_file():
        return True
    weights = any(folder.glob(f"{STEM}*")) or any(folder.glob("*.py"))
    return (folder / "config.json").is_file() and weights


def in_folder(folder: Path, told: Mapping[str, Any]) -> Component:
    """The network of a component's or a pipeline's folder.

    Args:
        folder: of a component, or of a pipeline that holds one network that denoises.
        told: by the caller; wins over the config.

    Errors:
        FormatError: no such network, several, or no weights.
    """
    index = settings(folder / "model_index.json")
    inside = [name for name in INSIDE if (folder / name / "config.json").is_file()] if index else []
    if len(inside) > 1 or not (inside or (folder / "config.json").is_file()):
        what = "a pipeline without one denoiser" if index else "no folder of diffusers"
        raise FormatError(f"{folder} is {what}", "expected unet/ or transformer/ in it, or config.json and weights")
    place = folder / inside[0] if inside else folder
    config = facts.read_config(place / "config.json")
    if "auto_map" in config or not isinstance(config.get("_class_name"), str):
        raise FormatError(
            f"{place / 'config.json'} is not diffusers' own: {', '.join(list(config)[:5])}",
            "a folder that brings its own code is not read; remote code is never run",
        )
    return _component(place, {**config, **told}, Weights(weight_files(place)), folder if index else None)


def of_file(path: Path, config: Mapping[str, Any]) -> Component:
    """The network of one weight file; a shard stands for all of them."""
    return _component(path.parent, config, Weights(shards_of(path) or [path]), None)


def _component(folder: Path, config: Mapping[str, Any], weights: Weights, pipeline: Path | None) -> Component:
    root = pipeline or (folder if (folder / "model_index.json").is_file() else folder.parent)
    places = (folder / "scheduler_config.json", root / "scheduler" / "scheduler_config.json")
    scheduler = next((found for place in places if (found := settings(place))), {})
    return Component(folder, config, weights, scheduler, settings(root / "model_index.json"), root)


def weight_files(folder: Path, stem: str = STEM) -> list[Path]:
    """The weight files of a component: one, or the shards that its index names.

    Safetensors come before .bin, averaged weights (`ema`) before plain names, and these before other variants such as
    `fp16`, of which there may be one.

    Errors:
        FormatError: there are none, or a shard is missing or lies outside. InputError: variants only, and several.
    """
    found: dict[str, list[Path]] = {}
    for suffix in SUFFIXES:
        name = re.compile(rf"{stem}(?:\.(\w+))?\.{suffix}(?:\.index(?:\.(\w+))?\.json)?")
        for path in sorted(folder.glob(f"{stem}.*")):
            match = name.fullmatch(path.name) if path.is_file() else None
            if match and (variant := match[1] or match[2] or "") not in found:
                found[variant] = _shards(path) if path.suffix == ".json" else [path]
    if not found:
        raise FormatError(f"{folder} has no weights", f"expected {stem}.safetensors or .bin")
    if len(found) > 1 and not found.keys() & {"ema", ""}:
        raise InputError(f"{folder} holds {', '.join(sorted(found))}", "name the weight file that is meant")
    return found.get("ema") or found.get("") or next(iter(found.values()))


def _shards(index: Path) -> list[Path]:
    named = settings(index, MAX_INDEX).get("weight_map")
    names = sorted({str(name) for name in named.values()}) if isinstance(named, dict) else []
    if any(Path(name).name != name for name in names):
        raise FormatError(f"{index} names files outside of its folder: {names[0]}", "do not use this folder")
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise FormatError(f"{index.parent} lacks {', '.join(missing[:5])}", f"copy all that {index.name} names")
    return [index.parent / name for name in names]


def shards_of(path: Path) -> list[Path]:
    """All shards of the index that names this file; [] where none does."""
    if "-of-" not in path.name:
        return []
    return next((found for index in path.parent.glob("*.index*.json") if path in (found := _shards(index))), [])


def settings(path: Path, most: int = facts.MAX_BYTES) -> dict[str, Any]:
    """A JSON object; {} where there is no such file.

    Errors:
        FormatError: broken, or too large.
    """
    if not path.is_file():
        return {}
    if path.stat().st_size > most:
        raise FormatError(f"{path} has {path.stat().st_size} bytes", f"expected at most {most}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is broken: {str(error)[:200]}", "copy the file again") from error
    return found if isinstance(found, dict) else {}

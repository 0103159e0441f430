"""What a checkpoint file cannot tell about its network: constructor arguments, schedule, labels.

They come, in this order, from the caller (`architecture=`), from the settings that some programs put into their
checkpoints, from a config in the program's own layout (beside the file or up to two folders above it), and from a card
matched by the file's hash. They are never guessed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from diffrep.errors import FormatError
from diffrep.formats.inert import Inert

BESIDE = ("args.json", "config.json", "config.yml", "config.yaml")
FOLDERS = ("config", "configs")
LEVELS = 3
"""The file's own folder and two above it."""
INSIDE = ("args", "config", "hyper_parameters")
"""Where programs keep their settings in a checkpoint: DiT's family, LightningDiT, Lightning."""
MAX_BYTES, MAX_YAML, MAX_VALUES = 200_000, 50_000, 100_000
"""YAML is read by Python code, which is slow, and safe where libyaml crashes: on nesting without end."""


def beside(path: Path) -> tuple[dict[str, Any], str]:
    """(facts, where they come from) of the nearest config; ({}, "") where there is none.

    Args:
        path: a checkpoint file, whose folder and two above are looked at.

    Errors:
        FormatError: a config that is broken, or several of which none belongs to this checkpoint.
    """
    folder = path.resolve().parent
    for _ in range(LEVELS):
        for candidate in (folder / name for name in BESIDE):
            if candidate.is_file():
                facts = read_config(candidate)
                if not str(facts.get("format", "")).startswith("diffrep-"):
                    return for_checkpoint(facts, path), str(candidate)
        several = _yaml_in(folder) if folder == path.resolve().parent else []
        several = several or sorted(p for name in FOLDERS for p in _yaml_in(folder / name))
        if several and (chosen := choose(several, path)):
            return read_config(chosen), str(chosen)
        if folder.parent == folder:
            break
        folder = folder.parent
    return {}, ""


def _yaml_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*.y*ml") if p.is_file())


def inside(data: Any) -> dict[str, Any]:  # noqa: ANN401 (what the file says)
    """The settings that a checkpoint holds itself, by name; {} where it holds none."""
    for name in INSIDE if isinstance(data, Mapping) else ():
        settings = data.get(name)
        if isinstance(settings, Inert):  # a subclass of dict, such as Lightning's
            settings = settings.items or settings.state
        if isinstance(settings, Mapping) and not any(isinstance(value, Tensor) for value in settings.values()):
            return {key: value for key, value in settings.items() if isinstance(key, str)}
    return {}


def choose(configs: list[Path], path: Path) -> Path | None:
    """The config of a folder of several whose `save_dir` holds the checkpoint; the only one, where there is one."""
    if len(configs) == 1:
        return configs[0]
    parents = {parent.name for parent in path.resolve().parents}
    fitting = [c for c in configs[:100] if Path(str(read_config(c).get("save_dir", ""))).name in parents - {""}]
    return fitting[0] if len(fitting) == 1 else None


def for_checkpoint(facts: dict[str, Any], path: Path) -> dict[str, Any]:
    """The part of a config of several checkpoints, keyed by their folders, that is about this one."""
    for parent in path.resolve().parents[:LEVELS]:
        part = facts.get(parent.name)
        if parent.name in facts and isinstance(part, dict):
            return part
    return facts


def read_config(path: Path) -> dict[str, Any]:
    """A JSON or YAML file as plain data.

    Errors:
        FormatError: too large, broken, nested too deeply, or no mapping.
    """
    size, most = path.stat().st_size, MAX_BYTES if path.suffix == ".json" else MAX_YAML
    if size > most:
        raise FormatError(f"{path} has {size} bytes", f"a config has at most {most}")
    try:
        text = path.read_text(encoding="utf-8")
        config = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        values = _values(config, {})
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise FormatError(f"{path} is broken: {str(error)[:200]}", "copy the file again") from error
    if values > MAX_VALUES:
        raise FormatError(f"{path} stands for {values} values", f"a config has at most {MAX_VALUES}")
    if not isinstance(config, dict):
        raise FormatError(f"{path} holds no settings", "expected a mapping from names to values")
    return config


def _values(value: Any, known: dict[int, int]) -> int:  # noqa: ANN401 (what the file says)
    """How many values a config stands for when its aliases are written out."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = MAX_VALUES  # a config that contains itself
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_values(part, known) for part in parts)
    return known[id(value)]


def sections(facts: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The facts, then their sections, breadth first: an outer value wins over an inner one of the same name."""
    level: list[Mapping[str, Any]] = [facts]
    while level:
        yield from level
        level = [part for section in level for part in section.values() if isinstance(part, Mapping)]


def lookup(facts: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401 (whatever the config says)
    """A fact by name, or by dotted path (`network.n_channels`).

    Errors:
        KeyError: there is none.
    """
    if name in facts:
        return facts[name]
    if "." in name:
        section, _, rest = name.partition(".")
        inner = facts.get(section)
        if isinstance(inner, Mapping):
            return lookup(inner, rest)
        raise KeyError(name)
    for part in sections(facts):
        if name in part:
            return part[name]
    raise KeyError(name)

"""Which checkpoint a path means: a file, a diffusers folder, or the one checkpoint that lies below a folder.

Where several lie there: files that hold no model (optimizers, counters, states of schedulers and of random numbers) are
left out; EMA weights come before the raw ones beside them, an autoencoder before its DPM and its parts, files directly
in the folder before files below it. What is left must be one.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from diffrep.errors import FormatError, InputError
from diffrep.formats.components import is_component

SUFFIXES = (".pt", ".pth", ".ckpt", ".pkl", ".bin", ".pickle")
MAX_FILES = 20_000
AUTOENCODER, DPM = {"ema_encoder", "ema_decoder"}, "ema_denoise_fn"


def find(path: Path) -> Path:
    """The checkpoint file, or the diffusers folder, that a path means.

    Errors:
        InputError: more than one could be meant, or none is there; candidates are listed.
    """
    if not (path.is_file() or path.is_dir()):
        raise InputError(f"{path} is no file that can be read", "expected a file or a folder")
    if path.suffix == ".json" and is_component(path.parent):
        return path.parent
    if not path.is_dir() or is_component(path):
        return path
    candidates = below(path)
    for rule in (partial(without_raw_twins, root=path), models_first, nearest_first):
        if len(candidates) > 1:
            candidates = rule(candidates)
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise FormatError(
            f"{path} holds nothing that diffrep reads",
            f"expected a folder of diffrep or diffusers, or a file: {', '.join(SUFFIXES)}, .safetensors",
        )
    listed = ", ".join(str(c.relative_to(path)) for c in candidates[:10]) + (", ..." if len(candidates) > 10 else "")
    raise InputError(f"{path} holds {len(candidates)} checkpoints: {listed}", "name the one that is meant")


def below(folder: Path) -> list[Path]:
    """Candidates: pickled files and diffusers folders; loose safetensors only where there is nothing else."""
    found: list[Path] = []
    loose: list[Path] = []
    waiting, seen = [folder], 0
    while waiting:
        here = waiting.pop()
        for path in sorted(here.iterdir()):
            seen += 1
            if seen > MAX_FILES:
                raise InputError(f"{folder} holds more than {MAX_FILES} files", "name the checkpoint that is meant")
            if path.is_dir():
                if path.name.startswith(".") or path.is_symlink():
                    continue
                if is_component(path):
                    found.append(path)
                else:
                    waiting.append(path)
            elif path.suffix in (*SUFFIXES, ".safetensors") and path.is_file():
                (found if path.suffix in SUFFIXES else loose).append(path)
    return sorted(found or loose)


def without_raw_twins(candidates: list[Path], root: Path) -> list[Path]:
    """Drop each file of raw weights for which the same step's EMA weights are there.

    Args:
        candidates: files and folders.
        root: where they were looked for; its own name says nothing.
    """
    named = {path for path in candidates if _says_ema(path.stem)}
    apart = {path.parent for path in named}  # a folder of both kinds says nothing by its name
    above = {p for p in candidates if p.parent not in apart | {root} and _says_ema(p.parent.name)}
    twins = {_without_ema(path) for path in named | above}
    return [path for path in candidates if path in named | above or _without_ema(path) not in twins]


def _says_ema(name: str) -> bool:
    return re.search(r"(^|[_.-])ema([_.-]|$|(?=model))", name.lower()) is not None


def _without_ema(path: Path) -> tuple[str, ...]:
    """A name that a file shares with its twin: without "ema" and its rate, and without "model" and "raw"."""
    parts = []
    for part in (path.stem.lower(), path.parent.name.lower()):
        part = re.sub(r"(^|[_.-])ema(_0?\.\d+)?(?=[_.-]|$|model)", r"\1", part)
        parts.append(re.sub(r"(^|(?<=[_.-]))(model|raw)(?=[_.-]?\d|[_.-]|$)", "", part).strip("_.-"))
    return (str(path.parent.parent), parts[1], parts[0])


def models_first(candidates: list[Path]) -> list[Path]:
    """Drop what is no model, and the DPM of an autoencoder that is there too."""
    keys = {path: model_keys(path) for path in candidates}
    models = [path for path in candidates if keys[path] is not None]
    if any((keys[path] or set()) >= AUTOENCODER for path in models):
        models = [path for path in models if DPM not in (keys[path] or set())]
    return models or candidates


def model_keys(path: Path) -> set[str] | None:
    """The keys of a checkpoint's outermost dictionary, {} where it cannot be read; None where it is no model."""
    from diffrep.formats import pickles, strangers
    from diffrep.formats.inert import Inert
    from diffrep.formats.walking import tensors_below

    if path.is_dir() or path.suffix == ".safetensors":
        return set()
    try:
        data = pickles.read(path)
    except FormatError:
        return set()
    if strangers.described(data) is not None:
        return None
    if not isinstance(data, Inert) and not any(tensor.is_floating_point() for _, tensor in tensors_below(data)):
        return None
    return {key for key in data if isinstance(key, str)} if isinstance(data, dict) else set()


def nearest_first(candidates: list[Path]) -> list[Path]:
    """Keep those that lie fewest folders deep."""
    depth = min(len(path.parts) for path in candidates)
    return [path for path in candidates if len(path.parts) == depth]

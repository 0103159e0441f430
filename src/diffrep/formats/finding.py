"""Which checkpoint a path means: a file, a diffusers folder, or the one checkpoint that lies below a folder.

Where several lie there: EMA weights come before the raw ones beside them, an autoencoder before its DPM and its
parts, files directly in the folder before files below it. What is left must be one.
"""

from __future__ import annotations

import re
from pathlib import Path

from diffrep.errors import FormatError, InputError

SUFFIXES = (".pt", ".pth", ".ckpt", ".pkl", ".bin", ".pickle")
MAX_FILES = 20_000
AUTOENCODER, DPM = {"ema_encoder", "ema_decoder"}, "ema_denoise_fn"
PARTS, STATISTICS = {"ema_latent_denoise_fn", "ema_classifier", "conds_mean", "param_groups"}, {"mean", "std"}
"""Keys of files that are no model of their own: latent models, classifiers, codes, optimizers."""


def find(path: Path) -> Path:
    """The checkpoint file, or the diffusers folder, that a path means.

    Errors:
        InputError: more than one could be meant, or none is there; candidates are listed.
    """
    if path.name.startswith("diffusion_pytorch_model") and path.is_file() and is_diffusers(path.parent):
        return path.parent
    if not path.is_dir() or is_diffusers(path):
        return path
    candidates = below(path)
    for rule in (without_raw_twins, autoencoder_first, nearest_first):
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


def is_diffusers(folder: Path) -> bool:
    """Whether a folder is a pipeline or a component of diffusers (or claims to be one)."""
    if (folder / "model_index.json").is_file():
        return True
    weights = any(folder.glob("diffusion_pytorch_model*")) or any(folder.glob("*.py"))
    return (folder / "config.json").is_file() and weights


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
                if is_diffusers(path):
                    found.append(path)
                else:
                    waiting.append(path)
            elif path.suffix in SUFFIXES:
                found.append(path)
            elif path.suffix == ".safetensors":
                loose.append(path)
    return sorted(found or loose)


def without_raw_twins(candidates: list[Path]) -> list[Path]:
    """Drop each file of raw weights for which the same step's EMA weights are there."""
    twins = {_without_ema(path) for path in candidates if _is_ema(path)}
    return [path for path in candidates if _is_ema(path) or _without_ema(path) not in twins]


def _is_ema(path: Path) -> bool:
    return any(re.search(r"(^|[_.-])ema([_.-]|$)", part) for part in (path.stem, path.parent.name))


def _without_ema(path: Path) -> tuple[str, ...]:
    """A name that a file shares with its twin: without "ema" and its rate, and without "model"."""
    parts = []
    for part in (path.stem, path.parent.name):
        part = re.sub(r"(^|[_.-])ema(_0?\.\d+)?(?=[_.-]|$)", r"\1", part)
        parts.append(re.sub(r"(^|(?<=[_.-]))model(?=[_.-]?\d)", "", part).strip("_.-"))
    return (str(path.parent.parent), parts[1], parts[0])


def autoencoder_first(candidates: list[Path]) -> list[Path]:
    """Drop what is a part of an autoencoder that is there too, and what is no model at all (optimizers, latents)."""
    keys = {path: top_keys(path) for path in candidates}
    models = [p for p in candidates if not keys[p] & PARTS and keys[p] != STATISTICS]
    if any(keys[p] >= AUTOENCODER for p in models):
        models = [p for p in models if DPM not in keys[p]]
    return models or candidates


def top_keys(path: Path) -> set[str]:
    """The keys of a checkpoint's outermost dictionary; none where it cannot be read."""
    from diffrep.formats import pickles

    if path.is_dir() or path.suffix == ".safetensors":
        return set()
    try:
        data = pickles.read(path)
    except FormatError:
        return set()
    return {key for key in data if isinstance(key, str)} if isinstance(data, dict) else set()


def nearest_first(candidates: list[Path]) -> list[Path]:
    """Keep those that lie fewest folders deep."""
    depth = min(len(path.parts) for path in candidates)
    return [path for path in candidates if len(path.parts) == depth]

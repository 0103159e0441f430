"""diffrep's own model folder: model.safetensors, config.json, README.md (the card) and manifest.json (sha256 of each).

A denoiser's folder is complete, and so is a conditional autoencoder's. A shift autoencoder's holds encoder and shift
only: it names its frozen base by source and identity, and another base is refused. One that was converted from a file
with its base in it has that base in the subfolder `base`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from diffrep import networks
from diffrep.autoencoder import ConditionalAutoencoder, ShiftAutoencoder
from diffrep.denoiser import Conditioning, Denoiser, InputSpec, LabelSpec, SamplingSpec
from diffrep.errors import FormatError, UsageError
from diffrep.files import atomic_folder, sha256_of, write_synced
from diffrep.formats import parts
from diffrep.guidance import Conditioned, conditioned
from diffrep.runs import without_home
from diffrep.schedules import Schedule, schedule_from_config

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

VERSION = 1
DENOISER, AUTOENCODER = "diffrep-denoiser", "diffrep-autoencoder"
WEIGHTS, CONFIG, CARD, MANIFEST = "model.safetensors", "config.json", "README.md", "manifest.json"
BASE = "base"
SUFFIX = "A model folder of diffrep; load it with `diffrep.load`.\n"


def save(
    model: nn.Module, folder: Path | str, *, card: str | None = None, origin: Mapping[str, str] | None = None
) -> Path:
    """Write a model folder, whole or not at all.

    Args:
        model: a `Denoiser`, a `ShiftAutoencoder` or a `ConditionalAutoencoder`.
        folder: an earlier model folder there is replaced; a folder with other files is refused.
        card: Markdown for README.md.
        origin: "family" and "license" of another program's weights, which are said whenever the folder is loaded.

    Returns:
        The folder.

    Errors:
        UsageError: another kind of model, or a folder that holds something else.

    Example:
        >>> save(denoiser, "my-model")      # doctest: +SKIP
    """
    target = Path(folder)
    others = (
        [p.name for p in target.iterdir() if p.name not in (WEIGHTS, CONFIG, CARD, MANIFEST, BASE)]
        if target.is_dir()
        else []
    )
    if target.is_file() or others:
        raise UsageError(
            f"{target} is no model folder: it holds {', '.join(others[:3]) or 'a file'}", "choose another folder"
        )
    if isinstance(model, Denoiser):
        config, weights = denoiser_config(model), model.network.state_dict()
    elif isinstance(model, parts.SavedAutoencoder):
        config, weights = autoencoder_config(model), parts.all_tensors(model)
    else:
        raise UsageError(f"a {type(model).__name__} cannot be saved", "expected a dr.Denoiser or an autoencoder")
    config |= {"origin": dict(origin)} if origin else {}
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    with atomic_folder(target) as temporary:
        write_synced(temporary / WEIGHTS, to_bytes(tensors))
        write_synced(temporary / CONFIG, json.dumps(config, indent=1) + "\n")
        write_synced(temporary / CARD, card or f"# {target.name}\n\n{SUFFIX}")
        if isinstance(model, ShiftAutoencoder) and model.carries_base:
            save(model.denoiser, temporary / BASE, card=card, origin=origin)
        hashes = {name: sha256_of(temporary / name) for name in (WEIGHTS, CONFIG, CARD)}
        write_synced(temporary / MANIFEST, json.dumps({"sha256": hashes}, indent=1) + "\n")
    return target


def denoiser_config(denoiser: Denoiser) -> dict[str, Any]:
    """config.json of a denoiser."""
    return {"format": DENOISER, "version": VERSION, **denoiser.config(), "identity": denoiser.identity}


def autoencoder_config(model: parts.SavedAutoencoder) -> dict[str, Any]:
    """config.json of an autoencoder; a frozen base is named, not stored."""
    found = {"format": AUTOENCODER, "version": VERSION, **model.config(), **parts.config_of(model)}
    if isinstance(model, ShiftAutoencoder):
        source = BASE if model.carries_base else without_home(model.denoiser.source or "") or None
        found["base"] = {"source": source, "identity": model.denoiser.identity, **label_config(model.denoiser)}
    return found


def label_config(base: nn.Module) -> dict[str, Any]:
    """The one label that a base was always called with, as `conditioned` fixes it; {} for a plain denoiser.

    Errors:
        UsageError: another wrapper, or labels that belong to certain images.
    """
    if isinstance(base, Denoiser):
        return {}
    if isinstance(base, Conditioned) and isinstance(base.denoiser, Denoiser) and isinstance(base.y, int | str):
        return {"label": base.y}
    raise UsageError(
        f"an autoencoder on a {type(base).__name__} cannot be saved", 'expected a denoiser, or conditioned(it, "none")'
    )


def is_model_folder(path: Path) -> bool:
    """Whether config.json there says that diffrep wrote it."""
    if not (path / CONFIG).is_file():
        return False
    try:
        return str(json.loads((path / CONFIG).read_text(encoding="utf-8")).get("format", "")).startswith("diffrep-")
    except (ValueError, AttributeError, RecursionError):
        return False


def read_config(folder: Path) -> dict[str, Any]:
    """config.json, checked for its version.

    Errors:
        FormatError: no JSON, another format, or a newer version.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"{folder / CONFIG} is no JSON: {error}") from error
    if config.get("format") not in (DENOISER, AUTOENCODER):
        raise FormatError(
            f'{folder / CONFIG} has format "{config.get("format")}"', f"expected {DENOISER} or {AUTOENCODER}"
        )
    if config.get("version") != VERSION:
        raise FormatError(
            f"{folder / CONFIG} has version {config.get('version')}", f"this diffrep reads version {VERSION}"
        )
    return dict(config)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """model.safetensors, after every file's sha256 was compared with manifest.json.

    Errors:
        FormatError: a file is missing, changed or broken.
    """
    check_manifest(folder)
    try:
        return load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise FormatError(f"{folder / WEIGHTS} cannot be read: {error}", "copy the file again") from error


def check_manifest(folder: Path) -> None:
    """Compare the files of a model folder with manifest.json.

    Errors:
        FormatError: naming the file and both hashes.
    """
    try:
        wanted = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{folder / MANIFEST} is missing or broken", "copy the folder again") from error
    for name, expected in wanted.items():
        if name == CARD:
            continue  # a card may be edited
        if not (folder / name).is_file():
            raise FormatError(f"{folder / name} is missing", "copy the folder again")
        found = sha256_of(folder / name)
        if found != expected:
            raise FormatError(
                f"{folder / name} has changed: sha256 {found[:16]}..., expected {expected[:16]}...", "copy it again"
            )


def read_denoiser(folder: Path, schedule: Schedule | None = None, source: str | None = None) -> Denoiser:
    """Load a denoiser's folder, on the CPU, in eval mode."""
    config = read_config(folder)
    weights = read_weights(folder)
    network = build_network(config["network"])
    load_strictly(network, weights, folder)
    model = Denoiser(
        network,
        schedule=schedule or schedule_from_config(config["schedule"]),
        input=InputSpec.from_config(config["input"]),
        parameterization=config["parameterization"],
        conditioning=Conditioning(**config["conditioning"]),
        sampling=SamplingSpec.from_config(config["sampling"]),
        labels=LabelSpec(**config["labels"]) if config["labels"] else None,
        sigma_data=config["sigma_data"],
        source=source or str(folder),
    )
    return model.eval()


def read_autoencoder(folder: Path, base: Denoiser | None, source: str | None = None) -> parts.SavedAutoencoder:
    """Load an autoencoder's folder, a shift autoencoder's around its frozen base.

    Errors:
        FormatError: `base` is not the network that it was trained on; both identities are named.
    """
    config = read_config(folder)
    weights = read_weights(folder)
    with torch.random.fork_rng(devices=[]):
        if config["kind"] == "conditional":
            model: parts.SavedAutoencoder = ConditionalAutoencoder.from_config(config, source or str(folder))
        else:
            frozen: Any = _checked(base, config, folder)
            label = config["base"].get("label")
            frozen = frozen if label is None else conditioned(frozen, label)
            model = ShiftAutoencoder.from_config(config, frozen)
            model.carries_base = config["base"]["source"] == BASE
        beside = parts.add(model, config)
    theirs = {name: t for name, t in weights.items() if name.split(".")[0] in parts.NAMES}
    load_strictly(model, {name: t for name, t in weights.items() if name not in theirs}, folder)
    load_strictly(beside, theirs, folder)
    return model.eval()


def _checked(base: Denoiser | None, config: dict[str, Any], folder: Path) -> Denoiser:
    expected = config["base"]["identity"]
    if base is None or base.identity != expected:
        given = "nothing" if base is None else f"{base.identity[:16]}... ({base.source})"
        raise FormatError(
            f"{folder} was trained on the base {expected[:16]}... ({config['base']['source']}), not on {given}",
            "pass base= with the right model",
        )
    return base


def build_network(config: dict[str, Any]) -> nn.Module:
    """Build a network from its config without drawing from the global random generator.

    Errors:
        UsageError: a network that diffusers runs, without the extra.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            return networks.build(config)
        except ModuleNotFoundError as error:
            raise UsageError(str(error)) from error


def load_strictly(
    module: nn.Module, weights: Mapping[str, Tensor], source: Path, called: Callable[[str], str] = str
) -> None:
    """Load every tensor, or say which are missing, left over or of another shape; nothing is loaded in part.

    Args:
        module: is filled.
        weights: by our names; what the file calls otherwise.
        source: for the message.
        called: our name of a tensor -> the file's, for the message.

    Errors:
        FormatError: naming the first five of each.
    """
    own = module.state_dict()
    problems = {
        "missing": [name for name in own if name not in weights],
        "left over": [name for name in weights if name not in own],
        "of another shape": [n for n, t in weights.items() if n in own and t.shape != own[n].shape],
    }
    texts = [f"{len(names)} {what}: {', '.join(map(called, names[:5]))}" for what, names in problems.items() if names]
    if texts:
        raise FormatError(
            f"the weights in {source} do not fit their config ({'; '.join(texts)})", "is it another model's file?"
        )
    module.load_state_dict(dict(weights))

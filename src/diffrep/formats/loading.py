"""`dr.load`: find out what a source is from its content, and hand it to its reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffrep.denoiser import Denoiser
from diffrep.errors import FormatError, InputError, UsageError, nearest
from diffrep.formats import folder as own
from diffrep.formats.packaged import folder_of, models
from diffrep.schedules import Schedule


def load(
    source: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    schedule: Schedule | None = None,
    architecture: dict[str, Any] | None = None,
    base: Denoiser | str | Path | None = None,
) -> Any:  # noqa: ANN401 (a Denoiser or an Autoencoder)
    """Load a denoiser or an autoencoder, in eval mode, without executing anything that lies in a file.

    Args:
        source: a packaged model's name, a model folder, a run folder, or a model's safetensors file.
        device: where the weights go, for example "cpu" or "cuda".
        dtype: floating-point type of the weights; None keeps the file's.
        schedule: replaces the stored noise schedule.
        architecture: facts that a foreign file cannot tell; diffrep's own folders know theirs and refuse it.
        base: the frozen denoiser of an autoencoder, where it is not found by its recorded source.

    Errors:
        InputError: no such file. FormatError: broken, or not a format that diffrep reads, or the wrong base.
        UsageError: a device that is not there.

    Example:
        >>> load("ddpm-digits").input.size
        8
    """
    check_device(device)
    name, path = str(source), _path_of(source)
    if architecture:
        raise UsageError(f"{name} knows its own architecture", "leave architecture= out")
    config = own.read_config(path)
    packaged = folder_of(name) is not None
    if config["format"] == own.DENOISER:
        model: nn.Module = own.read_denoiser(path, schedule, source=name if packaged else str(path.resolve()))
    else:
        model = own.read_autoencoder(path, _base(config["base"], path, base))
    return model.to(device=device, dtype=dtype).eval()


def check_device(device: str | torch.device) -> None:
    """Refuse a device that is not there.

    Errors:
        UsageError: naming what is there.
    """
    there = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    there += ["mps"] if torch.backends.mps.is_available() else []
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f'unknown device "{device}"', f"there are: {', '.join(there)}") from error
    name = f"{wanted.type}:{wanted.index or 0}" if wanted.type == "cuda" else wanted.type
    if name not in there:
        raise UsageError(f'device "{device}" is not there', f"there are: {', '.join(there)}")


def _path_of(source: str | Path) -> Path:
    packaged = folder_of(str(source))
    if packaged is not None:
        return packaged
    path = Path(source).expanduser()
    if not path.exists():
        known = nearest(str(source), models())
        raise InputError(f'there is no model "{source}"', f"neither a file nor a packaged model; {known}")
    if path.suffix == ".safetensors":
        path = path.parent
    for candidate in (path, path / "model"):
        if own.is_model_folder(candidate):
            return candidate
    if (path / "checkpoints").is_dir():
        raise FormatError(f"the run in {path} has no finished model", "go on with: --resume auto")
    raise FormatError(
        f"{source} is nothing that diffrep reads", f"expected a folder with {own.CONFIG} and {own.WEIGHTS}"
    )


def _base(recorded: dict[str, Any], folder: Path, given: Denoiser | str | Path | None) -> Denoiser:
    """The frozen base: the argument, the recorded source (also seen from the folder), a packaged model's identity."""
    if isinstance(given, Denoiser):
        return given
    if given is not None:
        return _denoiser(given)
    source = recorded["source"]
    for candidate in (source, folder / source) if source else ():
        if folder_of(str(candidate)) is not None or Path(candidate).exists():
            return _denoiser(candidate)
    for name in models():
        packaged = folder_of(name)
        if packaged and own.read_config(packaged).get("identity") == recorded["identity"]:
            return _denoiser(name)
    raise InputError(f'the base "{source}" of {folder} was not found', "pass base= with the denoiser or its folder")


def _denoiser(source: str | Path) -> Denoiser:
    model = load(source)
    if not isinstance(model, Denoiser):
        raise UsageError(f"{source} is no denoiser", "expected the frozen base of an autoencoder")
    return model

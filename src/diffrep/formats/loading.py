"""`dr.load`: find out what a source is from its content, and hand it to its reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from diffrep.denoiser import Denoiser
from diffrep.errors import FormatError, InputError, UsageError, nearest
from diffrep.formats import folder as own
from diffrep.formats import hub, tensor_files
from diffrep.formats.foreign import load_foreign, say_license
from diffrep.formats.limits import at_most
from diffrep.formats.packaged import folder_of, models
from diffrep.formats.parts import SavedAutoencoder, all_tensors
from diffrep.formats.walking import not_finite
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
        source: a packaged model's name, a model folder, a run folder, a model's safetensors file; or another
            program's checkpoint: a file, a folder with one in it, a diffusers folder, a hub id (`org/name`), or the
            name of a downloaded card.
        device: where the weights go, for example "cpu" or "cuda".
        dtype: floating-point type of the weights; None keeps that of a model folder, and of what diffrep computes in
            for other programs' files, float32.
        schedule: replaces the stored noise schedule.
        architecture: facts that a foreign file cannot tell, under the official constructors' names; diffrep's own
            folders know theirs and refuse it.
        base: the frozen denoiser of an autoencoder, where it is not found by its recorded source.

    Errors:
        InputError: no such file, or several that could be meant. FormatError: broken, hostile, or not a format that
            diffrep reads; facts are missing; or the wrong base. UsageError: a device that is not there, or no
            floating-point type.

    Example:
        >>> load("ddpm-digits").input.size
        8
    """
    check_device(device)
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise UsageError(f"dtype = {dtype!r}", "expected a floating-point type, such as torch.float16")
    path, own_folder = locate(source)
    if own_folder:
        if architecture:
            raise UsageError(f"{source} knows its own architecture", "leave architecture= out")
        model = load_own(path, str(source), schedule, base)
    elif base is not None:
        raise UsageError(f"{source} brings its own base", "leave base= out")
    else:
        model = load_foreign(path, name=str(source), architecture=architecture, schedule=schedule).model
    return model.to(device=device, dtype=dtype).eval()


def load_own(
    path: Path, name: str, schedule: Schedule | None, base: Denoiser | str | Path | None
) -> Denoiser | SavedAutoencoder:
    """Load one of diffrep's model folders, on the CPU.

    Errors:
        FormatError: broken, hostile, or weights that are not finite.
    """
    weights = path / own.WEIGHTS
    held = weights.stat().st_size if weights.is_file() else 0
    if held:
        tensor_files.check_header(weights)
    try:
        config = own.read_config(path)
        if config["format"] == own.DENOISER:
            source = name if folder_of(name) is not None else str(path.resolve())
            with at_most(held, name):
                model: Denoiser | SavedAutoencoder = own.read_denoiser(path, schedule, source=source)
        else:
            found = _base(config["base"], path, base) if "base" in config else None
            with at_most(held, name):
                model = own.read_autoencoder(path, found)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise FormatError(f"{path / own.CONFIG} is broken ({text})", "copy the folder again") from error
    if isinstance(origin := config.get("origin"), dict):
        say_license(name, str(origin.get("family"))[:80], str(origin.get("license"))[:200])
    if strange := not_finite(all_tensors(model).items()):
        raise FormatError(f"{name} holds NaN or infinity: {', '.join(strange[:5])}", "copy the folder again")
    return model


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
    name = f"{wanted.type}:{wanted.index or 0}" if wanted.type == "cuda" or wanted.index else wanted.type
    if name not in there:
        raise UsageError(f'device "{device}" is not there', f"there are: {', '.join(there)}")


def locate(source: str | Path) -> tuple[Path, bool]:
    """Where a source lies, and whether it is a model folder of diffrep's own.

    Errors:
        InputError: no such file, card or hub id. FormatError: a run without a finished model.
    """
    packaged = folder_of(str(source))
    if packaged is not None:
        return packaged, True
    path = Path(source).expanduser()
    if not path.exists():
        fetched = hub.local(str(source))
        if fetched is None:
            known = nearest(str(source), models())
            raise InputError(f'there is no model "{source}"', f"neither a file nor a packaged model; {known}")
        return fetched, False
    for candidate in (path.parent,) if path.suffix == ".safetensors" else (path, path / "model"):
        if own.is_model_folder(candidate):
            return candidate, True
    if (path / "checkpoints").is_dir() and (path / "environment.json").is_file():
        raise FormatError(f"the run in {path} has no finished model", "go on with: --resume auto")
    return path, False


def _base(recorded: dict[str, Any], folder: Path, given: Denoiser | str | Path | None) -> Denoiser:
    """The frozen base: the argument, the recorded source (also seen from the folder), a packaged model's identity."""
    if isinstance(given, Denoiser):
        return given
    if given is not None:
        return _denoiser(given)
    source = recorded["source"]
    for candidate in (folder / Path(source).expanduser(), source) if source else ():
        if folder_of(str(candidate)) is not None or Path(candidate).exists():
            return _denoiser(candidate)
    for name in models():
        packaged = folder_of(name)
        if packaged and own.read_config(packaged).get("identity") == recorded["identity"]:
            return _denoiser(name)
    raise InputError(f'the base "{source}" of {folder} was not found', "put it back there, or pass base= in Python")


def _denoiser(source: str | Path) -> Denoiser:
    model = load(source)
    if not isinstance(model, Denoiser):
        raise UsageError(f"{source} is no denoiser", "expected the frozen base of an autoencoder")
    return model

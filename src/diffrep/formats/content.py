"""What a foreign checkpoint holds and what is known about it, found without executing anything.

`read` opens a file or a diffusers folder; families (one file each) recognize a `Content` by its keys and shapes.
What the file cannot tell is in `facts`, under the official constructors' names, or it is asked for by `require`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from diffrep.errors import FormatError
from diffrep.formats import facts as settings
from diffrep.formats import pickles, tensor_files
from diffrep.formats.finding import find
from diffrep.formats.inert import Inert
from diffrep.formats.walking import check_expanded

__all__ = [
    "MISSING",
    "Content",
    "Family",
    "Inert",
    "ask",
    "find",
    "module_tensors",
    "read",
    "require",
    "state_dict",
    "tensors_in",
]

MISSING: Any = object()
"""The default of `Content.fact` that makes a missing fact an error."""
EXAMPLES = {"model": '"DiT-XL/2" (or "SiT-XL/2" with "learn_sigma": false, "REPA", "LightningDiT-XL/1")'}
"""What may be said where three dots would say too little."""
WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes of a network inside DataParallel, and inside torch.compile."""


@dataclass(frozen=True)
class Content:
    """One checkpoint.

    Args:
        path: the file, or the diffusers folder.
        data: plain containers, tensors on the CPU and `Inert` records. Of a diffusers folder: {"config": ...,
            "weights": {name: tensor}, "scheduler": ... or None, "model_index": ... or None, "component": "unet"}.
        facts: official constructor names -> values, also in sections, of the config beside it or of its card.
        origin: where the facts come from, for messages.
        sha256: of the file, where it had to be computed.
        name: what the user called it.
        told: facts from the caller, which win over all others.
        own: facts that the file holds itself, which win over a config beside it.
    """

    path: Path
    data: Any = field(repr=False)
    facts: dict[str, Any] = field(default_factory=dict, repr=False)
    origin: str = ""
    sha256: str | None = None
    name: str = ""
    told: dict[str, Any] = field(default_factory=dict, repr=False)
    own: dict[str, Any] = field(default_factory=dict, repr=False)

    def fact(self, name: str, default: Any = MISSING) -> Any:  # noqa: ANN401 (whatever the config says)
        """A fact by its official name (`num_heads`), or by its place in the config (`network.n_channels`).

        Errors:
            FormatError: it is not known and has no default.
        """
        for known in (self.told, self.own, self.facts):
            with suppress(KeyError):
                return settings.lookup(known, name)
        if default is MISSING:
            require(self, "this checkpoint", [name])
        return default

    def has(self, name: str) -> bool:
        """Whether a fact is known; one that is said to be None is."""
        nothing = object()
        return self.fact(name, nothing) is not nothing


@dataclass(frozen=True)
class Family:
    """One format of checkpoints.

    Args:
        name: as messages call it, such as "DDAE".
        recognizes: whether a content is of this family, by keys and shapes only.
        load: content -> Denoiser or Autoencoder, in eval mode, on the CPU.
        license: as the program or its authors state it; "none stated" where they state none.
        compared: whether its numbers were compared with the official program's.
    """

    name: str
    recognizes: Callable[[Content], bool]
    load: Callable[[Content], Any]
    license: str
    compared: bool


def require(content: Content, family: str, names: Iterable[str]) -> None:
    """Refuse to guess: every name must be a known fact.

    Args:
        content: the checkpoint.
        family: for the message, such as "a DDAE checkpoint".
        names: official constructor names.

    Errors:
        FormatError: naming all that are missing, and how to give them.
    """
    if missing := [name.rsplit(".", 1)[-1] for name in names if not content.has(name)]:
        ask(content, family, missing)


def ask(content: Content, family: str, missing: Sequence[str]) -> NoReturn:
    """Say which facts are missing, and how to give them.

    Errors:
        FormatError: always.
    """
    example = ", ".join(f'"{name}": {EXAMPLES.get(name, "...")}' for name in missing)
    raise FormatError(
        f"{content.name or content.path} is {family}, and the file does not tell: {', '.join(missing)}",
        f"put its config beside it, or pass architecture={{{example}}} (--architecture FILE.json)",
    )


def read(path: Path, architecture: Mapping[str, Any] | None = None, name: str | None = None) -> Content:
    """Open a checkpoint file or a diffusers folder.

    Args:
        path: as `find` gives it.
        architecture: facts from the caller; they win over every config.
        name: what the user called it.

    Errors:
        FormatError: nothing that diffrep reads, broken, or hostile.
    """
    sha256, own = None, {}
    if path.is_dir():
        data = read_folder(path)
        found, origin = dict(data["config"]), str(path)
    else:
        data = read_file(path)
        own = settings.inside(data)
        found, origin = settings.beside(path)
        if not found and not architecture:
            from diffrep.formats.cards import facts_by_hash

            found, origin, sha256 = facts_by_hash(path)
    origins = ["architecture="] * bool(architecture) + ["the file itself"] * bool(own) + [origin] * bool(origin)
    return Content(path, data, found, ", ".join(origins), sha256, name or str(path), dict(architecture or {}), own)


def read_file(path: Path) -> Any:  # noqa: ANN401 (whatever the file holds)
    """A file's data, by its first bytes.

    Errors:
        FormatError: no safetensors, zip or pickle, broken, or hostile.
    """
    data = tensor_files.read(path) if tensor_files.is_one(path) else pickles.read(path)
    check_expanded(data)
    return data


def read_folder(folder: Path) -> dict[str, Any]:
    """A diffusers folder: one component with a config and weights, or a pipeline that holds one denoiser.

    Python files, `auto_map` and custom pipelines in it are never looked at.

    Errors:
        FormatError: no denoiser, several, or no weights.
    """
    index = _json(folder / "model_index.json")
    component = folder
    if index is not None:
        inside = [name for name in ("unet", "transformer", "prior") if (folder / name / "config.json").is_file()]
        if len(inside) != 1:
            raise FormatError(f"{folder} is a pipeline without one denoiser", "expected unet/ or transformer/ in it")
        component = folder / inside[0]
    elif not (folder / "config.json").is_file():
        raise FormatError(f"{folder} holds nothing that diffrep reads", "expected a config.json")
    config = settings.read_config(component / "config.json")
    if "auto_map" in config or not isinstance(config.get("_class_name"), str):
        raise FormatError(
            f"{component / 'config.json'} is not diffusers' own: {', '.join(list(config)[:5])}",
            "a folder that brings its own code is not read; remote code is never run",
        )
    places = [component / "scheduler_config.json", folder / "scheduler" / "scheduler_config.json"]
    if index is None:
        places.append(folder.parent / "scheduler" / "scheduler_config.json")
    scheduler = next((found for place in places if (found := _json(place)) is not None), None)
    return {
        "config": config,
        "weights": LazyWeights(component),
        "scheduler": scheduler,
        "model_index": index,
        "component": component.name,
        "folder": component,
    }


class LazyWeights(Mapping[str, Tensor]):
    """The tensors of a diffusers component, opened when first asked for; shards are put together."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tensors: dict[str, Tensor] | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Name -> tensor, on the CPU."""
        if self._tensors is None:
            self._tensors = {}
            for file in weight_files(self.folder):
                self._tensors |= tensors_in(read_file(file))
        return self._tensors

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a diffusers component: one, or the shards that its index names; safetensors before .bin.

    Errors:
        FormatError: there are none, or a shard lies outside of the folder.
    """
    for suffix in ("safetensors", "bin"):
        single = folder / f"diffusion_pytorch_model.{suffix}"
        if single.is_file():
            return [single]
        index = _json(folder / f"diffusion_pytorch_model.{suffix}.index.json", 10_000_000)
        names = sorted({str(name) for name in (index or {}).get("weight_map", {}).values()})
        if any(Path(name).name != name for name in names):
            raise FormatError(f"{folder} names shards outside of it: {names[0]}", "do not use this folder")
        if names:
            return [folder / name for name in names]
    raise FormatError(f"{folder} has no weights", "expected diffusion_pytorch_model.safetensors or .bin")


def _json(path: Path, most: int = settings.MAX_BYTES) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    if path.stat().st_size > most:
        raise FormatError(f"{path} has {path.stat().st_size} bytes", f"expected at most {most}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is broken: {str(error)[:200]}", "copy the file again") from error
    return found if isinstance(found, dict) else None


def tensors_in(data: Any) -> dict[str, Tensor]:  # noqa: ANN401 (what the file says)
    """The tensors of a flat dictionary, by name; {} where there are none.

    What torch puts before every name of a wrapped network (`module.`, `_orig_mod.`) is taken off.
    """
    found = {k: v for k, v in data.items() if isinstance(v, Tensor)} if isinstance(data, Mapping) else {}
    while found and (prefix := next((p for p in WRAPPERS if all(str(name).startswith(p) for name in found)), None)):
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found


def state_dict(data: Any, wrappers: Sequence[str] = ("ema", "state_dict", "model")) -> dict[str, Tensor]:  # noqa: ANN401
    """The weights of a checkpoint: the first wrapper that holds tensors, else the flat dictionary itself."""
    if isinstance(data, Mapping):
        for name in wrappers:
            if inner := tensors_in(data.get(name)):
                return inner
    return tensors_in(data)


def module_tensors(module: Inert, prefix: str = "") -> dict[str, Tensor]:
    """Parameters and buffers of a pickled torch module and the modules in it, by their state-dict names.

    Example:
        >>> module_tensors(content.data["ema"])  # doctest: +SKIP
    """
    found: dict[str, Tensor] = {}
    for kind in ("_parameters", "_buffers"):
        found |= {f"{prefix}{name}": tensor for name, tensor in tensors_in(module.get(kind)).items()}
    inner = module.get("_modules")
    for name, child in inner.items() if isinstance(inner, dict) else ():
        if isinstance(child, Inert):
            found |= module_tensors(child, f"{prefix}{name}.")
    return found

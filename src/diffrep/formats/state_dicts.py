"""The weights that a file holds, by their names: flat dictionaries, those inside wrappers, and pickled modules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from diffrep.formats import pickles, tensor_files
from diffrep.formats.inert import Inert
from diffrep.formats.walking import check_expanded, tensors_below

WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes of a network inside DataParallel, and inside torch.compile."""
AVERAGED = ("ema", "ema_model", "model_ema", "ema_state_dict", "state_dict_ema")
KEYS = (*AVERAGED, "state_dict", "model_state_dict", "model")
"""Where programs keep weights in a checkpoint; averaged ones come first."""


def read_file(path: Path) -> Any:  # noqa: ANN401 (whatever the file holds)
    """A file's data, by its first bytes.

    Errors:
        FormatError: no safetensors, zip or pickle, broken, or hostile.
    """
    data = tensor_files.read(path) if tensor_files.is_one(path) else pickles.read(path)
    check_expanded(data)
    return data


def tensors_in(data: Any) -> dict[str, Tensor]:  # noqa: ANN401 (what the file says)
    """The tensors of a flat dictionary, by name; {} where there are none.

    What torch puts before every name of a wrapped network (`module.`, `_orig_mod.`) is taken off.
    """
    found = {k: v for k, v in data.items() if isinstance(v, Tensor)} if isinstance(data, Mapping) else {}
    while found and (prefix := next((p for p in WRAPPERS if all(str(name).startswith(p) for name in found)), None)):
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found


def state_dict(data: Any) -> dict[str, Tensor]:  # noqa: ANN401 (what the file says)
    """The weights of a checkpoint: those under the first of `KEYS` that holds tensors, else the flat dictionary."""
    if isinstance(data, Mapping):
        for name in KEYS:
            if inner := tensors_in(data.get(name)):
                return inner
    return tensors_in(data)


def unread_average(data: Any) -> str | None:  # noqa: ANN401 (what the file says)
    """The key of averaged weights that `state_dict` leaves out for raw ones, such as a list; None if there is none."""
    if not isinstance(data, Mapping) or not state_dict(data) or any(tensors_in(data.get(name)) for name in AVERAGED):
        return None
    inner = {str(name): value for name, value in data.items() if not isinstance(value, Tensor)}
    named = (name for name in inner if re.search(r"(^|[_.-])(ema|shadow)([_.-]|$)", name.lower()))
    return next((name for name in named if any(tensors_below(inner[name]))), None)


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

"""Pickles as NVIDIA's programs write them: objects rebuilt by torch_utils.persistence, whose source must never run."""

import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from diffrep import networks
from diffrep.formats import edm_names

State = dict[str, Tensor]
EVIL = "raise RuntimeError('source code in a pickle was executed')\n"


class Persistent:
    """An object that pickles as NVIDIA's persistent classes do."""

    def __init__(self, class_name: str, state: dict[str, Any]) -> None:
        self.meta = {"type": "class", "version": 6, "module_src": EVIL, "class_name": class_name, "state": state}

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,)


def module(class_name: str, tensors: State, arguments: dict[str, Any] | None = None, **attributes: Any) -> Persistent:
    """A persistent module; dots in tensor names become submodules. Tensors named in BUFFERS are buffers."""
    own = {name: tensor for name, tensor in tensors.items() if "." not in name}
    children: dict[str, State] = {}
    for name, tensor in tensors.items():
        head, _, tail = name.partition(".")
        if tail:
            children.setdefault(head, {})[tail] = tensor
    state = {
        "training": False,
        "_parameters": {n: torch.nn.Parameter(t) for n, t in own.items() if n not in BUFFERS},
        "_buffers": {n: t for n, t in own.items() if n in BUFFERS},
        "_modules": {name: module("Part", inner) for name, inner in children.items()},
        "_init_args": (),
        "_init_kwargs": arguments or {},
        **attributes,
    }
    return Persistent(class_name, state)


BUFFERS = ("freqs", "phases", "u", "resample_filter")


def wrapped(
    class_name: str, inner: dict[str, Persistent], tensors: State | None = None, **attributes: Any
) -> Persistent:
    """A preconditioned network: persistent modules in a persistent module."""
    outside = module(class_name, tensors or {}, **attributes)
    outside.meta["state"]["_modules"] |= inner
    return outside


def write(path: Path, data: dict[str, Any]) -> Path:
    """Pickle as the programs do, with their modules importable only while it is written."""
    package, persistence = ModuleType("torch_utils"), ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta: Any) -> None:
        raise RuntimeError("a pickle was executed")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj
    sys.modules |= {"torch_utils": package, "torch_utils.persistence": persistence}
    try:
        path.write_bytes(pickle.dumps(data))
    finally:
        del sys.modules["torch_utils"], sys.modules["torch_utils.persistence"]
    return path


def random_state(recipe: dict[str, Any], size: int, seed: int = 0) -> State:
    """Every tensor of a network random, under official names, in official shapes (1x1 kernels are written out)."""
    network = networks.build(recipe)
    names = edm_names.edm2(network, size) if recipe["layout"] == "edm2" else edm_names.edm(network, size)
    own, generator = network.state_dict(), torch.Generator().manual_seed(seed)
    state: State = {}
    for official, ours in names:
        shape, part = tuple(own[ours].shape), f".{official}".split(".")[-2]
        if official == "map_label.weight" and recipe["layout"] == "edm_dhariwal":
            shape = shape[::-1]
        if part in ("qkv", "proj") and len(shape) == 2:
            shape = (*shape, 1, 1)
        values = torch.randn(shape, generator=generator)
        fan = max(1, torch.Size(shape[1:]).numel())
        is_scale = "norm" in part and official.endswith("weight")
        state[official] = 1 + 0.2 * values if is_scale else values / fan**0.5 if len(shape) > 1 else 0.3 * values
    return state

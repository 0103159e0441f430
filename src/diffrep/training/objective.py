"""What the loop needs to know about batches and objectives, and nothing more.

An objective is anything with trainable parameters and a loss per image. Frozen weights are in none of its
answers: so they are in no optimizer, no average and no checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from diffrep.errors import FormatError, UsageError
from diffrep.randomness import Draw


class Batch(Protocol):
    """Images of one step; a dataclass or a named tuple, whose further fields have one entry per image too."""

    @property
    def images(self) -> Tensor:
        """float32 (B, C, H, W) in [-1, 1]."""

    @property
    def labels(self) -> Tensor | None:
        """int64 (B,), or None."""

    @property
    def ids(self) -> Sequence[str]:
        """One id per image; the address of its randomness."""


class Objective(Protocol):
    """Something that can be trained."""

    def parameters(self) -> Iterable[nn.Parameter]:
        """The trainable parameters only."""

    def loss(self, batch: Any, draw: Draw) -> Tensor:  # noqa: ANN401 (each objective names its own batch)
        """The loss of each image, (B,); all randomness from `draw`."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """The trainable tensors by name; they share memory with the parameters, as torch's do."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> object:
        """Copy tensors into the trainable ones."""

    def train(self, mode: bool = True) -> object:
        """Switch dropout and the like; frozen parts stay in evaluation mode."""


def trainable_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The parameters of a module that require a gradient, by name, sharing memory with it."""
    return {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}


def copy_tensors(source: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    """Copy tensors by name, all or none.

    Errors:
        FormatError: if a name is missing or left over, or a shape differs.
    """
    if source.keys() != into.keys():
        odd = sorted(source.keys() ^ into.keys())
        raise FormatError(
            f'the tensors do not fit this model: {len(odd)} names differ, the first is "{odd[0]}"',
            "build the model with the settings that the tensors were saved with",
        )
    for name, tensor in source.items():
        if tensor.shape != into[name].shape:
            raise FormatError(
                f'"{name}" has shape {tuple(tensor.shape)}, this model has {tuple(into[name].shape)}',
                "build the model with the settings that the tensors were saved with",
            )
    with torch.no_grad():
        for name, tensor in source.items():
            into[name].copy_(tensor)


def parameter_names(objective: Objective) -> dict[str, nn.Parameter]:
    """The objective's parameters under the names of its `state_dict`, in the order of `parameters()`.

    Errors:
        UsageError: if there is none, or one is frozen or not in `state_dict`: it would not be saved.
    """
    names = {(t.data_ptr(), t.shape): name for name, t in objective.state_dict().items()}
    out: dict[str, nn.Parameter] = {}
    for k, parameter in enumerate(objective.parameters()):
        name = names.get((parameter.data_ptr(), parameter.shape))
        if name is None or not parameter.requires_grad:
            raise UsageError(
                f"parameter {k} of the objective, of shape {tuple(parameter.shape)}, "
                + ("is frozen" if name else "is not in its state_dict()"),
                "parameters() and state_dict() hold the same trainable tensors, sharing memory",
            )
        out[name] = parameter
    if not out:
        raise UsageError("the objective has no trainable parameter", "call requires_grad_() on some")
    return out


def split(batch: Any, parts: int) -> Iterator[Any]:  # noqa: ANN401
    """Cut a batch into micro-batches of nearly equal size; empty ones are left out."""
    n = len(batch.ids)
    edges = [n * k // parts for k in range(parts + 1)]
    for start, stop in pairwise(edges):
        if stop > start:
            yield batch if stop - start == n else _each(batch, partial(_cut, n=n, start=start, stop=stop))


def to_device(batch: Any, device: torch.device) -> Any:  # noqa: ANN401
    """The same batch with its tensors on a device."""
    return _each(batch, lambda v: v.to(device) if isinstance(v, Tensor) else v)


def _cut(value: Any, n: int, start: int, stop: int) -> Any:  # noqa: ANN401
    per_image = isinstance(value, Tensor | Sequence) and not isinstance(value, str) and len(value) == n
    return value[start:stop] if per_image else value


def _each(batch: Any, change: Callable[[Any], Any]) -> Any:  # noqa: ANN401
    if hasattr(batch, "_replace"):
        return batch._replace(**{name: change(value) for name, value in batch._asdict().items()})
    if is_dataclass(batch) and not isinstance(batch, type):
        return replace(batch, **{f.name: change(getattr(batch, f.name)) for f in fields(batch) if f.init})
    raise UsageError(f"a batch is a {type(batch).__name__}", "expected a dataclass or named tuple with ids")

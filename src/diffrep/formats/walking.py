"""Every tensor that a checkpoint's data holds, wherever it lies; each container is visited once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from diffrep.errors import FormatError
from diffrep.formats.inert import Inert

MAX_EXPANDED = 128 << 20
"""Bytes that all tensors of a file may stand for beyond what their storages hold."""


def tensors_below(data: Any) -> Iterator[tuple[str, Tensor]]:  # noqa: ANN401 (what the file says)
    """(dotted name, tensor), in no particular order.

    Example:
        >>> import torch
        >>> [name for name, _ in tensors_below({"ema": {"out.weight": torch.zeros(1)}})]
        ['ema.out.weight']
    """
    waiting: list[tuple[str, Any]] = [("", data)]
    seen: set[int] = set()
    while waiting:
        prefix, value = waiting.pop()
        if isinstance(value, Tensor):
            yield prefix, value
        elif isinstance(value, dict | list | tuple | Inert) and id(value) not in seen:
            seen.add(id(value))
            waiting += [(f"{prefix}.{name}".lstrip(".")[:300], part) for name, part in _parts(value)]


def _parts(value: Any) -> list[tuple[str, Any]]:  # noqa: ANN401 (a container)
    if isinstance(value, Inert):
        return [("state", value.state), ("args", value.args), ("items", value.items), ("elements", value.elements)]
    if isinstance(value, Mapping):
        return [(name if isinstance(name, str) else "", part) for name, part in value.items()]
    return [(str(index), part) for index, part in enumerate(value)]


def check_expanded(data: Any) -> None:  # noqa: ANN401 (what the file says)
    """Refuse tensors that stand for far more than the file holds (stride 0).

    Errors:
        FormatError: naming the largest.
    """
    beyond: dict[str, int] = {}
    for name, tensor in tensors_below(data):
        if 0 in tensor.stride():
            beyond[name] = tensor.numel() * tensor.element_size()
    if sum(beyond.values()) > MAX_EXPANDED:
        largest = max(beyond, key=lambda name: beyond[name])
        raise FormatError(f"{largest} and others stand for far more than the file holds", "do not use this file")


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Names of tensors that hold NaN or infinity."""
    return [name for name, t in tensors if t.is_floating_point() and not bool(torch.isfinite(t).all())]

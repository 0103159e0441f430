"""Images in: sources by scheme, decoding once into a memory-mapped cache, batches by step.

A data set is an indexable of (image uint8 (H, W, C), label or None, id). `load` opens a source and returns its
train, val and test splits; `loader` turns one split into a function step -> Batch.

Example:
    >>> from diffrep import data
    >>> splits = data.load("digits")
    >>> batch = data.loader(splits["train"], batch_size=64, seed=0)(0)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffrep.data.batches import Batch as Batch
    from diffrep.data.batches import loader as loader
    from diffrep.data.conforming import conform as conform
    from diffrep.data.dataset import BadRecord as BadRecord
    from diffrep.data.dataset import Dataset as Dataset
    from diffrep.data.dataset import Record as Record
    from diffrep.data.dataset import Splits as Splits
    from diffrep.data.dataset import write_bad_records as write_bad_records
    from diffrep.data.opening import load as load
    from diffrep.data.opening import sources as sources
    from diffrep.data.tensors import to_input as to_input
    from diffrep.data.tensors import to_tensor as to_tensor
    from diffrep.data.tensors import to_uint8 as to_uint8

_HOMES = {
    "BadRecord": "dataset",
    "Batch": "batches",
    "Dataset": "dataset",
    "Record": "dataset",
    "Splits": "dataset",
    "conform": "conforming",
    "load": "opening",
    "loader": "batches",
    "sources": "opening",
    "to_input": "tensors",
    "to_tensor": "tensors",
    "to_uint8": "tensors",
    "write_bad_records": "dataset",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:  # noqa: ANN401  (PEP 562: whatever the public name stands for)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

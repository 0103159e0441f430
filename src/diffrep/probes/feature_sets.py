"""What selection and few-label runs need of a set of features, and the checks that keep sets comparable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from diffrep.errors import InputError, UsageError, nearest
from diffrep.probes.arrays import ArrayIn
from diffrep.probes.arrays import features as checked_features
from diffrep.probes.arrays import labels as checked_labels

SHARED = ("model", "pool", "precision")  # parts of a feature protocol that must not differ between splits


class Features(Protocol):
    """Features of one split: `diffrep.FeatureSet`, or anything with these attributes."""

    @property
    def names(self) -> Sequence[str]:
        """Names of the features."""

    @property
    def labels(self) -> Any:  # noqa: ANN401 (array, tensor or None)
        """Integer labels (N,), or None."""

    def __getitem__(self, name: str, /) -> Any:  # noqa: ANN401 (array or tensor)
        """Features (N, D) by name."""


def labels_of(part: Features, role: str) -> Tensor:
    """Labels (N,) int64 of a split.

    Errors:
        InputError: none, or some images without (labels below 0).
    """
    values: ArrayIn | None = part.labels
    if values is None:
        raise InputError(
            f"the {role} images have no labels",
            "probes need them: give labels=FILE.csv, or a folder with one subfolder per class",
        )
    out = checked_labels(values)
    missing = int((out < 0).sum())
    if missing:
        raise InputError(
            f"{missing} of {len(out)} {role} images have no label",
            "leave them out, or add them to the labels",
        )
    return out


def rows_of(part: Features, name: str, role: str) -> Tensor:
    """Features (N, D) of a split by name, checked.

    Errors:
        UsageError: no such feature. InputError: NaN, infinity or another shape.
    """
    check_name(part, name, role)
    values: ArrayIn = part[name]
    return checked_features(values)


def check_name(part: Features, name: str, role: str) -> None:
    """Refuse a feature that a split lacks.

    Errors:
        UsageError: naming the nearest one that it has.
    """
    if name not in part.names:
        raise UsageError(f'the {role} features lack "{name}"', nearest(name, part.names))


def check_comparable(parts: dict[str, Features]) -> None:
    """Refuse splits whose features come from different models, poolings or precisions.

    Errors:
        InputError: naming what differs and between which splits.
    """
    protocols = {role: protocol_of(part) for role, part in parts.items()}
    for key in SHARED:
        found = {role: record[key] for role, record in protocols.items() if key in record}
        if len({str(value) for value in found.values()}) > 1:
            said = ", ".join(f"{role}: {str(value)[:16]}" for role, value in found.items())
            raise InputError(f"the splits' features differ in {key} ({said})", "extract all splits alike")


def protocol_of(part: Features) -> dict[str, Any]:
    """The features' own protocol; empty where they have none."""
    return dict(getattr(part, "protocol", None) or {})

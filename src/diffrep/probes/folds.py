"""Stratified folds and few-label subsets, drawn by address: the same labels and seed give the same draw."""

from __future__ import annotations

import torch
from torch import Tensor

from diffrep.errors import InputError, UsageError
from diffrep.probes.arrays import distinct
from diffrep.randomness import generator


def stratified_folds(labels: Tensor, folds: int, seed: int = 0) -> Tensor:
    """Deal images to folds so that every fold has its share of every class.

    Args:
        labels: integer labels (N,).
        folds: number of folds, 2 or more; no more than N are used.
        seed: of the permutation within each class.

    Returns:
        Fold of each image (N,) int64 on the CPU; sizes differ by at most one. A class with fewer images than
        folds is missing from some.

    Errors:
        UsageError: fewer than two folds.
    """
    if folds < 2:
        raise UsageError(f"{folds} folds", "cross-validation needs 2 or more; 5 is usual")
    labels = labels.cpu()
    out, dealt = torch.empty(len(labels), dtype=torch.int64), 0
    for label in distinct(labels)[0].tolist():
        members = torch.nonzero(labels == label).flatten()
        order = torch.randperm(len(members), generator=generator(seed, "folds", label))
        out[members[order]] = (torch.arange(len(members)) + dealt) % min(folds, len(labels))
        dealt += len(members)
    return out


def few_labels(labels: Tensor, per_class: int, draw: int, seed: int = 0) -> Tensor:
    """Draw `per_class` images of every class, without replacement.

    Args:
        labels: integer labels (N,).
        per_class: images per class, 1 or more.
        draw: number of the draw; other numbers give independent draws, and 10 labels include those of 5.
        seed: of all draws.

    Returns:
        Indices into `labels`, (classes * per_class,) int64, sorted.

    Errors:
        UsageError: `per_class` below 1. InputError: a class has fewer images.
    """
    if per_class < 1:
        raise UsageError(f"per_class={per_class}", "give 1 or more")
    labels, chosen = labels.cpu(), []
    for label in distinct(labels)[0].tolist():
        members = torch.nonzero(labels == label).flatten()
        if len(members) < per_class:
            raise InputError(
                f"class {label} has {len(members)} images, and {per_class} per class were asked for",
                f"use per_class={len(members)} or less, or more images",
            )
        order = torch.randperm(len(members), generator=generator(seed, "few labels", draw, label))
        chosen.append(members[order[:per_class]])
    return torch.cat(chosen).sort().values

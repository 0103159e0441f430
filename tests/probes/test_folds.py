"""Folds and few-label draws."""

import pytest
import torch

from diffrep.errors import InputError, UsageError
from diffrep.probes import few_labels, stratified_folds

LABELS = torch.randint(0, 7, (200,), generator=torch.Generator().manual_seed(0))


def test_every_fold_has_its_share_of_every_class() -> None:
    fold = stratified_folds(LABELS, 5)
    sizes = torch.bincount(fold)
    assert sizes.tolist() == [40] * 5
    for label in range(7):
        counts = torch.bincount(fold[label == LABELS], minlength=5)
        assert counts.max() - counts.min() <= 1


def test_folds_belong_to_their_seed() -> None:
    assert torch.equal(stratified_folds(LABELS, 5, seed=1), stratified_folds(LABELS, 5, seed=1))
    assert not torch.equal(stratified_folds(LABELS, 5, seed=1), stratified_folds(LABELS, 5, seed=2))
    state = torch.get_rng_state()
    stratified_folds(LABELS, 5)
    assert torch.equal(state, torch.get_rng_state())


def test_few_images_make_few_folds() -> None:
    assert sorted(stratified_folds(torch.tensor([0, 1, 1]), 5).tolist()) == [0, 1, 2]
    with pytest.raises(UsageError, match="1 folds"):
        stratified_folds(LABELS, 1)


def test_draws_of_few_labels() -> None:
    chosen = few_labels(LABELS, 3, draw=0)
    assert torch.bincount(LABELS[chosen]).tolist() == [3] * 7
    assert len(set(chosen.tolist())) == 21
    assert torch.equal(chosen, few_labels(LABELS, 3, draw=0))
    assert not torch.equal(chosen, few_labels(LABELS, 3, draw=1))
    assert set(chosen.tolist()) <= set(few_labels(LABELS, 8, draw=0).tolist())


def test_too_few_labels_are_named() -> None:
    with pytest.raises(InputError, match="class 4 has 2 images"):
        few_labels(torch.tensor([0, 0, 0, 4, 4]), 3, 0)
    with pytest.raises(UsageError, match="per_class=0"):
        few_labels(LABELS, 0, 0)

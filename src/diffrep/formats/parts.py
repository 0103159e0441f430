"""What an autoencoder may have beside encoder and decoder, in a model folder: statistics of codes, prior, classifier.

Their tensors lie in the same file under `code_stats.`, `prior.` and `classifier.`; config.json says what there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffrep.autoencoder import CodeStats, ConditionalAutoencoder, LatentPrior, ShiftAutoencoder
from diffrep.errors import UsageError

SavedAutoencoder = ShiftAutoencoder | ConditionalAutoencoder
NAMES = ("code_stats", "prior", "classifier")


def config_of(model: SavedAutoencoder) -> dict[str, Any]:
    """The parts that are there, as JSON.

    Errors:
        UsageError: a prior or a classifier of another kind than diffrep's own.
    """
    prior, classifier = model.prior, model.classifier
    if not isinstance(prior, LatentPrior | None) or not isinstance(classifier, nn.Linear | None):
        kinds = f"{type(prior).__name__} and {type(classifier).__name__}"
        raise UsageError(f"prior and classifier are {kinds}", "saved are a LatentPrior and an nn.Linear")
    found: dict[str, Any] = {}
    if model.code_stats is not None:
        found["code_stats"] = len(model.code_stats.mean)
    if prior is not None:
        found["prior"] = {"code_dim": prior.code_dim, **prior.config()}
    if classifier is not None:
        found["classifier"] = [classifier.in_features, classifier.out_features]
    return found


def tensors_of(model: SavedAutoencoder) -> dict[str, Tensor]:
    """The parts' tensors by name."""
    return dict(_Parts(model).state_dict())


def all_tensors(model: nn.Module) -> dict[str, Tensor]:
    """A model's tensors, and those of its parts."""
    return {**model.state_dict(), **(tensors_of(model) if isinstance(model, SavedAutoencoder) else {})}


def add(model: SavedAutoencoder, config: Mapping[str, Any]) -> nn.Module:
    """Give a model the fresh parts that a config describes.

    Returns:
        A module with all their tensors by the names of `tensors_of`, to be loaded; the parts share them.
    """
    if "code_stats" in config:
        model.code_stats = _empty(config["code_stats"])
    if "prior" in config:
        settings = dict(config["prior"])
        model.prior = LatentPrior.from_config(settings, _empty(settings.pop("code_dim")))
    if "classifier" in config:
        model.classifier = nn.Linear(*config["classifier"]).eval()
    return _Parts(model)


class _Stats(nn.Module):
    """Statistics as buffers that share their memory."""

    def __init__(self, stats: CodeStats) -> None:
        super().__init__()
        self.register_buffer("mean", stats.mean)
        self.register_buffer("std", stats.std)


class _Parts(nn.Module):
    """All parts as one module, for their names."""

    def __init__(self, model: SavedAutoencoder) -> None:
        super().__init__()
        if model.code_stats is not None:
            self.code_stats = _Stats(model.code_stats)
        if isinstance(model.prior, LatentPrior):
            self.prior = nn.ModuleDict({"network": model.prior.network, "stats": _Stats(model.prior.stats)})
        if model.classifier is not None:
            self.classifier = model.classifier


def _empty(width: int) -> CodeStats:
    return CodeStats(torch.zeros(width), torch.ones(width))

"""Adam and AdamW, the rate of each step, and optimizer state as plain named tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffrep.errors import FormatError
from diffrep.training.config import TrainConfig

OPTIMIZERS: dict[str, type[torch.optim.Adam]] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}


def make_optimizer(parameters: Mapping[str, nn.Parameter], config: TrainConfig) -> torch.optim.Adam:
    """The optimizer of a run, fused where every parameter allows it (float32 on CPU or CUDA)."""
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters.values())
    return OPTIMIZERS[config.optimizer](
        list(parameters.values()),
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=fused,
    )


def learning_rate(config: TrainConfig, index: int) -> float:
    """The rate of the step with this index, from 0: linear warm-up, then half a cosine down to `cosine_to`.

    Example:
        >>> learning_rate(TrainConfig(steps=10, learning_rate=1.0, warmup_steps=4), 1)
        0.5
    """
    if index < config.warmup_steps:
        return config.learning_rate * (index + 1) / config.warmup_steps
    done = (index - config.warmup_steps) / max(1, config.steps - 1 - config.warmup_steps)
    cosine = (1 + math.cos(math.pi * min(done, 1.0))) / 2
    return config.learning_rate * (config.cosine_to + (1 - config.cosine_to) * cosine)


def optimizer_tensors(optimizer: torch.optim.Adam, names: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The optimizer's state as "exp_avg/NAME", "exp_avg_sq/NAME", "step/NAME"."""
    state = optimizer.state
    return {f"{key}/{name}": value for name, p in names.items() for key, value in state.get(p, {}).items()}


def load_optimizer_tensors(
    optimizer: torch.optim.Adam, names: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` gave.

    Errors:
        FormatError: if a tensor belongs to no parameter.
    """
    index = {name: k for k, name in enumerate(names)}
    state: dict[int, dict[str, Any]] = {}
    for full, tensor in tensors.items():
        key, _, name = full.partition("/")
        if name not in index:
            raise FormatError(f'optimizer state for "{name}", which is no parameter of this model')
        state.setdefault(index[name], {})[key] = tensor.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

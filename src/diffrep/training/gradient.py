"""The gradient of one step: micro-batches, autocast, clipping, and the global generators given an address."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from diffrep.errors import UsageError
from diffrep.randomness import Draw, seed_of
from diffrep.training.config import TrainConfig
from diffrep.training.objective import Objective, split


def backward(
    objective: Objective,
    batch: Any,  # noqa: ANN401
    config: TrainConfig,
    index: int,
    parameters: Iterable[nn.Parameter],
) -> tuple[float, float]:
    """Leave the clipped gradient of the batch's mean loss in the parameters.

    Args:
        objective: gives the loss per image.
        batch: all images of the step; cut into `config.accumulate` micro-batches. Draws belong to ids, so the
            result is that of the uncut batch, to rounding (dropout aside).
        config: seed, accumulation, precision and clipping.
        index: the step, from 0; the address of its randomness.
        parameters: what is trained; their gradients are overwritten.

    Returns:
        The mean loss over the images, and the gradient's global norm before clipping.

    Errors:
        UsageError: if the loss does not have one entry per image.
    """
    trained = list(parameters)
    n, device = len(batch.ids), trained[0].device
    total = torch.zeros((), device=device)
    for parameter in trained:
        parameter.grad = None
    with seeded(seed_of(config.seed, "global", index), device):
        for part in split(batch, config.accumulate):
            with _precision(config, device):
                losses = objective.loss(part, Draw(config.seed, index, part.ids))
            _check_shape(losses, len(part.ids))
            mean = losses.float().sum() / n
            torch.autograd.backward(mean)
            total += mean.detach()
    loss, norm = torch.stack([total, _clip(trained, config.clip_norm)]).tolist()
    return loss, norm


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Give the global generators (dropout) this seed inside the block, and their state back after it."""
    cuda = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for index in cuda:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


def _precision(config: TrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    if config.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _clip(parameters: list[nn.Parameter], largest: float | None) -> Tensor:
    if largest is not None:
        return torch.nn.utils.clip_grad_norm_(parameters, largest)
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def _check_shape(losses: Tensor, images: int) -> None:
    if losses.shape != (images,):
        raise UsageError(
            f"the objective's loss has shape {tuple(losses.shape)}", f"expected one per image: ({images},)"
        )

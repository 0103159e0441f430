"""Averaged weights: an exponential moving average, in place and over all tensors at once.

Three rules for the decay: "constant" (PDAE's program), "ramp" (ema-pytorch's rule, which the DDAE program
uses: min(decay, 1 - (1 + n)^(-2/3)), so the first update copies) and "half-life" in images (EDM's program).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from diffrep.errors import UsageError, nearest

EDM_RAMP = 0.05
"""EDM's half-life is at most this fraction of the images seen (official EDM, training_loop.py)."""


def _constant(average: Average, images_seen: int, batch: int) -> float:
    return average.decay


def _ramp(average: Average, images_seen: int, batch: int) -> float:
    return min(average.decay, 1 - float((1 + average.updates) ** (-2 / 3)))


def _half_life(average: Average, images_seen: int, batch: int) -> float:
    half_life = min(float(average.half_life), EDM_RAMP * images_seen)
    return float(0.5 ** (batch / max(half_life, 1e-8)))


RULES: dict[str, Callable[[Average, int, int], float]] = {
    "constant": _constant,
    "ramp": _ramp,
    "half-life": _half_life,
}


class Average:
    """A moving average of named tensors, started at their present values.

    Args:
        weights: the tensors to follow; they share memory with what is trained.
        rule: "constant", "ramp" or "half-life".
        decay: for "constant", and the highest for "ramp" (0.9999 is reached after a million updates).
        half_life: images, for "half-life".

    Errors:
        UsageError: unknown rule.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        rule: str = "ramp",
        decay: float = 0.9999,
        half_life: int = 500_000,
    ) -> None:
        if rule not in RULES:
            raise UsageError(f'unknown rule "{rule}" for averaged weights', nearest(rule, RULES))
        self.weights = dict(weights)
        self.tensors = {name: tensor.detach().clone() for name, tensor in weights.items()}
        self.rule, self.decay, self.half_life = rule, decay, half_life
        self.updates = 0

    def next_decay(self, images_seen: int = 0, batch: int = 1) -> float:
        """The decay of the coming update.

        Args:
            images_seen: images before this step ("half-life").
            batch: images of this step ("half-life").
        """
        return RULES[self.rule](self, images_seen, batch)

    @torch.no_grad()
    def update(self, images_seen: int = 0, batch: int = 1) -> None:
        """Move towards the present weights: average += (1 - decay) * (weights - average)."""
        weight = 1 - self.next_decay(images_seen, batch)
        torch._foreach_lerp_(list(self.tensors.values()), list(self.weights.values()), weight)
        self.updates += 1

    @torch.no_grad()
    def install(self) -> None:
        """Overwrite the weights with their average."""
        torch._foreach_copy_(list(self.weights.values()), list(self.tensors.values()))

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Hold the average in the weights inside the block, and the weights again after it, bit by bit."""
        before = [tensor.clone() for tensor in self.weights.values()]
        self.install()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(list(self.weights.values()), before)

"""Randomness with an address.

Every draw is made by a generator whose seed is a hash of (seed, purpose, step or sample id), never by global
state. So a draw does not depend on batch size, order, worker count or on what was drawn before, and a resumed
run draws exactly what an unbroken one would have drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Generator, Tensor

from diffrep.errors import UsageError

Noise = Callable[[int, Sequence[int]], Tensor]
"""A source of normal noise for samplers: (step, shape) -> Tensor. Step 0 is the start x_T, 1, 2, ... the steps."""


def seed_of(seed: int, *address: str | int) -> int:
    """Hash an address to a 63-bit seed; the same on every machine and in every version of Python.

    Example:
        >>> seed_of(0, "noise", "image-7") == seed_of(0, "noise", "image-7")
        True
    """
    text = "\x1f".join(str(part) for part in (seed, *address))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *address: str | int) -> Generator:
    """Return a CPU generator that belongs to an address such as (seed, "noise", step, id)."""
    return Generator().manual_seed(seed_of(seed, *address))


def normal(seed: int, purpose: str, ids: Sequence[str], shape: Sequence[int], step: int = 0) -> Tensor:
    """Draw standard normal noise that belongs to images, not to batches.

    Args:
        seed: the run's seed.
        purpose: what the noise is for; two purposes never share draws.
        ids: one id per image.
        shape: the shape of one image's noise.
        step: the training or sampling step.

    Returns:
        float32 on the CPU, (len(ids), *shape).
    """
    out = torch.empty(len(ids), *shape)
    for row, sample_id in zip(out, ids, strict=True):
        torch.randn(row.shape, generator=generator(seed, purpose, step, sample_id), out=row)
    return out


def noise_for(seed: int, ids: Iterable[str | int], purpose: str = "sample") -> Noise:
    """Make a sampler's noise source whose draws belong to images: image i gets the same noise in any batch.

    Args:
        seed: the run's seed.
        ids: one id per image, text or numbers.
        purpose: what the noise is for; two purposes never share draws.

    Returns:
        (step, shape) -> float32 on the CPU; step 0 is the start x_T.

    Errors:
        UsageError: ids that are none, such as their number; when it is called, a batch of another size.

    Example:
        >>> noise_for(0, ["a", "b"])(0, (2, 1, 8, 8)).shape
        torch.Size([2, 1, 8, 8])
    """
    if not isinstance(ids, Iterable):
        raise UsageError(f"ids = {ids!r}", "expected one id per image, for example range(8)")
    names = [str(i) for i in ids]

    def draw(step: int, shape: Sequence[int]) -> Tensor:
        if shape[0] != len(names):
            raise UsageError(f"noise for {len(names)} ids was asked for a batch of {shape[0]}", "give one id per image")
        return normal(seed, purpose, names, tuple(shape[1:]), step)

    return draw


def as_noise(noise: Noise | Generator | None) -> Noise:
    """Accept a `torch.Generator` where a noise source is wanted; None raises, because diffrep has no global state.

    Errors:
        UsageError: if `noise` is None, or neither a function nor a generator.
    """
    if noise is None:
        raise UsageError(
            "this needs random numbers, and none were given", "pass noise=dr.noise_for(seed, ids) or generator="
        )
    if isinstance(noise, Generator):
        source = noise
        return lambda step, shape: torch.randn(tuple(shape), generator=source, device=source.device)
    if not callable(noise):
        raise UsageError(f"noise of type {type(noise).__name__}", "expected dr.noise_for(seed, ids) or a generator")
    return noise


@dataclass(frozen=True)
class Draw:
    """All randomness of one training step: each number is addressed by (seed, purpose, step, sample id)."""

    seed: int
    step: int
    ids: Sequence[str]

    def normal(self, purpose: str, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers, (B, *shape) float32."""
        return normal(self.seed, purpose, self.ids, shape, self.step)

    def uniform(self, purpose: str) -> Tensor:
        """Uniform numbers in [0, 1), (B,) float64."""
        rows = [self._generator(purpose, i) for i in self.ids]
        return torch.cat([torch.rand(1, generator=g, dtype=torch.float64) for g in rows])

    def integers(self, purpose: str, high: int) -> Tensor:
        """Uniform integers 0..high-1, (B,) int64."""
        return torch.cat([torch.randint(high, (1,), generator=self._generator(purpose, i)) for i in self.ids])

    def _generator(self, purpose: str, sample_id: str) -> Generator:
        return generator(self.seed, purpose, self.step, sample_id)

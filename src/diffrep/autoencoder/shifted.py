"""The denoiser that a code makes of a frozen one: eps' = eps - kappa * sigma * G(x_t, z, t).

One frozen pass serves both terms: G reads the maps that the frozen prediction computes anyway.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffrep.autoencoder.kappa import scale_of
from diffrep.autoencoder.shift import Shift
from diffrep.denoiser import Denoiser, InputSpec, SamplingSpec, Tap, as_trained
from diffrep.errors import UsageError
from diffrep.noise import NoiseLevel
from diffrep.prediction import Prediction
from diffrep.schedules import Schedule
from diffrep.taps import tapped

Weight = float | Tensor


def frozen(denoiser: Denoiser) -> Denoiser:
    """A view of a denoiser that cannot be trained: eval mode, no gradients, the same memory.

    The one that was given keeps its own flags and mode. Moving the view to a device moves a copy.
    """
    memo: dict[int, Any] = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in denoiser.parameters()}
    memo.update((id(b), b) for b in denoiser.buffers())
    return copy.deepcopy(denoiser, memo).eval()


def observe(
    denoiser: Denoiser, shift: Shift, x_t: Tensor, level: NoiseLevel, y: Tensor | int | str | None = None
) -> tuple[Prediction, dict[str, Tensor]]:
    """One pass of the frozen denoiser: its prediction and the maps that the shift reads."""
    with tapped(denoiser, shift.reads, early_exit=False) as maps:
        prediction: Prediction = denoiser(x_t, level, y=y)
    # Channels-last maps that need no gradient crash the backward pass of group normalization (torch 2.13, CPU).
    return prediction, {name: value.contiguous() for name, value in maps.items()}


def coefficient(scale: str, schedule: Schedule, level: NoiseLevel, x: Tensor) -> Tensor:
    """The factor c = -kappa * sigma of eps' = eps + c * G, in x's dtype, shaped to broadcast over x (PDAE 1.4).

    Args:
        scale: "posterior" or "score".
        schedule: the frozen model's.
        level: in the schedule's own convention, () or (B,).
        x: any tensor (B, ...) whose dtype and device are wanted.
    """
    c = scale_of(scale, schedule, level).to(level.sigma.device) * level.sigma.double()
    return -NoiseLevel(c, c).like(x)[0]


def moved(prediction: Prediction, delta: Tensor) -> Prediction:
    """The prediction with `delta` added to its noise, as the quantity that it already was (PDAE 1.4, second table)."""
    alpha, sigma = prediction.level.like(prediction.x_t)
    delta = torch.where(alpha > 0, delta, 0.0)  # in pure noise the noise is known, whatever the code says
    alpha = torch.where(alpha > 0, alpha, 1.0)
    factors: dict[str, Tensor | float] = {
        "eps": 1.0,
        "x0": -sigma / alpha,
        "v": (alpha**2 + sigma**2) / alpha,
        "flow": 1 + sigma / alpha,
    }
    value = prediction.value + factors[prediction.kind] * delta
    return Prediction(prediction.x_t, prediction.level, prediction.kind, value, log_variance=prediction.log_variance)


class ShiftedDenoiser(nn.Module):
    """A frozen denoiser told by a code what the image shows; itself a denoiser. Holds no parameters of its own.

    Args:
        denoiser: the frozen base.
        shift: G.
        codes: one or several codes, each (B, D) or (1, D).
        weights: factors of their G, a number or (B,) each; they add up to 1 in an interpolation.
        scale: "posterior" or "score".
    """

    def __init__(
        self, denoiser: Denoiser, shift: Shift, codes: Sequence[Tensor], weights: Sequence[Weight], scale: str
    ) -> None:
        super().__init__()
        for z in codes:
            if z.ndim != 2 or z.shape[1] != shift.code_dim:
                raise UsageError(
                    f"a code of shape {tuple(z.shape)}", f"expected (B, {shift.code_dim}) or (1, {shift.code_dim})"
                )
        self.denoiser: Denoiser
        self.shift: Shift
        # Beside the module registry: nothing that is trained or saved through this wrapper may reach them.
        self.__dict__.update(denoiser=denoiser, shift=shift)
        self.codes, self.weights, self.scale = tuple(codes), tuple(weights), scale

    def forward(self, x_t: Tensor, level: NoiseLevel, *, y: Tensor | int | str | None = None) -> Prediction:
        """Predict at a level of shape () or (B,), in any convention; never clips.

        Errors:
            UsageError: as many codes as there are images are wanted, or one for all.
        """
        for z in self.codes:
            if z.shape[0] not in (1, x_t.shape[0]):
                raise UsageError(f"{z.shape[0]} codes for {x_t.shape[0]} images", "give one code, or one per image")
        self.denoiser.schedule.check(level)
        x, own = as_trained(self.denoiser.schedule, x_t, level)
        prediction, maps = observe(self.denoiser, self.shift, x, own, y)
        dtype = next(self.shift.parameters()).dtype
        codes = [z.to(dtype) for z in self.codes]
        g = sum((_column(w, x) * self.shift(maps, z) for z, w in zip(codes, self.weights, strict=True)), start=0.0)
        delta = coefficient(self.scale, self.denoiser.schedule, own, x) * torch.as_tensor(g).to(x.dtype)
        shifted = moved(prediction, delta)
        return shifted if own is level else shifted.at(x_t, level)

    @property
    def schedule(self) -> Schedule:
        """The frozen model's."""
        return self.denoiser.schedule

    @property
    def input(self) -> InputSpec:
        """The frozen model's."""
        return self.denoiser.input

    @property
    def sampling(self) -> SamplingSpec:
        """The frozen model's."""
        return self.denoiser.sampling

    @property
    def parameterization(self) -> str:
        """The frozen model's."""
        return self.denoiser.parameterization

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The frozen model's."""
        return self.denoiser.taps


def _column(weight: Weight, x: Tensor) -> Tensor | float:
    return weight.to(x).reshape(-1, *[1] * (x.ndim - 1)) if isinstance(weight, Tensor) else weight

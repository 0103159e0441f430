"""What a denoiser says about a noisy image: one quantity, from which the others follow.

With x_t = alpha * x_0 + sigma * eps, each of x_0, eps, v = alpha * eps - sigma * x_0 and the flow velocity
u = eps - x_0 determines the rest. x_0 and eps do not depend on the convention of the level; v, u and the score do.
"""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from diffrep.errors import UsageError, nearest
from diffrep.noise import NoiseLevel

KINDS = ("x0", "eps", "v", "flow")


class Prediction:
    """A denoiser's answer at (x_t, level); every other quantity is derived when it is asked for.

    Args:
        x_t: the noisy images, (B, C, H, W).
        level: their noise level, () or (B,).
        kind: which quantity `value` is: "x0", "eps", "v" or "flow".
        value: the prediction, shape of x_t.
        log_variance: learned variance channels as the network gave them, or None.
        like: another prediction for the same images in another convention; its x0 and eps are taken over.

    Example:
        >>> import torch
        >>> level = NoiseLevel(0.8, 0.6)
        >>> Prediction(torch.full((1, 1, 1, 1), 2.0), level, "eps", torch.ones(1, 1, 1, 1)).x0.item()
        1.75
    """

    def __init__(
        self,
        x_t: Tensor,
        level: NoiseLevel,
        kind: str,
        value: Tensor,
        *,
        log_variance: Tensor | None = None,
        like: Prediction | None = None,
    ) -> None:
        if kind not in KINDS:
            raise UsageError(f'unknown kind of prediction "{kind}"', nearest(kind, KINDS))
        self.x_t, self.level, self.kind, self.value = x_t, level, kind, value
        self.log_variance = log_variance
        self._alpha, self._sigma = level.like(x_t)
        if like is not None:
            self.__dict__["x0"], self.__dict__["eps"] = like.x0, like.eps

    def __repr__(self) -> str:
        return f"Prediction({self.kind} of shape {tuple(self.value.shape)}, {self.level})"

    @cached_property
    def x0(self) -> Tensor:
        """The clean image: alpha * x_0 is what is left of x_t without the noise."""
        a, s = self._alpha, self._sigma
        if self.kind == "x0":
            return self.value
        if self.kind == "eps":
            return (self.x_t - s * self.value) / a
        if self.kind == "v":
            return (a * self.x_t - s * self.value) / (a * a + s * s)
        return (self.x_t - s * self.value) / (a + s)

    @cached_property
    def eps(self) -> Tensor:
        """The noise."""
        a, s = self._alpha, self._sigma
        if self.kind == "eps":
            return self.value
        if self.kind == "x0":
            return (self.x_t - a * self.value) / s
        if self.kind == "v":
            return (s * self.x_t + a * self.value) / (a * a + s * s)
        return (self.x_t + a * self.value) / (a + s)

    @cached_property
    def v(self) -> Tensor:
        """V = alpha * eps - sigma * x_0 (Salimans and Ho 2022)."""
        return self.value if self.kind == "v" else self._alpha * self.eps - self._sigma * self.x0

    @cached_property
    def flow(self) -> Tensor:
        """Velocity of the straight line towards the noise: u = eps - x_0."""
        return self.value if self.kind == "flow" else self.eps - self.x0

    @cached_property
    def score(self) -> Tensor:
        """Gradient of the log density of x_t: -eps / sigma."""
        return -self.eps / self._sigma

    def of(self, kind: str) -> Tensor:
        """The quantity of this kind: "x0", "eps", "v" or "flow"."""
        if kind not in KINDS:
            raise UsageError(f'unknown kind of prediction "{kind}"', nearest(kind, KINDS))
        quantity: Tensor = getattr(self, kind)
        return quantity

    def at(self, x_t: Tensor, level: NoiseLevel) -> Prediction:
        """The same answer for the same images seen in another convention; x0 and eps stay."""
        return Prediction(x_t, level, "eps", self.eps, log_variance=self.log_variance, like=self)

    def clipped(self, low: float = -1.0, high: float = 1.0, *, keep_eps: bool = False) -> Prediction:
        """The prediction with x0 clamped and everything else derived again (PDAE 1.7: eps'').

        With `keep_eps` the network's eps stays beside the clamped x0, as in diffusers' DDIM.
        """
        if keep_eps:
            kept = Prediction(self.x_t, self.level, "eps", self.eps, log_variance=self.log_variance)
            kept.__dict__["x0"] = self.x0.clamp(low, high)
            return kept
        return Prediction(self.x_t, self.level, "x0", self.x0.clamp(low, high), log_variance=self.log_variance)

"""Wrappers that are denoisers again: fixed labels, classifier-free guidance, another denoiser inside a window.

They hold what they wrap as `.denoiser` and pass on its habits and attributes, so that samplers, taps and
autoencoders take them as they take a bare `Denoiser`, and wrappers can be wrapped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from diffrep.denoiser import Denoise, InputSpec, SamplingSpec, Tap
from diffrep.errors import UsageError
from diffrep.noise import NoiseLevel
from diffrep.prediction import Prediction
from diffrep.schedules import Schedule

Labels = Tensor | Sequence[int] | int | str
"""Class labels: (B,) of them, one for all, or "none" to leave the class embedding out."""

PASSED_ON = (
    *("network", "schedule", "input", "sampling", "taps", "parameterization", "labels"),
    *("source", "identity", "device"),
)
"""What a wrapper answers with its inner denoiser's answer."""

WINDOW_SLACK = 1e-6
"""Slack of a window's ends in log-SNR: the same level in two conventions differs by rounding."""


class Wrapper(nn.Module):
    """A denoiser around a denoiser: what it does not say itself is asked there (`PASSED_ON`).

    Args:
        denoiser: a `Denoiser`, a wrapper, or a bare callable, which has nothing to pass on.
    """

    denoiser: Denoise
    network: nn.Module
    schedule: Schedule
    input: InputSpec
    sampling: SamplingSpec
    taps: tuple[Tap, ...]
    parameterization: str
    source: str | None
    identity: str

    def __init__(self, denoiser: Denoise) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.training = getattr(denoiser, "training", False)  # not train(), which would reach inside

    def settings(self) -> dict[str, Any]:
        """What this wrapper changes, as JSON can hold it; part of the protocol of features."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (whatever the inner denoiser has under this name)
        """Look in the inner denoiser for what is passed on; called only for names that are not found here."""
        return getattr(self.denoiser, name) if name in PASSED_ON else super().__getattr__(name)


class Conditioned(Wrapper):
    """See `conditioned`."""

    def __init__(self, denoiser: Denoise, y: Labels) -> None:
        super().__init__(denoiser)
        self.y = y

    def settings(self) -> dict[str, Any]:
        """The labels."""
        return {"conditioned": _listed(self.y)}

    def forward(self, x_t: Tensor, level: NoiseLevel, *, y: Labels | None = None) -> Prediction:
        """Predict with the fixed labels, or with y where it is given."""
        return _predict(self.denoiser, x_t, level, self.y if y is None else y)


class Guided(Wrapper):
    """See `guided`."""

    def __init__(self, denoiser: Denoise, scale: float, y: Labels, channels: int | None) -> None:
        super().__init__(denoiser)
        self.scale, self.y, self.guided_channels = scale, y, channels

    def settings(self) -> dict[str, Any]:
        """Scale, labels and channels."""
        return {"guided": self.scale, "y": _listed(self.y), "channels": self.guided_channels}

    def forward(self, x_t: Tensor, level: NoiseLevel, *, y: Labels | None = None) -> Prediction:
        """Predict with the fixed labels, or with y where it is given, away from the prediction without."""
        conditional = _predict(self.denoiser, x_t, level, self.y if y is None else y)
        if self.scale == 1:
            return conditional
        # Every kind of prediction is affine in eps for a given x_t, so the network's own kind gives the same
        # answer as eps does, without a division by a small alpha or sigma.
        kind, given = conditional.kind, conditional.value
        value = torch.lerp(_predict(self.denoiser, x_t, level, None).of(kind), given, self.scale)
        if self.guided_channels is not None:
            value = torch.cat([value[:, : self.guided_channels], given[:, self.guided_channels :]], dim=1)
        return Prediction(x_t, level, kind, value, log_variance=conditional.log_variance)


class Windowed(Wrapper):
    """See `windowed`."""

    def __init__(self, denoiser: Denoise, inner: Denoise, low: float, high: float) -> None:
        super().__init__(denoiser)
        self.inner, self.low, self.high = inner, low, high

    def settings(self) -> dict[str, Any]:
        """The window, and what is inside."""
        inner: list[Any] = [getattr(self.inner, "identity", type(self.inner).__name__), *wrappers(self.inner)]
        return {"windowed": [self.low, self.high], "inner": inner}

    def forward(self, x_t: Tensor, level: NoiseLevel, *, y: Labels | None = None) -> Prediction:
        """Predict with the denoiser on whose side of the window the level lies, image by image."""
        log_snr = level.log_snr
        inside = (log_snr >= self.low - WINDOW_SLACK) & (log_snr <= self.high + WINDOW_SLACK)
        if bool(inside.all()):
            return _predict(self.inner, x_t, level, y)
        outer = _predict(self.denoiser, x_t, level, y)
        return _choose(inside, _predict(self.inner, x_t, level, y), outer) if bool(inside.any()) else outer


def conditioned(denoiser: Denoise, y: Labels) -> Conditioned:
    """Fix the class labels of a denoiser.

    Args:
        denoiser: takes (x_t, level, y=labels).
        y: labels (B,), one label for all images, or "none" to leave the class embedding out.

    Returns:
        A denoiser; labels given in a call come before the fixed ones.

    Example:
        >>> dr.ddim(dr.conditioned(denoiser, 207), x_T, path)     # doctest: +SKIP
    """
    return Conditioned(denoiser, y)


def guided(denoiser: Denoise, scale: float, *, y: Labels, channels: int | None = None) -> Guided:
    """Guide a denoiser towards labels without a classifier (Ho and Salimans 2022, arXiv 2207.12598).

    eps = eps(no label) + scale * (eps(y) - eps(no label)): 0 is unconditional, 1 conditional (then one evaluation
    is enough), more is more. A learned variance is the conditional one.

    Args:
        denoiser: takes (x_t, level, y=labels), and a call without labels. A model that has no null class can do
            without its class embedding: `guided(conditioned(denoiser, "none"), scale, y=y)`.
        scale: strength of the guidance.
        y: labels (B,), or one label for all images.
        channels: how many leading channels are guided (DiT's program: 3), the others stay conditional; None: all.

    Returns:
        A denoiser.

    Errors:
        UsageError: a scale that is not finite, or no channels.

    Example:
        >>> dr.ddim(dr.guided(denoiser, 1.5, y=[207, 360]), x_T, path)     # doctest: +SKIP
    """
    if not math.isfinite(scale):
        raise UsageError(f"guidance of scale {scale}", "expected 0 (unconditional), 1 (conditional) or more")
    if channels is not None and channels < 1:
        raise UsageError(f"guidance on {channels} channels", "expected at least 1, or None for all")
    return Guided(denoiser, scale, y, channels)


def windowed(denoiser: Denoise, inner: Denoise, *, low: float = -math.inf, high: float = math.inf) -> Windowed:
    """Use another denoiser inside a window of noise levels, for example guidance in the middle only.

    PDAE's stop percent (1.9) is `windowed(denoiser, autoencoder.at(z), high=...)`: the clean end runs without code.

    Args:
        denoiser: predicts outside the window; its habits are passed on.
        inner: predicts inside.
        low: lowest log-SNR inside, the noisy end.
        high: highest log-SNR inside, the clean end.

    Returns:
        A denoiser; a batch of levels on both sides costs two evaluations.

    Errors:
        UsageError: an empty window.

    Example:
        >>> dr.windowed(denoiser, dr.guided(denoiser, 3, y=1), low=-4, high=2)     # doctest: +SKIP
    """
    if not low <= high:
        raise UsageError(f"an empty window: log-SNR {low} to {high}", "expected low <= high, the noisy end first")
    return Windowed(denoiser, inner, low, high)


def wrappers(denoiser: object) -> list[dict[str, Any]]:
    """The settings of the wrappers around a denoiser, from the outermost in; empty for a bare one."""
    found = []
    while isinstance(denoiser, Wrapper):
        found.append(denoiser.settings())
        denoiser = denoiser.denoiser
    return found


def _listed(y: Labels) -> Any:  # noqa: ANN401 (JSON is any)
    return y if isinstance(y, int | str) else torch.as_tensor(y).tolist()


def _predict(denoise: Denoise, x_t: Tensor, level: NoiseLevel, y: Labels | None) -> Prediction:
    """Call with labels only where there are some: a bare callable takes none."""
    return denoise(x_t, level) if y is None else cast(Any, denoise)(x_t, level, y=y)


def _choose(inside: Tensor, inner: Prediction, outer: Prediction) -> Prediction:
    """Join two predictions for the same images by a mask (B,); a variance that only one has learned is dropped."""
    mask = inside.to(outer.value.device).reshape(-1, *[1] * (outer.value.ndim - 1))
    value = torch.where(mask, inner.of(outer.kind), outer.value)
    log_variance = None
    if inner.log_variance is not None and outer.log_variance is not None:
        log_variance = torch.where(mask, inner.log_variance, outer.log_variance)
    return Prediction(outer.x_t, outer.level, outer.kind, value, log_variance=log_variance)

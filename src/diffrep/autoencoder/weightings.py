"""Loss weights: how much the error at a noise level counts, as a factor on the squared error of the noise.

All are functions of log-SNR alone, so they hold for every schedule, and are finite from a clean image to pure noise
(PDAE 1.6). For the noise prediction, weight 1 is Ho et al.'s "simple" loss.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from diffrep.errors import UsageError, nearest

FAR = 1e4
"""Beyond this log-SNR no weight changes any more; it stands for infinity, so that 0 * infinity cannot occur."""


def weight(name: str, log_snr: Tensor, *, gamma: float | None = None) -> Tensor:
    """The weight of a level, by the name of its paper.

    Args:
        name: "pdae", "uniform", "p2" or "min_snr".
        log_snr: any shape; may be infinite.
        gamma: the weighting's own parameter; None is its paper's value (pdae 0.1, p2 1, min_snr 5).

    Returns:
        float64, log_snr's shape, >= 0.

    Errors:
        UsageError: unknown name, or a gamma for "uniform", which has none.

    Example:
        >>> weight("pdae", torch.tensor(0.0))
        tensor(0.5000, dtype=torch.float64)
    """
    if name not in WEIGHTINGS:
        raise UsageError(f'unknown weighting "{name}"', nearest(name, WEIGHTINGS))
    options = {} if gamma is None else {"gamma": gamma}
    if options and "gamma" not in inspect.signature(WEIGHTINGS[name]).parameters:
        raise UsageError(f'weighting "{name}" has no gamma, {gamma} was given', "leave it out")
    return WEIGHTINGS[name](log_snr.double().clamp(-FAR, FAR), **options)


def pdae(log_snr: Tensor, gamma: float = 0.1) -> Tensor:
    """SNR^gamma / (1 + SNR), one bump with its top at SNR = gamma / (1 - gamma) (PDAE, official gamma 0.1)."""
    return (gamma * logsigmoid(log_snr) + (1 - gamma) * logsigmoid(-log_snr)).exp()


def uniform(log_snr: Tensor) -> Tensor:
    """1 everywhere (Ho et al. 2020, the simple loss)."""
    return torch.ones_like(log_snr)


def p2(log_snr: Tensor, gamma: float = 1.0) -> Tensor:
    """1 / (1 + SNR)^gamma (Choi et al. 2022, k = 1): less weight on low noise."""
    return (gamma * logsigmoid(-log_snr)).exp()


def min_snr(log_snr: Tensor, gamma: float = 5.0) -> Tensor:
    """min(SNR, gamma) / SNR (Hang et al. 2023, for noise prediction): less weight on low noise, with a hard knee."""
    return (math.log(gamma) - log_snr).clamp(max=0).exp()


WEIGHTINGS: dict[str, Callable[..., Tensor]] = {"pdae": pdae, "uniform": uniform, "p2": p2, "min_snr": min_snr}

"""The closed-form oracle: data from a Gaussian, for which the denoiser and the ODE's solution are known exactly."""

import torch
from torch import Tensor, nn

from diffrep.noise import NoiseLevel
from diffrep.prediction import Prediction


class GaussianDenoiser(nn.Module):
    """Posterior mean for data ~ N(mean, diag(var)); mean and var have the shape of one image."""

    def __init__(self, mean: Tensor, var: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("var", var)
        self.seen: list[NoiseLevel] = []

    def forward(self, x_t: Tensor, level: NoiseLevel, *, y: Tensor | None = None) -> Prediction:
        self.seen.append(level)
        alpha, sigma = level.like(x_t)
        gain = alpha * self.var / (alpha**2 * self.var + sigma**2)
        return Prediction(x_t, level, "x0", self.mean + gain * (x_t - alpha * self.mean))

    def transport(self, x: Tensor, start: NoiseLevel, end: NoiseLevel) -> Tensor:
        """Where the probability-flow ODE takes x from one level to another."""
        spread = [(level.alpha**2 * self.var + level.sigma**2).sqrt() for level in (start, end)]
        return end.alpha * self.mean + (x - start.alpha * self.mean) * spread[1] / spread[0]


def random_gaussian(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[GaussianDenoiser, Tensor]:
    """An oracle for images of (1, 2, 2) with standard deviations around 1/2, and noise (3, 1, 2, 2)."""
    generator = torch.Generator().manual_seed(seed)
    mean, log_var = torch.randn(2, 1, 2, 2, generator=generator, dtype=dtype)
    noise = torch.randn(3, 1, 2, 2, generator=generator, dtype=dtype)
    return GaussianDenoiser(mean / 2, (log_var / 2 - 1.5).exp()), noise


def path_of(steps: int, convention: str = "vp", low: float = -6.0, high: float = 6.0) -> NoiseLevel:
    """Levels evenly spaced in log-SNR, walking down."""
    return NoiseLevel.of(torch.linspace(low, high, steps + 1, dtype=torch.float64), convention)


def reverse(path: NoiseLevel) -> NoiseLevel:
    """The same levels, walking the other way."""
    return NoiseLevel(path.alpha.flip(0), path.sigma.flip(0))

"""What encoder and shift are trained for: the noise that the frozen prediction leaves unexplained (PDAE 1.5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from diffrep.autoencoder.model import ShiftAutoencoder
from diffrep.autoencoder.shifted import coefficient, observe
from diffrep.autoencoder.weightings import weight
from diffrep.noise import NoiseLevel
from diffrep.randomness import Draw


class Images(Protocol):
    """What the objective wants of a batch."""

    @property
    def images(self) -> Tensor:
        """Clean images, (B, C, H, W) in the model's range."""


class ShiftObjective:
    """weight * mean over pixels of (n - (eps + c * G))^2, per image; c = -kappa * sigma of the training scale.

    The frozen pass needs no gradient and gets none; encoder and shift are the only things that are trained.

    Args:
        autoencoder: whose encoder and shift are trained.
        weighting: name of the loss weight, see `weightings`.
        gamma: its parameter; None is its paper's value.

    Example:
        >>> objective = ShiftObjective(autoencoder)                                     # doctest: +SKIP
        >>> for report in dr.train(objective, loader, config): ...                      # doctest: +SKIP
    """

    def __init__(self, autoencoder: ShiftAutoencoder, weighting: str = "pdae", gamma: float | None = None) -> None:
        weight(weighting, torch.zeros(()), gamma=gamma)  # an unknown name is refused now, not at the first step
        self.autoencoder, self.weighting, self.gamma = autoencoder, weighting, gamma

    def loss(self, batch: Images, draw: Draw) -> Tensor:
        """The loss of each image, (B,); levels by the schedule's own distribution, all randomness from `draw`."""
        x0 = batch.images
        level = self.autoencoder.schedule.sample(len(x0), draw)
        noise = draw.normal("noise", x0.shape[1:]).to(x0)
        return self.loss_at(x0, level, noise)

    def loss_at(self, x0: Tensor, level: NoiseLevel, noise: Tensor) -> Tensor:
        """The loss of each image at given levels and noise.

        Args:
            x0: clean images, (B, C, H, W).
            level: in the schedule's own convention, (B,) or ().
            noise: standard normal, shape of x0.

        Returns:
            (B,), float32.
        """
        model = self.autoencoder
        alpha, sigma = level.like(x0)
        with torch.no_grad():
            prediction, maps = observe(model.denoiser, model.shift, alpha * x0 + sigma * noise, level)
        g = model.shift(maps, model.encoder(x0))
        c = coefficient(model.training_scale, model.schedule, level, x0)
        weights = weight(self.weighting, level.log_snr, gamma=self.gamma).to(x0.device, torch.float32)
        return shift_loss(noise, prediction.eps, g, c, weights)

    def parameters(self) -> Iterable[nn.Parameter]:
        """The trained parameters: encoder and shift."""
        return self.autoencoder.parameters()

    def state_dict(self) -> dict[str, Tensor]:
        """The trained tensors by name."""
        return dict(self.autoencoder.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over tensors that `state_dict` gave."""
        self.autoencoder.load_state_dict(state)

    def train(self, mode: bool = True) -> None:
        """Switch dropout of encoder and shift; the frozen part stays in eval mode."""
        self.autoencoder.train(mode)


def shift_loss(noise: Tensor, eps: Tensor, g: Tensor, c: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over pixels of (noise - (eps + c * g))^2 (PDAE 1.5, step 5), in float32.

    Args:
        noise: what was added, (B, ...).
        eps: what the frozen model takes for it, same shape.
        g: the shift estimate, same shape.
        c: its coefficient, broadcast over pixels.
        weights: (B,) or ().

    Returns:
        (B,).
    """
    residual = noise.float() - (eps.float() + c.float() * g.float())
    return weights * residual.square().flatten(1).mean(1)

"""Training a denoiser on what its own network gives: eps, x_0, v, the flow velocity, or EDM's F.

Per image: a level from the schedule's training distribution, noise, and the mean squared error of the
network's output (DDAE 1.1.3, 1.1.6, 1.3). Each such error is the error of x_0 times a factor: `x0_factor`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from diffrep.denoiser import Denoiser
from diffrep.errors import InputError, UsageError, nearest
from diffrep.noise import NoiseLevel
from diffrep.randomness import Draw
from diffrep.training.objective import Batch, copy_tensors, trainable_tensors

MIN_SNR = 5.0
"""Gamma of min-SNR weighting (Hang et al. 2023)."""


def x0_factor(parameterization: str, level: NoiseLevel, sigma_data: float = 0.5) -> Tensor:
    """How many times the squared error of x_0 the squared error of the network's output is, in float64.

    With eps - eps' = -(alpha / sigma) (x_0 - x_0'): eps has SNR; v = alpha eps - sigma x_0 has
    (alpha^2 + sigma^2)^2 / sigma^2, flow (alpha + sigma)^2 / sigma^2, and EDM (s^2 + d^2) / (s d)^2 with
    s = sigma / alpha and d = sigma_data. Of a score it is sigma times the output, as its paper weights it: eps.

    Errors:
        UsageError: unknown parameterization.
    """
    a, s = level.alpha.double(), level.sigma.double()
    factors = {
        "x0": torch.ones_like(a),
        "eps": (a / s) ** 2,
        "score": (a / s) ** 2,
        "v": ((a**2 + s**2) / s) ** 2,
        "flow": ((a + s) / s) ** 2,
        "edm": (a / s) ** 2 + 1 / sigma_data**2,  # (s^2 + d^2) / (s d)^2
    }
    if parameterization not in factors:
        raise UsageError(f'unknown parameterization "{parameterization}"', nearest(parameterization, factors))
    return factors[parameterization]


def _uniform(level: NoiseLevel, factor: Tensor) -> Tensor:
    return torch.ones_like(factor)


def _min_snr(level: NoiseLevel, factor: Tensor) -> Tensor:
    return level.snr.clamp(max=MIN_SNR) / factor


Weighting = Callable[[NoiseLevel, Tensor], Tensor]

WEIGHTINGS: dict[str, Weighting] = {"uniform": _uniform, "min_snr": _min_snr}
"""Weight of each image's loss, (B,), from its level and its `x0_factor`. "uniform" is each paper's own: 1 on
the network's output; "min_snr" is min(SNR, 5) on x_0 (Hang et al. 2023)."""


class DenoisingObjective:
    """The plain training objective of a denoiser, in the denoiser's own parameterization.

    Args:
        denoiser: what is trained; parameters with requires_grad=False stay as they are.
        weighting: "uniform", "min_snr", or a function (level, x0_factor) -> (B,).
        label_dropout: probability that a label is replaced by the model's null class, for guidance.

    Errors:
        UsageError: unknown weighting; label dropout without a null class.

    Example:
        >>> objective = DenoisingObjective(denoiser)  # doctest: +SKIP
        >>> for report in train(objective, loader, TrainConfig(steps=1000)):  # doctest: +SKIP
        ...     report.loss
    """

    def __init__(self, denoiser: Denoiser, weighting: str | Weighting = "uniform", label_dropout: float = 0.0) -> None:
        if isinstance(weighting, str) and weighting not in WEIGHTINGS:
            raise UsageError(f'unknown weighting "{weighting}"', nearest(weighting, WEIGHTINGS))
        if label_dropout and (denoiser.labels is None or denoiser.labels.null is None):
            raise UsageError(f"label_dropout = {label_dropout}, but the model has no null class", "use 0")
        self.denoiser = denoiser
        self.weighting = WEIGHTINGS[weighting] if isinstance(weighting, str) else weighting
        self.label_dropout = label_dropout

    def parameters(self) -> Iterable[nn.Parameter]:
        """The network's trainable parameters."""
        return [p for p in self.denoiser.network.parameters() if p.requires_grad]

    def state_dict(self) -> dict[str, Tensor]:
        """The network's trainable tensors under the network's own names."""
        return trainable_tensors(self.denoiser.network)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy trainable tensors into the network. Errors: FormatError if names or shapes differ."""
        copy_tensors(state, self.state_dict())

    def train(self, mode: bool = True) -> None:
        """Switch the network's dropout."""
        self.denoiser.train(mode)

    def loss(self, batch: Batch, draw: Draw) -> Tensor:
        """Mean squared error of the network's output per image, (B,) float32.

        Errors:
            InputError: if the model has classes and the batch has no labels.
        """
        x0 = batch.images
        level = self.denoiser.schedule.sample(len(x0), draw)
        eps = draw.normal("noise", x0.shape[1:]).to(x0.device)
        alpha, sigma = level.like(x0)
        prediction = self.denoiser(alpha * x0 + sigma * eps, level, y=self._labels(batch, draw))
        factor = x0_factor(self.denoiser.parameterization, level, self.denoiser.sigma_data)
        weight = self.weighting(level, factor)
        kind = {"edm": "x0", "score": "eps"}.get(self.denoiser.parameterization, self.denoiser.parameterization)
        if self.denoiser.parameterization == "edm":
            weight = weight * factor
        target = {"x0": x0, "eps": eps, "v": alpha * eps - sigma * x0, "flow": eps - x0}[kind]
        error: Tensor = (prediction.of(kind).float() - target).square().flatten(1).mean(1)
        return error * weight.to(error.device, error.dtype)

    def _labels(self, batch: Batch, draw: Draw) -> Tensor | None:
        spec = self.denoiser.labels
        if spec is None:
            return None
        if batch.labels is None:
            raise InputError(f"a model with {spec.num_classes} classes is trained on images without labels")
        if not self.label_dropout or spec.null is None:
            return batch.labels
        drop = (draw.uniform("label-dropout") < self.label_dropout).to(batch.labels.device)
        return batch.labels.masked_fill(drop, spec.null)

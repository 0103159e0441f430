"""A network that knows the image: whoever feeds it another time than its program does gets another image back."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from diffrep.denoiser import Denoiser
from diffrep.noise import NoiseLevel


class Oracle(nn.Module):
    """Gets what a program's network gets, x and time (B, 1, 1, 1), and answers by that program's convention."""

    def __init__(self, answer: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor, time: Tensor, y: Tensor | None = None) -> Tensor:
        return self.answer(x, time.double().reshape(-1, 1, 1, 1))


def check_known_image(
    denoiser: Denoiser, answer: Callable[[Tensor, Tensor], Tensor], x0: Tensor, at: Tensor | NoiseLevel
) -> None:
    """The x0-prediction of a known x0 at each time of its schedule, or at each level: one per image of x0."""
    denoiser.network = Oracle(answer)
    denoiser.labels = None
    level = at if isinstance(at, NoiseLevel) else denoiser.schedule.at(at)
    alpha, sigma = level.like(x0)
    found = denoiser(alpha * x0 + sigma * x0.flip(0), level).x0
    torch.testing.assert_close(found, x0, atol=2e-3, rtol=0)

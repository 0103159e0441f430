"""The fillings and inputs of the specifications' check values."""

import torch
from torch import Tensor, nn

from diffrep.formats.official_names import Names


def wave(shape: tuple[int, ...], step: float) -> Tensor:
    """sin(step * j), j counted row by row."""
    count = torch.Size(shape).numel()
    return torch.sin(step * torch.arange(count, dtype=torch.float64)).reshape(shape).float()


def fill_like_ddae(network: nn.Module, names: Names) -> None:
    """Fill by position in the official file (spec/ddae.md 2.7): 0.02 sin(0.1 j + i), 1 more in 1-D weights."""
    state = network.state_dict()
    for i, (official, ours) in enumerate(names):
        tensor = state[ours]
        values = 0.02 * torch.sin(0.1 * torch.arange(tensor.numel(), dtype=torch.float64) + i)
        one = 1.0 if official.endswith(".weight") and tensor.ndim == 1 else 0.0
        tensor.copy_((values + one).reshape(tensor.shape))


def fill_like_pdae(network: nn.Module, names: Names, positions: list[int]) -> None:
    """Fill by position in definition order (spec/pdae.md 2.7): A sin(0.7 k + j), 1 more in 1-D weights."""
    state = network.state_dict()
    for j, (official, ours) in zip(positions, names, strict=True):
        tensor = state[ours]
        values = torch.sin(0.7 * torch.arange(tensor.numel(), dtype=torch.float64) + j)
        one = 1.0 if official.endswith(".weight") and tensor.ndim == 1 else 0.0
        tensor.copy_((values * (0.05 if tensor.ndim > 1 else 0.02) + one).reshape(tensor.shape))

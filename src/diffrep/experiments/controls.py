"""Controls: the cheap things that a result must beat, each made here once.

An untrained network of the same shape, the mean image, PCA with as many numbers as a code, and codes shuffled
among the images so that nobody keeps its own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from diffrep.denoiser import Denoiser
from diffrep.errors import UsageError
from diffrep.randomness import generator, seed_of


def untrained(denoiser: Denoiser, seed: int) -> Denoiser:
    """The same architecture at the framework's default initialization, with no tensor left at zero.

    Every module draws its own defaults again (convolutions and linear layers are uniform), also where the
    layout starts a layer at zero: at zero the network would pass on less than a random one does. What the
    defaults leave at zero (offsets of normalizations) is drawn like a linear layer's offset.

    Args:
        denoiser: its network, schedule and input convention are taken over, its weights are not.
        seed: seed of the weights.

    Returns:
        A new denoiser in eval mode, without source.

    Example:
        >>> control = untrained(denoiser, seed=0)                                       # doctest: +SKIP
    """
    network = copy.deepcopy(denoiser.network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "untrained"))
        for module in network.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
        for tensor in _left_over(network):
            bound = max(tensor.shape[-1], 1) ** -0.5
            nn.init.uniform_(tensor, -bound, bound)
    return Denoiser(
        network,
        schedule=denoiser.schedule,
        input=denoiser.input,
        parameterization=denoiser.parameterization,
        conditioning=denoiser.conditioning,
        sampling=denoiser.sampling,
        labels=denoiser.labels,
        sigma_data=denoiser.sigma_data,
    ).eval()


def _left_over(network: nn.Module) -> Iterator[Tensor]:
    """Parameters that no default draws, or that it leaves at zero."""
    for module in network.modules():
        drawn = callable(getattr(module, "reset_parameters", None))
        for parameter in module.parameters(recurse=False):
            if not drawn or not bool(parameter.detach().any()):
                yield parameter


def derangement(count: int, seed: int) -> Tensor:
    """A permutation that leaves nothing in its place: one cycle through all (Sattolo's algorithm).

    Args:
        count: how many; at least 2.
        seed: seed of the draw.

    Returns:
        int64 (count,), with result[i] != i.

    Errors:
        UsageError: fewer than 2, where there is none.

    Example:
        >>> bool((derangement(5, seed=0) == torch.arange(5)).any())
        False
    """
    if count < 2:
        raise UsageError(f"a derangement of {count}", "expected at least 2 images to shuffle codes among")
    source = generator(seed, "derangement", count)
    order = list(range(count))
    for last in range(count - 1, 0, -1):
        other = int(torch.randint(last, (1,), generator=source))
        order[last], order[other] = order[other], order[last]
    return torch.tensor(order)


def mean_image(train: Tensor) -> Tensor:
    """The mean of training images (N, C, H, W), as (1, C, H, W): the best answer that ignores its input."""
    mean: Tensor = train.double().mean(0, keepdim=True)
    return mean.to(train.dtype)


def pca_reconstruction(train: Tensor, test: Tensor, components: int) -> Tensor:
    """Rebuild test images from their first principal components, fitted on train; equals scikit-learn's PCA.

    Args:
        train: (N, C, H, W).
        test: (M, C, H, W).
        components: how many numbers per image; at most the rank of train.

    Returns:
        (M, C, H, W), not clamped.

    Errors:
        UsageError: more components than train can have.
    """
    most = min(len(train), train[0].numel())
    if not 1 <= components <= most:
        raise UsageError(f"PCA with {components} numbers", f"expected 1 to {most} for these images")
    rows = train.reshape(len(train), -1).double()
    mean: Tensor = rows.mean(0)
    axes: Tensor = torch.linalg.svd(rows - mean, full_matrices=False).Vh[:components]
    codes = (test.reshape(len(test), -1).double() - mean) @ axes.T
    rebuilt: Tensor = codes @ axes + mean
    return rebuilt.reshape(test.shape).to(test.dtype)

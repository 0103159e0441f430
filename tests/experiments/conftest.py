import pytest
import torch

from diffrep import networks
from diffrep.autoencoder import ShiftAutoencoder
from diffrep.data import Splits, load
from diffrep.denoiser import Denoiser, InputSpec
from diffrep.schedules import DiscreteSchedule


@pytest.fixture(scope="session")
def denoiser(device: str) -> Denoiser:
    """A small denoiser at its initial weights, with zeroed last layers as a trained one starts."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = networks.tiny(channels=16)
    made = Denoiser(network, schedule=DiscreteSchedule.linear(), input=InputSpec(1, 8))
    return made.to(device).eval()


@pytest.fixture(scope="session")
def autoencoder(denoiser: Denoiser) -> ShiftAutoencoder:
    """Zero shift: it is the denoiser."""
    return ShiftAutoencoder.fresh(denoiser, code_dim=8)


@pytest.fixture(scope="session")
def digits() -> Splits:
    """The digits with fewer images: the first of each split."""
    splits = load("digits")
    sizes = {"train": 240, "val": 60, "test": 60}
    return Splits({name: splits[name].take(n) for name, n in sizes.items()}, source="digits")

"""Small bases with random weights, and the official answers where they lie beside the repository."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from diffrep.autoencoder import ShiftAutoencoder, ShiftEstimator
from diffrep.denoiser import Denoiser, InputSpec
from diffrep.networks import build
from diffrep.randomness import generator
from diffrep.schedules import DiscreteSchedule, Schedule

PARITY = Path(__file__).resolve().parents[3] / "shared" / "parity" / "pdae-celeba64-tiny"
MakeBase = Callable[..., Denoiser]


@pytest.fixture
def make_base(device: str) -> MakeBase:
    """A tiny U-Net denoiser with random weights everywhere, also where training starts at zero."""

    def make(
        size: int = 8, channels: int = 1, schedule: Schedule | None = None, parameterization: str = "eps"
    ) -> Denoiser:
        multipliers = [1, 1, 1, 1][: max(2, (size - 1).bit_length() - 1)]
        config = {"layout": "tiny", "image_channels": channels, "channels": 16, "multipliers": multipliers}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = build({**config, "zero_init": False})
        return Denoiser(
            network,
            schedule=schedule or DiscreteSchedule.linear(),
            input=InputSpec(channels, size),
            parameterization=parameterization,
        ).to(device)

    return make


@pytest.fixture
def make_model(make_base: MakeBase) -> Callable[..., ShiftAutoencoder]:
    """A small autoencoder; `trained=True` fills what starts at zero, so that the code says something."""

    def make(trained: bool = True, code_dim: int = 4, **base: object) -> ShiftAutoencoder:
        model = ShiftAutoencoder.fresh(make_base(**base), code_dim)
        if trained:
            with torch.no_grad():
                for k, p in enumerate(model.shift.parameters()):
                    p.add_(0.05 * torch.randn(p.shape, generator=generator(0, "fill", k)).to(p))
        return model

    return make


@pytest.fixture
def images(device: str) -> Callable[..., Tensor]:
    """Images in [-1, 1] that are always the same."""

    def make(count: int, channels: int = 1, height: int = 8, width: int | None = None) -> Tensor:
        shape = (count, channels, height, width or height)
        return torch.randn(shape, generator=generator(0, "images")).clamp(-1, 1).to(device)

    return make


@pytest.fixture(scope="session")
def parity() -> Path:
    """The folder with the official PDAE program's answers."""
    if not PARITY.is_dir():
        pytest.skip(f"no official answers at {PARITY}")
    return PARITY


@pytest.fixture(scope="session")
def official(parity: Path) -> dict[str, Tensor]:
    """Inputs and outputs of the official program, by name; about.json says what each is."""
    tensors = load_file(parity / "expected.safetensors")
    assert tensors.keys() == json.loads((parity / "about.json").read_text())["tensors"].keys()
    return tensors


@pytest.fixture(scope="session")
def official_order() -> Callable[[nn.Module, ShiftEstimator], list[nn.Parameter]]:
    """The parameters of a frozen U-Net and a shift estimator in the official shift U-Net's order of definition."""

    def ordered(network: nn.Module, shift: ShiftEstimator) -> list[nn.Parameter]:
        modules = [network.time, shift.code, *network.enc.values(), network.mid, shift.middle]
        for k, block in network.dec.items():
            modules += [block, *([network.up[k]] if k in network.up else [])]
        modules += [shift.decoder, network.head, shift.head]
        return [parameter for module in modules for parameter in module.parameters()]

    return ordered

"""The semantic encoder: any size, and the official shapes and numbers of PDAE 2.2, 2.6 and 2.7."""

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from diffrep.autoencoder import SemanticEncoder
from diffrep.errors import UsageError

OFFICIAL_64 = {"widths": (64, 128, 128, 128), "attention": 2, "group_width": 1}
OFFICIAL_128 = {"widths": (64, 128, 256, 256, 256), "attention": 3, "group_width": 1}


def fill(parameters: list[nn.Parameter]) -> None:
    """The fill rule of PDAE 2.7."""
    with torch.no_grad():
        for j, p in enumerate(parameters, start=1):
            wave = torch.sin(0.7 * torch.arange(p.numel(), dtype=torch.float64) + j)
            wave = wave * (0.05 if p.ndim > 1 else 0.02)
            p.copy_(wave.reshape(p.shape))


def fill_module(module: nn.Module, ordered: list[nn.Parameter]) -> None:
    """The fill rule, with 1 added to the one-dimensional weights."""
    fill(ordered)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.ndim == 1 and name.endswith("weight"):
                p.add_(1)


@pytest.mark.parametrize(("shape", "count"), [(OFFICIAL_64, 1_487_104), (OFFICIAL_128, 3_914_240)])
def test_official_encoders_have_the_official_number_of_parameters(shape: dict[str, object], count: int) -> None:
    encoder = SemanticEncoder(3, 512, **shape)
    assert sum(p.numel() for p in encoder.parameters()) == count


@pytest.mark.parametrize(
    ("shape", "size", "tensors", "expected"),
    [
        (OFFICIAL_64, 64, 24, [0.1107884, -0.0726918, -0.1894146, -0.1184423, 0.0765646, 0.2068659]),
        (OFFICIAL_128, 128, 28, [0.0938383, -0.0143741, -0.1006428, 0.0654763, -0.0098109, -0.0848123]),
    ],
)
def test_codes_are_the_official_ones(shape: dict[str, object], size: int, tensors: int, expected: list[float]) -> None:
    encoder = SemanticEncoder(3, 16, **shape)
    ordered = list(encoder.parameters())
    assert len(ordered) == tensors
    fill_module(encoder, ordered)
    x = torch.sin(0.05 * torch.arange(3 * size * size, dtype=torch.float64)).float().reshape(1, 3, size, size)
    assert encoder(x)[0, :6].tolist() == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (7, 9), (13, 40), (4, 4), (3, 5)])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_any_size_goes(images: Callable[..., Tensor], size: tuple[int, int], channels: int) -> None:
    encoder = SemanticEncoder.small(channels, 5, 28)
    x = images(2, channels, *size).cpu()
    z = encoder(x)
    assert z.shape == (2, 5)
    assert torch.isfinite(z).all()
    torch.testing.assert_close(encoder(x.contiguous(memory_format=torch.channels_last)), z, rtol=1e-4, atol=1e-5)


def test_the_preset_stops_at_four_pixels() -> None:
    strides = {size: SemanticEncoder.small(1, 4, size).config()["strides"] for size in (8, 16, 28, 32)}
    assert strides == {8: [1, 2, 1], 16: [1, 2, 2, 1], 28: [1, 2, 2, 2, 1], 32: [1, 2, 2, 2, 1]}


def test_config_makes_an_equal_encoder(images: Callable[..., Tensor]) -> None:
    encoder = SemanticEncoder(1, 6, (16, 32), strides=(1, 2), attention=2, heads=2, pool_size=2)
    again = SemanticEncoder.from_config(json.loads(json.dumps(encoder.config())))
    again.load_state_dict(encoder.state_dict())
    x = images(3).cpu()
    assert torch.equal(again(x), encoder(x))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(UsageError, match="2 strides for 3 convolutions"):
        SemanticEncoder(1, 4, (8, 8, 8), strides=(1, 2))
    with pytest.raises(UsageError, match="attention after convolution 4"):
        SemanticEncoder(1, 4, (8, 8, 8), attention=4)

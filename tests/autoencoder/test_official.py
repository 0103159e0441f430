"""A checkpoint of the official PDAE program against that program's own answers."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from diffrep.autoencoder import (
    CodeStats,
    SemanticEncoder,
    ShiftAutoencoder,
    ShiftEstimator,
    ShiftObjective,
    edit,
    lerp,
    slerp,
)
from diffrep.denoiser import Denoiser, InputSpec
from diffrep.networks import build
from diffrep.sampling import ddim
from diffrep.schedules import DiscreteSchedule

Answers = dict[str, Tensor]


def copy_in_order(source: Iterable[Tensor], into: list[nn.Parameter]) -> None:
    """Official kernel-1 convolutions have another shape than our linear layers, but the same numbers in order."""
    with torch.no_grad():
        for tensor, parameter in zip(source, into, strict=True):
            parameter.copy_(tensor.float().reshape(parameter.shape))


@pytest.fixture(scope="module")
def model(parity: Path, official_order: Callable[..., list[nn.Parameter]]) -> ShiftAutoencoder:
    folder = parity / "trained-models" / "autoencoder" / "celeba64"
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    shape = {"channels": 32, "multipliers": [1, 1], "attention": [False, True], "blocks": 1, "heads": 2}
    network = build({"layout": "adm", **shape})
    base = Denoiser(network, schedule=DiscreteSchedule.linear(), input=InputSpec(3, 64))
    shift = ShiftEstimator(base.taps, network.time_width, 3, 16, group_width=1, heads=2)
    encoder = SemanticEncoder(3, 16, (64, 128, 128, 128), attention=2, group_width=1)
    copy_in_order(checkpoint["ema_decoder"].values(), official_order(network, shift))
    copy_in_order(checkpoint["ema_encoder"].values(), list(encoder.parameters()))
    return ShiftAutoencoder(base, encoder, shift)


def x_t(model: ShiftAutoencoder, official: Answers) -> Tensor:
    alpha, sigma = model.schedule.at(official["t"]).like(official["x_0"])
    return alpha * official["x_0"] + sigma * official["noise"]


def test_codes(model: ShiftAutoencoder, official: Answers) -> None:
    torch.testing.assert_close(model.encode(official["x_0"]), official["z"], rtol=0, atol=1e-5)


def test_predictions_with_and_without_the_code(model: ShiftAutoencoder, official: Answers) -> None:
    x, level = x_t(model, official), model.schedule.at(official["t"])
    with torch.no_grad():
        bare = model.denoiser(x, level).eps
        sampling = model.at(official["z"])(x, level).eps
        training = model.at(official["z"], scale="posterior")(x, level).eps
    torch.testing.assert_close(bare, official["eps_bare"], rtol=0, atol=2e-5)
    top = (slice(0, 1), slice(None), slice(0, 16))
    torch.testing.assert_close(sampling[top], official["eps_shift_sampling_top"], rtol=0, atol=2e-5)
    torch.testing.assert_close(training[top], official["eps_shift_training_top"], rtol=0, atol=2e-5)


def test_losses(model: ShiftAutoencoder, official: Answers) -> None:
    level = model.schedule.at(official["t"])
    with torch.no_grad():
        loss = ShiftObjective(model).loss_at(official["x_0"], level, official["noise"])
    torch.testing.assert_close(loss, official["loss_per_sample"], rtol=1e-5, atol=0)
    torch.testing.assert_close(loss.mean(), official["loss_mean"][0], rtol=1e-5, atol=0)


def test_decoding(model: ShiftAutoencoder, official: Answers) -> None:
    out = model.decode(official["z"][:1], official["x_T"], steps=10)
    torch.testing.assert_close(out, official["ddim10_decode"], rtol=0, atol=3e-4)


def test_inversion(model: ShiftAutoencoder, official: Answers) -> None:
    x_T = model.invert(official["x_0"], official["z"], steps=10)
    torch.testing.assert_close(x_T, official["ddim10_x_T"], rtol=0, atol=2e-4)


def test_the_way_between_two_images(model: ShiftAutoencoder, official: Answers) -> None:
    weight, (u, v), z = official["alpha"], official["ddim10_x_T"].split(1), official["z"]
    x_T = slerp(u, v, weight)
    torch.testing.assert_close(x_T[:, :, :16], official["slerp_x_T_top"], rtol=0, atol=5e-5)
    torch.testing.assert_close(lerp(z[:1], z[1:], weight), official["lerp_z"], rtol=0, atol=1e-5)
    mixed = model.blend([z[:1], z[1:]], [1 - float(weight), float(weight)])
    out = ddim(mixed, x_T, model.schedule.path(10))
    torch.testing.assert_close(out, official["trajectory_interpolation"], rtol=0, atol=5e-3)


def test_manipulation(parity: Path, official: Answers) -> None:
    rows = torch.load(parity / "trained-models" / "classifier" / "checkpoint.pt", weights_only=True)["ema_classifier"]
    stats = CodeStats(official["latents_mean"], official["latents_std"])
    scale = 0.3 * (512 / 16) ** 0.5  # the official program takes sqrt(512) whatever the code's width
    moved = edit(official["z"][:1], rows["weight"][20].float(), scale, stats)
    torch.testing.assert_close(moved, official["manipulation_z"], rtol=0, atol=2e-5)

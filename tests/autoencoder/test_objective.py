"""The training loss: the official numbers of PDAE 1.13, and what is and is not trained."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from diffrep.autoencoder import ShiftAutoencoder, ShiftObjective, shift_loss, weight
from diffrep.autoencoder.shifted import coefficient
from diffrep.continuous import EDMSchedule, FlowSchedule
from diffrep.errors import UsageError
from diffrep.randomness import Draw
from diffrep.schedules import DiscreteSchedule

MakeModel = Callable[..., ShiftAutoencoder]
Images = Callable[..., Tensor]


class Batch(NamedTuple):
    images: Tensor
    ids: list[str]


def batch(images: Tensor) -> Batch:
    return Batch(images, [f"image-{k}" for k in range(len(images))])


@pytest.mark.parametrize(
    ("t", "expected"), [(0, 1.8678352e-4), (1, 3.7709635e-4), (500, 0.080515601), (999, 0.035181820)]
)
def test_losses_are_the_official_ones(t: int, expected: float) -> None:
    """PDAE 1.13's toy decoder: eps = 0.9 x + 0.05 t/1000, G = 0.2 tanh(x) + 0.3 z."""
    schedule = DiscreteSchedule.linear()
    level = schedule.at([t])
    x0 = torch.tensor([-0.9, -0.2, 0.1, 0.8]).reshape(1, 1, 2, 2)
    noise = torch.tensor([0.5, -1.0, 0.25, 1.5]).reshape(1, 1, 2, 2)
    alpha, sigma = level.like(x0)
    x_t = alpha * x0 + sigma * noise
    eps, g = 0.9 * x_t + 0.05 * t / 1000, 0.2 * torch.tanh(x_t) + 0.3 * 0.7
    loss = shift_loss(noise, eps, g, coefficient("posterior", schedule, level, x0), weight("pdae", level.log_snr))
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_before_training_the_loss_is_the_frozen_models(make_model: MakeModel, images: Images) -> None:
    model, x0 = make_model(trained=False), images(4)
    level = model.schedule.at([10, 200, 500, 900])
    noise = images(4).flip(0)
    alpha, sigma = level.like(x0)
    bare = (noise - model.denoiser(alpha * x0 + sigma * noise, level).eps).square().flatten(1).mean(1)
    expected = weight("pdae", level.log_snr).to(bare) * bare
    torch.testing.assert_close(ShiftObjective(model).loss_at(x0, level, noise), expected)


@pytest.mark.parametrize("scale", ["posterior", "score"])
def test_the_loss_is_that_of_the_denoiser_told_the_clean_images_code(
    make_model: MakeModel, images: Images, scale: str
) -> None:
    model, x0 = make_model(), images(4)
    model.training_scale = scale
    level, noise = model.schedule.at([10, 200, 500, 900]), images(4).flip(0)
    alpha, sigma = level.like(x0)
    told = model.at(model.encode(x0), scale=scale)(alpha * x0 + sigma * noise, level)
    expected = (noise - told.eps).square().flatten(1).mean(1)
    torch.testing.assert_close(ShiftObjective(model, "uniform").loss_at(x0, level, noise), expected)


def test_each_images_loss_has_its_own_address(make_model: MakeModel, images: Images) -> None:
    objective, data = ShiftObjective(make_model()), batch(images(4))
    whole = objective.loss(data, Draw(3, 7, data.ids))
    parts = [objective.loss(Batch(data.images[k : k + 1], [i]), Draw(3, 7, [i])) for k, i in enumerate(data.ids)]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-5, atol=1e-6)
    assert not torch.equal(whole, objective.loss(data, Draw(3, 8, data.ids)))


def test_gradients_reach_encoder_and_shift_only(make_model: MakeModel, images: Images) -> None:
    model = make_model()
    objective, data = ShiftObjective(model), batch(images(4))
    objective.train(True)
    objective.loss(data, Draw(0, 1, data.ids)).mean().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
    assert all(p.grad is None for p in model.denoiser.parameters())


@pytest.mark.parametrize("schedule", [EDMSchedule(), FlowSchedule()])
@pytest.mark.parametrize("weighting", ["pdae", "uniform", "p2", "min_snr"])
def test_continuous_schedules_train_by_the_score_scale(
    make_model: MakeModel, images: Images, schedule: EDMSchedule | FlowSchedule, weighting: str
) -> None:
    kind = "edm" if isinstance(schedule, EDMSchedule) else "flow"
    model = make_model(schedule=schedule, parameterization=kind)
    assert model.training_scale == "score"
    data = batch(images(4))
    loss = ShiftObjective(model, weighting).loss(data, Draw(0, 1, data.ids))
    assert loss.shape == (4,)
    assert torch.isfinite(loss).all()


def test_bf16_autocast_is_near_float32(make_model: MakeModel, images: Images, device: str) -> None:
    model = make_model()
    objective, data = ShiftObjective(model), batch(images(4).contiguous(memory_format=torch.channels_last))
    exact = objective.loss(data, Draw(0, 1, data.ids))
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        rough = objective.loss(data, Draw(0, 1, data.ids))
    assert rough.dtype == torch.float32
    rough.mean().backward()
    torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.02)


def test_state_is_that_of_encoder_and_shift(make_model: MakeModel) -> None:
    model, other = make_model(), make_model(trained=False)
    objective = ShiftObjective(model)
    assert {name.split(".")[0] for name in objective.state_dict()} == {"encoder", "shift"}
    assert len(list(objective.parameters())) == len(objective.state_dict())
    ShiftObjective(other).load_state_dict(objective.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_unknown_weightings_are_refused_at_once(make_model: MakeModel) -> None:
    with pytest.raises(UsageError, match='unknown weighting "pda"'):
        ShiftObjective(make_model(), "pda")

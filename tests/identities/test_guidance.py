"""Wrappers are denoisers: scale 1 is the conditional model, a window of all levels is no window."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffrep.denoiser import Conditioning, Denoiser, InputSpec, LabelSpec, SamplingSpec
from diffrep.errors import UsageError
from diffrep.guidance import conditioned, guided, windowed
from diffrep.noise import NoiseLevel
from diffrep.prediction import Prediction
from diffrep.randomness import noise_for
from diffrep.sampling import ddim
from diffrep.schedules import DiscreteSchedule
from diffrep.taps import read
from tests.identities.gaussian import path_of
from tests.stub import StubNetwork

LEVEL = NoiseLevel(0.8, 0.6)


@pytest.fixture
def denoiser() -> Denoiser:
    return Denoiser(
        StubNetwork(channels=4, out=8).double(),
        schedule=DiscreteSchedule.linear(),
        input=InputSpec(4, 8, latent=True),
        conditioning=Conditioning(scale=0.001),
        sampling=SamplingSpec(clip=True, rule="guided-diffusion"),
        labels=LabelSpec(3, null=3),
        source="somewhere",
    )


@pytest.fixture
def x() -> Tensor:
    return noise_for(0, ["a", "b"])(0, (2, 4, 8, 8)).double()


def test_a_fixed_label_is_the_label(denoiser: Denoiser, x: Tensor) -> None:
    for y in (1, [0, 2], torch.tensor([2, 1])):
        assert torch.equal(conditioned(denoiser, y)(x, LEVEL).eps, denoiser(x, LEVEL, y=y).eps)
    assert torch.equal(conditioned(denoiser, "none")(x, LEVEL).eps, denoiser(x, LEVEL, y="none").eps)
    assert torch.equal(conditioned(denoiser, 1)(x, LEVEL, y=2).eps, denoiser(x, LEVEL, y=2).eps)


def test_guidance_of_scale_one_is_the_conditional_model_at_its_cost(denoiser: Denoiser, x: Tensor) -> None:
    wrapped = guided(denoiser, 1, y=2)
    before = denoiser.network.calls
    assert torch.equal(wrapped(x, LEVEL).eps, conditioned(denoiser, 2)(x, LEVEL).eps)
    assert denoiser.network.calls == before + 2


def test_guidance_of_scale_zero_is_the_unconditional_model(denoiser: Denoiser, x: Tensor) -> None:
    torch.testing.assert_close(guided(denoiser, 0, y=2)(x, LEVEL).eps, denoiser(x, LEVEL).eps)


@pytest.mark.parametrize("parameterization", ["eps", "x0", "v", "flow"])
def test_guidance_extrapolates_eps_whatever_the_network_predicts(
    denoiser: Denoiser, x: Tensor, parameterization: str
) -> None:
    denoiser.parameterization = parameterization
    without, label = denoiser(x, LEVEL), denoiser(x, LEVEL, y=1)
    made = guided(denoiser, 2.5, y=1)(x, LEVEL)
    torch.testing.assert_close(made.eps, without.eps + 2.5 * (label.eps - without.eps))
    assert torch.equal(made.log_variance, label.log_variance)


def test_guidance_acts_on_the_leading_channels_alone(denoiser: Denoiser, x: Tensor) -> None:
    without, label = denoiser(x, LEVEL).eps, denoiser(x, LEVEL, y=1).eps
    made = guided(denoiser, 4, y=1, channels=3)(x, LEVEL).eps
    torch.testing.assert_close(made[:, :3], (without + 4 * (label - without))[:, :3])
    assert torch.equal(made[:, 3:], label[:, 3:])


def test_guidance_without_a_null_class_leaves_the_embedding_out(denoiser: Denoiser, x: Tensor) -> None:
    denoiser.labels = LabelSpec(3)
    with pytest.raises(UsageError, match="no null class"):
        guided(denoiser, 2, y=1)(x, LEVEL)
    made = guided(conditioned(denoiser, "none"), 2, y=1)(x, LEVEL).eps
    torch.testing.assert_close(made, 2 * denoiser(x, LEVEL, y=1).eps - denoiser(x, LEVEL, y="none").eps)


def test_a_window_of_all_levels_is_no_window(denoiser: Denoiser, x: Tensor) -> None:
    inner, path = conditioned(denoiser, 1), denoiser.schedule.path(8)
    low, high = denoiser.schedule.log_snr_range
    for window in ({}, {"low": low, "high": high}):
        assert torch.equal(ddim(windowed(denoiser, inner, **window), x, path), ddim(inner, x, path))
    outside = windowed(denoiser, inner, low=high + 1)
    assert torch.equal(ddim(outside, x, path), ddim(denoiser, x, path))


@pytest.mark.parametrize("convention", ["vp", "ve", "flow"])
def test_a_window_decides_by_log_snr_in_every_convention(denoiser: Denoiser, x: Tensor, convention: str) -> None:
    wrapped = windowed(denoiser, conditioned(denoiser, 1), low=-2, high=2)
    for level in path_of(6, convention):  # -6, -4, ..., 6
        inside = abs(float(level.log_snr)) < 3
        wanted = denoiser(x, level, y=1 if inside else None)
        assert torch.equal(wrapped(x, level).eps, wanted.eps)


def test_a_window_decides_image_by_image(denoiser: Denoiser, x: Tensor) -> None:
    wrapped = windowed(denoiser, conditioned(denoiser, 1), high=0)
    level = NoiseLevel.from_log_snr(torch.tensor([-1.0, 1.0]).double())
    made = wrapped(x, level)
    inside, outside = denoiser(x, level, y=1), denoiser(x, level)
    for quantity in ("eps", "log_variance"):
        wanted = torch.stack([getattr(inside, quantity)[0], getattr(outside, quantity)[1]])
        torch.testing.assert_close(getattr(made, quantity), wanted)


def test_wrappers_are_denoisers_and_can_be_wrapped(denoiser: Denoiser, x: Tensor) -> None:
    one = conditioned(denoiser, 1)
    wrapped = windowed(one, guided(one, 2, y=2), low=-4, high=4)
    for name in ("schedule", "input", "sampling", "taps", "parameterization", "identity", "source", "network"):
        assert getattr(wrapped, name) == getattr(denoiser, name)
    path = denoiser.schedule.path(5)
    assert torch.equal(ddim(wrapped, x, path), ddim(wrapped, x, path, clip=True))  # the model's own habit
    assert not torch.equal(ddim(wrapped, x, path), ddim(wrapped, x, path, clip=False))
    assert torch.equal(read(one, x, LEVEL, "mid")["mid"], read(denoiser, x, LEVEL, "mid", y=1)["mid"])
    assert len(list(wrapped.parameters())) == len(list(denoiser.parameters()))


@pytest.mark.parametrize("training", [True, False])
def test_wrapping_changes_no_mode(denoiser: Denoiser, training: bool) -> None:
    denoiser.train(training).network.last.eval()
    assert conditioned(denoiser, 1).training is training
    assert denoiser.network.first.training is training
    assert not denoiser.network.last.training


def test_a_bare_callable_can_be_wrapped_and_has_nothing_to_pass_on(x: Tensor) -> None:
    def zero(x_t: Tensor, level: NoiseLevel) -> Prediction:
        return Prediction(x_t, level, "x0", torch.zeros_like(x_t))

    def three(x_t: Tensor, level: NoiseLevel) -> Prediction:
        return Prediction(x_t, level, "x0", torch.full_like(x_t, 3.0))

    wrapped = windowed(zero, three, high=0)
    assert float(ddim(wrapped, x, path_of(4, high=-1)).abs().max()) > 1
    with pytest.raises(AttributeError):
        wrapped.sampling  # noqa: B018


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: guided(d, math.nan, y=1), "scale nan"),
        (lambda d: guided(d, 2, y=1, channels=0), "0 channels"),
        (lambda d: windowed(d, d, low=2, high=-2), "empty window"),
    ],
)
def test_wrong_arguments_are_named(denoiser: Denoiser, make: Callable[[Denoiser], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(denoiser)

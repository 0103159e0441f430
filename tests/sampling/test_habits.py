"""Habits shared by all samplers: who clips, where noise comes from, what is refused and how."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import diffrep as dr
from diffrep.denoiser import Denoise, SamplingSpec
from diffrep.errors import InputError, UsageError
from diffrep.noise import NoiseLevel, stack
from diffrep.prediction import Prediction
from diffrep.randomness import noise_for
from diffrep.sampling import SAMPLERS, Step, ddim, ddpm, heun, invert
from tests.identities.gaussian import path_of, random_gaussian, reverse

CLEAN = NoiseLevel(1.0, 0.0)
DOWN, UP = path_of(3), reverse(path_of(3))
EVERY = [*SAMPLERS.values(), invert]


class Constant(nn.Module):
    """Predicts x0 = 3 everywhere, with a habit of clipping or none."""

    def __init__(self, clip: bool) -> None:
        super().__init__()
        self.sampling = SamplingSpec(clip=clip)

    def forward(self, x: Tensor, level: NoiseLevel) -> Prediction:
        return Prediction(x, level, "x0", torch.full_like(x, 3.0))


def run(sampler: Callable[..., Tensor], denoise: Denoise, path: NoiseLevel | None = None, **options: object) -> Tensor:
    """Walk two grey images; down to the image or up to a level where no path is given."""
    if sampler is not invert:
        options.setdefault("noise", noise_for(0, range(2)))
    if path is None:
        path = reverse(path_of(4)) if sampler is invert else stack([path_of(4), CLEAN])
    return sampler(denoise, torch.zeros(2, 1, 2, 2), path, **options)


@pytest.mark.parametrize("sampler", EVERY)
def test_clipping_follows_the_model_unless_it_is_said(sampler: Callable[..., Tensor]) -> None:
    clipped, free = run(sampler, Constant(True)), run(sampler, Constant(False))
    assert not torch.allclose(clipped, free)
    assert torch.equal(run(sampler, Constant(True), clip=False), free)
    assert torch.equal(run(sampler, Constant(False), clip=True), clipped)


@pytest.mark.parametrize("sampler", EVERY)
def test_a_bare_callable_is_never_clipped(sampler: Callable[..., Tensor]) -> None:
    model = Constant(True)
    assert torch.equal(run(sampler, lambda x, level: model(x, level)), run(sampler, Constant(False)))


@pytest.mark.parametrize("sampler", list(SAMPLERS.values()))
def test_a_clipped_path_to_the_image_ends_inside_the_range(sampler: Callable[..., Tensor]) -> None:
    assert torch.equal(run(sampler, Constant(True)), torch.ones(2, 1, 2, 2))


@pytest.mark.parametrize("sampler", EVERY)
def test_results_carry_no_graph_and_may_enter_one(sampler: Callable[..., Tensor]) -> None:
    weight = torch.ones((), requires_grad=True)
    made = run(sampler, lambda x, level: Prediction(x, level, "x0", x * weight))
    assert not made.requires_grad
    (made * weight).sum().backward()  # would fail on an inference tensor


@pytest.mark.parametrize("sampler", EVERY)
def test_progress_wraps_the_steps_and_is_asked_for(sampler: Callable[..., Tensor]) -> None:
    seen: list[int] = []

    def track(steps: Sequence[Step]) -> Iterator[Step]:
        for step in steps:
            seen.append(step.number)
            yield step

    tracked = run(sampler, Constant(True), progress=track)
    assert seen == list(range(1, len(seen) + 1))
    assert torch.equal(tracked, run(sampler, Constant(True)))


def test_noise_is_asked_for_by_the_number_of_the_step() -> None:
    asked: list[int] = []

    def noise(step: int, shape: Sequence[int]) -> Tensor:
        asked.append(step)
        return torch.zeros(shape)

    run(ddpm, Constant(True), noise=noise)
    assert asked == [1, 2, 3, 4]  # none in the last step, to the image
    asked.clear()
    run(ddim, Constant(True), eta=0.5, noise=noise)
    assert asked == [1, 2, 3, 4]
    asked.clear()
    run(ddim, Constant(True), noise=noise)
    assert asked == []


def test_a_path_that_ends_at_a_level_can_be_walked_in_two_parts() -> None:
    oracle, eps = random_gaussian()
    path, noise = path_of(8), noise_for(0, range(3))
    half = ddpm(oracle, eps, path[:5], noise=noise)
    whole = ddpm(oracle, half, path[4:], noise=lambda step, shape: noise(step + 4, shape))
    torch.testing.assert_close(whole, ddpm(oracle, eps, path, noise=noise), rtol=0, atol=1e-12)


@pytest.mark.parametrize("as_sugar", [True, False])
def test_a_generator_is_a_source_of_noise(as_sugar: bool) -> None:
    oracle, eps = random_gaussian()
    argument = "generator" if as_sugar else "noise"
    first, second = (ddpm(oracle, eps, path_of(4), **{argument: torch.Generator().manual_seed(3)}) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("sampler", list(SAMPLERS.values()))
def test_samplers_refuse_a_path_that_goes_up(sampler: Callable[..., Tensor]) -> None:
    with pytest.raises(UsageError, match=r"goes up.*walk down.*direction=\"down\""):
        run(sampler, Constant(True), UP)


def test_invert_refuses_a_path_that_goes_down() -> None:
    with pytest.raises(UsageError, match=r"goes down.*walks up.*direction=\"up\""):
        run(invert, Constant(True), DOWN)


@pytest.mark.parametrize("sampler", EVERY)
@pytest.mark.parametrize(
    ("path", "message"),
    [
        (NoiseLevel(0.8, 0.6), r"shape \(\).*schedule\.path"),
        (DOWN[:1], r"shape \(1,\)"),
        (DOWN[torch.tensor([0, 2, 1, 3])], "walking order"),
        (DOWN[torch.tensor([0, 1, 1, 2])], "walking order and differ"),
    ],
)
def test_what_is_no_path_is_refused(sampler: Callable[..., Tensor], path: NoiseLevel, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(sampler, Constant(True), path)


def test_heun_has_no_slope_in_pure_noise_but_a_flow_s() -> None:
    with pytest.raises(UsageError, match="alpha = 0"):
        run(heun, Constant(True), stack([NoiseLevel(0.0, 1.0), DOWN]))


def test_networks_that_cannot_be_evaluated_in_pure_noise_or_in_an_image_say_so() -> None:
    denoiser, x = dr.load("ddpm-digits"), torch.zeros(1, 1, 8, 8)
    with pytest.raises(UsageError, match="outside the schedule's range"):
        ddim(denoiser, x, stack([NoiseLevel(0.0, 1.0), denoiser.schedule.path(3)]))
    with pytest.raises(UsageError, match="outside the schedule's range"):
        invert(denoiser, x, stack([CLEAN, denoiser.schedule.path(3, direction="up")]))
    flow = dr.Denoiser(denoiser.network, schedule=dr.FlowSchedule(), input=denoiser.input, parameterization="x0")
    with pytest.raises(UsageError, match="without image for a network that predicts"):
        flow(x, flow.schedule.at(1.0))


@pytest.mark.parametrize(
    ("sampler", "options", "message"),
    [
        (ddpm, {"noise": None}, "noise=dr.noise_for"),
        (ddim, {"noise": None, "eta": 1.0}, "noise=dr.noise_for"),
        (heun, {"noise": None, "churn": 1.0}, "noise=dr.noise_for"),
        (ddpm, {"generator": torch.Generator()}, "both noise= and generator="),
        (ddim, {"eta": 1.5}, "eta = 1.5"),
        (heun, {"churn": -1.0}, "churn = -1.0"),
        (ddpm, {"variance": "postirior"}, 'did you mean "posterior"'),
        (ddpm, {"variance": "learned"}, "not learned a variance"),
    ],
)
def test_wrong_arguments_are_named(sampler: Callable[..., Tensor], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(sampler, Constant(True), **options)


@pytest.mark.parametrize("sampler", ["ddim", "heun", "dpmpp_2m"])
def test_deterministic_samplers_need_no_noise(sampler: str) -> None:
    assert run(SAMPLERS[sampler], Constant(True), noise=None).shape == (2, 1, 2, 2)


def test_integers_are_no_images() -> None:
    with pytest.raises(InputError, match="uint8"):
        ddim(Constant(True), torch.zeros(2, 1, 2, 2, dtype=torch.uint8), DOWN)


@pytest.mark.parametrize("sampler", EVERY)
def test_a_list_is_no_path(sampler: Callable[..., Tensor]) -> None:
    with pytest.raises(UsageError, match=r"path of type list.*schedule\.path"):
        run(sampler, Constant(True), list(DOWN))

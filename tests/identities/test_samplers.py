"""Each sampler against closed forms: exact answers, orders of convergence, and equality in all conventions."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diffrep.continuous import FlowSchedule
from diffrep.denoiser import Denoise, Denoiser, InputSpec, SamplingSpec
from diffrep.errors import UsageError
from diffrep.noise import NoiseLevel, stack
from diffrep.prediction import Prediction
from diffrep.randomness import noise_for
from diffrep.sampling import SAMPLERS, ddim, ddpm, dpmpp_2m, heun, invert
from diffrep.schedules import DiscreteSchedule, Schedule
from tests.identities.gaussian import GaussianDenoiser, path_of, random_gaussian, reverse
from tests.stub import StubNetwork

CLEAN = NoiseLevel(1.0, 0.0)
CONVENTIONS = ["vp", "ve", "flow"]
ORDERS = [(ddim, 1), (heun, 2), (dpmpp_2m, 2)]


def order_of(error: Callable[[int], float], steps: tuple[int, ...] = (20, 40, 80, 160)) -> float:
    """Minus the slope of log error over log steps."""
    return float(-np.polyfit(np.log(steps), np.log([error(n) for n in steps]), 1)[0])


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(("sampler", "order"), ORDERS)
def test_error_falls_with_the_order_of_the_method(sampler: Callable[..., Tensor], order: int, convention: str) -> None:
    oracle, x = random_gaussian()

    def error(steps: int) -> float:
        path = path_of(steps, convention)
        start = path.sigma[0] * x
        return float((sampler(oracle, start, path) - oracle.transport(start, path[0], path[-1])).norm())

    assert order_of(error) == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_inversion_then_sampling_returns_the_image_with_an_error_of_first_order(convention: str) -> None:
    oracle, noise = random_gaussian()
    images = oracle.mean + oracle.var.sqrt() * noise

    def error(steps: int) -> float:
        path = path_of(steps, convention)
        x = path.alpha[-1] * images
        return float((ddim(oracle, invert(oracle, x, reverse(path)), path) - x).norm())

    assert order_of(error) == pytest.approx(1, abs=0.2)
    assert error(1000) < 0.01


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_inversion_finds_the_exact_code(convention: str) -> None:
    oracle, x = random_gaussian()

    def error(steps: int) -> float:
        path = reverse(path_of(steps, convention))
        return float((invert(oracle, x, path) - oracle.transport(x, path[0], path[-1])).norm())

    assert order_of(error) == pytest.approx(1, abs=0.2)


def run_in(convention: str, sampler: str, denoise: Denoise, eps: Tensor, path: NoiseLevel, **options: object) -> Tensor:
    """Sample along the levels of `path` seen in a convention, from the same images, and return x / alpha."""
    seen = NoiseLevel.of(path.log_snr, convention)
    start = torch.hypot(seen.alpha[0], seen.sigma[0]) * eps
    noise = noise_for(1, range(len(eps)))
    return SAMPLERS[sampler](denoise, start, seen, noise=noise, **options) / seen.alpha[-1]


@pytest.mark.parametrize("convention", ["ve", "flow"])
@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("ddim", {}),
        ("ddim", {"eta": 0.7}),
        ("ddpm", {}),
        ("ddpm", {"variance": "upper"}),
        ("heun", {}),
        ("heun", {"churn": 0.5}),
        ("dpmpp_2m", {}),
    ],
)
@pytest.mark.parametrize("end", [path_of(1)[-1], CLEAN])
def test_a_denoiser_gives_the_same_samples_in_every_convention(
    sampler: str, options: dict[str, Any], convention: str, end: NoiseLevel
) -> None:
    oracle, eps = random_gaussian()
    path = stack([path_of(12)[:-1], end])
    here = run_in("vp", sampler, oracle, eps, path, **options)
    torch.testing.assert_close(run_in(convention, sampler, oracle, eps, path, **options), here, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
@pytest.mark.parametrize("schedule", [DiscreteSchedule.linear(), FlowSchedule()])
def test_a_network_is_sampled_alike_in_every_convention(sampler: str, schedule: Schedule) -> None:
    denoiser = Denoiser(
        StubNetwork().double(),
        schedule=schedule,
        input=InputSpec(1, 8),
        parameterization="flow" if schedule.convention == "flow" else "eps",
    )
    eps = noise_for(0, ["a", "b"])(0, (2, 1, 8, 8)).double()
    vp, ve, flow = (run_in(c, sampler, denoiser, eps, path_of(6, c)) for c in CONVENTIONS)
    torch.testing.assert_close(ve, vp, rtol=0, atol=1e-5)  # the network's time is float32
    torch.testing.assert_close(flow, vp, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("sampler", "options"), [(ddpm, {}), (ddim, {"eta": 1.0}), (ddim, {"eta": 0.5}), (ddpm, {"variance": "upper"})]
)
def test_ancestral_sampling_gives_the_mean_and_variance_of_the_data(
    sampler: Callable[..., Tensor], options: dict[str, Any]
) -> None:
    oracle, _ = random_gaussian()
    eps = torch.randn(20_000, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    path = stack([path_of(600, low=-8, high=8), CLEAN])
    made = sampler(oracle, eps, path, generator=torch.Generator().manual_seed(1), **options)
    torch.testing.assert_close(made.mean(0), oracle.mean, rtol=0, atol=0.02)
    torch.testing.assert_close(made.var(0), oracle.var, rtol=0.04, atol=0)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_upper_variance_is_exact_for_standard_normal_data_in_a_single_step(convention: str) -> None:
    unit = GaussianDenoiser(torch.zeros(1, 1, 1).double(), torch.ones(1, 1, 1).double())
    path = path_of(1, convention, low=-3, high=1)
    spread = torch.hypot(path.alpha, path.sigma)
    x = spread[0] * torch.randn(200_000, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = ddpm(unit, x, path, variance="upper", generator=torch.Generator().manual_seed(1))
    assert float(made.var()) == pytest.approx(float(spread[1] ** 2), rel=0.01)


def test_ddpm_is_ddim_with_eta_one() -> None:
    oracle, eps = random_gaussian()
    noise, path = noise_for(0, range(3)), stack([path_of(8), CLEAN])
    torch.testing.assert_close(
        ddpm(oracle, eps, path, noise=noise), ddim(oracle, eps, path, eta=1.0, noise=noise), rtol=0, atol=1e-12
    )


def with_variance(oracle: GaussianDenoiser, channel: float) -> Denoise:
    def denoise(x: Tensor, level: NoiseLevel) -> Prediction:
        x0 = oracle(x, level).x0
        return Prediction(x, level, "x0", x0, log_variance=torch.full_like(x, channel))

    return denoise


@pytest.mark.parametrize(("channel", "variance"), [(-1.0, "posterior"), (1.0, "upper")])
def test_a_learned_variance_lies_between_the_two_bounds(channel: float, variance: str) -> None:
    oracle, eps = random_gaussian()
    noise, path = noise_for(0, range(3)), stack([path_of(8), CLEAN])
    fixed = ddpm(oracle, eps, path, variance=variance, noise=noise)
    learned = with_variance(oracle, channel)
    torch.testing.assert_close(ddpm(learned, eps, path, noise=noise), fixed, rtol=0, atol=1e-12)
    torch.testing.assert_close(ddpm(learned, eps, path, variance="learned", noise=noise), fixed, rtol=0, atol=1e-12)
    assert torch.equal(ddpm(learned, eps, path, variance=variance, noise=noise), fixed)


def edm_sampler(
    denoise: Denoise, x: Tensor, sigmas: list[float], churn: float, draw: Callable[[int], Tensor]
) -> Tensor:
    """Karras et al. 2022, Algorithm 2, written out in sigma."""
    for i, (sigma, after) in enumerate(pairwise(sigmas)):
        gamma = churn * (2**0.5 - 1) if 0.01 <= sigma <= 1 else 0.0
        hat = sigma * (1 + gamma)
        x_hat = x + (hat**2 - sigma**2) ** 0.5 * 1.007 * draw(i + 1)
        slope = (x_hat - denoise(x_hat, NoiseLevel(1.0, hat)).x0) / hat
        x = x_hat + (after - hat) * slope
        if after > 0:
            end = (x - denoise(x, NoiseLevel(1.0, after)).x0) / after
            x = x_hat + (after - hat) * (slope + end) / 2
    return x


@pytest.mark.parametrize("churn", [0.0, 1.0])
def test_heun_is_algorithm_2_of_edm(churn: float) -> None:
    oracle, eps = random_gaussian()
    sigmas = [80.0, 20.0, 4.0, 0.9, 0.3, 0.05, 0.002, 0.0]
    noise = noise_for(0, range(3))
    path = NoiseLevel(torch.ones(len(sigmas)).double(), torch.tensor(sigmas).double())
    wanted = edm_sampler(oracle, 80 * eps, path.sigma.tolist(), churn, lambda step: noise(step, eps.shape).double())
    made = heun(oracle, 80 * eps, path, churn=churn, noise=noise)
    torch.testing.assert_close(made, wanted, rtol=0, atol=1e-10)


def flow_of(x0: Tensor) -> Denoiser:
    """A flow whose network knows where the straight line ends."""

    class Straight(StubNetwork):
        def forward(self, x: Tensor, time: Tensor, y: Tensor | None = None) -> Tensor:
            s = time.double().reshape(-1, 1, 1, 1)
            return (x - x0.tanh() * (1 - s)).sin() + x0 * s

    habits = SamplingSpec(clip=False)
    return Denoiser(
        Straight().double(), schedule=FlowSchedule(), input=InputSpec(1, 8), parameterization="flow", sampling=habits
    )


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_heun_corrects_the_velocity_of_a_flow(convention: str) -> None:
    """From pure noise, dx = u ds in the levels' own time, as SiT and REPA write it."""
    x0, eps = (noise_for(seed, ["a", "b"])(0, (2, 1, 8, 8)).double() for seed in (0, 1))
    denoiser = flow_of(x0)
    times = torch.tensor([1.0, 0.7, 0.45, 0.2, 0.1], dtype=torch.float64)
    x = eps
    for s, after in pairwise(times):
        first = denoiser.network(x, s.repeat(2))
        ahead = x + (after - s) * first
        x = x + (after - s) * (first + denoiser.network(ahead, after.repeat(2))) / 2
    path = stack([NoiseLevel(0.0, 1.0), NoiseLevel.of(NoiseLevel(1 - times, times)[1:].log_snr, convention)])
    made = heun(denoiser, eps, path)
    torch.testing.assert_close(made * 0.9 / path.alpha[-1], x, rtol=0, atol=1e-6)  # the network's time is float32
    with pytest.raises(UsageError, match="alpha = 0"):  # of a bare callable nothing says that it is a flow
        heun(denoiser.forward, eps, path)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_dpmpp_starts_from_pure_noise_with_two_steps_of_ddim(steps: int) -> None:
    oracle, eps = random_gaussian()
    path = stack([NoiseLevel(0.0, 1.0), path_of(steps - 1)])
    torch.testing.assert_close(dpmpp_2m(oracle, eps, path[:3]), ddim(oracle, eps, path[:3]), rtol=0, atol=1e-12)
    assert bool(torch.isfinite(dpmpp_2m(oracle, eps, path)).all())


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_a_path_to_the_image_returns_the_predicted_image_and_never_evaluates_there(sampler: str) -> None:
    oracle, eps = random_gaussian()
    path = stack([path_of(4, high=2), CLEAN])
    predictions: list[Prediction] = []

    def denoise(x: Tensor, level: NoiseLevel) -> Prediction:
        predictions.append(oracle(x, level))
        return predictions[-1]

    made = SAMPLERS[sampler](denoise, eps, path, noise=noise_for(0, range(3)))
    assert torch.equal(made, predictions[-1].x0)
    assert all(float(level.sigma) > 0 for level in oracle.seen)
    assert len(oracle.seen) == (9 if sampler == "heun" else 5)


def test_inversion_to_pure_noise_returns_the_predicted_noise() -> None:
    oracle, eps = random_gaussian()
    path = stack([reverse(path_of(5)), NoiseLevel(0.0, 1.0)])
    predictions: list[Prediction] = []

    def denoise(x: Tensor, level: NoiseLevel) -> Prediction:
        predictions.append(oracle(x, level))
        return predictions[-1]

    assert torch.equal(invert(denoise, eps, path), predictions[-1].eps)
    assert all(float(level.alpha) > 0 for level in oracle.seen)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_a_sample_does_not_depend_on_its_batch(sampler: str) -> None:
    oracle, eps = random_gaussian()
    path = stack([path_of(6), CLEAN])
    together = SAMPLERS[sampler](oracle, eps, path, noise=noise_for(5, ["a", "b", "c"]))
    alone = SAMPLERS[sampler](oracle, eps[[2, 0]], path, noise=noise_for(5, ["c", "a"]))
    torch.testing.assert_close(alone, together[[2, 0]], rtol=0, atol=1e-12)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_images_keep_their_type(sampler: str, dtype: torch.dtype) -> None:
    oracle, eps = random_gaussian(dtype=dtype)
    made = SAMPLERS[sampler](oracle, eps, path_of(6), noise=noise_for(0, range(3)))
    exact, eps64 = random_gaussian(dtype=dtype)
    wanted = SAMPLERS[sampler](exact.double(), eps64.double(), path_of(6), noise=noise_for(0, range(3)))
    assert made.dtype == dtype
    torch.testing.assert_close(made.double(), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("sampler", "order"), ORDERS)
def test_the_order_holds_on_a_path_of_long_and_short_steps(sampler: Callable[..., Tensor], order: int) -> None:
    oracle, x = random_gaussian()

    def error(steps: int) -> float:
        length = torch.tensor([1.0, 3.0], dtype=torch.float64).repeat(steps // 2)
        log_snr = -6 + 12 * torch.cat([torch.zeros(1).double(), length.cumsum(0)]) / length.sum()
        path = NoiseLevel.of(log_snr, "vp")
        start = path.sigma[0] * x
        return float((sampler(oracle, start, path) - oracle.transport(start, path[0], path[-1])).norm())

    assert order_of(error) == pytest.approx(order, abs=0.25)

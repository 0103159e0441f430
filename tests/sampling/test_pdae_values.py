"""Answers of the official PDAE program for its toy decoder, through our samplers (PDAE 1.13)."""

import pytest
import torch
from torch import Tensor

from diffrep.denoiser import Denoise
from diffrep.guidance import windowed
from diffrep.noise import NoiseLevel, stack
from diffrep.prediction import Prediction
from diffrep.sampling import ddim, ddpm, invert
from diffrep.schedules import DiscreteSchedule

SCHEDULE = DiscreteSchedule.linear()
LATENT = DiscreteSchedule(0.992 ** torch.arange(1, 1001, dtype=torch.float64))
START, IMAGE = [-1.3, -0.4, 0.2, 0.9], [-0.9, -0.2, 0.1, 0.8]


def image(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(1, 1, 2, 2)


def assert_equal(made: Tensor, wanted: list[float], atol: float = 1e-5) -> None:
    torch.testing.assert_close(made, image(wanted), rtol=0, atol=atol)


def frozen(x: Tensor, level: NoiseLevel) -> Prediction:
    return Prediction(x, level, "eps", 0.9 * x + 0.05 * float(SCHEDULE.time_of(level)) / 1000)


def shifted(z: float, kappa: float = 1.0) -> Denoise:
    """eps' = eps - kappa * sigma * G: the score form for kappa = 1."""

    def denoise(x: Tensor, level: NoiseLevel) -> Prediction:
        _, sigma = level.like(x)
        shift = 0.2 * torch.tanh(x) + 0.3 * z
        return Prediction(x, level, "eps", frozen(x, level).eps - kappa * sigma * shift)

    return denoise


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [
        (10, [-0.8749276, 0.0991833, 0.5793157, 0.9463928]),
        (100, [-0.9231606, 0.0274994, 0.5413720, 0.9504216]),
        (1000, [-0.9282047, 0.0207754, 0.5376685, 0.9510700]),
    ],
)
def test_ddim_sample(steps: int, wanted: list[float]) -> None:
    assert_equal(ddim(shifted(0.7), image(START), SCHEDULE.path(steps, rule="pdae"), clip=True), wanted)


def test_stop_percent_is_a_window_of_levels() -> None:
    path = SCHEDULE.path(10, rule="pdae")
    stop_step = int(0.3 * 10)
    denoise = windowed(frozen, shifted(0.7), high=float(path[-2 - stop_step].log_snr))
    assert_equal(ddim(denoise, image(START), path, clip=True), [-0.8911662, -0.0047263, 0.4202612, 0.7656345])


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [
        (10, [-1.1890692, -0.5198562, -0.2602178, 0.6392741]),
        (100, [-1.2512778, -0.5552292, -0.3198732, 0.6242884]),
        (1000, [-1.2580667, -0.5580246, -0.3260641, 0.6225109]),
    ],
)
def test_ddim_encode(steps: int, wanted: list[float]) -> None:
    path = SCHEDULE.path(steps, rule="pdae", direction="up")
    assert_equal(invert(shifted(0.7), image(IMAGE), path, clip=True), wanted)


def test_trajectory_interpolation_mixes_the_shifts() -> None:
    def denoise(x: Tensor, level: NoiseLevel) -> Prediction:
        eps = 0.75 * shifted(0.7)(x, level).eps + 0.25 * shifted(-0.7)(x, level).eps
        return Prediction(x, level, "eps", eps)

    made = ddim(denoise, image(START), SCHEDULE.path(10, rule="pdae"), clip=True)
    assert_equal(made, [-0.9828951, -0.3616950, 0.4705543, 0.8960893])


@pytest.mark.parametrize(
    ("clip", "wanted"),
    [
        (True, [-0.9310542, -0.4253098, 0.2803867, 0.8814073]),
        (False, [-1.6743029, -0.6975260, 0.2792511, 1.1164883]),
    ],
)
def test_latent_sampling_with_and_without_the_official_clamp(clip: bool, wanted: list[float]) -> None:
    def denoise(z: Tensor, level: NoiseLevel) -> Prediction:
        return Prediction(z, level, "eps", 0.8 * z + 0.1 * float(LATENT.time_of(level)) / 1000)

    assert_equal(ddim(denoise, image([-1, -0.3, 0.4, 1]), LATENT.path(10, rule="pdae"), clip=clip), wanted)


@pytest.mark.parametrize(
    ("t", "mean", "std"),
    [
        (0, [-0.8869447, -0.2081105, 0.1015776, 0.8076657], 0.0),
        (1, [-0.8860407, -0.2132480, 0.1029600, 0.8162397], 0.0073845717),
        (500, [0.2304190, -1.0113165, 0.2691632, 1.6599938], 0.10025634),
        (999, [0.4953243, -0.9930674, 0.2527904, 1.4997807], 0.14142130),
    ],
)
def test_ddpm_step(t: int, mean: list[float], std: float) -> None:
    now = SCHEDULE.at(t)
    then = SCHEDULE.at(t - 1) if t else NoiseLevel(1.0, 0.0)
    alpha, sigma = now.like(image(IMAGE))
    x_t = alpha * image(IMAGE) + sigma * image([0.5, -1.0, 0.25, 1.5])
    kappa = float(now.alpha / then.alpha * then.sigma**2 / now.sigma**2)  # PDAE 1.4, the posterior form
    path = stack([now, then])
    assert_equal(ddpm(shifted(0.7, kappa), x_t, path, noise=lambda _, shape: torch.zeros(shape)), mean, atol=1e-6)
    noisy = ddpm(shifted(0.7, kappa), x_t, path, noise=lambda _, shape: torch.ones(shape))
    assert_equal(noisy, [m + std for m in mean], atol=1e-6)

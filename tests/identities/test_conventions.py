"""x0 -> (eps, v, score, flow) -> x0 at log-SNR from -20 to 20, and one denoiser seen in three conventions."""

import pytest
import torch

from diffrep.noise import NoiseLevel
from diffrep.prediction import Prediction

LOG_SNR = [-20, -10, -3, 0, 3, 10, 20]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("convention", ["vp", "ve", "flow"])
@pytest.mark.parametrize("log_snr", LOG_SNR)
@pytest.mark.parametrize("kind", ["x0", "eps", "v", "flow"])
def test_each_quantity_gives_back_the_image_and_the_noise(kind, log_snr, convention, dtype):
    level = NoiseLevel.of(torch.tensor(float(log_snr), dtype=torch.float64), convention)
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 4, 3, 5, 5, generator=generator, dtype=dtype)
    alpha, sigma = level.like(x0)
    x_t = alpha * x0 + sigma * eps
    truth = {"x0": x0, "eps": eps, "v": alpha * eps - sigma * x0, "flow": eps - x0}
    prediction = Prediction(x_t, level, kind, truth[kind])
    # x_t holds x0 to one rounding of its own size: a vanishing alpha or sigma magnifies that, whatever the formula
    unit = torch.finfo(dtype).eps * 8 * float(x_t.abs().max())
    assert (prediction.x0 - x0).abs().max() <= unit * max(1, 1 / float(level.alpha))
    assert (prediction.eps - eps).abs().max() <= unit * max(1, 1 / float(level.sigma))
    assert torch.equal(prediction.of(kind), truth[kind])
    again = Prediction(x_t, level, "eps", -prediction.score * sigma)
    torch.testing.assert_close(again.eps, prediction.eps)


@pytest.mark.parametrize("kind", ["v", "flow"])
@pytest.mark.parametrize("log_snr", LOG_SNR)
def test_velocities_never_divide_by_a_vanishing_number(kind, log_snr):
    level = NoiseLevel.of(torch.tensor(float(log_snr), dtype=torch.float64), "flow" if kind == "flow" else "vp")
    x_t, value = torch.randn(2, 1, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    exact = Prediction(x_t.double(), level, kind, value.double())
    quick = Prediction(x_t, level, kind, value)
    torch.testing.assert_close(quick.x0.double(), exact.x0, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(quick.eps.double(), exact.eps, atol=1e-5, rtol=1e-5)


def test_clipping_derives_the_noise_again():
    level = NoiseLevel(0.8, 0.6)
    prediction = Prediction(torch.full((1, 1, 1, 1), 2.0), level, "eps", torch.zeros(1, 1, 1, 1)).clipped()
    assert prediction.x0.item() == 1
    assert prediction.eps.item() == pytest.approx((2 - 0.8) / 0.6)


@pytest.mark.parametrize("kind", ["x0", "eps", "v", "flow"])
def test_every_kind_follows_from_every_other(kind):
    level = NoiseLevel(0.8, 0.6)
    x0, eps = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x_t = 0.8 * x0 + 0.6 * eps
    truth = {"x0": x0, "eps": eps, "v": 0.8 * eps - 0.6 * x0, "flow": eps - x0, "score": -eps / 0.6}
    prediction = Prediction(x_t, level, kind, truth[kind])
    for name, wanted in truth.items():
        torch.testing.assert_close(getattr(prediction, name), wanted)


def test_clipping_can_leave_the_noise_as_it_was():
    level, eps = NoiseLevel(0.8, 0.6), torch.full((1, 1, 1, 1), 0.5)
    kept = Prediction(torch.full((1, 1, 1, 1), 2.0), level, "eps", eps).clipped(keep_eps=True)
    assert kept.x0.item() == 1
    assert torch.equal(kept.eps, eps)

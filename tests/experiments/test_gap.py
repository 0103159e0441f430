import pytest
import torch

from diffrep.continuous import EDMSchedule
from diffrep.data import to_tensor
from diffrep.errors import UsageError
from diffrep.experiments.gap import gap_outcome, gap_times, mean_factors, posterior_gap
from diffrep.prediction import Prediction
from diffrep.schedules import DiscreteSchedule


def test_a_zero_shift_has_the_gap_of_the_frozen_model(autoencoder, digits):
    test = digits["test"].take(20)
    images, times = to_tensor(test.images).to(autoencoder.denoiser.device), gap_times(autoencoder.schedule, 5)
    told = autoencoder.at(autoencoder.encode(images), scale="posterior")
    bare = posterior_gap(autoencoder.denoiser, autoencoder.schedule, images, test.ids, times)
    assert posterior_gap(told, autoencoder.schedule, images, test.ids, times) == bare


def test_a_perfect_denoiser_has_no_gap_and_a_constant_error_follows_the_formula():
    schedule, images = DiscreteSchedule.linear(), torch.rand(4, 1, 8, 8) * 2 - 1
    times = gap_times(schedule, 4)
    for error in (0.0, 0.5):
        gaps = posterior_gap(
            lambda x, level, e=error: Prediction(x, level, "x0", images + e), schedule, images, "abcd", times
        )
        expected = [float((mean_factors(schedule)[t] * error) ** 2) for t in times]
        assert gaps == pytest.approx(expected, rel=1e-5, abs=1e-12)


def test_the_factor_is_the_posterior_means():
    schedule = DiscreteSchedule.linear()
    now, before = schedule.alphas_cumprod[500], schedule.alphas_cumprod[499]
    beta = 1 - now / before
    assert float(mean_factors(schedule)[500]) == pytest.approx(float(beta * before.sqrt() / (1 - now)))
    assert float(mean_factors(schedule)[0]) == pytest.approx(1.0)


def test_the_noise_is_normal():
    seen = []

    def denoise(x, level):
        seen.append(x)
        return Prediction(x, level, "x0", x)

    schedule = DiscreteSchedule.linear()
    posterior_gap(denoise, schedule, torch.zeros(200, 1, 8, 8), [str(i) for i in range(200)], [999])
    assert float(seen[0].mean()) == pytest.approx(0, abs=0.03)
    assert float(seen[0].std()) == pytest.approx(1, abs=0.03)


def test_a_continuous_schedule_is_refused():
    with pytest.raises(UsageError, match="discrete"):
        gap_times(EDMSchedule())


def test_the_outcome_holds_a_curve_per_model():
    outcome = gap_outcome([0, 10], {"frozen model": [1e-3, 2e-3], "with the code": [1e-3, 1e-3]})
    block = outcome.sections[0]["blocks"][0]
    assert [s["name"] for s in block["series"]] == ["frozen model", "with the code"]
    assert outcome.results["gap_with_the_code"] == [1e-3, 1e-3]

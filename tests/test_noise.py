"""Noise levels and randomness by address."""

import pytest
import torch

from diffrep.errors import UsageError
from diffrep.noise import NoiseLevel, stack
from diffrep.randomness import Draw, as_noise, generator, noise_for, normal


def test_log_snr_and_back():
    level = NoiseLevel.from_log_snr(torch.tensor([-20.0, 0.0, 6.12, 20.0], dtype=torch.float64))
    assert level.log_snr.tolist() == pytest.approx([-20, 0, 6.12, 20])
    assert (level.alpha**2 + level.sigma**2).tolist() == pytest.approx([1] * 4)


@pytest.mark.parametrize("convention", ["vp", "ve", "flow"])
def test_conventions_of_equal_log_snr(convention):
    log_snr = torch.linspace(-20, 20, 9, dtype=torch.float64)
    level = NoiseLevel.of(log_snr, convention)
    assert level.log_snr.tolist() == pytest.approx(log_snr.tolist())


def test_a_row_of_levels_is_a_sequence():
    row = stack([NoiseLevel(1.0, 2.0), NoiseLevel.from_sigma(torch.tensor([3.0, 4.0]))])
    assert len(row) == 3
    assert [float(level.sigma) for level in row] == [2, 3, 4]
    assert row[1:].shape == (2,)
    with pytest.raises(TypeError):
        len(row[0])


def test_like_broadcasts_over_images():
    x = torch.zeros(2, 3, 4, 4)
    assert NoiseLevel(0.6, 0.8).like(x)[0].shape == ()
    alpha, _ = NoiseLevel.from_sigma(torch.tensor([1.0, 2.0], dtype=torch.float64)).like(x)
    assert alpha.shape == (2, 1, 1, 1)
    assert alpha.dtype == torch.float32
    with pytest.raises(UsageError, match="3 noise levels for 2 images"):
        NoiseLevel.from_sigma(torch.ones(3)).like(x)


def test_negative_levels_are_refused():
    with pytest.raises(UsageError, match="negative"):
        NoiseLevel(-1.0, 1.0)


def test_noise_belongs_to_images():
    noise = noise_for(3, ["a", "b", "c"])(1, (3, 1, 8, 8))
    assert torch.equal(noise_for(3, ["c", "a"])(1, (2, 1, 8, 8)), noise[[2, 0]])
    assert not torch.equal(noise_for(3, ["a", "b", "c"])(2, (3, 1, 8, 8)), noise)
    assert not torch.equal(noise_for(4, ["a", "b", "c"])(1, (3, 1, 8, 8)), noise)
    with pytest.raises(UsageError, match="one id per image"):
        noise_for(0, ["a"])(0, (2, 1))


def test_draws_do_not_touch_the_global_generator_and_are_standard_normal():
    before = torch.random.get_rng_state()
    x = normal(0, "test", [str(i) for i in range(400)], (64,))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert abs(float(x.mean())) < 0.03
    assert float(x.std()) == pytest.approx(1, abs=0.03)


def test_a_draw_depends_on_seed_step_id_and_purpose_alone():
    draw = Draw(0, 5, ["a", "b"])
    assert torch.equal(draw.integers("level", 1000)[1:], Draw(0, 5, ["b"]).integers("level", 1000))
    assert not torch.equal(draw.uniform("x"), draw.uniform("y"))
    assert draw.normal("n", ()).shape == (2,)


def test_a_generator_is_accepted_and_nothing_is_not():
    expected = torch.randn(2, 3, generator=generator(1, "x"))
    assert torch.equal(as_noise(generator(1, "x"))(0, (2, 3)), expected)
    with pytest.raises(UsageError, match="generator"):
        as_noise(None)


def test_lists_and_arrays_are_levels_and_nan_is_none():
    import numpy as np

    row = NoiseLevel([0.8, 0.6], np.array([0.6, 0.8]))
    assert row.shape == (2,)
    assert row.alpha.dtype == torch.float64
    assert NoiseLevel.from_sigma([0.5, 1.0]).sigma.tolist() == [0.5, 1.0]
    with pytest.raises(UsageError, match="NaN"):
        NoiseLevel(float("nan"), 1.0)


def test_a_number_is_no_source_of_noise():
    with pytest.raises(UsageError, match=r"ids = 8.*range"):
        noise_for(0, 8)
    with pytest.raises(UsageError, match=r"type int.*noise_for"):
        as_noise(0)

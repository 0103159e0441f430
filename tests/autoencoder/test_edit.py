"""Arithmetic on codes and on x_T."""

import math

import pytest
import torch

from diffrep.autoencoder import CodeStats, direction, edit, lerp, slerp
from diffrep.errors import UsageError
from diffrep.randomness import generator


def random(*shape: int, purpose: str = "x") -> torch.Tensor:
    return torch.randn(shape, generator=generator(0, purpose))


def test_slerp_walks_the_circle_at_even_speed() -> None:
    u, v = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    third = slerp(u, v, torch.tensor(1 / 3))
    assert third.tolist()[0] == pytest.approx([2 * math.cos(math.pi / 6), 1.0])


def test_slerp_is_exact_at_its_ends_and_one_angle_per_pair() -> None:
    u, v = random(3, 1, 4, 4, purpose="u"), random(3, 1, 4, 4, purpose="v")
    assert torch.equal(slerp(u, v, torch.zeros(3)), u)
    torch.testing.assert_close(slerp(u, v, torch.ones(3)), v, rtol=1e-6, atol=1e-7)
    weights = torch.tensor([0.2, 0.5, 0.9])
    one_by_one = torch.cat([slerp(u[k : k + 1], v[k : k + 1], weights[k]) for k in range(3)])
    torch.testing.assert_close(slerp(u, v, weights), one_by_one)


@pytest.mark.parametrize("nudge", [0.0, 1e-9, 1e-6])
def test_slerp_of_equal_images_is_the_image(nudge: float) -> None:
    u = random(2, 1, 4, 4)
    torch.testing.assert_close(slerp(u, u + nudge, torch.tensor(0.3)), u, rtol=1e-5, atol=1e-5)


def test_lerp_takes_a_weight_per_sample() -> None:
    u, v = torch.zeros(2, 3), torch.ones(2, 3)
    assert torch.equal(lerp(u, v, torch.tensor([0.25, 1.0]))[:, 0], torch.tensor([0.25, 1.0]))


def test_statistics_are_unbiased_and_survive_a_constant_coordinate() -> None:
    codes = torch.cat([random(50, 3) * 4 + 2, torch.ones(50, 1)], dim=1)
    stats = CodeStats.of(codes)
    torch.testing.assert_close(stats.std[:3], codes[:, :3].std(0, correction=1))
    standardized = stats.standardize(codes)
    assert standardized.mean(0).abs().max() < 1e-6
    torch.testing.assert_close(stats.restore(standardized), codes)
    with pytest.raises(UsageError, match="N >= 2"):
        CodeStats.of(codes[:1])


def test_an_edit_moves_by_scale_standard_deviations_per_coordinate() -> None:
    stats = CodeStats(random(16, purpose="m"), random(16, purpose="s").abs() + 0.5)
    z, w = random(5, 16), random(16, purpose="w")
    moved = stats.standardize(edit(z, w, 0.3, stats)) - stats.standardize(z)
    torch.testing.assert_close(moved.square().mean(1).sqrt(), torch.full((5,), 0.3))
    torch.testing.assert_close(edit(edit(z, w, 0.3, stats), w, -0.3, stats), z, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(edit(z, 7 * w, 0.3, stats), edit(z, w, 0.3, stats))


def test_a_direction_points_from_absent_to_present() -> None:
    present = torch.arange(40) % 2 == 0
    codes = random(40, 4) + 3 * present[:, None] * torch.tensor([1.0, 0, 0, 0])
    found = direction(codes, present, CodeStats.of(codes))
    assert found[0] > 1
    assert found[1:].abs().max() < 1
    with pytest.raises(UsageError, match="40 of 40"):
        direction(codes, torch.ones(40), CodeStats.of(codes))

"""Identities of the shift: zero shift, frozen base, samples apart from batches, codes that come to matter."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from diffrep.autoencoder import ShiftAutoencoder, ShiftObjective
from diffrep.autoencoder.shifted import moved, observe
from diffrep.continuous import EDMSchedule, FlowSchedule
from diffrep.denoiser import Denoiser, InputSpec
from diffrep.networks import build
from diffrep.noise import NoiseLevel
from diffrep.prediction import Prediction
from diffrep.randomness import Draw, generator, noise_for
from diffrep.schedules import DiscreteSchedule, Schedule

LINEAR = DiscreteSchedule.linear()
MODELS: list[tuple[Schedule, str]] = [
    (LINEAR, "eps"),
    (LINEAR, "v"),
    (LINEAR, "x0"),
    (EDMSchedule(), "edm"),
    (FlowSchedule(), "flow"),
]
MakeModel = Callable[..., ShiftAutoencoder]


class Batch(NamedTuple):
    images: Tensor
    ids: list[str]


def normal(shape: tuple[int, ...], purpose: str) -> Tensor:
    return torch.randn(shape, generator=generator(0, purpose))


@pytest.fixture
def make_model(device: str) -> MakeModel:
    """A small autoencoder with random weights; `shifted` fills what starts at zero."""

    def make(schedule: Schedule = LINEAR, kind: str = "eps", shifted: bool = True) -> ShiftAutoencoder:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = build({"layout": "tiny", "channels": 16, "zero_init": False})
        base = Denoiser(network, schedule=schedule, input=InputSpec(1, 8), parameterization=kind)
        model = ShiftAutoencoder.fresh(base, 4)
        if shifted:
            with torch.no_grad():
                for k, p in enumerate(model.shift.parameters()):
                    p.add_(0.05 * normal(p.shape, f"fill-{k}"))
        return model.to(device)

    return make


def some_levels(schedule: Schedule) -> NoiseLevel:
    return schedule.sample(4, generator(0, "levels"))


@pytest.mark.parametrize("convention", ["vp", "ve", "flow"])
@pytest.mark.parametrize(("schedule", "kind"), MODELS)
@torch.no_grad()
def test_zero_shift_is_the_bare_denoiser(
    make_model: MakeModel, device: str, schedule: Schedule, kind: str, convention: str
) -> None:
    model = make_model(schedule, kind, shifted=False)
    x = normal((4, 1, 8, 8), "x").to(device)
    level = NoiseLevel.of(some_levels(schedule).log_snr, convention)
    bare, shifted = model.denoiser(x, level), model.at(normal((4, 4), "z").to(device))(x, level)
    assert shifted.kind == bare.kind
    for name in ("value", "eps", "x0", "v", "score"):
        assert torch.equal(getattr(shifted, name), getattr(bare, name)), name


@pytest.mark.parametrize(("schedule", "kind"), MODELS)
@torch.no_grad()
def test_every_quantity_is_shifted_by_the_same_g(
    make_model: MakeModel, device: str, schedule: Schedule, kind: str
) -> None:
    """PDAE 1.4: eps' = eps - s G, x0' = x0 + s^2/a G, score' = score + G, v' = v - (s/a) (a^2 + s^2) G."""
    model = make_model(schedule, kind).to(torch.float64)
    x, z = normal((4, 1, 8, 8), "x").to(device, torch.float64), normal((4, 4), "z").to(device, torch.float64)
    level = some_levels(schedule)
    a, s = level.like(x)
    bare, shifted = model.denoiser(x, level), model.at(z, scale="score")(x, level)
    g = (bare.eps - shifted.eps) / s
    assert g.abs().max() > 1e-3
    torch.testing.assert_close(shifted.x0, bare.x0 + s**2 / a * g)
    torch.testing.assert_close(shifted.v, bare.v - s / a * (a**2 + s**2) * g)
    torch.testing.assert_close(shifted.score, bare.score + g)


@pytest.mark.parametrize("convention", ["vp", "ve", "flow"])
@pytest.mark.parametrize("kind", ["eps", "x0", "v", "flow"])
def test_moving_a_prediction_adds_to_its_noise_whatever_its_kind(kind: str, convention: str) -> None:
    level = NoiseLevel.of(torch.tensor([-3.0, 0.0, 1.0, 4.0], dtype=torch.float64), convention)
    x, value, delta = (normal((4, 1, 8, 8), name).double() for name in ("x", "value", "delta"))
    prediction = Prediction(x, level, kind, value)
    torch.testing.assert_close(moved(prediction, delta).eps, prediction.eps + delta)


@torch.no_grad()
def test_the_shift_lowers_the_noise_by_sigma_times_g(make_model: MakeModel, device: str) -> None:
    model = make_model()
    x, z, level = normal((4, 1, 8, 8), "x").to(device), normal((4, 4), "z").to(device), some_levels(LINEAR)
    prediction, maps = observe(model.denoiser, model.shift, x, level)
    wanted = prediction.eps - level.like(x)[1] * model.shift(maps, z)
    torch.testing.assert_close(model.at(z, scale="score")(x, level).eps, wanted, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_levels_of_equal_log_snr_give_the_same_shift(make_model: MakeModel, device: str) -> None:
    model = make_model()
    x, z, level = normal((4, 1, 8, 8), "x").to(device), normal((4, 4), "z").to(device), some_levels(LINEAR)
    own = model.at(z)(x, level)
    for convention in ("ve", "flow"):
        other = NoiseLevel.of(level.log_snr, convention)
        factor = NoiseLevel(other.alpha / level.alpha, other.sigma).like(x)[0]
        found = model.at(z)(x * factor, other)
        torch.testing.assert_close(found.eps, own.eps, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.x0, own.x0, rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_levels_per_sample_equal_a_loop_over_samples(make_model: MakeModel, device: str) -> None:
    model = make_model()
    x, z, level = normal((4, 1, 8, 8), "x").to(device), normal((4, 4), "z").to(device), some_levels(LINEAR)
    for scale in ("score", "posterior"):
        together = model.at(z, scale=scale)(x, level).eps
        alone = [model.at(z[k : k + 1], scale=scale)(x[k : k + 1], level[k]).eps for k in range(4)]
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_one_code_serves_a_batch_and_a_blend_of_equals_is_the_code(make_model: MakeModel, device: str) -> None:
    model = make_model()
    x, z, level = normal((4, 1, 8, 8), "x").to(device), normal((1, 4), "z").to(device), some_levels(LINEAR)
    one = model.at(z)(x, level).eps
    torch.testing.assert_close(model.at(z.expand(4, 4))(x, level).eps, one, rtol=1e-5, atol=1e-5)
    weights = torch.tensor([0.1, 0.5, 0.9, 1.0])
    blended = model.blend([z, z], [weights, 1 - weights])(x, level).eps
    torch.testing.assert_close(blended, one, rtol=1e-5, atol=1e-5)


def test_samples_do_not_depend_on_their_batch(make_model: MakeModel, device: str) -> None:
    """In float64: a random network in a chain of steps amplifies what kernels differ by in float32."""
    model = make_model().to(torch.float64)
    z, ids = normal((6, 4), "z").to(device, torch.float64), list("abcdef")
    whole = model.decode(z, steps=3, noise=noise_for(1, ids))
    for k in (0, 3, 5):
        alone = model.decode(z[k : k + 1], steps=3, noise=noise_for(1, ids[k : k + 1]))
        torch.testing.assert_close(alone, whole[k : k + 1], rtol=0, atol=1e-9)
    order = [3, 0, 5, 1, 4, 2]
    mixed = model.decode(z[order], steps=3, noise=noise_for(1, [ids[k] for k in order]))
    torch.testing.assert_close(mixed, whole[order], rtol=0, atol=1e-9)


def test_frozen_bytes_stay_and_trained_ones_move(make_model: MakeModel, device: str) -> None:
    model = make_model()
    objective, images = ShiftObjective(model), normal((8, 1, 8, 8), "images").clamp(-1, 1).to(device)
    identity = model.denoiser.identity
    before = {name: t.clone() for name, t in objective.state_dict().items()}
    trained = {p.data_ptr() for p in objective.parameters()}
    assert trained.isdisjoint(t.data_ptr() for t in model.denoiser.state_dict().values())
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-3)
    ids = [str(k) for k in range(8)]
    objective.train()
    for step in range(3):
        optimizer.zero_grad()
        objective.loss(Batch(images, ids), Draw(0, step, ids)).mean().backward()
        optimizer.step()
    assert model.denoiser.identity == identity
    assert not model.denoiser.training
    assert all(not torch.equal(before[name], t) for name, t in objective.state_dict().items())


def plain(count: int, purpose: str) -> Tensor:
    """Images of one random brightness each."""
    brightness = torch.rand((count, 1, 1, 1), generator=generator(0, purpose)) * 2 - 1
    return brightness.expand(count, 1, 8, 8).contiguous()


@pytest.mark.slow
def test_training_makes_the_code_matter(device: str) -> None:
    """With a base that always predicts eps = 0, all that is known of an image is what the code says."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        base = Denoiser(build({"layout": "tiny", "channels": 16}), schedule=LINEAR, input=InputSpec(1, 8))
    model = ShiftAutoencoder.fresh(base, 2).to(device)
    objective = ShiftObjective(model)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    objective.train()
    for step in range(200):
        images = plain(32, f"train-{step}").to(device)
        ids = [str(k) for k in range(32)]
        optimizer.zero_grad()
        objective.loss(Batch(images, ids), Draw(0, step, ids)).mean().backward()
        optimizer.step()
    test = plain(32, "test").to(device)
    z, noise = model.encode(test), noise_for(0, [str(k) for k in range(32)])
    right = (model.decode(z, steps=5, noise=noise) - test).square().mean()
    wrong = (model.decode(z.roll(1, 0), steps=5, noise=noise) - test).square().mean()
    assert float(right) < 0.5 * float(wrong)

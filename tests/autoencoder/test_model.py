"""The autoencoder as a whole: what it holds, what it gives, what it refuses."""

import copy
import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffrep.autoencoder import Autoencoder, SemanticEncoder, ShiftAutoencoder, ShiftEstimator
from diffrep.continuous import EDMSchedule, FlowSchedule
from diffrep.errors import InputError, UsageError
from diffrep.randomness import noise_for
from diffrep.sampling import ddpm
from diffrep.schedules import Schedule
from diffrep.taps import read

MakeModel = Callable[..., ShiftAutoencoder]
Images = Callable[..., Tensor]


def test_it_holds_encoder_and_shift_only(make_model: MakeModel) -> None:
    model = make_model()
    assert {name.split(".")[0] for name in model.state_dict()} == {"encoder", "shift"}
    frozen = {p.data_ptr() for p in model.denoiser.parameters()}
    assert frozen
    assert frozen.isdisjoint(p.data_ptr() for p in model.parameters())
    model.prior = torch.nn.Linear(4, 4)
    assert not any(name.startswith("prior") for name in model.state_dict())


def test_the_base_keeps_its_flags_and_shares_its_memory(make_base: Callable[..., torch.nn.Module]) -> None:
    base = make_base().train()
    model = ShiftAutoencoder.fresh(base).train()
    assert base.training
    assert all(p.requires_grad for p in base.parameters())
    assert not any(m.training for m in model.denoiser.modules())
    assert not any(p.requires_grad for p in model.denoiser.parameters())
    assert [p.data_ptr() for p in base.parameters()] == [p.data_ptr() for p in model.denoiser.parameters()]
    assert model.denoiser.identity == base.identity


def test_moving_it_moves_the_frozen_part_too(make_model: MakeModel, images: Images) -> None:
    model, base = make_model(), make_model().denoiser
    model.to(torch.float64)
    assert {p.dtype for p in (*model.parameters(), *model.denoiser.parameters())} == {torch.float64}
    assert next(base.parameters()).dtype == torch.float32
    assert model.encode(images(2).double()).dtype == torch.float64


def test_initial_weights_have_an_address(make_base: Callable[..., torch.nn.Module]) -> None:
    base = make_base()
    before = torch.get_rng_state()
    one, same, other = (ShiftAutoencoder.fresh(base, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.encoder.head.weight, other.encoder.head.weight)


def test_config_makes_an_equal_autoencoder(make_model: MakeModel, images: Images) -> None:
    model, x0 = make_model(), images(2)
    again = ShiftAutoencoder.from_config(json.loads(json.dumps(model.config())), model.denoiser)
    again.load_state_dict(model.state_dict())
    z = model.encode(x0)
    assert torch.equal(again.encode(x0), z)
    level = model.schedule.at(400)
    assert torch.equal(again.at(z)(x0, level).eps, model.at(z)(x0, level).eps)


@pytest.mark.parametrize("size", [7, 8, 16, 28])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_size_goes_round(make_model: MakeModel, images: Images, size: int, channels: int) -> None:
    model, x0 = make_model(size=size, channels=channels), images(2, channels, size)
    z = model.encode(x0)
    x_T = model.invert(x0, z, steps=3)
    again = model.decode(z, x_T, steps=3)
    assert z.shape == (2, 4)
    assert x_T.shape == again.shape == x0.shape
    assert torch.isfinite(again).all()
    last = model.decode(z, x_T.contiguous(memory_format=torch.channels_last), steps=3)
    torch.testing.assert_close(last, again, rtol=1e-3, atol=1e-3)


def test_decoding_ends_at_the_first_level_and_needs_noise_or_x_t(make_model: MakeModel, images: Images) -> None:
    model = make_model()
    z = model.encode(images(2))
    noise = noise_for(0, ["a", "b"])
    drawn = model.decode(z, steps=4, noise=noise)
    assert torch.equal(drawn, model.decode(z, noise(0, (2, 1, 8, 8)).to(z), steps=4))
    first, second = (model.decode(z, steps=4, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert model.decode(z, steps=4, noise=noise, sampler=ddpm).shape == drawn.shape
    with pytest.raises(UsageError, match="noise_for"):
        model.decode(z)


@pytest.mark.parametrize("schedule", [EDMSchedule(), FlowSchedule()])
def test_continuous_schedules_decode_too(
    make_model: MakeModel, images: Images, schedule: EDMSchedule | FlowSchedule
) -> None:
    kind = "edm" if isinstance(schedule, EDMSchedule) else "flow"
    model = make_model(schedule=schedule, parameterization=kind)
    out = model.decode(model.encode(images(2)), steps=4, noise=noise_for(0, ["a", "b"]))
    assert torch.isfinite(out).all()


def test_more_inversion_steps_bring_the_image_back_nearer(make_model: MakeModel, images: Images) -> None:
    model, x0 = make_model(), 0.5 * images(2)
    z = model.encode(x0)
    errors = []
    for steps in (5, 15, 45):
        x_T = model.invert(x0, z, steps=steps, clip=False)
        errors.append(float((model.decode(z, x_T, steps=steps, clip=False) - x0).square().mean()))
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("mix", ["code", "shift"])
def test_interpolation_begins_at_a_and_ends_at_b(make_model: MakeModel, images: Images, mix: str) -> None:
    model, x0 = make_model(), images(4)
    frames = model.interpolate(x0[:1], x0[1:2], num_frames=5, steps=4, mix=mix)
    assert frames.shape == (5, 1, 8, 8)
    z = model.encode(x0)
    ends = model.decode(z, model.invert(x0, z, steps=4), steps=4)
    torch.testing.assert_close(frames[[0, -1]], ends[:2], rtol=1e-3, atol=1e-3)  # inversion amplifies rounding
    several = model.interpolate(x0[:2], x0[2:], num_frames=3, steps=4, mix=mix)
    assert several.shape == (3, 2, 1, 8, 8)
    torch.testing.assert_close(several[-1], ends[2:], rtol=1e-3, atol=1e-3)


def test_interpolating_an_image_with_itself_stays_there(make_model: MakeModel, images: Images) -> None:
    model, x0 = make_model(), images(1)
    frames = model.interpolate(x0, x0, num_frames=3, steps=3)
    torch.testing.assert_close(frames[1], frames[0], rtol=1e-3, atol=1e-3)


def test_dropout_sleeps_while_it_encodes_and_decodes(make_model: MakeModel, images: Images) -> None:
    model, x0 = make_model(), images(2)
    config = {**model.shift.config(), "dropout": 0.9}
    shift = ShiftEstimator.from_config(config)
    shift.load_state_dict(model.shift.state_dict())
    dropping = ShiftAutoencoder(model.denoiser, model.encoder, shift).to(x0.device).train()
    z = dropping.encode(x0)
    noise = noise_for(0, ["a", "b"])
    assert torch.equal(dropping.decode(z, steps=3, noise=noise), model.decode(z, steps=3, noise=noise))
    assert shift.training


def test_taps_are_read_through_it(make_model: MakeModel, images: Images) -> None:
    model, x0 = make_model(), images(2)
    level = model.schedule.at(100)
    through = read(model.at(model.encode(x0)), x0, level, ["mid", "dec.1"])
    direct = read(model.denoiser, x0, level, ["mid", "dec.1"])
    assert all(torch.equal(through[name], direct[name]) for name in direct)


def test_copies_are_independent(make_model: MakeModel, images: Images) -> None:
    model, x0 = make_model(), images(2)
    z = model.encode(x0)
    twin = copy.deepcopy(model)
    torch.nn.init.zeros_(twin.encoder.head.weight)
    assert torch.equal(model.encode(x0), z)


def test_what_does_not_fit_is_refused(make_base: Callable[..., torch.nn.Module], images: Images) -> None:
    base = make_base()
    model = ShiftAutoencoder.fresh(base, 4)
    parts = {"encoder": model.encoder, "shift": model.shift}
    with pytest.raises(UsageError, match='training_scale="score"'):
        ShiftAutoencoder(make_base(schedule=EDMSchedule(), parameterization="edm"), **parts)
    with pytest.raises(UsageError, match='did you mean "exact"'):
        ShiftAutoencoder(base, **parts, sampling_scale="exakt")
    with pytest.raises(UsageError, match="gives 5 numbers, the shift takes 4"):
        ShiftAutoencoder(base, SemanticEncoder(1, 5, (8,)), model.shift)
    with pytest.raises(UsageError, match="no such taps"):
        ShiftAutoencoder(base, model.encoder, ShiftAutoencoder.fresh(make_base(size=28), 4).shift)
    with pytest.raises(InputError, match="expected"):
        model.encode(images(2, 3))
    with pytest.raises(UsageError, match="3 codes for 2 images"):
        model.at(torch.zeros(3, 4))(images(2), base.schedule.at(5))
    with pytest.raises(UsageError, match="a code of shape"):
        model.at(torch.zeros(4))
    with pytest.raises(UsageError, match="at least 2 frames"):
        model.interpolate(images(1), images(1), num_frames=1)
    with pytest.raises(InputError, match="equal shapes"):
        model.interpolate(images(1), images(2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_codes_have_the_images_type_whatever_the_weights(
    make_model: MakeModel, images: Images, dtype: torch.dtype
) -> None:
    model, x0 = make_model(), images(2)
    exact = model.encode(x0)
    assert model.encode(x0.double()).dtype == torch.float64
    assert model.decode(exact.double(), x0.double(), steps=2).dtype == torch.float64
    model.to(dtype)
    z = model.encode(x0)
    assert z.dtype == torch.float32
    torch.testing.assert_close(z, exact, rtol=0.1, atol=0.05)
    assert model.decode(z, model.invert(x0, z, steps=2), steps=2).dtype == torch.float32


def test_what_is_no_image_no_denoiser_or_said_twice_is_named(make_model: MakeModel, images: Images) -> None:
    model, x0 = make_model(), images(2)
    with pytest.raises(InputError, match=r"uint8.*to_tensor"):
        model.encode(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(UsageError, match=r"autoencoder\.at\(z\)"):
        read(model, x0, model.schedule.at(3), "mid")
    with pytest.raises(UsageError, match="both noise= and generator="):
        model.decode(model.encode(x0), noise=noise_for(0, "ab"), generator=torch.Generator())


def test_it_is_an_autoencoder_by_the_protocol(make_model: MakeModel) -> None:
    assert isinstance(make_model(), Autoencoder)
    assert not isinstance(make_model().denoiser, Autoencoder)


@pytest.mark.parametrize(("schedule", "kind", "sigma"), [(EDMSchedule(), "edm", 80.0), (FlowSchedule(), "flow", 0.999)])
def test_drawn_noise_starts_at_the_first_levels_sigma(
    make_model: MakeModel, schedule: Schedule, kind: str, sigma: float
) -> None:
    model = make_model(schedule=schedule, parameterization=kind)
    z, noise = torch.zeros(2, 4), noise_for(0, "ab")
    drawn, given = (model.decode(z, x_T, steps=2, noise=noise) for x_T in (None, sigma * noise(0, (2, 1, 8, 8))))
    torch.testing.assert_close(drawn, given, rtol=1e-4, atol=1e-4)

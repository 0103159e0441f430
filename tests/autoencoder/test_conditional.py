"""Conditional autoencoders: codes that matter, denoisers with taps, samples apart from their batch."""

import pytest
import torch

from diffrep.autoencoder import ConditionalAutoencoder
from diffrep.denoiser import InputSpec, SamplingSpec
from diffrep.errors import InputError, UsageError
from diffrep.networks import adm, beatgans_encoder
from diffrep.randomness import generator, noise_for
from diffrep.sampling import ddim, invert
from diffrep.schedules import DiscreteSchedule
from diffrep.tap_features import TapFeatures
from diffrep.taps import read


@pytest.fixture
def model(device) -> ConditionalAutoencoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = {"image_channels": 1, "channels": 8, "multipliers": (1, 1), "attention": (False, True), "blocks": 1}
        network, encoder = adm(**shape, code_width=4), beatgans_encoder(**shape, code_dim=4)
        for parameter in (*network.parameters(), *encoder.parameters()):
            torch.nn.init.normal_(parameter, std=0.2)
    made = ConditionalAutoencoder(
        network,
        encoder,
        schedule=DiscreteSchedule.linear(),
        input=InputSpec(1, 8),
        sampling=SamplingSpec(clip=True, rule="guided-diffusion"),
    )
    return made.to(device)


def normal(*shape: int, purpose: str = "x"):
    return torch.randn(shape, generator=generator(0, purpose))


@torch.no_grad()
def test_the_code_is_what_the_network_sees(model):
    x, z, level = normal(3, 1, 8, 8), normal(3, 4, purpose="z"), model.schedule.at([3, 200, 900])
    found = model.at(z)(x, level)
    assert torch.equal(found.eps, model.network(x, torch.tensor([3.0, 200.0, 900.0]), z))
    assert not torch.allclose(found.eps, model.at(z.flip(0))(x, level).eps, atol=1e-3)
    one = model.at(z[:1])(x, level).eps
    torch.testing.assert_close(one, model.at(z[:1].expand(3, 4))(x, level).eps)


def test_a_denoiser_of_a_code_is_a_whole_denoiser(model):
    z = normal(2, 4, purpose="z")
    denoiser = model.at(z)
    maps = read(denoiser, normal(2, 1, 8, 8), denoiser.schedule.at(10), ["time", "enc.1", "dec.2"])
    assert [tuple(m.shape) for m in maps.values()] == [(2, 32), (2, 8, 8, 8), (2, 8, 4, 4)]
    features = TapFeatures(denoiser, "dec.*", denoiser.schedule.at(10))(normal(2, 1, 8, 8), ids=["a", "b"])
    assert len(features) == 4
    assert denoiser.identity != model.at(z + 1).identity
    assert denoiser.identity == model.at(z.clone()).identity


def test_wrong_codes_are_refused(model):
    x, level = normal(2, 1, 8, 8), model.schedule.at(10)
    with pytest.raises(UsageError, match=r"expected \(B, 4\)"):
        model.at(torch.zeros(2, 5))
    with pytest.raises(UsageError, match="3 codes for 2 images"):
        model.at(torch.zeros(3, 4))(x, level)
    with pytest.raises(ValueError, match="predicts from a code"):
        model.network(x, torch.tensor([1.0, 1.0]))
    with pytest.raises(InputError, match="expected"):
        model.encode(torch.zeros(2, 3, 8, 8))


def test_inversion_and_decoding_walk_the_model_s_own_paths(model):
    x0 = normal(2, 1, 8, 8).clamp(-1, 1)
    z = model.encode(x0)
    up = model.schedule.path(7, rule="guided-diffusion", direction="up")
    down = model.schedule.path(7, rule="guided-diffusion")
    assert float(up.alpha[-1]) == 0
    assert float(down.sigma[-1]) == 0
    x_T = model.invert(x0, z, steps=7)
    assert torch.equal(x_T, invert(model.at(z), x0, up, clip=True))
    assert torch.equal(model.decode(z, x_T, steps=7), ddim(model.at(z), x_T, down, clip=True))
    assert not torch.allclose(model.decode(z + 1, x_T, steps=7), model.decode(z, x_T, steps=7), atol=1e-2)


def test_samples_do_not_depend_on_their_batch(model):
    z, ids = normal(3, 4, purpose="z").double(), list("abc")
    model.to(torch.float64)
    whole = model.decode(z, steps=3, noise=noise_for(1, ids))
    alone = model.decode(z[1:2], steps=3, noise=noise_for(1, ids[1:2]))
    torch.testing.assert_close(alone, whole[1:2], rtol=0, atol=1e-9)


def test_interpolation_has_codes_only(model):
    a, b = normal(1, 1, 8, 8).clamp(-1, 1), normal(1, 1, 8, 8, purpose="b").clamp(-1, 1)
    assert model.interpolate(a, b, num_frames=3, steps=2).shape == (3, 1, 8, 8)
    with pytest.raises(UsageError, match='mix="code"'):
        model.interpolate(a, b, num_frames=3, steps=2, mix="shift")


def test_everything_but_the_weights_is_in_the_config(model):
    again = ConditionalAutoencoder.from_config(model.config())
    again.load_state_dict(model.state_dict())
    assert again.config() == model.config()
    assert again.identity == model.identity


def test_training_mode_comes_back(model):
    model.train()
    model.encode(normal(1, 1, 8, 8))
    assert model.training
    assert model.network.training

"""Priors of codes: what they predict, what they draw, and the official check value of their network."""

import pytest
import torch

from diffrep.autoencoder import CodeStats, LatentPrior
from diffrep.denoiser import SamplingSpec
from diffrep.errors import UsageError
from diffrep.networks import latent_mlp
from diffrep.noise import NoiseLevel
from diffrep.prediction import Prediction
from diffrep.randomness import generator, noise_for
from diffrep.schedules import DiscreteSchedule

LATENT = DiscreteSchedule(0.992 ** torch.arange(1, 1001, dtype=torch.float64))
STATS = CodeStats(torch.tensor([1.0, -2.0, 0.0]), torch.tensor([0.5, 2.0, 1.0]))


def prior(clip: bool = True) -> LatentPrior:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = latent_mlp(code_dim=3, hidden=8, layers=3, wave_width=8)
    return LatentPrior(network, LATENT, STATS, SamplingSpec(clip=clip, rule="pdae"))


class GaussianPrior(LatentPrior):
    """Knows that standardized codes are N(m, v): the exact denoiser, in closed form."""

    mean, variance = torch.tensor([0.5, -1.0, 0.0]), torch.tensor([0.2, 0.05, 0.4])

    def forward(self, z_t: torch.Tensor, level: NoiseLevel) -> Prediction:
        alpha, sigma = level.like(z_t)
        gain = alpha * self.variance / (alpha**2 * self.variance + sigma**2)
        return Prediction(z_t, level, "x0", self.mean + gain * (z_t - alpha * self.mean))


def test_official_check_value_of_the_network():
    """spec/pdae.md 2.7: tensors filled by position, second row of the output."""
    network = latent_mlp(code_dim=8, hidden=32, layers=4, wave_width=16)
    order = [network.time.linear1, network.time.linear2]
    for layer in network.layers:
        order += [layer.linear, *([] if layer.scale is None else [layer.scale, layer.norm])]
    tensors = [(name, p) for module in order for name, p in module.named_parameters()]
    assert len(tensors) == 24
    with torch.no_grad():
        for j, (name, p) in enumerate(tensors, start=1):
            size = 0.05 if p.ndim > 1 else 0.02
            values = size * torch.sin(0.7 * torch.arange(p.numel(), dtype=torch.float64) + j)
            p.copy_((values + (1 if p.ndim == 1 and name == "weight" else 0)).reshape(p.shape))
        z = torch.cos(0.3 * torch.arange(16.0)).reshape(2, 8)
        out = network(z, torch.tensor([0.0, 637.0]))
    wanted = [0.0107748, 0.0007553, -0.0412060, 0.0968229, -0.0883080, 0.1419653, -0.1366893, 0.1263222]
    assert out[1].tolist() == pytest.approx(wanted, abs=2e-6)


def test_drawn_codes_have_the_right_spread():
    made = GaussianPrior(latent_mlp(code_dim=3, hidden=8, layers=3), LATENT, STATS, SamplingSpec(clip=False))
    z = made.sample(4000, steps=999, generator=generator(0, "start"))
    standardized = STATS.standardize(z)
    torch.testing.assert_close(standardized.mean(0), GaussianPrior.mean * 0.992**0.5, rtol=0, atol=0.03)
    wanted = 0.992 * GaussianPrior.variance + 0.008  # a path of this rule ends at t = 0, which is noisy
    torch.testing.assert_close(standardized.var(0), wanted, rtol=0.1, atol=0)


def test_clamping_draws_codes_near_the_mean():
    z_T = 5 * torch.randn(64, 3, generator=generator(0, "far"))
    near, far = (STATS.standardize(prior().sample(z_T=z_T, steps=5, clip=clip)) for clip in (True, False))
    assert float(near.abs().max()) < 1.5
    assert float(far.abs().max()) > 3
    assert torch.equal(near, STATS.standardize(prior(clip=True).sample(z_T=z_T, steps=5)))


def test_draws_belong_to_ids():
    whole = prior().sample(3, steps=4, noise=noise_for(0, list("abc")))
    alone = prior().sample(1, steps=4, noise=noise_for(0, ["b"]))
    torch.testing.assert_close(alone, whole[1:2], rtol=0, atol=1e-6)


def test_wrong_calls_are_refused():
    with pytest.raises(UsageError, match="give num= or z_T="):
        prior().sample()
    with pytest.raises(UsageError, match="noise="):
        prior().sample(2)
    with pytest.raises(UsageError, match=r"expected \(B, 3\)"):
        prior()(torch.zeros(2, 4), LATENT.at(0))
    with pytest.raises(ValueError, match="layers is 1"):
        latent_mlp(layers=1)


def test_the_config_makes_an_equal_prior():
    made = prior()
    again = LatentPrior.from_config(made.config(), STATS)
    again.load_state_dict(made.state_dict())
    z_T = torch.randn(2, 3, generator=generator(0, "z"))
    assert torch.equal(made.sample(z_T=z_T, steps=3), again.sample(z_T=z_T, steps=3))
    assert made.config() == again.config()

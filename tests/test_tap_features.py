"""Features: names, pooling, noise that belongs to images."""

import json

import pytest
import torch

from diffrep.denoiser import Denoiser, InputSpec
from diffrep.errors import InputError, UsageError
from diffrep.guidance import conditioned, guided, windowed
from diffrep.networks import build
from diffrep.noise import NoiseLevel
from diffrep.schedules import DiscreteSchedule
from diffrep.tap_features import TapFeatures
from diffrep.taps import read
from tests.stub import StubNetwork


@pytest.fixture
def denoiser():
    return Denoiser(StubNetwork(), schedule=DiscreteSchedule.linear(), input=InputSpec(1, 8)).eval()


@pytest.fixture
def x0():
    return torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_names_are_by_log_snr_with_the_shortest_decimals_that_differ(denoiser):
    features = TapFeatures(denoiser, ["mid", "enc.*"], denoiser.schedule.at([10, 30]))
    assert features.names == ["enc.1@log_snr=6.12", "mid@log_snr=6.12", "enc.1@log_snr=4.39", "mid@log_snr=4.39"]
    close = [NoiseLevel.from_log_snr(6.1201), NoiseLevel.from_log_snr(6.1202)]
    assert TapFeatures(denoiser, "mid", close).names == ["mid@log_snr=6.1201", "mid@log_snr=6.1202"]


def test_a_feature_is_the_mean_of_the_tap_of_the_noised_image(denoiser, x0):
    level = denoiser.schedule.at(10)
    eps = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    batch = TapFeatures(denoiser, "mid", level)(x0, noise=eps)
    alpha, sigma = level.like(x0)
    expected = read(denoiser, alpha * x0 + sigma * eps, level, "mid")["mid"].mean(dim=(2, 3))
    torch.testing.assert_close(batch["mid@log_snr=6.12"], expected)


def test_one_pass_per_level_serves_all_taps_with_the_same_bits(denoiser, x0):
    ids = list("abcde")
    together = TapFeatures(denoiser, ["enc.1", "dec.1"], denoiser.schedule.at([5, 50]))
    alone = [TapFeatures(denoiser, tap, denoiser.schedule.at([5, 50])) for tap in ("enc.1", "dec.1")]
    batch = together(x0, ids=ids)
    assert len(denoiser.network.seen) == 2  # one pass per level
    for features in alone:
        for name, value in features(x0, ids=ids).items():
            assert torch.equal(batch[name], value)


@pytest.mark.parametrize("ids", [list("abcde"), None])
def test_an_images_features_do_not_depend_on_its_batch(denoiser, x0, ids):
    features = TapFeatures(denoiser, "mid", denoiser.schedule.at(10), pool="2x2")
    whole = features(x0, ids=ids)["mid@log_snr=6.12"]
    assert whole.shape == (5, 64)
    order = torch.tensor([3, 0, 4])
    part = features(x0[order], ids=None if ids is None else [ids[i] for i in order])["mid@log_snr=6.12"]
    torch.testing.assert_close(part, whole[order], atol=1e-5, rtol=1e-5)


def test_noise_seed_and_ids_matter(denoiser, x0):
    a = TapFeatures(denoiser, "mid", denoiser.schedule.at(300))
    b = TapFeatures(denoiser, "mid", denoiser.schedule.at(300), noise_seed=1)
    name = a.names[0]
    assert not torch.equal(a(x0, ids=list("abcde"))[name], b(x0, ids=list("abcde"))[name])


def test_pooling(denoiser, x0):
    shapes = {pool: TapFeatures(denoiser, "mid", denoiser.schedule.at(1), pool)(x0) for pool in ("mean", "2x2", "none")}
    assert [next(iter(v.values())).shape[1] for v in shapes.values()] == [16, 64, 1024]
    with pytest.raises(UsageError, match='"2x3"'):
        TapFeatures(denoiser, "mid", denoiser.schedule.at(1), "2x3")


def test_bf16_stays_near(denoiser, x0):
    exact = TapFeatures(denoiser, "mid", denoiser.schedule.at(10))(x0)
    quick = TapFeatures(denoiser, "mid", denoiser.schedule.at(10), precision="bf16")(x0)
    for name in exact:
        assert quick[name].dtype == torch.float32
        torch.testing.assert_close(quick[name], exact[name], atol=0.02, rtol=0.05)


def test_what_is_wrong_is_named(denoiser, x0):
    with pytest.raises(UsageError, match="range"):
        TapFeatures(denoiser, "mid", NoiseLevel.from_sigma(1e-4))
    with pytest.raises(UsageError, match="twice"):
        TapFeatures(denoiser, "mid", denoiser.schedule.at([1, 1]))
    with pytest.raises(InputError, match="noise of shape"):
        TapFeatures(denoiser, "mid", denoiser.schedule.at(1))(x0, noise=torch.zeros(1))
    with pytest.raises(InputError, match=r"takes \(B, 1, 8, 8\)"):
        TapFeatures(denoiser, "mid", denoiser.schedule.at(1))(torch.zeros(2, 3, 8, 8))


def test_bytes_and_ids_that_do_not_fit_are_refused(denoiser, x0):
    features = TapFeatures(denoiser, "mid", denoiser.schedule.at(1))
    with pytest.raises(InputError, match=r"uint8.*to_tensor"):
        features(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(InputError, match=r"ndarray.*to_tensor"):
        features(x0.numpy())
    with pytest.raises(InputError, match=r"noise of type Generator.*ids="):
        features(x0, noise=torch.Generator())
    for ids in (["a"], list("abcdef")):
        with pytest.raises(InputError, match=f"{len(ids)} ids for 5 images"):
            features(x0, ids=ids)


def test_a_bare_t_is_no_level(denoiser):
    with pytest.raises(UsageError, match=r"type int.*schedule\.at"):
        TapFeatures(denoiser, "mid", [1, 10])


def test_dropout_is_off_and_the_mode_comes_back(x0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build({"layout": "tiny", "channels": 16, "dropout": 0.5, "zero_init": False})
    model = Denoiser(network, schedule=DiscreteSchedule.linear(), input=InputSpec(1, 8)).train()
    model.network.mid.eval()
    before = [module.training for module in model.modules()]
    features = TapFeatures(model, "dec.*", model.schedule.at(10))
    first, again = features(x0), features(x0)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert [module.training for module in model.modules()] == before


def test_the_protocol_tells_wrappers_apart(denoiser):
    def record(model):
        return TapFeatures(model, "mid", denoiser.schedule.at(10)).protocol()

    assert "wrappers" not in record(denoiser)
    wrapped = [
        *(conditioned(denoiser, y) for y in (1, 5, torch.tensor([1, 5]), "none")),
        *(guided(denoiser, scale, y=1) for scale in (1.5, 3)),
        *(windowed(denoiser, conditioned(denoiser, y), low=low) for y, low in ((1, 0), (1, 2), (5, 0))),
        conditioned(guided(denoiser, 3, y=1), 5),
    ]
    found = [json.dumps(record(model)) for model in wrapped]
    assert len(set(found)) == len(found)

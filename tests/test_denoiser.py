"""Denoisers: one currency of noise, what the network sees as time, labels, refusals."""

import pytest
import torch

from diffrep.continuous import EDMSchedule, FlowSchedule
from diffrep.denoiser import Conditioning, Denoiser, InputSpec, LabelSpec
from diffrep.errors import InputError, UsageError
from diffrep.noise import NoiseLevel
from diffrep.schedules import DiscreteSchedule
from tests.stub import StubNetwork


def make(**settings):
    settings = {"schedule": DiscreteSchedule.linear(), "input": InputSpec(1, 8), **settings}
    return Denoiser(settings.pop("network", None) or StubNetwork(), **settings).eval()


def images(n=3, channels=1):
    return torch.randn(n, channels, 8, 8, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("parameterization", ["eps", "x0", "v", "flow", "edm"])
@pytest.mark.parametrize(
    "schedule", [DiscreteSchedule.linear(), EDMSchedule(), FlowSchedule()], ids=["vp", "ve", "flow"]
)
def test_the_same_images_in_three_conventions_get_the_same_answer(parameterization, schedule):
    denoiser = make(parameterization=parameterization, schedule=schedule)
    x0, eps = images(), images().flip(0)
    answers = []
    for convention in ("vp", "ve", "flow"):
        level = NoiseLevel.of(torch.tensor(1.5, dtype=torch.float64), convention)
        alpha, sigma = level.like(x0)
        answers.append(denoiser(alpha * x0 + sigma * eps, level))
    for other in answers[1:]:
        torch.testing.assert_close(other.x0, answers[0].x0, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(other.eps, answers[0].eps, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("conditioning", "seen"),
    [
        (Conditioning(), 10.0),
        (Conditioning(offset=1, scale=1 / 1000), 0.011),
        (Conditioning("log-sigma", scale=0.25), 0.25 * -0.5 * 6.1201),
    ],
)
def test_the_network_sees_the_time_of_its_family(conditioning, seen):
    denoiser = make(conditioning=conditioning)
    denoiser(images(), denoiser.schedule.at(10))
    assert denoiser.network.seen[-1].tolist() == pytest.approx([seen] * 3, rel=1e-4)
    assert denoiser.network.seen[-1].dtype == torch.float32


def test_integer_families_round_a_level_between_two_steps():
    denoiser = make(conditioning=Conditioning(rounded=True))
    denoiser(images(1), denoiser.schedule.at(10.4))
    assert denoiser.network.seen[-1].tolist() == [10]


def test_a_level_per_sample_equals_a_loop_over_samples():
    denoiser = make()
    x, level = images(), denoiser.schedule.at([3, 500, 999])
    together = denoiser(x, level).eps
    alone = torch.cat([denoiser(x[i : i + 1], level[i]).eps for i in range(3)])
    torch.testing.assert_close(together, alone)


def test_learned_variance_is_split_off():
    network = StubNetwork(out=2)
    prediction = make(network=network)(images(), DiscreteSchedule.linear().at(5))
    raw = network(images(), network.seen[-1])
    torch.testing.assert_close(prediction.eps, raw[:, :1])
    torch.testing.assert_close(prediction.log_variance, raw[:, 1:])


def test_a_perfectly_clean_edm_input_is_passed_through():
    denoiser = make(parameterization="edm", schedule=EDMSchedule())
    x = images()
    assert (denoiser(x, denoiser.schedule.at(0)).x0 - x).abs().max() < 0.01


def test_labels():
    plain = make()
    with pytest.raises(UsageError, match="without classes"):
        plain(images(), plain.schedule.at(1), y=torch.zeros(3))
    dit = make(labels=LabelSpec(10, null=10))
    level = dit.schedule.at(1)
    assert torch.equal(dit(images(), level).eps, dit(images(), level, y=10).eps)
    adm = make(labels=LabelSpec(10))
    with pytest.raises(UsageError, match='y="none"'):
        adm(images(), level)
    assert torch.equal(adm(images(), level, y="none").eps, plain(images(), level).eps)
    with pytest.raises(UsageError, match=r"expected 0\.\.9"):
        adm(images(), level, y=10)


def test_another_sampling_table_keeps_the_time_index():
    denoiser = make()
    shifted = denoiser.with_schedule(DiscreteSchedule.linear(1001).alphas_cumprod[1:])
    shifted(images(), shifted.schedule.at(10))
    assert denoiser.network.seen[-1].tolist() == [10, 10, 10]
    assert shifted.schedule.at(10).alpha != denoiser.schedule.at(10).alpha


@pytest.mark.parametrize(
    ("wrong", "error", "named"),
    [
        (lambda d: d(images(channels=3), d.schedule.at(1)), InputError, r"\(B, 1, 8, 8\)"),
        (lambda d: d(images(), d.schedule.at([1, 2])), UsageError, "iterate"),
        (lambda d: d(images(), NoiseLevel(1.0, 0.0)), UsageError, "range"),
        (lambda d: d(images(), NoiseLevel.from_sigma(1e4)), UsageError, "range"),
        (lambda d: make(parameterization="epsilon"), UsageError, "did you mean"),
    ],
)
def test_what_is_wrong_is_named(wrong, error, named):
    with pytest.raises(error, match=named):
        wrong(make())


def test_identity_tells_networks_apart_and_ignores_precision():
    denoiser = make()
    half = make().bfloat16()
    exact = make(network=StubNetwork().bfloat16())
    assert denoiser.identity == make().identity
    assert half.identity == exact.identity != denoiser.identity
    assert make(network=StubNetwork(seed=1)).identity != denoiser.identity
    assert make(schedule=DiscreteSchedule.cosine()).identity != denoiser.identity


def test_a_denoiser_never_clips():
    denoiser = make()
    assert denoiser(images() * 50, denoiser.schedule.at(900)).x0.abs().max() > 1


def test_what_is_no_image_or_no_level_is_named():
    denoiser = make()
    with pytest.raises(InputError, match=r"uint8.*to_tensor"):
        denoiser(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), denoiser.schedule.at(10))
    with pytest.raises(UsageError, match=r"type int.*schedule\.at"):
        denoiser(images(), 10)


def test_edm_preconditioning_is_karras_table_1():
    """D = c_skip x + c_out F(c_in x): c_skip = d^2 / (s^2 + d^2), c_out = s d / sqrt(s^2 + d^2), c_in = 1 / sqrt."""
    network = StubNetwork()
    denoiser = make(network=network, parameterization="edm", schedule=EDMSchedule(), sigma_data=0.3)
    x, s, d = images().double(), 0.7, 0.3
    with torch.no_grad():
        found = denoiser.double()(x, NoiseLevel.from_sigma(s))
        raw = network(x / (s**2 + d**2) ** 0.5, network.seen[-1])
    torch.testing.assert_close(found.x0, d**2 / (s**2 + d**2) * x + s * d / (s**2 + d**2) ** 0.5 * raw)

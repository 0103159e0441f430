"""The denoising objective: zero for a perfect denoiser, and one error seen in five parameterizations."""

import pytest
import torch
from torch import nn
from training_toy import ToyBatch, ToyNetwork

from diffrep.continuous import EDMSchedule, FlowSchedule
from diffrep.denoiser import Conditioning, Denoiser, InputSpec, LabelSpec
from diffrep.errors import FormatError, InputError, UsageError
from diffrep.noise import NoiseLevel
from diffrep.randomness import Draw
from diffrep.schedules import DiscreteSchedule
from diffrep.training import DenoisingObjective
from diffrep.training.denoising import x0_factor

KINDS = ("eps", "x0", "v", "flow", "edm")
SCHEDULES = {"vp": DiscreteSchedule.linear(), "ve": EDMSchedule(), "flow": FlowSchedule()}
DATA = 0.5


class KnowsTheImage(nn.Module):
    """Answers as if the clean image were `image`, in closed form; time is ln(sigma / alpha)."""

    def __init__(self, image, kind, convention):
        super().__init__()
        self.image, self.kind, self.convention = image, kind, convention

    def forward(self, x, time, y=None):
        level = NoiseLevel.of(-2 * time.double(), self.convention)
        a, s = (part.reshape(-1, 1, 1, 1) for part in (level.alpha, level.sigma))
        if self.kind == "edm":
            spread = (s**2 + DATA**2).sqrt()
            return ((self.image - DATA**2 / spread * x.double()) / (s * DATA / spread)).float()
        eps = (x.double() - a * self.image) / s
        out = {"x0": self.image.expand_as(eps), "eps": eps, "v": a * eps - s * self.image, "flow": eps - self.image}
        return out[self.kind].float()


def objective_for(kind, convention, image, **settings):
    denoiser = Denoiser(
        KnowsTheImage(image, kind, convention),
        schedule=SCHEDULES[convention],
        input=InputSpec(1, 8),
        parameterization=kind,
        conditioning=Conditioning("log-sigma"),
    )
    return DenoisingObjective(denoiser, **settings)


def cases():
    return [(kind, name) for kind in KINDS for name in SCHEDULES if kind != "edm" or name == "ve"]


@pytest.fixture
def image():
    return torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1


@pytest.fixture
def batch(image):
    return ToyBatch(image.float().expand(64, 1, 8, 8), None, [str(i) for i in range(64)])


@pytest.mark.parametrize(("kind", "convention"), cases())
def test_a_perfect_denoiser_has_no_loss(kind, convention, image, batch):
    loss = objective_for(kind, convention, image).loss(batch, Draw(0, 0, batch.ids))
    assert loss.shape == (64,)
    assert float(loss.max()) < 1e-6


@pytest.mark.parametrize(("kind", "convention"), cases())
def test_an_error_of_x0_counts_by_its_factor(kind, convention, image, batch):
    wrong = image + 0.1
    draw = Draw(1, 4, batch.ids)
    loss = objective_for(kind, convention, wrong).loss(batch, draw)
    level = SCHEDULES[convention].sample(64, draw)
    a, s = level.alpha, level.sigma
    by_hand = {
        "x0": torch.ones_like(a),
        "eps": a**2 / s**2,
        "v": (a * a / s + s) ** 2,
        "flow": (a / s + 1) ** 2,
        "edm": (s**2 + 0.25) / (s * 0.5) ** 2,
    }[kind]
    torch.testing.assert_close(loss.double(), 0.01 * by_hand, rtol=2e-3, atol=1e-7)
    torch.testing.assert_close(x0_factor(kind, level), by_hand)


def test_vp_v_and_x0_differ_by_snr_plus_one():
    level = DiscreteSchedule.linear().at([0, 500, 999])
    torch.testing.assert_close(x0_factor("v", level), level.snr + 1)


@pytest.mark.parametrize("kind", ["eps", "x0", "v", "flow"])
def test_min_snr_is_the_same_loss_in_every_parameterization(kind, image, batch):
    draw = Draw(1, 4, batch.ids)
    loss = objective_for(kind, "vp", image + 0.1, weighting="min_snr").loss(batch, draw)
    snr = SCHEDULES["vp"].sample(64, draw).snr
    torch.testing.assert_close(loss.double(), 0.01 * snr.clamp(max=5), rtol=2e-3, atol=1e-7)


def test_a_weighting_may_be_a_function(image, batch):
    draw = Draw(0, 0, batch.ids)
    plain = objective_for("x0", "vp", image + 0.1).loss(batch, draw)
    doubled = objective_for("x0", "vp", image + 0.1, weighting=lambda level, factor: 2 * factor).loss(batch, draw)
    torch.testing.assert_close(doubled, 2 * plain)


def test_the_loss_of_an_image_does_not_depend_on_its_batch(image):
    denoiser = Denoiser(ToyNetwork(0.0), schedule=SCHEDULES["vp"], input=InputSpec(1, 8))
    images, ids = torch.rand(6, 1, 8, 8), [f"i{k}" for k in range(6)]
    whole = DenoisingObjective(denoiser).loss(ToyBatch(images, None, ids), Draw(0, 9, ids))
    for rows in (slice(0, 1), slice(3, 6)):
        part = DenoisingObjective(denoiser).loss(ToyBatch(images[rows], None, ids[rows]), Draw(0, 9, ids[rows]))
        torch.testing.assert_close(part, whole[rows], rtol=1e-5, atol=1e-6)


class SeesLabels(ToyNetwork):
    def forward(self, x, time, y=None):
        self.seen = y
        return super().forward(x, time)


def test_labels_reach_the_network_and_are_dropped_by_image():
    network = SeesLabels()
    denoiser = Denoiser(network, schedule=SCHEDULES["vp"], input=InputSpec(1, 8), labels=LabelSpec(10, null=10))
    ids = [str(i) for i in range(400)]
    batch = ToyBatch(torch.zeros(400, 1, 8, 8), torch.arange(400) % 10, ids)
    DenoisingObjective(denoiser).loss(batch, Draw(0, 0, ids))
    assert torch.equal(network.seen, batch.labels)
    DenoisingObjective(denoiser, label_dropout=0.25).loss(batch, Draw(0, 0, ids))
    dropped = network.seen == 10
    assert 60 < int(dropped.sum()) < 140
    assert torch.equal(network.seen[~dropped], batch.labels[~dropped])
    with pytest.raises(InputError, match="without labels"):
        DenoisingObjective(denoiser).loss(ToyBatch(batch.images, None, ids), Draw(0, 0, ids))


def test_wrong_settings_are_named(image):
    with pytest.raises(UsageError, match="min_snr"):
        objective_for("eps", "vp", image, weighting="minsnr")
    with pytest.raises(UsageError, match="label_dropout"):
        objective_for("eps", "vp", image, label_dropout=0.1)
    with pytest.raises(UsageError, match="unknown parameterization"):
        x0_factor("velocity", NoiseLevel(0.6, 0.8))


def test_weights_that_do_not_fit_change_nothing():
    denoiser = Denoiser(ToyNetwork(), schedule=SCHEDULES["vp"], input=InputSpec(1, 8))
    objective = DenoisingObjective(denoiser)
    before = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    bad = {name: torch.zeros(1) if name == "last.bias" else tensor + 1 for name, tensor in before.items()}
    bad["last.bias"] = torch.zeros(3)
    with pytest.raises(FormatError, match=r"last\.bias"):
        objective.load_state_dict(bad)
    assert all(torch.equal(before[name], tensor) for name, tensor in objective.state_dict().items())

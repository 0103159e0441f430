"""DDAE's checkpoints against that program's own answers."""

import pytest
import torch
from torch import Tensor

import diffrep as dr
from diffrep.data.batches import Batch
from diffrep.noise import stack
from diffrep.randomness import Draw
from tests.formats.parity import SAMPLER, Case, case

DDPM = ["ddae-ddpm", "ddae-ddpmpp"]
EDM = ["ddae-edm", "ddae-edm-aug"]


class Given(Draw):
    """Recorded draws in place of fresh ones."""

    def __init__(self, **draws: Tensor) -> None:
        super().__init__(0, 0, [])
        object.__setattr__(self, "draws", draws)

    def normal(self, purpose, shape):
        return self.draws[purpose]

    def integers(self, purpose, high):
        return self.draws[purpose]


def loss(denoiser: dr.Denoiser, images: Tensor, **draws: Tensor) -> Tensor:
    batch = Batch(images, None, [str(k) for k in range(len(images))])
    with torch.no_grad():
        return dr.DenoisingObjective(denoiser).loss(batch, Given(**draws))


def images_of(answers: Case) -> Tensor:
    return answers["x"] * 2 - 1


@pytest.fixture(params=DDPM)
def ddpm(request):
    answers = case(request.param)
    return dr.load(answers.folder), answers


@pytest.fixture(params=EDM)
def edm(request):
    answers = case(request.param)
    return dr.load(answers.folder), answers


def test_ddpm_predictions_with_t_from_one(ddpm):
    denoiser, answers = ddpm
    level = denoiser.schedule.at(answers["t"] - 1)
    alpha, sigma = level.like(answers["x"])
    answers.close("x_t", alpha * images_of(answers) + sigma * answers["noise"])
    with torch.no_grad():
        answers.close("eps", denoiser(answers["x_t"], level).eps)
    assert torch.equal(denoiser.schedule.time_of(level), (answers["t"] - 1).double())


def test_ddpm_tables_to_the_bit(ddpm):
    denoiser, answers = ddpm
    training, sampling = denoiser.schedule, denoiser.for_sampling().schedule
    for schedule, name in ((training, "table_ddpm_alphabar"), (sampling, "table_ddim_alphabar")):
        assert torch.equal(schedule.alphas_cumprod, answers[name][1:].double())
        assert schedule.clean == float(answers[name][0])


def test_ddpm_loss(ddpm):
    denoiser, answers = ddpm
    found = loss(denoiser, images_of(answers), level=answers["t"] - 1, noise=answers["noise"])
    answers.close("loss_per_sample", found)
    answers.close("loss", found.mean()[None])


@pytest.mark.parametrize("name", [*DDPM, *EDM])
def test_features_under_official_names(name):
    answers = case(name)
    denoiser = dr.load(answers.folder)
    wanted = sorted({n for n in answers.tensors if n.startswith("feature_t") and "_out_" in n})
    assert wanted
    for feature in wanted:
        t, tap = feature.removeprefix("feature_t").split("_", 1)
        found = dr.TapFeatures(denoiser, [tap], denoiser.schedule.at([int(t) - 1]))(
            images_of(answers), noise=answers["noise"]
        )
        (values,) = found.values()
        answers.close(feature, values)
        if (normed := f"feature_normed_t{t}_{tap}") in answers.tensors:
            answers.close(normed, torch.nn.functional.normalize(values))


@pytest.mark.parametrize(
    ("name", "steps", "eta"), [("ddim10", 10, 0.0), ("ddim10_eta1", 10, 1.0), ("ddim_uneven", 7, 0.0)]
)
def test_ddim_walks_its_own_table(ddpm, name, steps, eta):
    denoiser = ddpm[0].for_sampling()
    answers = ddpm[1]
    path = denoiser.schedule.path(steps, rule=denoiser.sampling.rule)
    times = (denoiser.schedule.time_of(path[:-1]) + 1).long()
    assert times.tolist() == answers[name.replace("10_eta1", "").replace("10", "") + "_times"].tolist()
    draws = answers["step_noise"]  # the program draws none for its last step, though that ends above the image
    made = dr.ddim(denoiser, answers["x_T"], path, eta=eta, noise=lambda step, shape: draws[step - 1])
    answers.close(name, (made + 1) / 2, SAMPLER)


def test_a_table_can_be_given(ddpm):
    denoiser, answers = ddpm
    table = answers["table_ddim_alphabar"]
    other = denoiser.with_schedule(dr.DiscreteSchedule(table[1:], clean=float(table[0])))
    made = dr.ddim(other, answers["x_T"], other.schedule.path(10, rule="ddae"))
    answers.close("ddim10", (made + 1) / 2, SAMPLER)


def test_ancestral_steps(ddpm):
    denoiser, answers = ddpm
    made = dr.ddpm(
        denoiser, answers["x_T"], denoiser.schedule.at([999, 998, 997, 996, 995, 994]), noise=answers.noise()
    )
    answers.close("ddpm_first", (made + 1) / 2, SAMPLER)
    last = stack([denoiser.schedule.at([4, 3, 2, 1, 0]), dr.NoiseLevel(1.0, 0.0)])
    made = dr.ddpm(denoiser, answers["x_T"], last, noise=answers.noise())
    answers.close("ddpm_last", (made + 1) / 2, SAMPLER)


def test_edm_predictions(edm):
    denoiser, answers = edm
    sigma = answers["sigma"]
    x_t = images_of(answers) + sigma[:, None, None, None] * answers["noise"]
    with torch.no_grad():
        answers.close("D_x", denoiser(x_t, dr.NoiseLevel.from_sigma(sigma)).x0)
        spread = (sigma**2 + denoiser.sigma_data**2).sqrt()[:, None, None, None]
        answers.close("F_x", denoiser.network(x_t / spread, sigma.log() / 4))


def test_edm_with_augmentation_labels():
    answers = case("ddae-edm-aug")
    denoiser = dr.load(answers.folder)
    sigma, labels = answers["sigma"][:, None, None, None], answers["aug_label_given"]
    x_t = images_of(answers) + sigma * answers["noise"]
    spread = (sigma**2 + 0.25).sqrt()
    with torch.no_grad():
        out = denoiser.network(x_t / spread, answers["sigma"].log() / 4, augment=labels)
    answers.close("D_x_with_label", 0.25 / spread**2 * x_t + 0.5 * sigma / spread * out)


@pytest.mark.parametrize("steps", [18, 6])
def test_edm_table(edm, steps):
    denoiser, answers = edm
    path = denoiser.schedule.path(steps, rule=denoiser.sampling.rule)
    answers.close(f"sigma_schedule_{steps}", path.sigma)
    if steps == 18:
        ascending = denoiser.schedule.at(list(range(18))).sigma
        torch.testing.assert_close(ascending.flip(0), answers["sigma_schedule_18"][:-1], rtol=1e-6, atol=0)


def test_edm_loss():
    answers = case("ddae-edm")
    denoiser = dr.load(answers.folder)
    found = loss(denoiser, images_of(answers), level=answers["rnd_normal"].flatten(), noise=answers["noise"])
    answers.close("loss_per_sample", found)
    answers.close("loss", found.mean()[None])


def test_edm_features_of_a_longer_table():
    for name in EDM:
        answers = case(name)
        if "feature_t4_of_50" not in answers.tensors:
            continue
        denoiser = dr.load(answers.folder)
        found = dr.TapFeatures(denoiser, ["out_1"], dr.EDMSchedule(steps=50).at(3))(
            images_of(answers), noise=answers["noise"]
        )
        answers.close("feature_t4_of_50", *found.values())


@pytest.mark.parametrize(("name", "churn"), [("heun6", 0.0), ("heun6_eta1", 1.0)])
def test_heun(edm, name, churn):
    denoiser, answers = edm
    path = denoiser.schedule.path(6, rule=denoiser.sampling.rule)
    start = answers["x_T"].double() * float(path[0].sigma)
    made = dr.heun(denoiser, start, path, churn=churn, noise=answers.noise())
    answers.close(name, (made + 1) / 2, SAMPLER)

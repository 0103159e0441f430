"""EDM's pickles against the answers of their own program, which lie beside the repository, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from diffrep.autoencoder import ShiftAutoencoder
from diffrep.denoiser import Denoiser
from diffrep.errors import FormatError, UsageError
from diffrep.formats import load, save
from diffrep.formats.content import read as open_content
from diffrep.formats.families import families
from diffrep.formats.finding import find
from diffrep.formats.state_dicts import module_tensors
from diffrep.guidance import conditioned
from diffrep.noise import NoiseLevel
from diffrep.sampling import heun
from diffrep.tap_features import TapFeatures
from diffrep.taps import read
from tests.formats import edm_formulas as formulas
from tests.formats.edm_pickles import module, wrapped, write
from tests.formats.test_edm_formulas import edm2_file, edm_file

PARITY = Path(__file__).resolve().parents[3] / "shared" / "parity"
SAMPLERS = ("heun6", "heun6_churn")
with_answers = pytest.mark.skipif(not (PARITY / "edm-adm").is_dir(), reason=f"no official answers at {PARITY}")


class Case:
    """One folder of answers: the denoiser, the tensors, and how far each may be off."""

    def __init__(self, name: str) -> None:
        folder = PARITY / name
        self.denoiser: Denoiser = load(folder)
        self.tensors = load_file(folder / "expected.safetensors")
        self.about = json.loads((folder / "about.json").read_text())["tensors"]
        self.labels = self.tensors["class_labels"].argmax(1)

    def agrees(self, found: Tensor, name: str) -> None:
        entry = self.about[name]
        relative = 1e-4 if name in SAMPLERS else 1e-5
        allowed = max(relative * entry["max_abs"], 4 * entry["other_kernels_max_abs_diff"])
        assert float((found.double() - self.tensors[name].double()).abs().max()) <= allowed, name

    def noisy(self) -> tuple[Tensor, NoiseLevel]:
        """x at a level per image."""
        sigma = self.tensors["sigma"]
        x = self.tensors["x_0"] + sigma[:, None, None, None] * self.tensors["noise"]
        return x, NoiseLevel(torch.ones(len(sigma)), sigma)


@pytest.fixture(scope="module", params=["edm-ddpmpp", "edm-adm"])
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


@with_answers
def test_what_the_file_is(case: Case) -> None:
    denoiser = case.denoiser
    assert (denoiser.input.channels, denoiser.input.size, denoiser.input.latent) == (3, 8, False)
    assert denoiser.labels is not None
    assert (denoiser.labels.num_classes, denoiser.labels.optional) == (10, True)
    assert (denoiser.sampling.clip, denoiser.sampling.rule) == (False, "karras")
    assert (denoiser.schedule.p_mean, denoiser.schedule.p_std) == (-1.2, 1.2)
    assert not denoiser.training


@with_answers
@torch.no_grad()
def test_predictions_at_a_level_per_image(case: Case) -> None:
    x, level = case.noisy()
    case.agrees(case.denoiser(x, level, y=case.labels).x0, "D_x")
    case.agrees(case.denoiser(x, level).x0, "D_x_no_class")
    vp = case.denoiser.schedule.convert(level)
    factor = (NoiseLevel.of(level.log_snr, "vp").alpha / vp.alpha).float()[:, None, None, None]
    case.agrees(case.denoiser(x * factor, NoiseLevel.of(level.log_snr, "vp"), y=case.labels).x0, "D_x")


@with_answers
@torch.no_grad()
def test_the_bare_network_and_augmentation_labels(case: Case) -> None:
    x, level = case.noisy()
    c_skip, c_out, c_in, c_noise = (c.float() for c in formulas.coefficients("EDMPrecond", level.sigma.double()))
    inside = x * c_in[:, None, None, None]
    case.agrees(case.denoiser.network(inside, c_noise, case.labels), "F_x")
    if "augment_labels" in case.tensors:
        out = case.denoiser.network(inside, c_noise, case.labels, augment=case.tensors["augment_labels"])
        case.agrees(c_skip[:, None, None, None] * x + c_out[:, None, None, None] * out, "D_x_augment")


@with_answers
@torch.no_grad()
def test_loss(case: Case) -> None:
    sigma = (1.2 * case.tensors["rnd_normal"] - 1.2).exp().flatten()
    x0 = case.tensors["x_0"]
    x = x0 + sigma[:, None, None, None] * case.tensors["noise"]
    found = case.denoiser(x, NoiseLevel.from_sigma(sigma), y=case.labels).x0
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    case.agrees(weight * (found - x0).square().mean((1, 2, 3)), "loss")


@with_answers
def test_heun_with_churn_and_without(case: Case) -> None:
    path = case.denoiser.schedule.path(6, rule=case.denoiser.sampling.rule)
    case.agrees(path.sigma, "heun6_sigmas")
    start = case.tensors["x_T"].double() * 80
    denoise = conditioned(case.denoiser, case.labels[:2])
    case.agrees(heun(denoise, start, path), "heun6")
    churned = heun(
        denoise,
        start,
        path,
        churn=1.0,  # S_churn = 20 in 6 steps is more than the program's limit
        churn_range=(0.05, 50),
        churn_noise=1.003,
        noise=lambda step, shape: case.tensors["step_noise"][step - 1],
    )
    case.agrees(churned, "heun6_churn")


@with_answers
@torch.no_grad()
@pytest.mark.parametrize("name", ["edm-ddpmpp", "edm-adm"])
def test_features_under_official_names(name: str) -> None:
    """No features are in the answers: the maps come from the formulas, which first give the official output."""
    case = Case(name)
    facts = json.loads((PARITY / name / "about.json").read_text())["config"]
    state = official_state(PARITY / name)
    x, level = case.noisy()
    _, _, c_in, c_noise = formulas.coefficients("EDMPrecond", level.sigma.double())
    maps: dict[str, Tensor] = {}
    inside = x.double() * c_in[:, None, None, None]
    labels = case.tensors["class_labels"].double()
    case.agrees(formulas.edm_network(facts, state, inside, c_noise, labels, maps), "F_x")
    found = read(case.denoiser, x, level, list(maps), y=case.labels)
    for tap, wanted in maps.items():
        assert float((found[tap] - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max()), tap
    pooled = TapFeatures(case.denoiser, ["dec.4x4_block1"], [NoiseLevel.from_sigma(0.1)], y=int(case.labels[1]))
    vectors = pooled(case.tensors["x_0"][1:2], noise=case.tensors["noise"][1:2])
    wanted = maps["dec.4x4_block1"][1].mean((1, 2))
    assert next(iter(vectors.values()))[0].double().tolist() == pytest.approx(wanted.tolist(), abs=1e-5)


def official_state(folder: Path) -> dict[str, Tensor]:
    precond = open_content(find(folder)).data["ema"]
    return {name.removeprefix("model."): tensor.double() for name, tensor in module_tensors(precond).items()}


@with_answers
def test_saved_and_loaded_again_it_is_the_same(case: Case, tmp_path: Path) -> None:
    again = load(save(case.denoiser, tmp_path / "model"))
    assert again.identity == case.denoiser.identity
    x, level = case.noisy()
    with torch.no_grad():
        case.agrees(again(x, level, y=case.labels).x0, "D_x")


def test_an_autoencoder_on_top_starts_as_the_denoiser(tmp_path: Path) -> None:
    for path in (edm_file(tmp_path, "ncsnpp", "VEPrecond")[0], edm2_file(tmp_path)[0]):
        denoiser = load(path)
        model = ShiftAutoencoder.fresh(denoiser, code_dim=4)
        x = torch.randn(1, denoiser.input.channels, 8, 8, generator=torch.Generator().manual_seed(1))
        level = NoiseLevel.from_sigma(1.0)
        with torch.no_grad():
            assert torch.allclose(model.at(torch.ones(1, 4))(x, level).x0, denoiser(x, level).x0)


def test_a_file_with_tensors_that_do_not_fit_is_refused(tmp_path: Path) -> None:
    _, facts, state = edm_file(tmp_path, "ddpmpp", "EDMPrecond")

    def written(state: dict[str, Tensor], facts: dict[str, object]) -> Path:
        ema = wrapped("EDMPrecond", {"model": module("SongUNet", state, facts)})
        return write(tmp_path / "broken.pkl", {"ema": ema, "loss_fn": None})

    less = {name: tensor for name, tensor in state.items() if name != "enc.8x8_conv.bias"}
    with pytest.raises(FormatError, match=r"1 missing: enc\.8x8_conv\.bias"):
        load(written(less, facts))
    with pytest.raises(FormatError, match=r"1 left over: enc\.strange"):
        load(written({**state, "enc.strange": torch.ones(2)}, facts))
    wrong = {"enc.4x4_down.conv0.resample_filter": torch.ones(1, 1, 2, 2)}
    with pytest.raises(FormatError, match="is not the filter"):
        load(written({**state, **wrong}, facts))
    with pytest.raises(FormatError, match="encoder_type"):
        load(written(state, {**facts, "encoder_type": "skip"}))
    with pytest.raises(FormatError, match="img_resolution, in_channels"):
        load(written(state, {"out_channels": 3}))
    ema = wrapped("EDMPrecond", {"model": module("SongUNet", state, facts)}, {"strange": torch.ones(1)})
    with pytest.raises(FormatError, match="beside its network: strange"):
        load(write(tmp_path / "broken.pkl", {"ema": ema, "loss_fn": None}))


def test_what_edm2_leaves_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(edm2_file(tmp_path)[0])
    assert "logvar_fourier.freqs, logvar_fourier.phases, logvar_linear.weight" in caplog.text


def test_whether_a_file_was_compared_with_its_program(tmp_path: Path) -> None:
    cases = {("ddpmpp", "EDMPrecond"): True, ("adm", "EDMPrecond"): True}
    cases |= {("ncsnpp", "EDMPrecond"): False, ("ddpmpp", "VPPrecond"): False, ("adm", "iDDPMPrecond"): False}
    for (kind, precond), compared in cases.items():
        content = open_content(edm_file(tmp_path, kind, precond)[0])
        assert next(family for family in families() if family.recognizes(content)).compared is compared
    content = open_content(edm2_file(tmp_path)[0])
    assert not next(family for family in families() if family.recognizes(content)).compared


@pytest.mark.parametrize(
    "told",
    [
        {"model_channels": 999},
        {"img_resolution": 64},
        {"label_dim": 7},
        {"model_type": "DhariwalUNet"},
        {"sigma_data": 1},
    ],
)
def test_facts_from_the_caller_must_agree(tmp_path: Path, told: dict[str, object]) -> None:
    path, facts, _ = edm_file(tmp_path, "ddpmpp", "EDMPrecond")
    with pytest.raises(FormatError, match=next(iter(told))):
        load(path, architecture=told)
    assert load(path, architecture=facts).identity == load(path).identity


def test_a_config_beside_a_pickle_is_not_asked(tmp_path: Path) -> None:
    first = [load(edm_file(tmp_path, "ddpmpp", "EDMPrecond")[0]), load(edm2_file(tmp_path)[0])]
    (tmp_path / "args.json").write_text(json.dumps({"num_blocks": 7, "res_balance": 0.9, "channel_mult_emb": 1}))
    again = [load(path) for path in sorted(tmp_path.glob("*.pkl"), reverse=True)]
    assert [model.identity for model in again] == [model.identity for model in first]


@pytest.mark.parametrize("told", [{"res_balance": 0.9}, {"channels_per_head": 32}, {"clip_act": 0.5}])
def test_facts_that_edm2_contradicts(tmp_path: Path, told: dict[str, object]) -> None:
    with pytest.raises(FormatError, match=next(iter(told))):
        load(edm2_file(tmp_path)[0], architecture=told)


def test_the_grids_of_the_programs_sampler(tmp_path: Path) -> None:
    """From sigma 80 to 0.002, or as far as the network goes; a table's nearest sigmas."""
    ends = {"VPPrecond": (80, 0.002), "VEPrecond": (80, 0.02), "EDMPrecond": (80, 0.002)}
    for precond, (high, low) in ends.items():
        denoiser = load(edm_file(tmp_path, "ddpmpp", precond)[0])
        path = denoiser.schedule.path(6, rule=denoiser.sampling.rule)
        sigma = path.sigma / path.alpha
        assert sigma[[0, 5, 6]].tolist() == pytest.approx([high, low, 0])
    denoiser = load(edm_file(tmp_path, "adm", "iDDPMPrecond")[0])
    path = denoiser.schedule.path(6, rule=denoiser.sampling.rule)
    position = torch.linspace(0, 1, 6, dtype=torch.float64)
    table = formulas.iddpm_sigmas()[:-1]
    karras = (80 ** (1 / 7) + position * (float(table[-1]) ** (1 / 7) - 80 ** (1 / 7))) ** 7
    nearest = table[(karras[:, None] - table).abs().argmin(1)]
    assert (path.sigma / path.alpha)[:6].tolist() == pytest.approx(nearest.tolist(), rel=1e-4)


def test_a_network_that_names_its_range_is_held_to_it(tmp_path: Path) -> None:
    _, facts, state = edm_file(tmp_path, "ddpmpp", "EDMPrecond")

    def written(**attributes: float) -> Denoiser:
        ema = wrapped("EDMPrecond", {"model": module("SongUNet", state, facts)}, **attributes)
        return load(write(tmp_path / "other.pkl", {"ema": ema, "loss_fn": None}))

    x, own = torch.zeros(1, 3, 8, 8), written(sigma_min=0.01, sigma_max=50.0)
    path = own.schedule.path(4, rule=own.sampling.rule)
    assert path.sigma[[0, 3]].tolist() == pytest.approx([50, 0.01])
    own(x, NoiseLevel.from_sigma(70.0))  # what churn makes of 50
    with pytest.raises(UsageError, match="outside"):
        own(x, NoiseLevel.from_sigma(75.0))
    free = written(sigma_min=0, sigma_max=float("inf"))
    for sigma in (1e-4, 113.0, 1e4):
        assert free(x, NoiseLevel.from_sigma(sigma)).x0.isfinite().all()
    assert load(save(free, tmp_path / "saved")).schedule == free.schedule


def test_a_run_folder_has_a_snapshot_and_a_training_state(tmp_path: Path) -> None:
    path, facts, state = edm_file(tmp_path, "ddpmpp", "EDMPrecond")
    net = wrapped("EDMPrecond", {"model": module("SongUNet", state, facts)})
    resume = write(tmp_path / "training-state-000001.pt", {"net": net, "optimizer_state": {"state": {}}})
    assert find(tmp_path) == path
    with pytest.raises(FormatError, match="raw weights"):
        load(resume)


def test_a_network_alone_in_its_pickle(tmp_path: Path) -> None:
    path, facts, state = edm_file(tmp_path, "ddpmpp", "EDMPrecond")
    alone = write(tmp_path / "alone.pkl", wrapped("EDMPrecond", {"model": module("SongUNet", state, facts)}))
    assert load(alone).identity == load(path).identity


def test_the_latents_of_edm2_are_scaled_as_its_encoder_says(tmp_path: Path) -> None:
    path, _, _ = edm2_file(tmp_path)
    published = load(path).input.scaling
    assert published.pixels == (0, 1)
    z = torch.tensor([5.81, 3.25, 0.12, -2.15]).reshape(1, 4, 1, 1)
    assert published.normalize(z).abs().max() <= 1e-6
    spread = torch.tensor([4.17, 4.62, 3.71, 3.28]).reshape(1, 4, 1, 1)
    torch.testing.assert_close(published.normalize(z + spread), torch.full((1, 4, 1, 1), 0.5))

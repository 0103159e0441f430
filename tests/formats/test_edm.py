"""EDM's pickles against the answers of their own program, which lie beside the repository, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from diffrep.autoencoder import ShiftAutoencoder
from diffrep.denoiser import Denoiser
from diffrep.errors import FormatError
from diffrep.formats import load, save
from diffrep.formats.content import find, module_tensors
from diffrep.formats.content import read as open_content
from diffrep.formats.families import families
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

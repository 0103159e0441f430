"""DiT against the answers of its own program, which lie beside the repository."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from diffrep.autoencoder import ShiftAutoencoder
from diffrep.denoiser import Denoiser
from diffrep.formats import load, save
from diffrep.guidance import guided
from diffrep.sampling import ddim
from diffrep.tap_features import TapFeatures
from diffrep.taps import read
from tests.formats.transformer_files import open_file

PARITY = Path(__file__).resolve().parents[3] / "shared" / "parity" / "dit"
pytestmark = pytest.mark.skipif(not PARITY.is_dir(), reason=f"no official answers at {PARITY}")


@pytest.fixture(scope="module", params=["", "DiT-tiny.pt", "checkpoints/0050000.pt"])
def denoiser(request: pytest.FixtureRequest) -> Denoiser:
    """The folder, the released kind of file, and the training checkpoint with its weights under `ema`."""
    return open_file(PARITY / request.param)


@pytest.fixture(scope="module")
def official() -> dict[str, Tensor]:
    return load_file(PARITY / "expected.safetensors")


@pytest.fixture(scope="module")
def tolerance(official: dict[str, Tensor]) -> dict[str, float]:
    about = json.loads((PARITY / "about.json").read_text())["tensors"]
    return {
        name: max(
            (1e-4 if name.startswith("ddim5") else 1e-5) * entry["max_abs"], 4 * entry["other_kernels_max_abs_diff"]
        )
        for name, entry in about.items()
        if entry["role"] == "output"
    }


def agree(found: Tensor, name: str, official: dict[str, Tensor], tolerance: dict[str, float], rows: int = 3) -> None:
    assert float((found.double() - official[name].double())[:rows].abs().max()) <= tolerance[name], name


def test_what_the_file_is(denoiser: Denoiser) -> None:
    assert (denoiser.input.channels, denoiser.input.size, denoiser.input.latent) == (4, 8, True)
    assert (denoiser.labels.num_classes, denoiser.labels.null) == (10, 10)
    assert (denoiser.sampling.clip, denoiser.sampling.rule) == (False, "guided-diffusion")
    assert [tap.name for tap in denoiser.taps] == ["block.1", "block.2"]
    assert not denoiser.training


@torch.no_grad()
def test_predictions(denoiser: Denoiser, official: dict[str, Tensor], tolerance: dict[str, float]) -> None:
    level = denoiser.schedule.at(official["t"])
    alpha, sigma = level.like(official["x_0"])
    x_t = alpha * official["x_0"] + sigma * official["noise"]
    agree(x_t, "x_t", official, tolerance)
    for name, y in (("output", official["y"]), ("output_null", None), ("output_null", 10)):
        prediction = denoiser(x_t, level, y=y)
        agree(torch.cat([prediction.eps, prediction.log_variance], dim=1), name, official, tolerance)


@torch.no_grad()
def test_taps(denoiser: Denoiser, official: dict[str, Tensor], tolerance: dict[str, float]) -> None:
    level = denoiser.schedule.at(official["t"])
    for names in (["block.1", "block.2"], ["layer-0", "layer-1"], ["blocks.0", "blocks.1"]):
        maps = read(denoiser, official["x_t"], level, names, y=official["y"])
        for k, name in enumerate(names):
            assert maps[name].shape == (3, 32, 4, 4)
            agree(maps[name].mean((2, 3)), f"block_{k}", official, tolerance)


@torch.no_grad()
def test_features_are_the_pooled_tokens(
    denoiser: Denoiser, official: dict[str, Tensor], tolerance: dict[str, float]
) -> None:
    for row in range(3):
        t, y = int(official["t"][row]), int(official["y"][row])
        features = TapFeatures(denoiser, ["layer-0", "layer-1"], denoiser.schedule.at(t), y=y)
        found = features(official["x_0"][row : row + 1], noise=official["noise"][row : row + 1])
        for k, value in enumerate(found.values()):
            assert float((value - official[f"block_{k}"][row]).abs().max()) <= tolerance[f"block_{k}"]


@torch.no_grad()
def test_guidance_acts_on_three_channels(
    denoiser: Denoiser, official: dict[str, Tensor], tolerance: dict[str, float]
) -> None:
    model = guided(denoiser, 2.5, y=official["y"][:2], channels=3)
    prediction = model(official["x_t"][:2], denoiser.schedule.at(official["t"][:2]))
    found = torch.cat([prediction.eps, prediction.log_variance], dim=1)
    agree(found, "output_cfg", {"output_cfg": official["output_cfg"][:2]}, tolerance)


@torch.no_grad()
def test_samples(denoiser: Denoiser, official: dict[str, Tensor], tolerance: dict[str, float]) -> None:
    path = denoiser.schedule.path(5, rule=denoiser.sampling.rule)
    assert denoiser.schedule.time_of(path[:-1]).flip(0).tolist() == official["ddim5_timesteps"].tolist()
    y = official["y"][:2]
    agree(ddim(guided(denoiser, 1.0, y=y), official["x_T"], path), "ddim5", official, tolerance)
    agree(ddim(guided(denoiser, 2.5, y=y, channels=3), official["x_T"], path), "ddim5_cfg", official, tolerance)


@torch.no_grad()
def test_posterior_and_losses(denoiser: Denoiser, official: dict[str, Tensor], tolerance: dict[str, float]) -> None:
    """The mean and variance of the reverse step, and the loss, from our prediction by the program's formulas."""
    t, x_0, x_t = official["t"], official["x_0"].double(), official["x_t"].double()
    prediction = denoiser(official["x_t"], denoiser.schedule.at(t), y=official["y"])
    now = denoiser.schedule.alphas_cumprod
    before = torch.cat([torch.ones(1, dtype=torch.float64), now[:-1]])
    beta, posterior = 1 - now / before, (1 - now / before) * (1 - before) / (1 - now)
    low = torch.cat([posterior[1:2], posterior[1:]]).log()
    pick = {"now": now, "before": before, "beta": beta, "low": low, "high": beta.log()}
    a, b, beta, low, high = (value[t][:, None, None, None] for value in pick.values())

    def mean_of(image: Tensor) -> Tensor:
        return b.sqrt() * beta / (1 - a) * image + (1 - beta).sqrt() * (1 - b) / (1 - a) * x_t

    share = (prediction.log_variance.double() + 1) / 2
    log_variance = share * high + (1 - share) * low
    mean = mean_of((x_t - (1 - a).sqrt() * prediction.eps.double()) / a.sqrt())
    agree(mean, "p_mean", official, tolerance)
    agree(log_variance, "p_log_variance", official, tolerance)
    mse = (official["noise"] - prediction.eps).double().square().mean((1, 2, 3))
    kl = 0.5 * (log_variance - low - 1 + (low - log_variance).exp() + (mean_of(x_0) - mean) ** 2 / log_variance.exp())
    nll = -discretized(x_0, mean, log_variance)
    bound = torch.where(t == 0, nll.mean((1, 2, 3)), kl.mean((1, 2, 3))) / torch.log(
        torch.tensor(2.0, dtype=torch.float64)
    )
    agree(mse, "loss_mse", official, tolerance)
    agree(bound, "loss_vb", official, tolerance)
    agree(mse + bound, "loss", official, tolerance)


def discretized(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log-probability of 8-bit values under a normal, with the program's approximation of its integral."""

    def below(z: Tensor) -> Tensor:
        return 0.5 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (z + 0.044715 * z**3)))

    scale = torch.exp(-0.5 * log_variance)
    upper, lower = below(scale * (x - mean + 1 / 255)), below(scale * (x - mean - 1 / 255))
    inside = torch.where(x > 0.999, 1 - lower, upper - lower)
    return torch.where(x < -0.999, upper, inside).clamp(min=1e-12).log()


@torch.no_grad()
def test_a_converted_model_needs_its_file_no_more(
    denoiser: Denoiser, official: dict[str, Tensor], tmp_path: Path
) -> None:
    again = load(save(denoiser, tmp_path / "model"))
    level = denoiser.schedule.at(official["t"])
    ours, theirs = (m(official["x_t"], level, y=official["y"]).eps for m in (denoiser, again))
    assert torch.equal(ours, theirs)
    assert again.identity == denoiser.identity
    assert again.taps == denoiser.taps


def test_an_autoencoder_can_be_made_of_it(denoiser: Denoiser, official: dict[str, Tensor]) -> None:
    model = ShiftAutoencoder.fresh(denoiser, code_dim=8)
    z, level = model.encode(official["x_0"]), denoiser.schedule.at(official["t"])
    assert z.shape == (3, 8)
    with torch.no_grad():
        assert torch.equal(model.at(z)(official["x_t"], level).eps, denoiser(official["x_t"], level).eps)

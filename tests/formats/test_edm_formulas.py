"""What has no official answers: NCSN++, three preconditionings and EDM2, against formulas in float64."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffrep.denoiser import Denoiser
from diffrep.formats import load, save
from diffrep.networks.edm_blocks import filter_kernel
from diffrep.noise import NoiseLevel
from diffrep.taps import read
from tests.formats import edm_formulas as formulas
from tests.formats.edm_pickles import State, module, random_state, wrapped, write

SMALL = {"img_resolution": 8, "in_channels": 3, "model_channels": 16, "num_blocks": 1, "label_dim": 5}
NCSNPP = {"embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2, "decoder_type": "standard"}
NETWORKS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "ddpmpp": (
        "SongUNet",
        {**SMALL, "channel_mult": [1, 2], "attn_resolutions": [8], "embedding_type": "positional"},
        {"layout": "edm_song", "multipliers": [1, 2], "attention": [True, False]},
    ),
    "ncsnpp": (
        "SongUNet",
        {**SMALL, **NCSNPP, "channel_mult": [1, 1, 2], "attn_resolutions": [4], "resample_filter": [1, 3, 3, 1]},
        {
            "layout": "edm_song",
            "multipliers": [1, 1, 2],
            "attention": [False, True, False],
            "waves": "fourier",
            "pyramid": True,
            "noise_multiplier": 2,
            "resample_filter": [1, 3, 3, 1],
        },
    ),
    "adm": (
        "DhariwalUNet",
        {**SMALL, "model_channels": 64, "channel_mult": [1, 2], "attn_resolutions": [4]},
        {"layout": "edm_dhariwal", "channels": 64, "multipliers": [1, 2], "attention": [False, True]},
    ),
}
SIGMAS = {
    "EDMPrecond": [0.002, 0.3, 2.5, 80.0],
    "VPPrecond": [0.01, 0.3, 2.5, 150.0],
    "VEPrecond": [0.02, 0.3, 2.5, 100.0],
    "iDDPMPrecond": [0.011, 0.3, 2.5, 80.0],
}
CASES = [
    *((kind, "EDMPrecond") for kind in NETWORKS),
    ("ddpmpp", "VPPrecond"),
    ("ncsnpp", "VEPrecond"),
    ("adm", "iDDPMPrecond"),
]


def edm_file(folder: Path, kind: str, precond: str) -> tuple[Path, dict[str, Any], State]:
    """A random network in a pickle; its constructor's arguments; its tensors."""
    class_name, facts, recipe = NETWORKS[kind]
    twice = 2 if precond == "iDDPMPrecond" else 1
    facts = {**facts, "out_channels": 3 * twice}
    outline = {"image_channels": 3, "channels": 16, "blocks": 1, "classes": 5, "learns_variance": twice == 2}
    outline |= {"augment_dim": 0}
    state = random_state({**outline, **recipe}, 8)
    filters = {
        f"{name.removesuffix('weight')}resample_filter": filter_kernel(
            facts.get("resample_filter", [1, 1]), torch.ones(0)
        )
        for name in state
        if ("_down" in name or "_up" in name) and name.split(".")[-2] in ("conv0", "skip") and name.endswith("weight")
    }
    outside = {"u": formulas.iddpm_sigmas().float()} if twice == 2 else {}
    constants = {"VPPrecond": {"beta_d": 19.9, "beta_min": 0.1, "M": 1000, "epsilon_t": 1e-5}}.get(precond, {})
    constants |= {"VEPrecond": {"sigma_min": 0.02, "sigma_max": 100}}.get(precond, {})
    ema = wrapped(precond, {"model": module(class_name, {**state, **filters}, facts)}, outside, **constants)
    data = {"ema": ema, "loss_fn": None, "augment_pipe": None, "dataset_kwargs": {}}
    return write(folder / "network-snapshot-000001.pkl", data), facts, state


def edm2_file(folder: Path) -> tuple[Path, dict[str, Any], State]:
    facts = {"img_resolution": 8, "img_channels": 4, "label_dim": 5, "model_channels": 32, "channel_mult": [1, 2, 4]}
    facts |= {"num_blocks": 1, "attn_resolutions": [4, 2]}
    recipe = {"layout": "edm2", "channels": 32, "multipliers": [1, 2, 4], "attention": [False, True, True]}
    state = random_state({**recipe, "blocks": 1, "classes": 5}, 8)
    state = {name: tensor.half() for name, tensor in state.items()}
    for name in state:
        state[name] += 0.5 if name.endswith("gain") else 0.0
    parts = {
        "unet": module("UNet", state, facts),
        "logvar_fourier": module("MPFourier", {"freqs": torch.ones(4), "phases": torch.ones(4)}),
        "logvar_linear": module("MPConv", {"weight": torch.ones(1, 4)}),
    }
    loss = module("EDM2Loss", {}, P_mean=-0.4, P_std=1.0, sigma_data=0.5)
    data = {"ema": wrapped("Precond", parts, sigma_data=0.5), "loss_fn": loss, "dataset_kwargs": {}}
    data["encoder"] = module("StabilityVAEEncoder", {}, {"vae_name": "stabilityai/sd-vae-ft-mse"})
    return write(folder / "edm2-img512-tiny.pkl", data), facts, state


def expected(
    precond: str, facts: dict[str, Any], state: State, x: Tensor, sigma: Tensor, y: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    network = formulas.edm2_network if precond == "Precond" else formulas.edm_network
    labels = torch.zeros(len(x), 5) if y is None else torch.eye(5)[y]
    c_skip, c_out, c_in, c_noise = formulas.coefficients(precond, sigma)
    maps: dict[str, Tensor] = {}
    wide = {name: tensor.double() for name, tensor in state.items()}
    out = network(facts, wide, c_in[:, None, None, None] * x, c_noise, labels.double(), maps)[:, : x.shape[1]]
    return c_skip[:, None, None, None] * x + c_out[:, None, None, None] * out, maps


def agrees(found: Tensor, wanted: Tensor, within: float = 1e-5) -> None:
    assert float((found.double() - wanted).abs().max()) <= within * float(wanted.abs().max())


@torch.no_grad()
def compare(denoiser: Denoiser, precond: str, facts: dict[str, Any], state: State) -> None:
    """Predictions with labels and without, and every official name, at a level per image."""
    generator = torch.Generator().manual_seed(1)
    sigma = torch.tensor(SIGMAS.get(precond, SIGMAS["EDMPrecond"]), dtype=torch.float64)
    x0 = torch.randn(4, denoiser.input.channels, 8, 8, generator=generator)
    x = x0 + sigma.float()[:, None, None, None] * torch.randn(x0.shape, generator=generator)
    level, labels = NoiseLevel.from_sigma(sigma), torch.tensor([0, 4, 2, 2])
    for y in (labels, None):
        wanted, maps = expected(precond, facts, state, x.double(), sigma, y)
        agrees(denoiser(x, level, y=y).x0, wanted)
    found = read(denoiser, x, level, list(maps))
    assert list(found) == list(maps)
    for name, wanted in maps.items():
        agrees(found[name], wanted)


@pytest.mark.parametrize(("kind", "precond"), CASES)
def test_edm(tmp_path: Path, kind: str, precond: str) -> None:
    path, facts, state = edm_file(tmp_path, kind, precond)
    compare(load(path), precond, facts, state)


def test_edm2(tmp_path: Path) -> None:
    path, facts, state = edm2_file(tmp_path)
    denoiser = load(path)
    assert next(denoiser.network.parameters()).dtype == torch.float32
    assert (denoiser.input.latent, denoiser.schedule.p_mean, denoiser.schedule.p_std) == (True, -0.4, 1.0)
    compare(denoiser, "Precond", facts, state)


@pytest.mark.parametrize(
    ("kind", "precond"), [("ncsnpp", "VEPrecond"), ("adm", "iDDPMPrecond"), ("ddpmpp", "VPPrecond")]
)
def test_a_converted_model_needs_no_pickle(tmp_path: Path, kind: str, precond: str) -> None:
    path, facts, state = edm_file(tmp_path, kind, precond)
    first = load(path)
    again = load(save(first, tmp_path / "saved"))
    assert again.identity == first.identity
    compare(again, precond, facts, state)


def test_a_converted_edm2_needs_no_pickle(tmp_path: Path) -> None:
    path, facts, state = edm2_file(tmp_path)
    first = load(path)
    again = load(save(first, tmp_path / "saved"))
    assert again.identity == first.identity
    compare(again, "Precond", facts, state)

"""Off-by-one, kind of prediction and direction of time: a known image comes back at every tenth t of each program.

Here are the families with official answers and EDM's preconditionings; the transformers', U-ViT's and diffusers' own
kinds of prediction stand beside their other tests.
"""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import diffrep as dr
from diffrep.noise import NoiseLevel
from tests.formats import edm_formulas as formulas
from tests.formats.oracles import check_known_image
from tests.formats.parity import case
from tests.formats.test_edm_formulas import edm2_file, edm_file

TENTH = torch.arange(0, 1000, 10)
LINEAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


def images(channels: int) -> Tensor:
    return torch.randn(len(TENTH), channels, 8, 8, generator=torch.Generator().manual_seed(0)).double()


def answers_noise(x0: Tensor, table: Tensor, index: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """A program whose network sees `time` and predicts the noise of row index(time) of its table of alpha-bar."""

    def answer(x: Tensor, time: Tensor) -> Tensor:
        abar = table.double()[index(time).round().long()]
        return (x - abar.sqrt() * x0) / (1 - abar).sqrt()

    return answer


@pytest.mark.parametrize(
    ("name", "inside", "table"),
    [
        ("ddae-ddpm", "", "table_ddpm_alphabar"),
        ("ddae-ddpmpp", "", "table_ddpm_alphabar"),
        ("pdae-celeba64-tiny", "pre-trained-dpms/celeba64", "table_alphas_cumprod"),
        ("guided-diffusion-adm", "", "table_alphas_cumprod"),
        ("guided-diffusion-plain", "", "table_alphas_cumprod"),
        ("diffusers-ddpm", "", "alphas_cumprod"),
        ("diff-ae", "checkpoints/celeba64d2c_ddpm", None),
        ("pytorch-diffusion", "", None),
        ("dit", "", None),
    ],
)
def test_every_tenth_t_of_a_table(name: str, inside: str, table: str | None) -> None:
    """DDAE's network sees t / 1000 with t from 1, and its table has a row for t = 0; the others count from 0."""
    answers = case(name)
    denoiser = dr.load(answers.folder / inside)
    x0 = images(denoiser.input.channels)
    rows = LINEAR if table is None else answers[table]
    scale = 1000 if name.startswith("ddae") else 1
    assert len(rows) == 1000 + (scale > 1)
    check_known_image(denoiser, answers_noise(x0, rows, lambda time: time * scale), x0, TENTH)


def sigma_of(precond: str, c_noise: Tensor) -> Tensor:
    """The sigma for which Karras et al. 2022, table 1 gives this c_noise."""
    if precond in ("EDMPrecond", "Precond"):
        return (4 * c_noise).exp()
    if precond == "VEPrecond":
        return 2 * c_noise.exp()
    if precond == "VPPrecond":
        time = c_noise / 999
        return torch.expm1(19.9 / 2 * time**2 + 0.1 * time).sqrt()
    return formulas.iddpm_sigmas()[999 - c_noise.round().long()]


def between(low: float, high: float) -> NoiseLevel:
    return NoiseLevel.from_sigma(torch.logspace(math.log10(low), math.log10(high), len(TENTH), dtype=torch.float64))


@pytest.mark.parametrize(
    ("precond", "at"),
    [
        ("EDMPrecond", between(0.002, 80)),
        ("VPPrecond", torch.linspace(1e-5, 1, len(TENTH), dtype=torch.float64)),
        ("VEPrecond", between(0.02, 100)),
        ("iDDPMPrecond", TENTH),
        ("Precond", between(0.002, 80)),
    ],
)
def test_every_hundredth_of_a_range(precond: str, at: Tensor | NoiseLevel, tmp_path: Path) -> None:
    """The network's answer is (x0 - c_skip x) / c_out; conversion has turned the sign of VE's last layer."""
    path = edm2_file(tmp_path)[0] if precond == "Precond" else edm_file(tmp_path, "ddpmpp", precond)[0]
    denoiser = dr.load(path)
    x0 = images(denoiser.input.channels)

    def answer(x: Tensor, time: Tensor) -> Tensor:
        sigma = sigma_of(precond, time.flatten())
        c_skip, c_out, c_in, _ = (part.reshape(time.shape) for part in formulas.coefficients(precond, sigma))
        return (x0 - c_skip * x / c_in) / c_out * (-1 if precond == "VEPrecond" else 1)

    check_known_image(denoiser, answer, x0, at)

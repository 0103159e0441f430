"""The official programs' answers beside the repository, and how near to them we have to come."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from diffrep.noise import NoiseLevel

PARITY = Path(__file__).resolve().parents[3] / "shared" / "parity"
OUTPUT, SAMPLER = 1e-5, 1e-4
"""Tolerances as shares of a tensor's largest value."""


class Case:
    """One folder of answers: `case["eps"]` is a tensor, `case.close("eps", ours)` compares."""

    def __init__(self, name: str) -> None:
        self.folder = PARITY / name
        self.about = json.loads((self.folder / "about.json").read_text())["tensors"]
        self.tensors = load_file(self.folder / "expected.safetensors")

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def close(self, name: str, ours: Tensor, share: float = OUTPUT) -> None:
        """Hold our tensor to the official one: a share of the largest value, or 4 times what other kernels change."""
        theirs, facts = self.tensors[name], self.about[name]
        assert ours.shape == theirs.shape, name
        within = max(share * facts["max_abs"], 4 * facts["other_kernels_max_abs_diff"])
        assert float((ours.detach().double() - theirs.double()).abs().max()) <= within, name

    def close_x0(self, name: str, ours: Tensor, output: str, level: NoiseLevel) -> None:
        """Hold x_0 to the official one: rounding of the network's eps comes sigma / alpha times enlarged in it."""
        theirs, facts = self.tensors[name], self.about[output]
        rounding = max(OUTPUT * facts["max_abs"], 4 * facts["other_kernels_max_abs_diff"])
        within = (rounding * level.sigma / level.alpha).clamp(min=OUTPUT * self.about[name]["max_abs"])
        assert ours.shape == theirs.shape, name
        assert ((ours.double() - theirs.double()).abs().flatten(1).amax(1) <= within).all(), name

    def noise(self, name: str = "step_noise"):
        """The recorded draws of a sampler as a source of noise; its first step is number 1, and its last draws none."""
        draws = self.tensors[name]
        return lambda step, shape: draws[step - 1] if step <= len(draws) else torch.zeros(tuple(shape))


@cache
def case(name: str) -> Case:
    """The answers of a case; the test is skipped where they are not there."""
    if not (PARITY / name / "expected.safetensors").is_file():
        pytest.skip(f"no official answers at {PARITY / name}")
    return Case(name)


def no_noise(step: int, shape: tuple[int, ...]) -> Tensor:
    return torch.zeros(tuple(shape))

"""Who wrote a file of DiT's shape: what tells DiT, SiT, REPA and LightningDiT apart, and what is asked for."""

import argparse
from pathlib import Path

import pytest
from torch import Tensor

from diffrep.errors import FormatError
from tests.formats.test_dit_files import write
from tests.formats.transformer_files import adaptive_shapes, open_file, random_state

FEW = {"num_heads": 2, "num_classes": 10}


def doubled(variance: str) -> dict[str, Tensor]:
    """A file with a second half of the output, which DiT trains and SiT leaves at zero."""
    state = random_state(adaptive_shapes(out_channels=8))
    for name in ("final_layer.linear.weight", "final_layer.linear.bias"):
        rows = state[name].reshape(4, 8, -1)
        rows[:, 4:] *= variance == "trained"
        rows[:, :4] *= variance != "nothing trained"
    return state


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("SiT-XL-2-256x256.pt", "flow"),
        ("DiT-XL-2-256x256.pt", "eps"),
        ("site.pt", "eps"),
        ("edit.pt", "eps"),
        ("dit-and-sit.pt", "eps"),
        ("000-SiT-XL-2-Linear-velocity-None/checkpoints/0050000.pt", "flow"),
        ("lightningdit-xl-imagenet256-64ep.pt", "flow"),
    ],
)
def test_where_nothing_else_speaks_the_name_does(tmp_path: Path, name: str, kind: str) -> None:
    facts = {**FEW, "latent_norm": False} if "lightning" in name else FEW
    assert open_file(write(tmp_path / name, doubled("trained")), facts).parameterization == kind


@pytest.mark.parametrize(("variance", "kind"), [("trained", "eps"), ("zero", "flow")])
def test_a_variance_that_was_never_trained_is_sits(tmp_path: Path, variance: str, kind: str) -> None:
    denoiser = open_file(write(tmp_path / "weights.pt", doubled(variance)), FEW)
    assert denoiser.parameterization == kind
    assert (denoiser.conditioning.scale == -1) == (kind == "flow")


def test_where_nothing_was_trained_the_program_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"DiT, SiT, REPA and LightningDiT share.*not tell: model"):
        open_file(write(tmp_path / "weights.pt", doubled("nothing trained")), FEW)


def test_without_variances_the_program_must_be_named(tmp_path: Path) -> None:
    """A trunk of REPA has DiT's names and shapes, and its program calls it SiT-XL/2."""
    path = write(tmp_path / "last.pt", random_state(adaptive_shapes()))
    for facts in ({}, {"learn_sigma": False}, {"model": "SiT-XL/2"}, {"model": "my-model"}, {"model": {"target": "x"}}):
        with pytest.raises(FormatError, match="not tell: model"):
            open_file(path, {**FEW, **facts})
    assert open_file(path, {**FEW, "model": "DiT-tiny"}).parameterization == "eps"
    sit = open_file(path, {**FEW, "model": "SiT-S/2", "learn_sigma": False})
    assert sit.conditioning.scale == -1
    for facts in (
        {"enc_type": "dinov2-vit-b"},
        {"encoder_depth": 8, "path_type": "edm"},
        {"model": "SiT-XL/2", "path_type": "linear", "prediction": "v"},
        {"model": "REPA-SiT-XL/2"},
    ):
        repa = open_file(path, {**FEW, **facts})
        assert (repa.parameterization, repa.conditioning.scale) == ("flow", 1)


def test_what_the_file_says_of_itself_goes_before_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("encoder_depth: 8\nnum_heads: 4\nnum_classes: 11\n")
    arguments = argparse.Namespace(model="SiT-tiny", num_classes=10, path_type="Linear", num_heads=2)
    state = doubled("trained")
    path = write(tmp_path / "run" / "0050000.pt", {"model": state, "ema": state, "opt": {}, "args": arguments})
    denoiser = open_file(path)
    assert (denoiser.conditioning.scale, denoiser.labels.null) == (-1, 10)
    assert denoiser.network.config["heads"] == 2
    assert open_file(path, {"num_heads": 4}).network.config["heads"] == 4


def test_the_folder_of_a_run_names_its_path(tmp_path: Path) -> None:
    for name, straight in (("001-SiT-S-2-Linear-velocity-None", True), ("001-SiT-S-2-GVP-noise-None", False)):
        path = write(tmp_path / name / "checkpoints" / "0050000.pt", doubled("trained"))
        if straight:
            assert open_file(path, FEW).conditioning.scale == -1
            continue
        with pytest.raises(FormatError, match='path_type "gvp" and prediction "noise"'):
            open_file(path, FEW)

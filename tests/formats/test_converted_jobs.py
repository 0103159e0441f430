"""Both papers' jobs on converted checkpoints of each kind: DDAE's grid, and PDAE's training with falling loss."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import diffrep as dr
from diffrep.data.batches import Batch
from diffrep.denoiser import Denoiser
from diffrep.errors import UsageError
from diffrep.randomness import Draw, generator
from tests.cli.conftest import call as call  # the command line in this process
from tests.formats.parity import case

CASES = {
    "edm-ddpmpp": (["8x8_block1", "4x4_in0"], [2, 6]),
    "edm-adm": (["dec.*"], [2, 6]),
    "guided-diffusion-adm": (["output_blocks.0", "dec.2"], [10, 200]),
    "ddae-ddpm": (["out_*"], [10, 200]),
    "pytorch-diffusion": (["mid", "dec.1"], [10, 200]),
    "dit": (["layer-0", "layer-1"], [10, 200]),
}


@pytest.fixture(scope="module", params=CASES)
def converted(request, tmp_path_factory):
    source = case(request.param).folder
    denoiser = dr.load(dr.convert(source, tmp_path_factory.mktemp("out") / "model"))
    taps, times = CASES[request.param]
    return denoiser, taps, times


def pictures(denoiser: Denoiser, count: int, name: str) -> tuple[Tensor, Tensor]:
    """Images of two classes, bright and dark, with a little noise."""
    size, channels = denoiser.input.size, denoiser.input.channels
    labels = torch.arange(count) % 2
    noise = torch.randn(count, channels, size, size, generator=generator(0, name))
    return (labels.float() - 0.5).reshape(-1, 1, 1, 1) + 0.1 * noise, labels


def test_features_and_probes(converted, tmp_path: Path) -> None:
    denoiser, taps, times = converted
    free = denoiser.labels is not None and denoiser.labels.null is None and not denoiser.labels.optional
    known = {name for tap in denoiser.taps for name in (tap.name, *tap.aliases)}
    wanted = [tap if "*" in tap else next(n for n in sorted(known) if n.endswith(tap)) for tap in taps]
    features = dr.TapFeatures(denoiser, wanted, denoiser.schedule.at(times), y="none" if free else None)
    sets = []
    for split, count in (("train", 40), ("val", 20), ("test", 20)):
        x0, labels = pictures(denoiser, count, split)
        ids = [f"{split}-{k}" for k in range(count)]
        arrays = {name: values.numpy() for name, values in features(x0, ids=ids).items()}
        sets.append(dr.FeatureSet(arrays, labels.numpy(), ("dark", "bright"), ids, split))
    best = dr.probes.select(dr.RidgeProbe(), *sets)
    assert len(best.table) == len(features.names)
    assert best.score >= 0.9


def test_an_autoencoder_learns(converted, tmp_path: Path) -> None:
    denoiser = converted[0]
    free = denoiser.labels is not None and denoiser.labels.null is None and not denoiser.labels.optional
    model = dr.ShiftAutoencoder.fresh(dr.conditioned(denoiser, "none") if free else denoiser, 8)
    objective = dr.ShiftObjective(model)
    optimizer = torch.optim.AdamW(list(objective.parameters()), lr=2e-3)
    x0, _ = pictures(denoiser, 8, "train")
    ids = [str(k) for k in range(8)]
    losses = []
    objective.train()
    for step in range(50):
        optimizer.zero_grad()
        loss = objective.loss(Batch(x0, None, ids), Draw(0, step % 5, ids)).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    again = dr.load(dr.save(model, tmp_path / "autoencoder"))
    z, x_T = model.encode(x0), x0.flip(0)
    assert torch.equal(again.decode(z, x_T, steps=3), model.decode(z, x_T, steps=3))


def test_a_base_with_labels_of_images_is_not_saved(tmp_path: Path) -> None:
    base = dr.load(case("guided-diffusion-adm").folder)
    model = dr.ShiftAutoencoder.fresh(dr.conditioned(base, torch.tensor([1, 2])), 8)
    with pytest.raises(UsageError, match="cannot be saved"):
        dr.save(model, tmp_path / "autoencoder")


def test_classes_and_latents_on_the_command_line(tmp_path: Path, call) -> None:
    adm, dit = case("guided-diffusion-adm").folder, case("dit").folder
    few = ("--steps", "2", "--batch-size", "8", "--validate-every", "0", "--validation-images", "8", "--code-dim", "4")
    answer = call("autoencode", adm, "digits", *few, "-o", tmp_path / "a")
    assert answer.code == 2
    assert 'y="none"' in answer.err
    assert call("autoencode", adm, "digits", *few, "-o", tmp_path / "b", "--label", "none").code == 0
    assert call("reconstruct", tmp_path / "b", "digits", "--num", "2", "--steps", "2", "-o", tmp_path / "c").code == 0
    grid = ("extract", adm, "digits", "--split", "val", "--taps", "output_blocks.*", "--levels", "t=10")
    assert call(*grid, "--label", "none", "-o", tmp_path / "d").code == 0
    assert call("sample", adm, "--num", "1", "--steps", "2", "--label", "none", "-o", tmp_path / "e").code == 0
    assert call("sample", dit, "--num", "1", "--steps", "2", "-o", tmp_path / "f").code == 0
    with np.load(tmp_path / "f" / "samples.npz") as drawn:
        assert drawn["latents"].shape == (1, 4, 8, 8)
    answer = call("extract", dit, "digits", "--taps", "layer-1", "-o", tmp_path / "g")
    assert answer.code == 2
    assert "takes latents" in answer.err

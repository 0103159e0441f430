"""All jobs on a folder of diffusers: the command line, PDAE's training, hub ids."""

import json
import os
import time

import pytest
import torch

import diffrep as dr
from diffrep.data.batches import Batch
from diffrep.errors import InputError
from diffrep.randomness import Draw
from tests.cli.conftest import call as call  # the command line in this process
from tests.formats.diffusers_models import UNET, diffusers, inputs, random, saved

SMALL = {**UNET, "in_channels": 1, "out_channels": 1, "norm_num_groups": 4, "block_out_channels": (16, 16)}
FEW = ("--steps", "3", "--batch-size", "16", "--validate-every", "0", "--validation-images", "16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved(random("UNet2DModel", **SMALL), tmp_path_factory.mktemp("pipeline"), diffusers().DDPMScheduler())


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Some of the digits, as an archive."""
    import numpy as np

    path = tmp_path_factory.mktemp("data") / "some.npz"
    arrays = {}
    for split, part in dr.data.load("digits").items():
        few = part.take(150 if split == "train" else 60)
        arrays |= {f"{split}_images": few.images, f"{split}_labels": few.labels}
    np.savez(path, **arrays)
    return f"npz:{path}"


@pytest.mark.slow
def test_all_five_jobs_through_the_command_line(folder, images, call, tmp_path):
    def done(*words):
        answer = call(*words, "--json")
        assert answer.code == 0, answer.err
        return answer.json

    done("extract", folder, images, "-o", tmp_path / "features", "--taps", "mid,up_blocks.0", "--levels", "t=10")
    done("probe", tmp_path / "features")
    report = json.loads((tmp_path / "features" / "probe" / "report.json").read_text())
    assert "up_blocks.0@log_snr" in json.dumps(report)
    done("autoencode", folder, images, "-o", tmp_path / "codes", "--code-dim", "4", *FEW)
    done("reconstruct", tmp_path / "codes", images, "-o", tmp_path / "rebuilt", "--num", "4", "--steps", "2",
         "--inversion-steps", "2")  # fmt: skip
    done("sample", folder, "-o", tmp_path / "samples", "--num", "2", "--steps", "3")
    for run in ("features/probe", "codes", "rebuilt", "samples"):
        assert (tmp_path / run / "report.json").is_file()


def test_pdae_trains_on_a_diffusers_unet(folder):
    model = dr.ShiftAutoencoder.fresh(dr.load(folder), 8)
    objective = dr.ShiftObjective(model)
    optimizer = torch.optim.AdamW(list(objective.parameters()), lr=2e-3)
    grey = torch.linspace(-0.9, 0.9, 8).reshape(8, 1, 1, 1).expand(8, 1, 8, 8)
    ids, losses = [str(k) for k in range(8)], []
    objective.train()
    for step in range(50):
        optimizer.zero_grad()
        loss = objective.loss(Batch(grey, None, ids), Draw(0, step % 5, ids)).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_a_hub_id_is_its_folder_in_the_hubs_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    repository = tmp_path / "models--someone--tiny"
    saved(random("UNet2DModel", **SMALL), repository / "snapshots" / "abc", diffusers().DDIMScheduler())
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    model = dr.load("someone/tiny")
    x, t = inputs(1)
    assert model(x, model.schedule.at(t)).eps.shape == x.shape
    begin = time.monotonic()
    with pytest.raises(InputError, match=r"model_index\.json"):
        dr.load("someone/absent")
    assert time.monotonic() - begin < 5

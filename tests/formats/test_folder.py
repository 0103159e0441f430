"""Model folders: what is saved is loaded, and nothing else is."""

import json

import pytest
import torch

from diffrep import formats, networks
from diffrep.autoencoder import ShiftAutoencoder
from diffrep.continuous import EDMSchedule
from diffrep.denoiser import Conditioning, Denoiser, InputSpec, LabelSpec, SamplingSpec
from diffrep.errors import FormatError, InputError, UsageError
from diffrep.schedules import DiscreteSchedule


@pytest.fixture(scope="module")
def denoiser():
    network = networks.build({"layout": "tiny", "channels": 16})
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.05, generator=torch.Generator().manual_seed(p.numel()))
    return Denoiser(network, schedule=DiscreteSchedule.linear(), input=InputSpec(1, 8)).eval()


@pytest.fixture(scope="module")
def autoencoder(denoiser):
    model = ShiftAutoencoder.fresh(denoiser, code_dim=8)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.05, generator=torch.Generator().manual_seed(p.numel()))
    return model


X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_denoiser_comes_back_to_the_bit(denoiser, tmp_path):
    found = formats.load(formats.save(denoiser, tmp_path / "model"))
    level = denoiser.schedule.at(10)
    assert torch.equal(found(X, level).eps, denoiser(X, level).eps)
    assert found.identity == denoiser.identity
    assert not found.training
    assert formats.load(tmp_path / "model" / "model.safetensors").identity == denoiser.identity


def test_every_setting_comes_back(tmp_path):
    network = networks.build({"layout": "tiny", "channels": 16, "classes": 3})
    settings = {
        "schedule": EDMSchedule(sigma_max=60),
        "input": InputSpec(1, 16, (0.0, 1.0), latent=True),
        "parameterization": "edm",
        "conditioning": Conditioning("log-sigma", scale=0.25),
        "sampling": SamplingSpec(clip=False, rule="karras"),
        "labels": LabelSpec(3, optional=True),
        "sigma_data": 0.6,
    }
    found = formats.load(formats.save(Denoiser(network, **settings), tmp_path / "m"))
    assert {name: getattr(found, name) for name in settings} == settings


def test_loading_does_not_touch_the_global_generator(denoiser, tmp_path):
    formats.save(denoiser, tmp_path / "m")
    before = torch.random.get_rng_state()
    formats.load(tmp_path / "m")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_autoencoder_names_its_base_and_holds_none_of_it(denoiser, autoencoder, tmp_path):
    from safetensors import safe_open

    formats.save(autoencoder, tmp_path / "ae")
    with safe_open(tmp_path / "ae" / "model.safetensors", "pt") as file:
        assert all(name.split(".")[0] in ("encoder", "shift") for name in file.keys())  # noqa: SIM118
    found = formats.load(tmp_path / "ae", base=denoiser)
    assert torch.equal(found.encode(X), autoencoder.encode(X))
    level = denoiser.schedule.at(100)
    z = autoencoder.encode(X)
    assert torch.equal(found.at(z)(X, level).eps, autoencoder.at(z)(X, level).eps)


def test_the_base_is_found_by_its_recorded_source(denoiser, tmp_path):
    base = formats.load(formats.save(denoiser, tmp_path / "base"))
    formats.save(ShiftAutoencoder.fresh(base, code_dim=8), tmp_path / "ae")
    assert formats.load(tmp_path / "ae").denoiser.identity == base.identity


def test_a_base_below_the_home_folder_is_named_without_it(denoiser, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    base = formats.load(formats.save(denoiser, tmp_path / "base"))
    formats.save(ShiftAutoencoder.fresh(base, code_dim=8), tmp_path / "ae")
    assert json.loads((tmp_path / "ae" / "config.json").read_text())["base"]["source"] == "~/base"
    assert formats.load(tmp_path / "ae").denoiser.identity == base.identity


def test_another_base_is_refused_and_both_are_named(denoiser, autoencoder, tmp_path):
    formats.save(autoencoder, tmp_path / "ae")
    other = denoiser.with_schedule(DiscreteSchedule.cosine())
    with pytest.raises(FormatError) as caught:
        formats.load(tmp_path / "ae", base=other)
    assert denoiser.identity[:16] in str(caught.value)
    assert other.identity[:16] in str(caught.value)
    with pytest.raises(InputError, match="base="):
        formats.load(tmp_path / "ae")


def test_dtype_and_schedule_can_be_chosen(denoiser, tmp_path):
    formats.save(denoiser, tmp_path / "m")
    half = formats.load(tmp_path / "m", dtype=torch.bfloat16, schedule=DiscreteSchedule.cosine())
    assert half.schedule == DiscreteSchedule.cosine()
    assert next(half.parameters()).dtype == torch.bfloat16
    assert half(X, half.schedule.at(3)).eps.dtype == torch.float32


def _flip(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_is_found(denoiser, tmp_path):
    folder = formats.save(denoiser, tmp_path / "m")
    _flip(folder / "model.safetensors")
    with pytest.raises(FormatError, match="has changed: sha256"):
        formats.load(folder)


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors"])
def test_a_missing_file_is_named(denoiser, tmp_path, name):
    folder = formats.save(denoiser, tmp_path / "m")
    (folder / name).unlink()
    with pytest.raises(FormatError, match=name):
        formats.load(folder)


def test_weights_of_another_network_are_refused_by_name(denoiser, tmp_path):
    folder = formats.save(denoiser, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config["network"]["channels"] = 32
    (folder / "config.json").write_text(json.dumps(config))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"].pop("config.json")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FormatError, match=r"of another shape: .*weight"):
        formats.load(folder)


def test_what_is_wrong_is_named(denoiser, tmp_path):
    with pytest.raises(InputError, match="neither a file nor a packaged model"):
        formats.load("ddpm-digitz")
    with pytest.raises(FormatError, match="expected a folder"):
        formats.load(tmp_path)
    with pytest.raises(UsageError, match="there are: cpu"):
        formats.load(formats.save(denoiser, tmp_path / "m"), device="cuda:7")
    with pytest.raises(UsageError, match="unknown device"):
        formats.load(tmp_path / "m", device="gpu")
    with pytest.raises(UsageError, match="dtype = 'float16'"):
        formats.load("ddpm-digits", dtype="float16")
    with pytest.raises(UsageError, match="cannot be saved"):
        formats.save(torch.nn.Linear(1, 1), tmp_path / "n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        formats.save(denoiser, tmp_path / "other")


def test_saving_again_replaces_the_folder_and_a_full_disk_leaves_the_old_one(denoiser, tmp_path, monkeypatch):
    folder = formats.save(denoiser, tmp_path / "m", card="# first\n")
    formats.save(denoiser, folder, card="# second\n")
    assert (folder / "README.md").read_text() == "# second\n"

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("diffrep.formats.folder.write_synced", full)
    with pytest.raises(Exception, match="disk is full"):
        formats.save(denoiser, folder, card="# third\n")
    assert (folder / "README.md").read_text() == "# second\n"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]

"""Hostile and broken files: a typed error within a second, little memory, and nothing is ever called."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import diffrep as dr
from diffrep.cli import main
from diffrep.errors import DiffrepError, FormatError
from diffrep.formats import pickles
from tests.formats import evil

SECONDS = 1.0
MEGABYTES = 300
OPCODES = sorted(evil.opcodes(Path("x")))
ARCHIVES = sorted(evil.archives(Path("x")))
TENSOR_FILES = sorted(evil.tensor_files(Path("x")))


PARITY = Path(__file__).resolve().parents[3] / "shared" / "parity"


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import what first calls import."""
    dr.load("ddpm-digits")
    if (PARITY / "dit").is_dir():
        dr.load(PARITY / "dit")
    path = tmp_path_factory.mktemp("warm") / "model.pt"
    torch.save({"w": torch.zeros(2)}, path)
    with pytest.raises(FormatError):
        dr.load(path)


@pytest.fixture
def parity() -> Path:
    """The official programs' files, where they are."""
    if not PARITY.is_dir():
        pytest.skip(f"no {PARITY}")
    return PARITY


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[Path]:
    """A file that must not appear."""
    path = tmp_path / "sentinel"
    yield path
    assert not path.exists(), "a file was executed"


def peak_megabytes() -> float:
    """The most memory that this process had since the last call of `reset_peak`, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM")


def now_megabytes() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def refused(path: Path, **settings: object) -> DiffrepError:
    """Load a file, which must be refused quickly and cheaply."""
    measured = Path("/proc/self/clear_refs").exists()
    if measured:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        except OSError:
            measured = False
    before, began = now_megabytes() if measured else 0.0, time.thread_time()
    with pytest.raises(DiffrepError) as caught:
        dr.load(path, **settings)
    seconds = time.thread_time() - began  # of the processor: a busy machine is no slow reader
    assert seconds < SECONDS, f"{seconds:.2f} s"
    if measured:
        assert peak_megabytes() - before < MEGABYTES
    assert caught.value.exit_code == 2
    return caught.value


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".pkl", ".bin"])
@pytest.mark.parametrize("kind", evil.KINDS)
def test_a_pickle_that_calls_is_refused(kind: str, suffix: str, tmp_path: Path, sentinel: Path) -> None:
    """Already while it is read: in a file that holds a whole model besides, too."""
    assert "cannot be read" in str(refused(evil.evil_file(tmp_path, kind, suffix, sentinel)))


READ = {"setstate by name", "huge memo index", "doubling"}
"""Harmless once nothing is called, and cheap: they are read, and are no checkpoint."""


@pytest.mark.parametrize("name", OPCODES)
@pytest.mark.parametrize("zipped", [True, False])
def test_opcodes_that_no_pickler_writes(name: str, zipped: bool, tmp_path: Path, sentinel: Path) -> None:
    data = evil.opcodes(sentinel)[name]
    path = tmp_path / "model.pt"
    if zipped:
        evil.write_zip(path, data)
    else:
        path.write_bytes(data)
    assert ("cannot be read" in str(refused(path))) == (name not in READ)


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_that_lie(name: str, tmp_path: Path) -> None:
    refused(evil.archives(tmp_path)[name]())


@pytest.mark.parametrize("name", TENSOR_FILES)
def test_broken_tensor_files(name: str, tmp_path: Path) -> None:
    refused(evil.tensor_files(tmp_path)[name]())


@pytest.mark.parametrize("name", TENSOR_FILES)
def test_broken_weights_in_a_folder_of_diffusers(name: str, tmp_path: Path) -> None:
    path = evil.tensor_files(tmp_path)[name]()
    path.rename(tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(small_unet()))
    refused(tmp_path)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("case", ["edm-adm/network-snapshot-200000.pkl", "dit/DiT-tiny.pt"])
def test_truncated_checkpoints(case: str, keep: float, parity: Path, tmp_path: Path) -> None:
    data = (parity / case).read_bytes()
    path = tmp_path / Path(case).name
    path.write_bytes(data[: int(len(data) * keep)])
    refused(path)


def test_source_code_in_a_pickle_is_dropped_unread(parity: Path) -> None:
    data = pickles.read(parity / "edm-adm" / "network-snapshot-200000.pkl")
    assert data["ema"].class_name == "EDMPrecond"
    assert "module_src" not in str(data["ema"].state)[:100_000]


def test_weights_that_are_not_finite_are_named(parity: Path, tmp_path: Path) -> None:
    state = torch.load(parity / "dit" / "DiT-tiny.pt", weights_only=True)
    state["blocks.1.attn.proj.weight"][0, 0] = float("nan")
    torch.save(state, tmp_path / "DiT-tiny.pt")
    facts = json.loads((parity / "dit" / "args.json").read_text())
    error = refused(tmp_path / "DiT-tiny.pt", architecture=facts)
    assert "blocks.1.attn.proj.weight" in error.message


def test_the_wrong_architecture_is_named_and_builds_nothing(parity: Path, tmp_path: Path) -> None:
    facts = json.loads((parity / "guided-diffusion-adm" / "args.json").read_text())
    wrong = {**facts["model"], **facts["diffusion"], "num_heads": 5, "num_head_channels": -1}
    refused(parity / "guided-diffusion-adm" / "ema_0.9999_500000.pt", architecture=wrong)


@pytest.mark.parametrize(
    "change",
    [
        {"block_out_channels": [1 << 16, 1 << 16]},
        {"layers_per_block": 10**6},
        {"block_out_channels": []},
        {"block_out_channels": None},
        {"down_block_types": ["os.system"] * 2},
        {"in_channels": "three"},
        {"norm_num_groups": 0},
    ],
)
def test_a_config_that_asks_for_too_much_or_nonsense(change: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**small_unet(), **change}))
    save_file({"conv_in.weight": torch.zeros(8, 3, 3, 3)}, tmp_path / "diffusion_pytorch_model.safetensors")
    refused(tmp_path)


CONFIGS: dict[str, Callable[[], str]] = {
    "deep": lambda: "[" * 50_000 + "]" * 50_000,
    "long": lambda: json.dumps({"a": "x" * 1_000_000}),
    "no object": lambda: "[1, 2]",
    "no JSON": lambda: "{'a': 1}",
    "remote code": lambda: json.dumps({"auto_map": {"AutoModel": "modeling.Evil"}, "_class_name": "Evil"}),
    "unknown class": lambda: json.dumps({"_class_name": "posix.system"}),
    "class that is no name": lambda: json.dumps({"_class_name": ["UNet2DModel"]}),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_in_a_folder(name: str, tmp_path: Path, sentinel: Path) -> None:
    (tmp_path / "config.json").write_text(CONFIGS[name]())
    (tmp_path / "modeling.py").write_text(f"open({str(sentinel)!r}, 'w').close()")
    save_file({"w": torch.zeros(2)}, tmp_path / "diffusion_pytorch_model.safetensors")
    refused(tmp_path)


def test_a_custom_pipeline_is_not_run(tmp_path: Path, sentinel: Path) -> None:
    (tmp_path / "pipeline.py").write_text(f"open({str(sentinel)!r}, 'w').close()")
    (tmp_path / "model_index.json").write_text(
        json.dumps({"_class_name": ["pipeline", "Evil"], "unet": ["pipeline", "X"]})
    )
    refused(tmp_path)


def test_shards_outside_of_the_folder_are_not_opened(tmp_path: Path) -> None:
    folder = tmp_path / "unet"
    folder.mkdir()
    save_file({"w": torch.zeros(2)}, tmp_path / "secret.safetensors")
    (folder / "config.json").write_text(json.dumps(small_unet()))
    index = {"weight_map": {"w": "../secret.safetensors"}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    assert "outside" in str(refused(folder)) or "UNet2DModel" in str(refused(folder))


def test_an_alias_bomb_in_a_config_beside_the_file(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    (tmp_path / "config.yml").write_text("\n".join(lines))
    torch.save({"w": torch.zeros(2)}, tmp_path / "model.pt")
    assert "stands for" in str(refused(tmp_path / "model.pt"))


@pytest.mark.parametrize("text", ["!!python/object/apply:os.system ['touch {0}']", "a: !!python/name:os.system"])
def test_a_config_that_calls(text: str, tmp_path: Path, sentinel: Path) -> None:
    (tmp_path / "config.yml").write_text(text.format(sentinel))
    torch.save({"w": torch.zeros(2)}, tmp_path / "model.pt")
    refused(tmp_path / "model.pt")


@pytest.mark.parametrize(
    "change",
    [
        {"network": {"layout": "tiny", "channels": 1 << 14}},
        {"network": {"layout": "posix.system"}},
        {"network": None},
        {"schedule": {"kind": "exec"}},
        {"input": {}},
        {"version": 99},
    ],
)
def test_a_model_folder_with_another_config(change: dict[str, object], tmp_path: Path) -> None:
    folder = dr.save(dr.load("ddpm-digits"), tmp_path / "m")
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"].pop("config.json")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    refused(folder)


@pytest.mark.parametrize("kind", ["os.system", "zip bomb", "header", "folder"])
@pytest.mark.parametrize("command", ["convert", "extract"])
def test_as_a_command_it_is_exit_2_and_no_traceback(
    kind: str, command: str, tmp_path: Path, sentinel: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = tmp_path / "in"
    inputs.mkdir()
    if kind == "folder":
        (inputs / "config.json").write_text(CONFIGS["remote code"]())
        (inputs / "modeling.py").write_text("raise SystemExit")
        path = inputs
    elif kind == "header":
        path = evil.tensor_files(inputs)["a header of 90 MB"]()
    elif kind == "zip bomb":
        path = evil.archives(inputs)["zip bomb"]()
    else:
        path = evil.evil_file(inputs, kind, ".pt", sentinel)
    out = tmp_path / "out"
    words = [command, path, out] if command == "convert" else [command, path, "digits", "-o", out]
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr().err
    assert "error:" in said
    assert "Traceback" not in said
    assert not out.exists()


def small_unet() -> dict[str, object]:
    """config.json of a small U-Net of diffusers."""
    return {
        "_class_name": "UNet2DModel",
        "act_fn": "silu",
        "add_attention": True,
        "attention_head_dim": 8,
        "block_out_channels": [8, 16],
        "center_input_sample": False,
        "class_embed_type": None,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": 3,
        "layers_per_block": 1,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-5,
        "norm_num_groups": 8,
        "out_channels": 3,
        "resnet_time_scale_shift": "default",
        "sample_size": 8,
        "time_embedding_type": "positional",
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    }

"""Pickles are read as data: what torch reads, we read the same; what it cannot, becomes a record."""

import argparse
import collections
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffrep.errors import FormatError
from diffrep.formats import pickles
from diffrep.formats.inert import Inert, Name
from diffrep.formats.state_dicts import module_tensors, state_dict
from tests.formats.evil import raw
from tests.formats.parity import PARITY

FILES = sorted(p for p in PARITY.rglob("*") if p.suffix in (".pt", ".pth", ".ckpt", ".pkl"))


def same(ours: Any, theirs: Any) -> bool:
    """Equal to the bit, containers and strides included."""
    if isinstance(theirs, torch.Tensor):
        return torch.equal(ours, theirs) and ours.stride() == theirs.stride() and ours.dtype == theirs.dtype
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(same(ours[k], theirs[k]) for k in theirs)
    if isinstance(theirs, list | tuple):
        return type(ours) is type(theirs) and len(ours) == len(theirs) and all(map(same, ours, theirs))
    return bool(ours == theirs)


def example() -> dict[str, Any]:
    base = torch.arange(24.0).reshape(4, 6)
    return {
        "state_dict": collections.OrderedDict(a=base, b=base.t(), c=base[1:3, ::2], d=torch.tensor(3.5)),
        "half": torch.randn(5, generator=torch.Generator().manual_seed(0)).half(),
        "bfloat": torch.ones(3, dtype=torch.bfloat16),
        "long": torch.arange(5),
        "bool": torch.tensor([True, False]),
        "empty": torch.empty(0, 4),
        "expanded": torch.full((1,), 0.01).expand(3, 4),
        "numbers": [1, -5, 2**40, 1e-8, True, None, "text", "\u00e9"],
        "nested": {"tuple": (1, (2, 3)), 7: "key"},
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves_is_read_to_the_bit(protocol: int, zipped: bool, tmp_path: Path) -> None:
    torch.save(example(), tmp_path / "x.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    assert same(pickles.read(tmp_path / "x.pt"), example())


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_of_all_protocols(protocol: int, tmp_path: Path) -> None:
    value = {"a": [1, 2.5, -3, 10**30, "x", None, True, False], "b": ("t", ()), "s": {1, 2}, "f": frozenset({3})}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value, protocol))
    assert pickles.read(tmp_path / "x.pkl") == value


def test_tensors_in_a_plain_pickle(tmp_path: Path) -> None:
    value = {"w": torch.randn(3, 5, generator=torch.Generator().manual_seed(1)), "p": torch.nn.Parameter(torch.ones(2))}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value))
    found = pickles.read(tmp_path / "x.pkl")
    assert torch.equal(found["w"], value["w"])
    assert torch.equal(found["p"], torch.ones(2))


@pytest.mark.parametrize("protocol", [2, 4])
def test_numpy_numbers_and_arrays(protocol: int, tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    value = {"number": np.float64(2.5), "int": np.int32(7), "array": array, "columns": np.asfortranarray(array)}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value, protocol))
    found = pickles.read(tmp_path / "x.pkl")
    assert (found["number"], found["int"]) == (2.5, 7)
    assert torch.equal(found["array"], torch.from_numpy(array))
    assert torch.equal(found["columns"], torch.from_numpy(array))


def test_a_namespace_is_a_dictionary(tmp_path: Path) -> None:
    torch.save({"args": argparse.Namespace(model="DiT-S/2", depth=12)}, tmp_path / "x.pt")
    assert pickles.read(tmp_path / "x.pt") == {"args": {"model": "DiT-S/2", "depth": 12}}


def test_foreign_classes_are_records(tmp_path: Path) -> None:
    call = b"cpytorch_lightning.callbacks\nModelCheckpoint\n"
    data = raw(b"}", call, b"}X\x01\x00\x00\x00aK\x01ss")
    (tmp_path / "x.pkl").write_bytes(data)
    (key, value), *_ = pickles.read(tmp_path / "x.pkl").items()
    assert isinstance(key, Name)
    assert key.full == "pytorch_lightning.callbacks.ModelCheckpoint"
    assert value == {"a": 1}
    (tmp_path / "y.pkl").write_bytes(raw(b"comegaconf.dictconfig\nDictConfig\n)\x81}X\x01\x00\x00\x00aK\x01sb"))
    record = pickles.read(tmp_path / "y.pkl")
    assert isinstance(record, Inert)
    assert (record.class_name, record.state, record.get("a")) == ("omegaconf.dictconfig.DictConfig", {"a": 1}, 1)


def test_a_pickled_module_gives_its_state_dict(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"ema": network}))
    found = module_tensors(pickles.read(tmp_path / "x.pkl")["ema"])
    assert same(found, dict(network.state_dict()))


def test_writing_to_a_tensor_never_reaches_the_file(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(4)}, tmp_path / "x.pt")
    before = (tmp_path / "x.pt").read_bytes()
    pickles.read(tmp_path / "x.pt")["w"].add_(1)
    assert (tmp_path / "x.pt").read_bytes() == before
    assert float(pickles.read(tmp_path / "x.pt")["w"].sum()) == 0


def test_ema_comes_before_the_model() -> None:
    ema, model = torch.ones(1), torch.zeros(1)
    assert state_dict({"ema": {"w": ema}, "model": {"w": model}})["w"] is ema
    assert state_dict({"w": model})["w"] is model


@pytest.mark.parametrize("file", FILES, ids=lambda p: str(p.relative_to(PARITY)))
def test_official_files_are_read_as_torch_reads_them(file: Path) -> None:
    ours = pickles.read(file)
    try:
        theirs = torch.load(io.BytesIO(file.read_bytes()), weights_only=True)
    except pickle.UnpicklingError:
        assert isinstance(ours, dict)  # it names a class that torch refuses and we keep as a record
    else:
        assert same(ours, theirs)


@pytest.mark.parametrize(
    ("start", "what"), [(b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"), (b"<!DOCTYPE html>", "web page")]
)
def test_what_lies_in_the_place_of_a_checkpoint_is_named(start: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(start + b"and so on")
    with pytest.raises(FormatError, match=what):
        pickles.read(path)

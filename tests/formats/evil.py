"""Files that want to harm: pickles that call, archives that lie about their size, configs that explode.

Each maker writes one file into a folder and returns its path. What a pickle calls would make a sentinel file.
"""

from __future__ import annotations

import functools
import io
import json
import operator
import os
import pickle
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Calls:
    """Pickled as a call of `function(*args)`."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.made = (function, args)

    def __reduce__(self) -> Any:
        return self.made

    def __call__(self) -> None:
        """Picklers want functions to be callable."""


def payload(kind: str, sentinel: Path) -> Any:
    """An object whose unpickling makes the sentinel, one way or another."""
    shell = f"touch {sentinel}"
    code = f"open({str(sentinel)!r}, 'w').close()"
    kinds: dict[str, Callable[[], Any]] = {
        "os.system": lambda: Calls(os.system, shell),
        "eval": lambda: Calls(eval, code),
        "exec": lambda: Calls(exec, code),
        "getattr": lambda: Calls(Calls(getattr, os, "system"), shell),
        "partial": lambda: Calls(Calls(functools.partial, os.system, shell)),
        "popen": lambda: Calls(subprocess.Popen, ["touch", str(sentinel)]),
        "methodcaller": lambda: Calls(Calls(operator.methodcaller, "touch"), sentinel),
        "hub": lambda: Calls(torch.hub.load, str(sentinel.parent), "model", "local"),
        "import": lambda: Calls(__import__, "antigravity"),
        "open": lambda: Calls(open, str(sentinel), "w"),
        "save": lambda: Calls(np.save, str(sentinel), 1),
    }
    return kinds[kind]()


KINDS = ("os.system", "eval", "exec", "getattr", "partial", "popen", "methodcaller", "hub", "import", "open", "save")


def evil_file(folder: Path, kind: str, suffix: str, sentinel: Path) -> Path:
    """An evil pickle in the container that its suffix usually has."""
    path = folder / f"model{suffix}"
    thing = ByName(payload(kind, sentinel)).dumps({"state_dict": {"w": torch.zeros(2)}, "x": payload(kind, sentinel)})
    if suffix == ".pkl":
        path.write_bytes(thing)
    elif suffix == ".ckpt":  # torch's legacy container: magic, protocol, system, object, keys
        numbers = [pickle.dumps(n, 2) for n in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
        path.write_bytes(b"".join([*numbers, thing, pickle.dumps([], 2)]))
    else:
        write_zip(path, thing)
    return path


class ByName:
    """Pickles modules by name, so that getattr(os, ...) can be written down."""

    def __init__(self, _: Any) -> None:
        pass

    def dumps(self, value: Any) -> bytes:
        """As pickle.dumps, protocol 2, without tensors' storages."""
        buffer = io.BytesIO()
        pickler = Pickler(buffer, 2)
        pickler.dump(value)
        return buffer.getvalue()


class Pickler(pickle._Pickler):  # the Python one: its dispatch can be told about modules
    """Knows modules and leaves tensors out."""

    def reducer_override(self, value: Any) -> Any:
        if value is os:
            return __import__, ("os",)
        if isinstance(value, torch.Tensor):
            return list, ()
        return NotImplemented


def write_zip(path: Path, data: bytes, compression: int = zipfile.ZIP_STORED, **others: bytes) -> Path:
    """torch.save's container around a pickle."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", b"3\n")
        for name, content in others.items():
            archive.writestr(f"archive/data/{name}", content)
    return path


def raw(*parts: bytes) -> bytes:
    """A pickle by hand."""
    return b"\x80\x02" + b"".join(parts) + b"."


def short(text: str) -> bytes:
    """SHORT_BINUNICODE."""
    return b"\x8c" + struct.pack("<B", len(text)) + text.encode()


def opcodes(sentinel: Path) -> dict[str, bytes]:
    """Pickles written by hand, for what no pickler writes."""
    shell = short(f"touch {sentinel}")
    system = b"cposix\nsystem\n"
    evil_storage = pickle.dumps({"inner": Calls(os.system, f"touch {sentinel}")})
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
    deep = b")" + b"\x85" * 200_000
    return {
        "reduce": raw(system, shell, b"\x85R"),
        "newobj": raw(system, shell, b"\x85\x81"),
        "newobj with keywords": raw(system, shell, b"\x85}\x92"),
        "inst": raw(b"(", shell, b"iposix\nsystem\n"),
        "obj": raw(b"(", system, shell, b"o"),
        "stack global": raw(short("posix"), short("system"), b"\x93", shell, b"\x85R"),
        "extension registry": raw(b"\x82\x01"),
        "state for a function": raw(rebuild, b"}", short("__defaults__"), b")s", b"b"),
        "slot state for a class": raw(b"cbuiltins\ndict\n", b"N}", short("get"), system, b"s\x86b"),
        "setstate by name": raw(b"cfractions\nFraction\n)\x81}", short("__setstate__"), system, b"sb"),
        "nested persistent id": raw(system, shell, b"\x85RQ"),
        "persistent id of text": raw(b"Pevil\n"),
        "storage in bytes": raw(
            b"ctorch.storage\n_load_from_bytes\nB", struct.pack("<I", len(evil_storage)), evil_storage, b"\x85R"
        ),
        "torch.load in a pickle": raw(b"ctorch.serialization\nload\n", short("x.pt"), b"\x85R"),
        "numpy objects": raw(b"cnumpy\ndtype\n", short("O8"), b"\x85R"),
        "numpy.load": raw(b"cnumpy\nload\n", short("x.npy"), b"\x85R"),
        "copyreg": raw(b"ccopyreg\n__newobj__\n", system, shell, b"\x86R"),
        "pickle in a pickle": raw(b"cpickle\nloads\nC", struct.pack("<B", 4), b"N.N.", b"\x85R"),
        "call of a result": raw(system, shell, b"\x85R", shell, b"\x85R"),
        "huge memo index": raw(b"Nr\xff\xff\xff\x7f"),
        "huge bytes": raw(b"\x8e" + struct.pack("<Q", 1 << 40)),
        "huge text": raw(b"\x8d" + struct.pack("<Q", 1 << 40)),
        "huge frame": raw(b"\x95" + struct.pack("<Q", 1 << 62)),
        "huge number": raw(b"\x8b" + struct.pack("<i", 5_000_000) + b"\x7f" * 5_000_000),
        "digits": raw(b"I" + b"9" * 9000 + b"\n"),
        "flood of opcodes": raw(b"N" * 3_000_000),
        "flood of sets": raw(b"\x8f" * 3_000_000),
        "flood of lists": raw(b"]" * 400_000),
        "deep key": raw(b"}", deep, b"Ns"),
        "deep member of a set": raw(b"cbuiltins\nset\n(", deep, b"t\x85R"),
        "doubling": raw(b")" + b"2\x86" * 60),
        "pops an empty stack": raw(b"0000"),
        "no memo": raw(b"h\x07"),
        "no mark": raw(b"u"),
        "list as a key": raw(b"}]Ns"),
        "unknown opcode": raw(b"\xf0"),
        "no stop": b"\x80\x02}",
    }


def tensor_pickle(numel: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    """A dictionary with one tensor over storage 0 of `numel` float32, of any shape it likes."""

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", value) for value in values) + b"t"

    key = (
        b"(" + short("storage") + b"ctorch\nFloatStorage\n" + short("0") + short("cpu") + numbers((numel,))[1:-1] + b"t"
    )
    ordered = b"ccollections\nOrderedDict\n)R"
    arguments = (
        b"(" + key + b"Q" + numbers((offset,))[1:-1] + numbers(size) + numbers(stride) + b"\x89" + ordered + b"t"
    )
    return raw(b"}", short("w"), b"ctorch._utils\n_rebuild_tensor_v2\n", arguments, b"R", b"s")


def archives(folder: Path) -> dict[str, Callable[[], Path]]:
    """Archives and tensors that lie, by name."""
    path = folder / "model.pt"

    def truncated(keep: float) -> Path:
        torch.save({f"w{i}": torch.zeros(1000) for i in range(20)}, path)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * keep)])
        return path

    def lying_sizes() -> Path:
        write_zip(path, raw(b"}"), **{"0": b"\0" * 64})
        data = bytearray(path.read_bytes())
        for at in range(len(data) - 46):
            if data[at : at + 4] == b"PK\x01\x02":
                struct.pack_into("<II", data, at + 20, 0x7FFFFFF0, 0x7FFFFFF0)
        path.write_bytes(data)
        return path

    def many_entries() -> Path:
        with zipfile.ZipFile(path, "w") as archive:
            for i in range(60_000):
                archive.writestr(f"a/{i}", b"")
        return path

    def script() -> Path:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", raw(b"}"))
            archive.writestr("a/constants.pkl", raw(b")"))
            archive.writestr("a/code/__torch__.py", b"raise SystemExit")
        return path

    def written(data: bytes) -> Path:
        path.write_bytes(data)
        return path

    floats = {"0": b"\0" * 64}
    return {
        "zip bomb": lambda: write_zip(path, raw(b"}"), zipfile.ZIP_DEFLATED, **{"0": b"\0" * 100_000_000}),
        "sizes that lie": lying_sizes,
        "too many entries": many_entries,
        "TorchScript": script,
        "half of a zip": lambda: truncated(0.5),
        "a zip without its end": lambda: truncated(0.98),
        "the first bytes of a zip": lambda: truncated(0.001),
        "a zip of something else": lambda: write_zip(path.with_name("x.zip"), b"").rename(path),
        "a storage that is missing": lambda: write_zip(path, tensor_pickle(16, (16,), (1,))),
        "a storage that is too small": lambda: write_zip(path, tensor_pickle(1 << 40, (16,), (1,)), **floats),
        "a tensor beyond its storage": lambda: write_zip(path, tensor_pickle(16, (1000,), (1,)), **floats),
        "a tensor at an offset": lambda: write_zip(path, tensor_pickle(16, (16,), (1,), 1 << 30), **floats),
        "a negative size": lambda: write_zip(path, tensor_pickle(16, (-16,), (1,)), **floats),
        "terabytes in 64 bytes": lambda: write_zip(path, tensor_pickle(16, (1 << 20, 1 << 20), (0, 0)), **floats),
        "empty": lambda: written(b""),
        "noise": lambda: written(bytes(range(256)) * 100),
        "text": lambda: written(b"<html>404 not found</html>"),
    }


def tensor_file(path: Path, header: bytes, body: bytes = b"", length: int | None = None) -> Path:
    """A safetensors file with any header."""
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + body)
    return path


def tensor_files(folder: Path) -> dict[str, Callable[[], Path]]:
    """safetensors files that are wrong, by name."""
    path = folder / "model.safetensors"
    good = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    vast = json.dumps({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    return {
        "a header of 90 MB": lambda: tensor_file(path, b"{" + b" " * 90_000_000 + b"}"),
        "a header beyond the file": lambda: tensor_file(path, good, length=1 << 20),
        "a huge header length": lambda: tensor_file(path, good, length=1 << 60),
        "a truncated body": lambda: tensor_file(path, good, b"\0" * 8),
        "a vast tensor": lambda: tensor_file(path, vast, b"\0" * 16),
        "deep JSON": lambda: tensor_file(path, b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    }

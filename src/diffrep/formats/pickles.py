"""Pickled checkpoints, read as data: torch's zip and legacy files, Lightning's, and plain pickles of EDM and EDM2.

The file is mapped, never copied as a whole; tensors are views of the mapping. What may be built stands in one table,
`REBUILDERS`; every other class becomes an `Inert` record, and every other function is refused. `weights_only=True`
of PyTorch would refuse the classes that EDM, Lightning and DiT name; here nothing that a file names is ever imported.
"""

from __future__ import annotations

import struct
import sys
from _compat_pickle import IMPORT_MAPPING
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffrep.errors import FormatError
from diffrep.formats.inert import Inert, Name
from diffrep.formats.rebuilders import REBUILDERS, STORAGES, Storage, sizes
from diffrep.formats.unpickling import Machine
from diffrep.formats.zips import entries

PLACEHOLDERS = {
    b"version https://git-lfs": ("a pointer of git-lfs, not the file itself", "fetch it: git lfs pull"),
    b"<": ("a web page", "download the file again"),
}
"""What users find in the place of a checkpoint: first bytes -> what it is, what to do."""
MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle of torch's files before version 1.6."""
HARMLESS = {"collections", "datetime", "decimal", "enum", "fractions", "pathlib", "types", "uuid"}
"""Modules of the standard library whose objects checkpoints do hold; kept as `Inert`."""


@dataclass
class Reader:
    """One mapped file and what its pickles may build.

    Args:
        mapping: the file's bytes, private: writing to a tensor never reaches the file.
        depth: how deep storages lie in pickles in pickles.
    """

    mapping: Tensor
    depth: int = 0
    storages: dict[Any, torch.UntypedStorage] = field(default_factory=dict)

    @property
    def buffer(self) -> memoryview:
        """The bytes, for parsing."""
        return memoryview(self.mapping.numpy())  # type: ignore[arg-type]

    def machine(self, persistent: Callable[[Any], Any] | None = None, part: slice = slice(None)) -> Machine:
        """A pickle machine over (a part of) the file."""
        return Machine(self.buffer[part], self.call, persistent or no_storage, self.mapping.numel())

    def call(self, name: str, args: tuple[Any, ...]) -> Any:  # noqa: ANN401 (what the file says)
        """Build what `name(*args)` stands for, if the table knows it; a record of it, if it is a foreign class."""
        if name == "torch.storage._load_from_bytes":
            return self.storage_in_bytes(*args)
        if name in REBUILDERS:
            return REBUILDERS[name](self.call, *args)
        module = name.split(".")[0]
        module = IMPORT_MAPPING.get(module, module).split(".")[0]  # Python 2 called builtins __builtin__
        foreign = module not in sys.stdlib_module_names and module not in ("torch", "numpy")
        if not (foreign or module in HARMLESS or name.startswith(("torch.nn.", "torch.optim.", "numpy.random."))):
            raise FormatError(
                f"the pickle wants to call {name[:80]}, which no checkpoint needs", "do not use this file"
            )
        return Inert(name, args)

    def slice(self, start: int, size: int) -> torch.UntypedStorage:
        """Bytes of the mapping; copied only where they are not aligned, and then only once."""
        if start < 0 or size < 0 or start + size > self.mapping.numel():
            raise FormatError("the file is truncated: a tensor's bytes are missing", "copy the file again")
        key = (start, size)
        if key not in self.storages:
            part = self.mapping[start : start + size]
            whole = self.mapping.untyped_storage()
            offset = self.mapping.storage_offset() + start
            aligned = (whole.data_ptr() + offset) % 16 == 0
            self.storages[key] = whole[offset : offset + size] if aligned else part.clone().untyped_storage()
        return self.storages[key]

    def storage_in_bytes(self, raw: Any) -> Storage:  # noqa: ANN401 (what the file says)
        """A storage that `torch.save` wrote into the bytes of a pickle (torch's own pickling of a tensor)."""
        if not isinstance(raw, memoryview) or self.depth:
            raise TypeError("a storage must be bytes, and not in another storage")
        start = np.frombuffer(raw, np.uint8).__array_interface__["data"][0] - self.mapping.data_ptr()
        found = legacy(Reader(self.mapping[start : start + len(raw)], self.depth + 1))
        if not isinstance(found, Storage):
            raise TypeError("the bytes hold no storage")
        return found


def no_storage(key: Any) -> Any:  # noqa: ANN401 (what the file says)
    """Plain pickles have no storages of their own."""
    raise FormatError("the pickle refers to data outside of it", "no checkpoint of this kind does that")


def read(path: Path) -> Any:  # noqa: ANN401 (whatever the file holds)
    """What a pickled checkpoint holds: dictionaries, lists, numbers, text, tensors on the CPU and `Inert` records.

    Args:
        path: a file that `torch.save` (of any version since 0.4) or `pickle.dump` wrote.

    Errors:
        FormatError: no pickle, truncated, malformed, compressed, or one that wants to call something.
    """
    size = path.stat().st_size
    if size == 0:
        raise FormatError(f"{path} is empty", "copy the file again")
    reader = Reader(torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8))
    for start, (what, hint) in PLACEHOLDERS.items():
        if bytes(reader.buffer[: len(start)]) == start:
            raise FormatError(f"{path} is {what}", hint)
    try:
        if bytes(reader.buffer[:4]) == b"PK\x03\x04":
            return zipped(path, reader)
        return legacy(reader)
    except FormatError as error:
        raise FormatError(f"{path} cannot be read: {error.message}", error.hint) from error
    except RecursionError as error:
        raise FormatError(f"{path} cannot be read: it is nested too deeply", "do not use this file") from error


def zipped(path: Path, reader: Reader) -> Any:  # noqa: ANN401 (whatever the file holds)
    """A file of `torch.save` since version 1.6: a pickle, and one entry of raw bytes per storage."""
    found = entries(path, reader.buffer)
    pickles = [name for name in found if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1 or any(name.split("/")[-1] == "constants.pkl" for name in found):
        raise FormatError(
            f"this zip file is no checkpoint of torch.save: {', '.join(list(found)[:3])}",
            "expected one data.pkl; a TorchScript archive holds code and is not read",
        )
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in found and bytes(reader.buffer[found[f"{root}byteorder"]]) != b"little":
        raise FormatError("the tensors are big-endian", "save the checkpoint on a little-endian machine")

    def persistent(key: Any) -> Storage:  # noqa: ANN401 (what the file says)
        dtype, name, count = storage_key(key)
        place = found.get(f"{root}data/{name}")
        if place is None or place.stop - place.start < count * dtype.itemsize:
            raise FormatError(f"the file is truncated: storage {name} is missing", "copy the file again")
        return Storage(dtype, reader.slice(place.start, count * dtype.itemsize))

    return reader.machine(persistent, found[pickles[0]]).run()[0]


def legacy(reader: Reader) -> Any:  # noqa: ANN401 (whatever the file holds)
    """A plain pickle, or torch's files before 1.6: five pickles, then each storage's count and bytes."""
    machine = reader.machine()
    value, end = machine.run()
    if value != MAGIC or isinstance(value, bool):
        return value
    for _ in range(2):  # protocol, system
        _, end = machine.run(end)
    wanted: dict[str, tuple[torch.dtype, int]] = {}

    def look(key: Any) -> Storage:  # noqa: ANN401 (what the file says)
        dtype, name, count = storage_key(key)
        wanted[name] = (dtype, count)
        return Storage(dtype, torch.UntypedStorage(0))  # type: ignore[no-untyped-call]

    first = Machine(reader.buffer, skip_tensors, look)
    start = end
    _, end = first.run(start)
    order, end = first.run(end)
    there: dict[str, Storage] = {}
    for name in order:
        dtype, count = wanted[name]
        (written,) = struct.unpack("<q", reader.buffer[end : end + 8])
        if written != count:
            raise FormatError(f"storage {name} has {written} entries, {count} were announced", "copy the file again")
        there[name] = Storage(dtype, reader.slice(end + 8, count * dtype.itemsize))
        end += 8 + count * dtype.itemsize
    return Machine(reader.buffer, reader.call, lambda key: there[storage_key(key)[1]]).run(start)[0]


def skip_tensors(name: str, args: tuple[Any, ...]) -> Any:  # noqa: ANN401 (what the file says)
    """Build nothing: the first pass over a legacy file only collects its storages."""
    return Inert(name, args)


def storage_key(key: Any) -> tuple[torch.dtype, str, int]:  # noqa: ANN401 (what the file says)
    """(dtype, name, entries) of torch's persistent id: ("storage", type, name, device, entries[, view])."""
    if not isinstance(key, tuple) or len(key) not in (5, 6) or key[0] != "storage" or (len(key) == 6 and key[5]):
        raise FormatError("the pickle refers to something that is no storage", "no checkpoint does that")
    kind, name, count = key[1], key[2], key[4]
    if not isinstance(kind, Name) or kind.full not in STORAGES or not isinstance(name, str) or not sizes((count,)):
        raise FormatError("the pickle refers to a storage of an unknown type", f"known: {', '.join(STORAGES)}")
    return STORAGES[kind.full], name, count

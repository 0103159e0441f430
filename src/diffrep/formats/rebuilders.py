"""What a pickle may build: one table from a name in the file to a few lines of ours.

Tensors are views of storages, checked against their size; NumPy's numbers and arrays hold plain numbers; NVIDIA's
persistent objects become records, and the source text in them is dropped unread.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffrep.errors import FormatError
from diffrep.formats.inert import Building, Inert, Settable, plain_key

Call = Callable[[str, tuple[Any, ...]], Any]
STORAGES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Double": torch.float64,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
    }.items()
}
MAX_EXPANDED = 64 << 20
"""A tensor with stride 0 may stand for so many bytes more than its storage holds."""


@dataclass(eq=False)
class Storage:
    """A run of bytes that tensors are views of."""

    dtype: torch.dtype
    bytes: torch.UntypedStorage


def sizes(numbers: Any) -> bool:  # noqa: ANN401 (what the file says)
    """Whether these are non-negative integers of a plausible size."""
    return isinstance(numbers, tuple) and all(type(n) is int and 0 <= n < 1 << 48 for n in numbers)


def tensor(call: Call, storage: Any, offset: int, size: Any, stride: Any, *rest: Any) -> Tensor:  # noqa: ANN401
    """A view of a storage, refused where it would reach beyond it or stand for far more than the file holds."""
    if not isinstance(storage, Storage) or not (sizes((offset,)) and sizes(size) and sizes(stride)):
        raise TypeError("a tensor needs a storage, an offset, sizes and strides")
    if len(size) != len(stride) or len(size) > 16:
        raise ValueError("a tensor needs one stride per size")
    there, width = storage.bytes.nbytes(), storage.dtype.itemsize
    count = 1
    for n in size:
        count *= n
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if count and (last + 1) * width > there:
        raise FormatError("a tensor reaches beyond its storage", "copy the file again")
    if count * width > there + MAX_EXPANDED:
        raise FormatError(f"a tensor of shape {size[:6]} stands for far more than the file holds", "do not use it")
    return torch.empty(0, dtype=storage.dtype).set_(storage.bytes, offset, size, stride)


def subclassed(call: Call, function: Any, kind: Any, args: Any, state: Any = None) -> Any:  # noqa: ANN401
    """A tensor of a subclass: the tensor."""
    return call(function.full, args)


def entries(call: Call, items: Any = ()) -> dict[Any, Any]:  # noqa: ANN401 (what the file says)
    """A dictionary from its pairs."""
    return {plain_key(key): value for key, value in (items.items() if isinstance(items, dict) else items)}


def dtype_of(call: Call, code: Any, *flags: Any) -> Building:  # noqa: ANN401 (what the file says)
    """NumPy's dtype: plain numbers only."""
    if not isinstance(code, str) or not re.fullmatch(r"[biufc](1|2|4|8|16)|\?", code):
        raise TypeError("a NumPy array of numbers is expected")
    dtype = np.dtype(code)
    building = Building(lambda state: ArrayType(dtype.newbyteorder(">" if state[1] == ">" else "<")))
    return building


@dataclass(eq=False)
class ArrayType:
    """A NumPy dtype inside a pickle."""

    dtype: np.dtype[Any]


def scalar(call: Call, kind: Any, raw: Any) -> Any:  # noqa: ANN401 (what the file says)
    """A NumPy number, as Python's."""
    if isinstance(kind, ArrayType) and isinstance(raw, memoryview | bytes):
        return np.frombuffer(raw, kind.dtype, 1)[0].item()
    raise TypeError("a NumPy number needs a type and bytes")


def array(call: Call, *args: Any) -> Building:  # noqa: ANN401 (what the file says)
    """A NumPy array, as a tensor."""

    def finish(state: Any) -> Tensor:  # noqa: ANN401 (what the file says)
        _, shape, kind, fortran, raw = state
        if not isinstance(kind, ArrayType) or not isinstance(raw, memoryview | bytes) or not sizes(shape):
            raise TypeError("a NumPy array needs a shape, a type and bytes")
        flat = np.frombuffer(raw, kind.dtype).astype(kind.dtype.newbyteorder("="))
        return torch.from_numpy(flat.reshape(shape, order="F" if fortran else "C"))

    return Building(finish)


def encoded(call: Call, text: Any, encoding: Any) -> bytes:  # noqa: ANN401 (what the file says)
    """Bytes, as protocol 2 writes them."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise TypeError("only bytes as latin-1 are read")
    return text.encode("latin-1")


def persistence(call: Call, meta: Any) -> Inert:  # noqa: ANN401 (what the file says)
    """An object of NVIDIA's torch_utils.persistence: its class and state; the source text is dropped unread."""
    if not isinstance(meta, dict) or not isinstance(meta.get("class_name"), str):
        raise TypeError("a persistent object needs a class_name")
    return Inert(meta["class_name"], (), meta.get("state"))


REBUILDERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": tensor,
    "torch._utils._rebuild_tensor_v2": tensor,
    "torch._utils._rebuild_parameter": lambda call, data, *rest: data,
    "torch._utils._rebuild_parameter_with_state": lambda call, data, *rest: data,
    "torch._tensor._rebuild_from_type_v2": subclassed,
    "torch.Size": lambda call, sizes=(): tuple(sizes),
    "torch.device": lambda call, *name: ":".join(str(part) for part in name if isinstance(part, str | int)),
    "torch_utils.persistence._reconstruct_persistent_obj": persistence,
    "collections.OrderedDict": entries,
    "collections.defaultdict": lambda call, *factory: {},
    "collections.Counter": entries,
    "argparse.Namespace": lambda call: Settable(),
    "dnnlib.util.EasyDict": lambda call: {},
    "_codecs.encode": encoded,
    "numpy.dtype": dtype_of,
}
REBUILDERS |= {
    f"{module}.{name}": rebuild
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    for name, rebuild in (("scalar", scalar), ("_reconstruct", array))
}
for _builtins in ("builtins", "__builtin__"):
    REBUILDERS[f"{_builtins}.set"] = lambda call, items=(): {plain_key(item) for item in items}
    REBUILDERS[f"{_builtins}.frozenset"] = lambda call, items=(): frozenset(plain_key(item) for item in items)
    REBUILDERS[f"{_builtins}.dict"] = entries
"""Name in a pickle -> what diffrep builds for it. Nothing else is ever called."""

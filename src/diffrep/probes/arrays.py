"""What probes accept: arrays, tensors or lists in, checked tensors inside, the same kind of container out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffrep.errors import InputError

Array = NDArray[np.generic] | Tensor
"""Features or labels as they come in and go out."""
ArrayIn = Array | Sequence[object]

ROWS = 8192  # rows that are converted to float64 at a time


def features(x: ArrayIn | None, width: int | None = None) -> Tensor:
    """Check features and bring them to a tensor (N, D), float32 or float64; float32 is not copied.

    Args:
        x: features (N, D); integers become float64, half precision float32.
        width: D that a fitted probe expects.

    Errors:
        InputError: not (N, D), no rows or columns, another width, or NaN or infinity in some columns.
    """
    if x is None:
        raise InputError("no features were given", "give an array of shape (images, features)")
    out = _tensor(x)
    if out.ndim != 2 or 0 in out.shape:
        raise InputError(
            f"features of shape {tuple(out.shape)}, expected (images, features), neither 0",
            "flatten each image's features to one row",
        )
    if width is not None and out.shape[1] != width:
        raise InputError(
            f"features have {out.shape[1]} columns, and the probe was fitted on {width}",
            "use the features of the same tap, level and pooling",
        )
    if not out.is_floating_point():
        out = out.to(torch.float64)
    out = out.to(torch.promote_types(out.dtype, torch.float32))
    bad = int((~_finite_columns(out)).sum())
    if bad:
        raise InputError(
            f"{bad} of {out.shape[1]} feature columns hold NaN or infinity",
            "look at the model's precision: float32 where half precision overflowed",
        )
    return out


def labels(y: ArrayIn | None, count: int | None = None) -> Tensor:
    """Check labels and bring them to int64 (N,).

    Args:
        y: integer labels; they need not be 0, 1, ...
        count: how many images there are.

    Errors:
        InputError: missing, not integers, not (N,), or not one per image.
    """
    if y is None:
        raise InputError(
            "the images have no labels",
            "probes need them: give labels=FILE.csv, or a folder with one subfolder per class",
        )
    out = _tensor(y)
    if out.is_floating_point() or out.is_complex() or out.ndim != 1:
        raise InputError(
            f"labels of type {out.dtype} and shape {tuple(out.shape)}, expected integers of shape (images,)",
            "give class numbers, not names, probabilities or one-hot rows",
        )
    if count is not None and len(out) != count:
        raise InputError(f"{count} rows of features and {len(out)} labels", "give one label per row")
    return out.to(torch.int64)


def training(x: ArrayIn | None, y: ArrayIn | None) -> tuple[Tensor, Tensor]:
    """Check what a probe is fitted on: features (N, D) and labels (N,) of two classes or more.

    Errors:
        InputError: as `features` and `labels`, or only one class.
    """
    rows = features(x)
    target = labels(y, len(rows)).to(rows.device)
    if bool((target == target[0]).all()):
        raise InputError(
            f"all {len(target)} training images are of class {int(target[0])}",
            "a probe needs two classes or more: is the data sorted by class and cut off?",
        )
    return rows, target


def like(result: Tensor, x: ArrayIn) -> Array:
    """Return a result in the features' kind of container: a tensor on their device, or numpy."""
    if isinstance(x, Tensor):
        return result.to(x.device)
    return result.cpu().numpy()


def standardisation(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and scale (D,) of features, float64, as scikit-learn's StandardScaler; constant columns: 1."""
    mean = chunked_mean(x)
    var = sum_of_chunks(x, lambda rows: (rows - mean).square().sum(0)) / len(x)
    return mean, torch.where(is_constant(var, mean, len(x)), 1.0, var.sqrt())


def is_constant(var: Tensor, mean: Tensor, count: int) -> Tensor:
    """Columns whose variance is only rounding, by scikit-learn's rule."""
    eps = torch.finfo(torch.float64).eps
    return var <= count * eps * var + (count * mean * eps) ** 2


def chunks(x: Tensor, rows: int = ROWS) -> Iterator[Tensor]:
    """Slices of at most `rows` rows, views of x."""
    return (x[i : i + rows] for i in range(0, len(x), rows))


def distinct(y: Tensor) -> tuple[Tensor, Tensor]:
    """The sorted distinct labels (K,), and the index (N,) of each label among them."""
    values, index = torch.unique(y, return_inverse=True)
    return values, index


def chunked_mean(x: Tensor) -> Tensor:
    """Mean over rows (D,), float64, without a float64 copy of all rows."""
    return sum_of_chunks(x, lambda rows: rows.sum(0)) / len(x)


def sum_of_chunks(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Add up a function of float64 rows, `ROWS` rows at a time."""
    return torch.stack([function(rows.double()) for rows in chunks(x)]).sum(0)


def _finite_columns(x: Tensor) -> Tensor:
    return torch.stack([rows.isfinite().all(0) for rows in chunks(x)]).all(0)


def _tensor(values: ArrayIn) -> Tensor:
    if isinstance(values, Tensor):
        out = values.detach()
        return out.cpu() if out.device.type == "mps" else out  # no float64 there
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise InputError(f"values of type {array.dtype}, expected numbers", "give class numbers and numeric features")
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(np.require(native, requirements=["C", "W"]))

"""Before anything is decoded: which files can be used, and what shape their images will have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from diffrep.data.decode import Header, Unreadable, read_header
from diffrep.data.options import Options
from diffrep.data.workers import read_all
from diffrep.errors import InputError, TooManyBadRecords


class Survey(NamedTuple):
    """The shape (H, W, C) of all images, and the files, by place in the list, that cannot be used."""

    shape: tuple[int, int, int]
    bad: dict[int, Unreadable]


def survey(paths: Sequence[str], names: Sequence[str], options: Options) -> Survey:
    """Read the headers of all files.

    Args:
        paths: the files.
        names: what messages call them.
        options: size and channels that were asked for, and how many bad files are allowed.

    Errors:
        InputError: images of several sizes although none was asked for; no file that can be used.
        TooManyBadRecords: more bad files than allowed.
    """
    headers: dict[int, Header] = {}
    bad: dict[int, Unreadable] = {}
    for i, answer in enumerate(read_all(read_header, paths, options.workers)):
        if isinstance(answer, Unreadable):
            bad[i] = answer
        else:
            headers[i] = answer
    check_bad({names[i]: error.reason for i, error in bad.items()}, len(paths), options.max_bad_fraction)
    channels = options.channels or (1 if all(header.grey for header in headers.values()) else 3)
    if options.image_size is not None:
        return Survey((options.image_size, options.image_size, channels), bad)
    width, height = _one_size({names[i]: header for i, header in headers.items()})
    return Survey((height, width, channels), bad)


def check_bad(reasons: Mapping[str, str], total: int, allowed: float) -> None:
    """Refuse a source with too many bad files, or with no good one; `reasons` is name -> reason."""
    share = len(reasons) / total
    if share <= allowed and len(reasons) < total:
        return
    first, reason = next(iter(reasons.items()))
    message = f"{len(reasons)} of {total} image files cannot be used; the first is {first}: {reason}"
    if len(reasons) == total:
        raise TooManyBadRecords(message, "none is left; give files that can be read")
    message += f". That is {share:.1%}, and {allowed:.1%} are allowed"
    raise TooManyBadRecords(message, f"mend or remove them, or allow more: --max-bad-fraction {_above(share)}")


def _above(share: float) -> float:
    """A round fraction that is not below a share."""
    return next(f for f in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if f >= share)


def _one_size(headers: Mapping[str, Header]) -> tuple[int, int]:
    sizes: dict[tuple[int, int], str] = {}
    for name, header in headers.items():
        sizes.setdefault((header.width, header.height), name)
    if len(sizes) > 1:
        (first, a), (second, b) = list(sizes.items())[:2]
        shortest = min(min(size) for size in sizes)
        raise InputError(
            f"images of {len(sizes)} sizes, such as {a} ({first[0]}x{first[1]}) and {b} ({second[0]}x{second[1]})",
            f"give --image-size, such as {shortest}: the shorter side is resized to it and the centre kept",
        )
    return next(iter(sizes))

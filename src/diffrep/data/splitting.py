"""Which image belongs to train, val and test.

A split is decided by ids: within a class the images are put in the order of a hash of (seed, id), and the first
tenth becomes val, the next tenth test. So a file that is added moves at most the ones at the borders, and the
split depends neither on the order of files nor on the machine.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from diffrep.randomness import seed_of

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Names of folders and values of a `split` column, in lower case, and what they mean."""
FRACTION = 0.1


def hash_order(seed: int, ids: Sequence[str]) -> list[int]:
    """Indices of ids in the order of a hash of (seed, id): random, and stable when ids come and go."""
    return sorted(range(len(ids)), key=lambda i: (seed_of(seed, "split", ids[i]), ids[i]))


def cut(
    ids: Sequence[str], labels: Sequence[Hashable] | None, seed: int, missing: Sequence[str] = ("val", "test")
) -> list[str]:
    """Cut the missing splits from train: a tenth of every class each.

    Args:
        ids: of the images that are in train so far.
        labels: the class of each, or None; without labels all images count as one class.
        seed: of the split.
        missing: the splits to be made.

    Returns:
        "train", "val" or "test" for each id. A class of three or more images gives at least one to each split;
        one of fewer stays in train. If no class has three, the classes are ignored; fewer than three images
        all stay in train.
    """
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for i, label in enumerate(labels if labels is not None else [0] * len(ids)):
        groups[label].append(i)
    if all(len(members) < 3 for members in groups.values()):
        groups = {0: list(range(len(ids)))}
    split = ["train"] * len(ids)
    for members in groups.values():
        ordered = [members[i] for i in hash_order(seed, [ids[m] for m in members])]
        share = max(1, int(len(ordered) * FRACTION + 0.5)) if len(ordered) >= 3 else 0
        for k, name in enumerate(missing):
            for i in ordered[k * share : (k + 1) * share]:
                split[i] = name
    return split


def note_of(missing: Sequence[str], seed: int) -> list[str]:
    """Say in words which splits were cut from train; no sentence when none was."""
    if not missing:
        return []
    none, cut_off = " or ".join(missing), " and ".join(missing)
    return [f"there was no {none} split: {cut_off} cut from train, {FRACTION:.0%} of every class each, seed {seed}"]

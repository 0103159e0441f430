"""The table of checkpoint families: who recognizes a content, and who turns it into a model.

One file per family; each exports FAMILY, or FAMILIES where it reads several. They are asked in this order, so that
a family with more telling keys comes before one with fewer.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from diffrep.formats.content import Family

__all__ = ["MODULES", "Family", "families"]

MODULES = (
    "diffusers_unet",
    "diffusers_dit",
    "diffusers_condition",
    "pdae",
    "diffae",
    "ddae",
    "edm",
    "edm2",
    "lightningdit",
    "dit",
    "uvit",
    "guided_diffusion",
    "pytorch_diffusion",
)
"""Modules below diffrep.formats, imported when a foreign file is read."""


def families() -> tuple[Family, ...]:
    """All families, in the order in which they are asked."""
    found: list[Family] = []
    for name in MODULES:
        full = f"diffrep.formats.{name}"
        if find_spec(full) is None:
            continue
        module = import_module(full)
        found += getattr(module, "FAMILIES", None) or [module.FAMILY]
    return tuple(found)

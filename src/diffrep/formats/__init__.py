"""Model files: what `dr.load` reads and `dr.save` writes. One file per checkpoint family; nothing is ever executed."""

from diffrep.formats.converting import convert
from diffrep.formats.folder import save
from diffrep.formats.loading import load
from diffrep.formats.packaged import card, models
from diffrep.formats.vae import load_vae

__all__ = ["card", "convert", "load", "load_vae", "models", "save"]

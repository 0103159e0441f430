"""Semantic autoencoders made of frozen denoisers: a code z per image, and a decoder that listens to it."""

from diffrep.autoencoder.conditional import ConditionalAutoencoder
from diffrep.autoencoder.edit import CodeStats, direction, edit, lerp, slerp
from diffrep.autoencoder.encoder import SemanticEncoder
from diffrep.autoencoder.kappa import kappa
from diffrep.autoencoder.model import ShiftAutoencoder
from diffrep.autoencoder.objective import ShiftObjective, shift_loss
from diffrep.autoencoder.prior import LatentPrior
from diffrep.autoencoder.protocol import Autoencoder
from diffrep.autoencoder.shift import Shift, ShiftEstimator
from diffrep.autoencoder.shifted import ShiftedDenoiser
from diffrep.autoencoder.tokens import TokenShift
from diffrep.autoencoder.weightings import WEIGHTINGS, weight

__all__ = [
    "WEIGHTINGS",
    "Autoencoder",
    "CodeStats",
    "ConditionalAutoencoder",
    "LatentPrior",
    "SemanticEncoder",
    "Shift",
    "ShiftAutoencoder",
    "ShiftEstimator",
    "ShiftObjective",
    "ShiftedDenoiser",
    "TokenShift",
    "direction",
    "edit",
    "kappa",
    "lerp",
    "shift_loss",
    "slerp",
    "weight",
]

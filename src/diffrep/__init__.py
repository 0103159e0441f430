"""diffrep: features, a semantic autoencoder, and evidence from any pre-trained diffusion model.

The public names are listed here once and loaded when they are first used, so that `import diffrep` is quick.

Example:
    >>> import diffrep as dr
    >>> denoiser = dr.load("ddpm-digits")
    >>> denoiser.input.size
    8
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffrep import data as data
    from diffrep import errors as errors
    from diffrep import metrics as metrics
    from diffrep import probes as probes
    from diffrep.autoencoder import Autoencoder as Autoencoder
    from diffrep.autoencoder import ConditionalAutoencoder as ConditionalAutoencoder
    from diffrep.autoencoder import ShiftAutoencoder as ShiftAutoencoder
    from diffrep.autoencoder import ShiftObjective as ShiftObjective
    from diffrep.continuous import EDMSchedule as EDMSchedule
    from diffrep.continuous import FlowSchedule as FlowSchedule
    from diffrep.continuous import VESchedule as VESchedule
    from diffrep.continuous import VPSchedule as VPSchedule
    from diffrep.denoiser import Denoiser as Denoiser
    from diffrep.denoiser import InputSpec as InputSpec
    from diffrep.experiments.features import features as features
    from diffrep.extraction import extract as extract
    from diffrep.feature_set import FeatureSet as FeatureSet
    from diffrep.formats import convert as convert
    from diffrep.formats import load as load
    from diffrep.formats import load_vae as load_vae
    from diffrep.formats import models as models
    from diffrep.formats import save as save
    from diffrep.guidance import conditioned as conditioned
    from diffrep.guidance import guided as guided
    from diffrep.guidance import windowed as windowed
    from diffrep.noise import NoiseLevel as NoiseLevel
    from diffrep.prediction import Prediction as Prediction
    from diffrep.probes import KNNProbe as KNNProbe
    from diffrep.probes import LinearProbe as LinearProbe
    from diffrep.probes import RidgeProbe as RidgeProbe
    from diffrep.randomness import noise_for as noise_for
    from diffrep.sampling import dpmpp_2m as dpmpp_2m
    from diffrep.sampling import invert as invert
    from diffrep.sampling.ddim import ddim as ddim
    from diffrep.sampling.ddpm import ddpm as ddpm
    from diffrep.sampling.heun import heun as heun
    from diffrep.schedules import DiscreteSchedule as DiscreteSchedule
    from diffrep.tap_features import TapFeatures as TapFeatures
    from diffrep.taps import read as read
    from diffrep.taps import tapped as tapped
    from diffrep.training import DenoisingObjective as DenoisingObjective
    from diffrep.training import TrainConfig as TrainConfig
    from diffrep.training import train as train

__version__ = "0.1.0"

_NAMES = {
    "autoencoder": "Autoencoder ConditionalAutoencoder ShiftAutoencoder ShiftObjective",
    "denoiser": "Denoiser InputSpec",
    "extraction": "extract",
    "experiments.features": "features",
    "feature_set": "FeatureSet",
    "formats": "convert load load_vae models save",
    "guidance": "conditioned guided windowed",
    "noise": "NoiseLevel",
    "prediction": "Prediction",
    "probes": "KNNProbe LinearProbe RidgeProbe",
    "randomness": "noise_for",
    "sampling": "ddim ddpm dpmpp_2m heun invert",
    "continuous": "EDMSchedule FlowSchedule VESchedule VPSchedule",
    "schedules": "DiscreteSchedule",
    "tap_features": "TapFeatures",
    "taps": "read tapped",
    "training": "DenoisingObjective TrainConfig train",
}
_HOMES = {name: f"diffrep.{module}" for module, names in _NAMES.items() for name in names.split()}
_MODULES = ("data", "errors", "metrics", "probes")
__all__ = sorted([*_HOMES, *_MODULES])


def __getattr__(name: str) -> Any:  # noqa: ANN401 (PEP 562: whatever the public name stands for)
    if name in _MODULES:
        return import_module(f"diffrep.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})

"""Networks: plain modules (x, time, y) -> output, one builder per layout, that know nothing of noise.

Every network has `config` (JSON-able; `build(config)` gives the same network again), `time_width`,
`learns_variance` and `places(size)`, the table of what can be read inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from diffrep.networks.adm import adm
from diffrep.networks.beatgans import beatgans_encoder
from diffrep.networks.ddpm import ddpm
from diffrep.networks.ddpmpp import ddpmpp
from diffrep.networks.diffusers_dit import diffusers_dit
from diffrep.networks.diffusers_hosted import diffusers_hosted
from diffrep.networks.diffusers_unet import diffusers_unet
from diffrep.networks.dit import dit
from diffrep.networks.edm2 import edm2
from diffrep.networks.edm_dhariwal import edm_dhariwal
from diffrep.networks.edm_song import edm_song
from diffrep.networks.hosted import Hosted
from diffrep.networks.latent_mlp import latent_mlp
from diffrep.networks.lightningdit import lightningdit
from diffrep.networks.network import Network, Place
from diffrep.networks.tiny import multipliers_for, tiny
from diffrep.networks.unet import UNet
from diffrep.networks.uvit import uvit

__all__ = [
    "LAYOUTS",
    "Hosted",
    "Network",
    "Place",
    "UNet",
    "adm",
    "beatgans_encoder",
    "build",
    "ddpm",
    "ddpmpp",
    "diffusers_dit",
    "diffusers_hosted",
    "diffusers_unet",
    "dit",
    "edm2",
    "edm_dhariwal",
    "edm_song",
    "latent_mlp",
    "lightningdit",
    "multipliers_for",
    "tiny",
    "uvit",
]

LAYOUTS: dict[str, Callable[..., Network]] = {
    "ddpm": ddpm,
    "ddpmpp": ddpmpp,
    "adm": adm,
    "tiny": tiny,
    "dit": dit,
    "lightningdit": lightningdit,
    "uvit": uvit,
    "edm_song": edm_song,
    "edm_dhariwal": edm_dhariwal,
    "edm2": edm2,
    "diffusers_unet": diffusers_unet,
    "diffusers_dit": diffusers_dit,
    "diffusers_hosted": diffusers_hosted,
    "beatgans_encoder": beatgans_encoder,
    "latent_mlp": latent_mlp,
}


def build(config: Mapping[str, Any]) -> Network:
    """Build the network that a config describes.

    Args:
        config: {"layout": one of LAYOUTS, **arguments of its builder}; what is left out takes its default.

    Errors:
        ValueError: an unknown layout or argument; the known ones are named.

    Example:
        >>> build({"layout": "tiny", "image_channels": 3}).config["channels"]
        32
    """
    arguments = dict(config)
    name = arguments.pop("layout", None)
    if name not in LAYOUTS:
        raise ValueError(f'unknown layout "{name}", known: {", ".join(LAYOUTS)}')
    known = signature(LAYOUTS[name]).parameters
    if strange := sorted(set(arguments) - set(known)):
        raise ValueError(f'layout "{name}" has no argument "{strange[0]}", known: {", ".join(known)}')
    return LAYOUTS[name](**arguments)

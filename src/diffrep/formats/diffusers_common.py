"""What all networks of diffusers share: class names, settings, input, and the error where the extra is missing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from diffrep.denoiser import InputSpec
from diffrep.errors import FormatError, UsageError, nearest
from diffrep.formats.components import Component
from diffrep.formats.content import Content, require
from diffrep.formats.told import MOST
from diffrep.networks.diffusers_hosted import NEEDS

LICENSE = "Apache-2.0 for the program; of the weights, what their card states"
LOG = logging.getLogger("diffrep.formats")
RENAMED = {"ada_norm_zero": "DiTTransformer2DModel", "ada_norm_single": "PixArtTransformer2DModel"}
"""What a Transformer2DModel became in diffusers 0.28, by its `norm_type`; on the hub DiT and PixArt are called so."""


def class_name(content: Content) -> str:
    """The class that the config of a network of diffusers names, by its name of today; "" for anything else."""
    if not isinstance(content.data, Component):
        return ""
    name = content.data.class_name
    return RENAMED.get(str(content.data.config.get("norm_type")), name) if name == "Transformer2DModel" else name


def written_by(*names: str) -> Callable[[Content], bool]:
    """Recognizes a diffusers folder by the class that its config names."""
    return lambda content: class_name(content) in names


def choice(content: Content, name: str, neutral: Any = None, known: Iterable[Any] = ()) -> Any:  # noqa: ANN401
    """A setting that was added to diffusers later: where a config lacks it, `neutral` is what the program did.

    Errors:
        FormatError: the value is none of `known` (where those are given).
    """
    value = content.fact(name, neutral)
    values = list(known)
    if values and value not in values:
        raise FormatError(f'{content.name} has {name} = "{value}"', nearest(str(value), [str(v) for v in values]))
    return value


def square(content: Content, family: str) -> int:
    """The size of the images.

    Errors:
        FormatError: it is not told, or images are not square.
    """
    require(content, family, ["sample_size"])
    size = content.fact("sample_size")
    sides = list(size) if isinstance(size, list | tuple) else [size, size]
    if len(sides) != 2 or sides[0] != sides[1] or not (isinstance(sides[0], int) and 1 <= sides[0] <= MOST):
        raise FormatError(
            f"{content.name} has sample_size {size}", 'pass the size of its images: architecture={"sample_size": 64}'
        )
    return sides[0]


def input_of(content: Content, channels: int, size: int) -> InputSpec:
    """What it takes: latents where a pipeline has an autoencoder, or where the channels are those of no picture."""
    inside = any(name in content.data.index or (content.data.pipeline / name).is_dir() for name in ("vae", "vqvae"))
    return InputSpec(channels, size, latent=inside or channels not in (1, 3))


def learned_variance(content: Content, channels: int, out: int) -> bool:
    """Whether the output has twice the channels of the input.

    Errors:
        FormatError: it has neither as many nor twice as many.
    """
    if out not in (channels, 2 * channels):
        raise FormatError(
            f"{content.name} takes {channels} channels and gives {out}",
            "it sees more than a noisy image (a mask, a small image), which diffrep cannot give it",
        )
    return out == 2 * channels


def extra_missing(error: ImportError) -> UsageError:
    """The error where diffusers or transformers is not installed."""
    raised = UsageError(NEEDS)
    raised.__cause__ = error
    return raised


def source_of(content: Content) -> str:
    """What an autoencoder writes down to find this model again."""
    return str(content.path.resolve())

"""What a network of diffusers is told beside image and time: a prompt's embedding, sizes, an embedded class.

It comes from `architecture=`, under diffusers' names; what has a neutral value has it where nothing is given, and the
rest is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from diffrep.errors import FormatError
from diffrep.formats.content import Content, ask
from diffrep.formats.diffusers_prompt import TOKENS, embedded
from diffrep.networks.diffusers_hosted import GUIDANCE

GIVEN = (
    *("encoder_hidden_states", "encoder_attention_mask", "text_embeds", "time_ids", "class_labels"),
    *("pooled_projections", "resolution", "aspect_ratio", "guidance"),
)
"""What may be given; a row without a batch axis is accepted."""
PROMPT = ("encoder_hidden_states", "text_embeds")
SIZES, AESTHETICS = 6, 5
"""Numbers in Stable Diffusion XL's `time_ids`: three sizes; or two and a score, as its refiner takes them."""
SCORE = 6.0
"""Aesthetic score that the refiner's pipeline tells it."""


def conditions(content: Content, kind: str, size: int) -> dict[str, Tensor]:
    """What the network is told beside image and time, one row each, or one row per image.

    Errors:
        FormatError: something given of another shape, or not given where nothing is neutral.
    """
    text, asked = content.fact("text_embeds", None), content.fact("requires_aesthetics_score", None)
    needed = needs(
        content.data.config,
        kind,
        size,
        content.name,
        text_width=None if text is None else torch.as_tensor(text).shape[-1],
        aesthetics=bool(content.data.index.get("requires_aesthetics_score") if asked is None else asked),
    )
    given = {name: value for name in GIVEN if (value := content.fact(name, None)) is not None}
    if unknown := set(given) - needed.keys() - {"encoder_attention_mask"}:
        raise FormatError(f"{kind} does not take {sorted(unknown)[0]}", f"it takes {', '.join(needed) or 'nothing'}")
    told = {name: row(name, value, needed.get(name), content.name) for name, value in given.items()}
    if "class_labels" in needed.keys() - told.keys():
        ask(content, f"a {kind} with an embedded class", ["class_labels"])
    if "encoder_hidden_states" in needed.keys() - told.keys():
        told = {**embedded(content, {name: needed[name] for name in PROMPT if name in needed}), **told}
    return {**needed, **told}


def row(name: str, value: Any, like: Tensor | None, source: str) -> Tensor:  # noqa: ANN401 (what the caller gave)
    """A condition with its batch axis.

    Errors:
        FormatError: it has another number of axes, or another width than the network wants.
    """
    tensor = torch.as_tensor(value, dtype=torch.float32).detach().cpu()
    axes = 1 if like is None else like.ndim - 1
    tensor = tensor[None] if tensor.ndim == axes else tensor
    fits = tensor.ndim == axes + 1 and (like is None or axes == 0 or tensor.shape[-1] == like.shape[-1])
    if not fits:
        wanted = "(B, N, D)" if axes == 2 else "(B, D)" if axes else "(B,)"
        width = f" with D = {like.shape[-1]}" if like is not None and axes else ""
        raise FormatError(f"{name} of shape {tuple(tensor.shape)} for {source}", f"expected {wanted}{width}")
    return tensor


def needs(
    config: Mapping[str, Any],
    kind: str,
    size: int,
    source: str,
    *,
    text_width: int | None = None,
    aesthetics: bool = False,
) -> dict[str, Tensor]:
    """What a class wants to be told, by its config: zeros, and the sizes of the image where it asks for them.

    Args:
        config: of the network.
        kind: its class.
        size: height and width of its latents.
        source: for messages.
        text_width: of `text_embeds`, where that is known.
        aesthetics: Stable Diffusion XL's refiner, which is told a score.

    Errors:
        FormatError: the config does not tell a width, or asks for something else.
    """

    def width(key: str) -> int:
        value = config.get(key)
        value = value[0] if isinstance(value, list | tuple) and value else value
        if not isinstance(value, int):
            raise FormatError(f"{source} has {key} = {value}", "expected a whole number in its config")
        return value

    pixels = float(8 * size)  # the autoencoders of all of them make one latent of 8 x 8 pixels
    if kind == "UNet2DModel":
        return _class(config, width)
    if kind == "PixArtTransformer2DModel":
        asked = config.get("use_additional_conditions")
        extra = {"resolution": torch.tensor([[pixels, pixels]]), "aspect_ratio": torch.tensor([[1.0]])}
        told = {"encoder_hidden_states": torch.zeros(1, TOKENS, width("caption_channels"))}
        return told | (extra if (size == 128 if asked is None else asked) else {})
    if kind != "UNet2DConditionModel":
        told = {"encoder_hidden_states": torch.zeros(1, TOKENS, width("joint_attention_dim"))}
        told["pooled_projections"] = torch.zeros(1, width("pooled_projection_dim"))
        return told | ({"guidance": torch.tensor([GUIDANCE])} if config.get("guidance_embeds") else {})
    words = "cross_attention_dim" if config.get("encoder_hid_dim") is None else "encoder_hid_dim"
    told = {"encoder_hidden_states": torch.zeros(1, TOKENS, width(words))}
    extra_kind = config.get("addition_embed_type")
    if extra_kind not in (None, "text", "text_time"):
        raise FormatError(f'{source} has addition_embed_type "{extra_kind}"', 'expected null, "text" or "text_time"')
    if extra_kind == "text_time":  # Stable Diffusion XL: the pooled prompt and some numbers, side by side
        whole, each = width("projection_class_embeddings_input_dim"), width("addition_time_embed_dim")
        count = (AESTHETICS if aesthetics else SIZES) if text_width is None else (whole - text_width) // each
        ids = [pixels, pixels, 0.0, 0.0, *([SCORE] if count == AESTHETICS else [pixels, pixels])]
        told |= {"text_embeds": torch.zeros(1, whole - len(ids) * each), "time_ids": torch.tensor([ids])}
    return told | _class(config, width)


def _class(config: Mapping[str, Any], width: Callable[[str], int]) -> dict[str, Tensor]:
    """A class that is told by its own embedding or by a number, which nothing stands for."""
    kind = config.get("class_embed_type")
    if kind == "timestep":
        return {"class_labels": torch.zeros(1)}
    if kind in ("projection", "simple_projection"):
        return {"class_labels": torch.zeros(1, width("projection_class_embeddings_input_dim"))}
    if kind == "identity":
        own = config.get("time_embedding_dim") is not None
        return {"class_labels": torch.zeros(1, width("time_embedding_dim") if own else 4 * width("block_out_channels"))}
    return {}

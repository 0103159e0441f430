"""Files of U-ViT: a state dict of tokens and long skips, noise predicted at times that the program counts from 1.

The file tells neither the number of heads nor which of the program's two kinds of time it was trained on: `continuous`
(pixels, the variance-preserving SDE with beta from 0.1 to 20, the network sees 999 t) or `discrete` (latents, Stable
Diffusion's betas, the network sees n = 1..1000); nor whether the last label means "no class" (DDAE 2.5, 5.8). Nothing
is ever clamped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffrep.continuous import VPSchedule
from diffrep.denoiser import Conditioning, Denoiser, InputSpec, LabelSpec, SamplingSpec
from diffrep.errors import FormatError, nearest
from diffrep.formats.content import Content, require
from diffrep.formats.dit_program import fact
from diffrep.formats.dit_tensors import check_facts, depth_of, filled, ratio, source_of
from diffrep.formats.families import Family
from diffrep.formats.state_dicts import state_dict
from diffrep.schedules import DiscreteSchedule

OFFICIAL = (
    (r"^positions$", "pos_embed"),
    (r"^patch\.", "patch_embed."),
    (r"^time\.linear1\.", "time_embed.0."),
    (r"^time\.linear2\.", "time_embed.2."),
    (r"^classes\.", "label_emb."),
    (r"^linear\.", "decoder_pred."),
    (r"^conv\.", "final_layer."),
    (r"\.attention\.out\.", ".attn.proj."),
    (r"\.attention\.", ".attn."),
    (r"\.feed_forward\.linear(\d)\.", r".mlp.fc\1."),
    (r"\.join\.", ".skip_linear."),
)
"""From our names of tensors to the program's, in this order; it counts the blocks in three rows besides."""


ARGUMENTS = {
    **{"img_size": "size", "patch_size": "patch", "in_chans": "image_channels", "embed_dim": "width"},
    **{"depth": "depth", "mlp_ratio": "mlp_ratio", "qkv_bias": "qkv_bias", "mlp_time_embed": "time_layers"},
    **{"skip": "skip", "conv": "conv"},
}
"""The official constructor's arguments, in the builder's words."""


def official(ours: str, half: int) -> str:
    """The program's name of a U-ViT's tensor; `half` is the number of blocks before the middle one.

    Example:
        >>> official("blocks.3.feed_forward.linear1.weight", 2)
        'out_blocks.0.mlp.fc1.weight'
    """
    for pattern, theirs in OFFICIAL:
        ours = re.sub(pattern, theirs, ours)

    def row(found: re.Match[str]) -> str:
        k = int(found[1])
        return f"in_blocks.{k}" if k < half else "mid_block" if k == half else f"out_blocks.{k - half - 1}"

    return re.sub(r"^blocks\.(\d+)", row, ours)


def recognizes(content: Content) -> bool:
    """Whether the file holds a U-ViT's tensors."""
    return {"pos_embed", "patch_embed.proj.weight", "mid_block.attn.qkv.weight"} <= state_dict(content.data).keys()


def load(content: Content) -> Denoiser:
    """The denoiser of a U-ViT file, on the CPU, in eval mode.

    Errors:
        FormatError: facts that the file cannot tell (`num_heads`, `time`, and `null_class` of a table of labels), or
            tensors that do not fit.
    """
    tensors = state_dict(content.data)
    asked = ["num_heads", "time"] + (["null_class"] if "label_emb.weight" in tensors else [])
    require(content, "a U-ViT checkpoint", asked)
    recipe = {"layout": "uvit", **outline(content, tensors)}
    kind = str(fact(content, "time"))
    if kind not in TIMES:
        raise FormatError(f'time is "{kind}"', nearest(kind, TIMES))
    network = filled(recipe, tensors, content, lambda name: official(name, recipe["depth"] // 2))
    latent = kind == "discrete"
    made = Denoiser(
        network,
        schedule=discrete() if latent else VPSchedule(t_min=T_MIN),
        input=InputSpec(recipe["image_channels"], recipe["size"], latent=latent),
        conditioning=Conditioning(offset=1.0) if latent else Conditioning(scale=999.0),
        sampling=SamplingSpec(clip=False, rule=None if latent else "uniform-log-snr"),
        labels=labels_of(content, recipe["classes"]),
        source=source_of(content),
    )
    return made.eval()


def outline(content: Content, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the tensors' shapes tell of the network, in the builder's words, and the heads, which they do not.

    Errors:
        FormatError: shapes that are none of a U-ViT's, or that contradict the facts.
    """
    classes = tensors["label_emb.weight"].shape[0] if "label_emb.weight" in tensors else None
    try:
        tokens, width = tensors["pos_embed"].shape[1:]
        _, channels, patch, _ = tensors["patch_embed.proj.weight"].shape
        hidden = tensors["mid_block.mlp.fc1.weight"].numel() // width
    except (ValueError, KeyError, ZeroDivisionError) as error:
        raise FormatError(f"{content.path} has no U-ViT's tensors: {error}") from error
    patches = tokens - (1 if classes is None else 2)
    side, heads = math.isqrt(max(patches, 0)), fact(content, "num_heads")
    if side * side != patches:
        raise FormatError(f"{content.path} has {patches} patches", "U-ViT has square images: a square number")
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise FormatError(
            f"num_heads is {heads}, but {content.path} has a width of {width}", "it must divide the width"
        )
    recipe: dict[str, Any] = {
        **{"image_channels": channels, "size": side * patch, "patch": patch, "width": width, "heads": heads},
        "depth": 2 * depth_of(tensors, "in_blocks"),
        "mlp_ratio": ratio(hidden, width),
        "qkv_bias": "mid_block.attn.qkv.bias" in tensors,
        "time_layers": "time_embed.0.weight" in tensors,
        "classes": classes,
        "skip": "out_blocks.0.skip_linear.weight" in tensors,
        "conv": "final_layer.weight" in tensors,
    }
    told = {theirs: recipe[ours] for theirs, ours in ARGUMENTS.items()}
    told["num_classes"] = -1 if classes is None else classes
    depth = fact(content, "depth")
    if isinstance(depth, int) and depth // 2 == recipe["depth"] // 2:  # the program cuts an odd depth
        told["depth"] = depth
    check_facts(content, told)
    return recipe


def labels_of(content: Content, rows: int | None) -> LabelSpec | None:
    """The classes; `null_class` is the label that means "no class" (1000 of U-ViT's 1001), or false for none."""
    null = fact(content, "null_class", False)
    if rows is None:
        if null is not False:
            raise FormatError(f"null_class is {null}, but {content.path} has no table of labels", "leave it out")
        return None
    if null is False:
        return LabelSpec(rows)
    if isinstance(null, bool) or not isinstance(null, int) or null != rows - 1:
        raise FormatError(f"null_class is {null}", f"expected {rows - 1}, the last of {rows} labels, or false")
    return LabelSpec(rows - 1, null=null)


def discrete() -> DiscreteSchedule:
    """Stable Diffusion's betas, evenly spaced in their square roots, at n = 1..1000."""
    betas = torch.linspace(0.00085**0.5, 0.0120**0.5, 1000, dtype=torch.float64) ** 2
    return DiscreteSchedule(torch.cumprod(1 - betas, 0))


TIMES = ("continuous", "discrete")
T_MIN = 1e-4
"""Where the program's samplers end, of t from 0 to 1."""

FAMILY = Family("U-ViT", recognizes, load, license="MIT", compared=False)

"""Folders of diffusers' UNet2DModel, alone or in a pipeline (DDPMPipeline, DDIMPipeline, ...), by DDAE 5.7.

The config is read, never the class's defaults; `attention_head_dim` is the width of a head here. Old files call the
attention's layers query, key, value and proj_attn. What our layout does not express (Fourier time, skip blocks) is run
by diffusers itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffrep.denoiser import Denoiser, LabelSpec
from diffrep.errors import FormatError
from diffrep.formats import diffusers_common as common
from diffrep.formats.content import Content, require
from diffrep.formats.diffusers_condition import hosted
from diffrep.formats.diffusers_scheduler import scheduling
from diffrep.formats.families import Family
from diffrep.formats.folder import build_network, load_strictly
from diffrep.formats.told import positive, whole
from diffrep.networks import UNet

FACTS = (
    *("sample_size", "in_channels", "out_channels", "block_out_channels", "down_block_types", "up_block_types"),
    *("layers_per_block", "attention_head_dim", "norm_eps", "norm_num_groups", "downsample_padding"),
    *("flip_sin_to_cos", "freq_shift"),
)
"""What every config tells, and no default replaces."""
DOWN = {"DownBlock2D": (False, "conv"), "AttnDownBlock2D": (True, None), "ResnetDownsampleBlock2D": (False, "resnet")}
UP = {"UpBlock2D": (False, "conv"), "AttnUpBlock2D": (True, None), "ResnetUpsampleBlock2D": (False, "resnet")}
"""Block type -> attention, resampler (None: as `downsample_type` and `upsample_type` say)."""
OLD = (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0"))
"""Layers of attention as files before diffusers 0.15 call them."""
RES = (
    *(("norm1", "norm1"), ("conv1", "conv1"), ("time_emb_proj", "time"), ("norm2", "norm2"), ("conv2", "conv2")),
    ("conv_shortcut", "shortcut"),
)
HEAD = (
    *(("time_embedding.linear_1", "time.linear1"), ("time_embedding.linear_2", "time.linear2")),
    *(("class_embedding", "time.classes"), ("conv_norm_out", "head.norm"), ("conv_out", "head.conv")),
)


def load(content: Content) -> Denoiser:
    """The denoiser of a UNet2DModel.

    Errors:
        FormatError: a fact is missing, an input beside image and time, or tensors that do not fit.
    """
    require(content, "a UNet2DModel", FACTS)
    recipe = outline(content)
    if recipe is None:
        return hosted(content)
    network = build_network({"layout": "diffusers_unet", **recipe})
    if not isinstance(network, UNet):  # the layout builds nothing else
        raise FormatError(f"{content.name} is no U-Net")
    names = translation(network)
    load_strictly(network, converted(content.data.weights, names), content.path, partial(official_name, names))
    made = Denoiser(
        network,
        input=common.input_of(content, recipe["image_channels"], common.square(content, "a UNet2DModel")),
        labels=None if recipe["classes"] is None else LabelSpec(recipe["classes"]),
        source=common.source_of(content),
        **scheduling(content),
    )
    return made.eval()


def outline(content: Content) -> dict[str, Any] | None:
    """The config in the words of our layout; None where that cannot express it.

    Errors:
        FormatError: a network that sees more than an image, time and a class.
    """
    channels = whole(content, "in_channels")
    learned = common.learned_variance(content, channels, whole(content, "out_channels"))
    down, up = content.fact("down_block_types"), content.fact("up_block_types")
    if strange := [name for name in (*down, *up) if not re.fullmatch(r"[A-Za-z]+Block2D", str(name))]:
        raise FormatError(f'{content.name} names the block "{strange[0]}"', "expected names such as AttnDownBlock2D")
    if not _is_plain(content) or not set(down) <= DOWN.keys() or not set(up) <= UP.keys():
        return None
    widths, head = [int(width) for width in content.fact("block_out_channels")], content.fact("attention_head_dim")
    attends = [DOWN[kind][0] or UP[other][0] for kind, other in zip(down, reversed(up), strict=False)]
    if head and any(width % head for width, has in zip(widths, attends, strict=False) if has or width == widths[-1]):
        return None  # diffusers then has heads that do not add up to the width
    scale_shift = common.choice(content, "resnet_time_scale_shift", "default") == "scale_shift"
    groups = whole(content, "norm_num_groups")
    if any(width % groups for width in widths):
        raise FormatError(f"{content.name} has norm_num_groups {groups} and widths {widths}", "one divides the others")
    middle = content.fact("attn_norm_num_groups", None) or (None if scale_shift else groups)
    down_kind, up_kind = (content.fact(f"{side}sample_type", None) or "conv" for side in ("down", "up"))
    return {
        "image_channels": channels,
        "widths": widths,
        "blocks": whole(content, "layers_per_block"),
        "down_attention": [DOWN[kind][0] for kind in down],
        "up_attention": [UP[kind][0] for kind in up],
        "middle_attention": bool(common.choice(content, "add_attention", True)),
        "down": [DOWN[kind][1] or down_kind for kind in down],
        "up": [UP[kind][1] or up_kind for kind in up],
        "head_width": head,
        "time_width": content.fact("time_embedding_dim", None),
        "classes": content.fact("num_class_embeds", None),
        "learns_variance": learned,
        "scale_shift": scale_shift,
        "dropout": float(common.choice(content, "dropout", 0.0)),
        "groups": groups,
        "middle_groups": middle,
        "eps": positive(content, "norm_eps"),
        "padding": "symmetric" if content.fact("downsample_padding") == 1 else "right",
        "waves": "cos-sin" if content.fact("flip_sin_to_cos") else "sin-cos",
        "endpoint": content.fact("freq_shift") == 1,
        "centered": bool(common.choice(content, "center_input_sample", False)),
    }


def _is_plain(content: Content) -> bool:
    """Whether every setting is one that our layout knows."""
    expected: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "time_embedding_type": ("positional", ("positional",)),
        "resnet_time_scale_shift": ("default", ("default", "scale_shift")),
        "act_fn": ("silu", ("silu", "swish")),
        "mid_block_scale_factor": (1, (1,)),
        "mid_block_type": ("UNetMidBlock2D", ("UNetMidBlock2D",)),
        "class_embed_type": (None, (None,)),
        "freq_shift": (None, (0, 1)),
        "downsample_padding": (None, (0, 1)),
        "downsample_type": (None, (None, "conv", "resnet")),
        "upsample_type": (None, (None, "conv", "resnet")),
    }
    return all(content.fact(name, neutral) in known for name, (neutral, known) in expected.items())


def converted(weights: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors under our names; q, k and v of an attention become one. Unknown ones keep their name.

    Args:
        weights: by diffusers' names, old or new.
        names: from `translation`.
    """
    state, out = {modern(name): tensor for name, tensor in weights.items()}, {}
    for name, tensor in state.items():
        part = re.fullmatch(r"(.*)\.to_([qkv])\.(weight|bias)", name)
        if part is None:
            owner, _, last = name.rpartition(".")
            ours = names.get(owner)
            out[f"{ours}.{last}" if ours else name] = _like_linear(ours, tensor)
        elif part[2] == "q" and part[1] in names:
            rows = [state[n] for letter in "qkv" if (n := f"{part[1]}.to_{letter}.{part[3]}") in state]
            if len(rows) == 3:
                out[f"{names[part[1]]}.qkv.{part[3]}"] = torch.cat([_like_linear("qkv", row) for row in rows])
    return out


def official_name(names: Mapping[str, str], ours: str) -> str:
    """What diffusers calls a tensor of ours."""
    owner, _, last = ours.rpartition(".")
    found = {module: theirs for theirs, module in names.items()}
    if owner.endswith(".qkv"):
        return f"{found[owner.removesuffix('.qkv')]}.to_q, to_k or to_v.{last}"
    return f"{found[owner]}.{last}" if owner in found else ours


def modern(name: str) -> str:
    """Today's name of a tensor of an attention.

    Example:
        >>> modern("mid_block.attentions.0.proj_attn.weight")
        'mid_block.attentions.0.to_out.0.weight'
    """
    if ".attentions." in name:
        for old, new in OLD:
            name = re.sub(rf"\.{old}\.(weight|bias)$", rf".{new}.\1", name)
    return name


def translation(network: UNet) -> dict[str, str]:
    """Diffusers' name of each module -> ours; an attention itself stands for the place of its q, k and v."""
    names = dict(HEAD) | {"conv_in": "enc.1"}

    def res(official: str, ours: str) -> None:
        names.update({f"{official}.{theirs}": f"{ours}.{part}" for theirs, part in RES})

    def attention(official: str, ours: str) -> None:
        names.update({f"{official}.group_norm": f"{ours}.norm", f"{official}.to_out.0": f"{ours}.out", official: ours})

    for tap, row in network._table.items():
        for official in row.aliases:
            if ".attentions." in official:
                attention(official, f"{tap}.attention")
                res(official.replace("attentions", "resnets"), f"{tap}.res")
            elif official.startswith(("down_blocks", "up_blocks")) and ".resnets." in official:
                res(official, f"{tap}.res")
            elif "samplers" in official:
                names[f"{official}.conv"] = f"{tap}.conv"
                res(official, tap)
    for j in (0, 1):
        res(f"mid_block.resnets.{j}", f"mid.res{j + 1}")
    attention("mid_block.attentions.0", "mid.attention")
    return names


def _like_linear(ours: str | None, tensor: Tensor) -> Tensor:
    """An attention's 1x1 convolution of old files as a matrix."""
    matrix = ours is not None and ours.endswith(("qkv", "attention.out")) and tensor.ndim == 4
    return tensor[:, :, 0, 0] if matrix else tensor


FAMILY = Family("diffusers UNet2DModel", common.written_by("UNet2DModel"), load, common.LICENSE, compared=True)

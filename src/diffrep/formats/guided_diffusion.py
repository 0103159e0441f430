"""State dicts of guided-diffusion and improved-diffusion (Dhariwal and Nichol 2021; Nichol and Dhariwal 2021).

A flat dictionary of the network's tensors. Widths, levels, attention, classes, learned variance and both styles of
resampling are read from names and shapes; heads, the order of q, k and v, schedule and time are not in the file.
`outline` and `named_schedule` serve the programs that have this network too: PDAE and Diff-AE.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from diffrep.denoiser import Conditioning, Denoiser, InputSpec, LabelSpec, SamplingSpec
from diffrep.errors import FormatError
from diffrep.formats import official_names
from diffrep.formats.content import Content, require
from diffrep.formats.families import Family
from diffrep.formats.folder import build_network
from diffrep.formats.state_dicts import state_dict
from diffrep.formats.told import Levels, Multipliers, check_told, truth, whole
from diffrep.networks import Network, UNet
from diffrep.schedules import DiscreteSchedule

State = Mapping[str, Tensor]


def recognizes(content: Content) -> bool:
    """Whether the file is a state dict of input, middle and output blocks, bare or in a wrapper."""
    return {"input_blocks", "output_blocks"} <= {name.split(".")[0] for name in state_dict(content.data)}


def load(content: Content) -> Denoiser:
    """Make the denoiser.

    Errors:
        FormatError: facts are missing or contradict the file, or tensors are missing or left over.
    """
    state = state_dict(content.data)
    check_kind(content)
    shape = outline(state, content.path)
    family = "a guided-diffusion checkpoint"
    steps = "diffusion_steps" if content.has("diffusion_steps") else "steps"
    require(content, family, [*head_facts(content), "image_size", steps, "noise_schedule", "rescale_timesteps"])
    check_facts(content, shape)
    network = filled(content, {**shape, **heads_of(content), "dropout": float(content.fact("dropout", 0.0))}, state)
    count = whole(content, steps)
    classes = shape["classes"]
    denoiser = Denoiser(
        network,
        schedule=named_schedule(str(content.fact("noise_schedule")), count),
        input=InputSpec(shape["image_channels"], whole(content, "image_size")),
        parameterization="x0" if truth(content, "predict_xstart") else "eps",
        conditioning=Conditioning(scale=1000 / count if truth(content, "rescale_timesteps") else 1.0),
        sampling=SamplingSpec(
            clip=True, rule="guided-diffusion", variance=_variance(content, shape), ancestral_rule="linspace"
        ),
        labels=LabelSpec(classes) if classes else None,
        source=str(content.path),
    )
    return denoiser.eval()


FAMILY = Family("guided-diffusion", recognizes, load, "MIT", compared=True)


def outline(state: State, file: Path, time: str = "time_embed") -> dict[str, Any]:
    """What names and shapes tell about an ADM: arguments of `networks.adm`, without heads.

    Args:
        state: tensors by official name.
        file: for messages.
        time: name of the time embedding.

    Errors:
        FormatError: a tensor is missing without which nothing can be told, or this is an up-sampling model.
    """
    stem, head = tensor(state, "input_blocks.0.0.weight", file), tensor(state, "out.2.weight", file)
    images, outputs = stem.shape[1], head.shape[0]
    if outputs not in (images, 2 * images) or images == 6:
        raise FormatError(
            f"the network in {file} maps {images} channels to {outputs}",
            "expected as many, or twice as many with a learned variance; up-sampling models are not read",
        )
    base = tensor(state, f"{time}.0.weight", file)
    levels = _levels(state, file)
    widths = [tensor(state, f"output_blocks.{k}.0.out_layers.3.weight", file).shape[0] for k in levels]
    first = tensor(state, "input_blocks.1.0.emb_layers.1.weight", file).shape[0]
    labels = state.get("label_emb.weight")
    return {
        "image_channels": images,
        "channels": base.shape[1],
        "multipliers": [_ratio(width, base.shape[1]) for width in widths],
        "attention": [f"output_blocks.{k}.1.qkv.weight" in state for k in levels],
        "blocks": _count(state) // len(levels) - 1,
        "classes": None if labels is None else labels.shape[0],
        "learns_variance": outputs == 2 * images,
        "scale_shift": first == 2 * tensor(state, "input_blocks.1.0.in_layers.2.weight", file).shape[0],
        "resampling": "conv" if any(".op." in name for name in state) else "residual",
        "time_width": base.shape[0],
    }


def check_kind(content: Content) -> None:
    """Refuse what the program can build and diffrep cannot.

    Errors:
        FormatError: an up-sampling model, or resampling without convolutions.
    """
    if any(content.fact(name, None) for name in ("large_size", "small_size")):
        raise FormatError(f"{content.name} makes large images of small ones", "expected a model of images from noise")
    if not truth(content, "conv_resample", True) and not truth(content, "resblock_updown"):
        raise FormatError(f"{content.name} resamples without convolutions (conv_resample false)", "this is not read")


def head_facts(content: Content, width: str = "num_head_channels") -> list[str]:
    """Which facts about attention a file of this network cannot tell; the order matters for several heads only.

    Args:
        content: whose facts are asked.
        width: the program's name for channels per head; None and -1 stand for none.
    """
    order = [] if is_improved(content) else ["use_new_attention_order"]
    if content.fact(width, None) not in (None, -1):
        return order
    return ["num_heads"] + ([] if content.fact("num_heads", None) == 1 else order)


def is_improved(content: Content) -> bool:
    """Whether the facts are improved-diffusion's, which has one order of q, k and v, the old one."""
    newer = ("num_head_channels", "resblock_updown", "use_new_attention_order")
    return content.has("sigma_small") and not any(content.has(name) for name in newer)


def heads_of(content: Content, width: str = "num_head_channels") -> dict[str, Any]:
    """Heads and the order of q, k and v, as arguments of `networks.adm`; `head_facts` are known.

    Args:
        content: whose facts are asked.
        width: as for `head_facts`.

    Errors:
        FormatError: decoder and encoder differ.
    """
    channels = content.fact(width, None)
    head_width = None if channels in (None, -1) else int(channels)
    heads = int(content.fact("num_heads", 1))
    upward = content.fact("num_heads_upsample", -1)
    if head_width is None and upward not in (None, -1, heads):
        raise FormatError(f"num_heads_upsample is {upward}, num_heads {heads}", "expected equal numbers of heads")
    new = truth(content, "use_new_attention_order")
    return {"heads": heads, "head_width": head_width, "order": "qkv" if new else "heads"}


def check_facts(content: Content, shape: Mapping[str, Any]) -> None:
    """Compare the facts that the file does tell with what it tells.

    Errors:
        FormatError: naming each fact that is another model's.
    """
    # The command line's flags count attention in sizes, the constructor in factors.
    sizes = isinstance(content.fact("attention_resolutions", None), str) or content.has("num_channels")
    classes = shape["classes"]
    told = {
        "in_channels": shape["image_channels"],
        "out_channels": shape["image_channels"] * (2 if shape["learns_variance"] else 1),
        "model_channels": shape["channels"],
        "num_channels": shape["channels"],
        "num_res_blocks": shape["blocks"],
        "channel_mult": Multipliers(shape["multipliers"], shape["channels"]),
        "attention_resolutions": Levels(shape["attention"], whole(content, "image_size") if sizes else None, sizes),
        "use_scale_shift_norm": shape["scale_shift"],
        "learn_sigma": shape["learns_variance"],
        "class_cond": classes is not None,
        "num_classes": classes,
        "dims": 2,
    }
    if len(shape["multipliers"]) > 1:  # one level is never resampled
        told["resblock_updown"] = shape["resampling"] == "residual"
    if content.has("diffusion_steps"):
        told["steps"] = content.fact("diffusion_steps")
    check_told(content, told)


def filled(content: Content, arguments: Mapping[str, Any], state: State, time: str = "time_embed") -> UNet:
    """Build an ADM and load it whole.

    Errors:
        FormatError: no such network can be built, or the tensors do not fit.
    """
    network = cast(UNet, built({"layout": "adm", **arguments}, content.path))
    official_names.load_official(network, state, official_names.adm(network, time), content.path)
    return network


def built(config: dict[str, Any], file: Path) -> Network:
    """Build a network; what does not go together is the file's fault, or its config's.

    Errors:
        FormatError: with the builder's reason.
    """
    try:
        return cast(Network, build_network(config))
    except (ValueError, TypeError) as error:
        raise FormatError(f"no network can be built for {file}: {error}", "is its config another model's?") from error


def named_schedule(name: str, steps: int) -> DiscreteSchedule:
    """The schedules of guided-diffusion and Diff-AE by name: "linear", "cosine", "const0.008" and the like.

    Linear and constant betas are made for 1000 steps; with others they are larger by 1000 / steps.

    Errors:
        FormatError: another name.
    """
    if name == "linear":
        return DiscreteSchedule.linear(steps, 1e-4 * 1000 / steps, 0.02 * 1000 / steps)
    if name == "cosine":
        return DiscreteSchedule.cosine(steps)
    if constant := re.fullmatch(r"const(0\.\d+)", name):
        beta = torch.full((steps,), float(constant[1]) * 1000 / steps, dtype=torch.float64)
        return DiscreteSchedule(torch.cumprod(1 - beta, 0))
    raise FormatError(f'unknown noise schedule "{name}"', 'expected "linear", "cosine" or a constant like "const0.008"')


def tensor(state: State, name: str, file: Path) -> Tensor:
    """A tensor by name.

    Errors:
        FormatError: it is not in the file.
    """
    if name not in state:
        raise FormatError(f"{file} has no tensor {name} (1 missing: {name})", "is the file whole, and of this program?")
    return state[name]


def _count(state: State) -> int:
    return len({name.split(".")[1] for name in state if name.startswith("output_blocks.")})


def _levels(state: State, file: Path) -> list[int]:
    """The first output block of each level, from the full resolution down."""
    count = _count(state)
    ups = [
        k
        for k in range(count)
        if any(f"output_blocks.{k}.{j}.{part}.weight" in state for j in (1, 2) for part in ("in_layers.0", "conv"))
    ]
    levels = len(ups) + 1
    if count == 0 or count % levels or ups != [k for k in range(count - 1) if (k + 1) % (count // levels) == 0]:
        raise FormatError(
            f"the {count} output blocks in {file} are no {levels} levels of equal length", "is the file whole?"
        )
    return list(range(0, count, count // levels))[::-1]


def _ratio(width: int, base: int) -> int | float:
    return width // base if width % base == 0 else width / base


def _variance(content: Content, shape: Mapping[str, Any]) -> str | None:
    """Ancestral steps without a learned variance have beta, unless the program was told `sigma_small`."""
    if shape["learns_variance"]:
        return None
    return "posterior" if truth(content, "sigma_small") else "upper"

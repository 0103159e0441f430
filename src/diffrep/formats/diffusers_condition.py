"""Folders of networks that diffusers itself runs: text-conditioned U-Nets and transformers.

These are UNet2DConditionModel (Stable Diffusion 1.5, 2.1, XL), PixArt, SD3 and Flux, and UNet2DModels with parts that
diffrep has not. They listen to a prompt, as an embedding: `architecture={"encoder_hidden_states": tensor}`, or
`{"prompt": "a cat"}` where a pipeline's CLIP lies beside the network. Without either it is the empty prompt's: encoded
by that CLIP, otherwise all zeros, which is said in the log.
`attention_head_dim` is the number of heads in UNet2DConditionModel; diffusers' own class reads it so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffrep.continuous import FlowSchedule
from diffrep.denoiser import Denoiser, LabelSpec, SamplingSpec
from diffrep.formats import diffusers_common as common
from diffrep.formats.content import Content, require
from diffrep.formats.diffusers_scheduler import scheduling
from diffrep.formats.diffusers_told import GIVEN, conditions
from diffrep.formats.families import Family
from diffrep.formats.folder import load_strictly
from diffrep.networks.diffusers_hosted import CLASSES, Prompted, diffusers_hosted

FLUX = "FluxTransformer2DModel"
FLOWS = ("SD3Transformer2DModel", FLUX)
OURS = (*GIVEN, "prompt", "size", "prediction_type", "requires_aesthetics_score")
"""What may be told beside the network's own settings."""


def load(content: Content) -> Denoiser:
    """The denoiser of a text-conditioned network.

    Errors:
        FormatError: a fact is missing, or tensors that do not fit. UsageError: diffusers is not installed.
    """
    return hosted(content)


def hosted(content: Content) -> Denoiser:
    """The denoiser of a network that diffusers runs.

    Errors:
        FormatError: a fact is missing, or tensors that do not fit. UsageError: diffusers is not installed.
    """
    kind = common.class_name(content)
    require(content, f"a {kind}", ["in_channels"])
    size = int(content.fact("size", 128)) if kind == FLUX else common.square(content, f"a {kind}")
    arguments = {k: v for k, v in content.data.config.items() if not (k.startswith("_") or k in OURS)}
    network = built(kind, arguments, conditions(content, kind, size))
    channels, out = CLASSES[kind].channels(network.module.config)
    common.learned_variance(content, channels, out)
    load_strictly(network.module, modernized(content.data.weights, network.module), content.path)
    facts = scheduling(content, "flow_prediction" if kind in FLOWS else "epsilon", 1.0 if kind == FLUX else 1000.0)
    if kind == FLUX:  # its pipeline names the times itself
        facts["schedule"] = FlowSchedule(shift=flux_shift(content.data.scheduler, size))
        facts["sampling"] = SamplingSpec(clip=False, rule="flow")
    classes = content.fact("num_class_embeds", None) if kind.startswith("UNet2D") else None
    made = Denoiser(
        network,
        input=common.input_of(content, channels, size),
        labels=LabelSpec(int(classes)) if classes else None,
        source=common.source_of(content),
        **facts,
    )
    return made.eval()


def built(kind: str, arguments: Mapping[str, Any], told: Mapping[str, Tensor]) -> Prompted:
    """The network, with what it is told, without weights.

    Errors:
        UsageError: diffusers is not installed.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            network = diffusers_hosted(
                class_name=kind, arguments=dict(arguments), conditions={n: list(t.shape) for n, t in told.items()}
            )
        except ModuleNotFoundError as error:
            raise common.extra_missing(error) from error
    for name, value in told.items():
        getattr(network, name).copy_(value)
    return network


def modernized(weights: Mapping[str, Tensor], module: Any) -> dict[str, Tensor]:  # noqa: ANN401 (a class of diffusers)
    """The tensors under today's names: old attention layers, 1x1 convolutions that became matrices."""
    from diffrep.formats.diffusers_unet import modern

    own = module.state_dict()
    out = {}
    for name, tensor in weights.items():
        name = name if name in own else modern(name)
        if name in own and tensor.ndim == own[name].ndim + 2 and tensor.shape[2:] == (1, 1):
            tensor = tensor[:, :, 0, 0]
        out[name] = tensor
    return out


def flux_shift(scheduler: Mapping[str, Any], size: int) -> float:
    """By how much Flux's pipeline shifts its times: exp of a straight line in the number of tokens, or a fixed one."""
    if not scheduler.get("use_dynamic_shifting"):
        return float(scheduler.get("shift", 1.0))
    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    low, high, base, most = (scheduler.get(n, v) for n, v in zip(names, (256, 4096, 0.5, 1.15), strict=True))
    return math.exp(base + (most - base) * ((size // 2) ** 2 - low) / (high - low))


FAMILY = Family(
    "diffusers text-conditioned",
    common.written_by(*(name for name in CLASSES if name != "UNet2DModel")),
    load,
    common.LICENSE,
    compared=True,
)

"""Folders of networks that diffusers itself runs: UNet2DConditionModel (Stable Diffusion 1.5, 2.1, XL), PixArt, SD3,
Flux, and UNet2DModels with parts that diffrep has not.

They listen to a prompt, as an embedding. It is given, `architecture={"encoder_hidden_states": tensor}`, or the empty
prompt's: encoded where a pipeline's CLIP lies beside the network, otherwise all zeros, which is said in the log.
`attention_head_dim` is the number of heads in UNet2DConditionModel; diffusers' own class reads it so.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffrep.denoiser import Conditioning, Denoiser, LabelSpec
from diffrep.errors import FormatError
from diffrep.formats import diffusers_common as common
from diffrep.formats.content import Content, require
from diffrep.formats.families import Family
from diffrep.formats.folder import load_strictly
from diffrep.networks.diffusers_hosted import CLASSES, Prompted, diffusers_hosted
from diffrep.schedules import FlowSchedule

LOG = logging.getLogger("diffrep.formats")
TOKENS = 77
"""Length of CLIP's prompts; an embedding of zeros says the same at any length."""
GIVEN = (
    *("encoder_hidden_states", "encoder_attention_mask", "text_embeds", "time_ids", "image_embeds", "class_labels"),
    *("pooled_projections", "resolution", "aspect_ratio", "guidance"),
)
"""What may be given in `architecture=`, under diffusers' names; a row without a batch axis is accepted."""
ROW_AXES = {"encoder_hidden_states": 2, "class_labels": 0, "guidance": 0}
"""Axes of one row; 1 for the others."""
FLOWS = ("SD3Transformer2DModel", "FluxTransformer2DModel")
CLIP = "CLIPTextModel"


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
    size = 0 if kind == "FluxTransformer2DModel" else common.square(content, f"a {kind}")
    size = size or int(content.fact("size", 128))
    arguments = {k: v for k, v in content.data["config"].items() if not k.startswith("_")}
    network = built(kind, arguments, conditions(content, kind, size))
    channels, out = CLASSES[kind].channels(network.module.config)
    common.learned_variance(content, channels, out)
    load_strictly(network.module, modernized(content.data["weights"], network.module), content.path)
    facts = common.scheduling(content, "flow_prediction" if kind in FLOWS else "epsilon")
    if kind in FLOWS and not content.data["scheduler"]:
        facts["schedule"] = FlowSchedule()
    classes = content.fact("num_class_embeds", None) if kind.startswith("UNet2D") else None
    made = Denoiser(
        network,
        input=common.input_of(content, channels, size),
        conditioning=Conditioning(scale=1000.0 if kind == FLOWS[0] else 1.0, rounded=kind not in FLOWS),
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


def conditions(content: Content, kind: str, size: int) -> dict[str, Tensor]:
    """What the network is told beside image and time, one row each: what was given, the empty prompt for the rest.

    Errors:
        FormatError: something given of another shape.
    """
    needed = needs(content, kind, size)
    given = {name: value for name in GIVEN if (value := content.fact(name, None)) is not None}
    if unknown := set(given) - needed.keys() - {"encoder_attention_mask"}:
        raise FormatError(f"{kind} does not take {sorted(unknown)[0]}", f"it takes {', '.join(needed) or 'nothing'}")
    told: dict[str, Tensor] = {}
    for name, value in given.items():
        told[name] = row(name, value, needed.get(name), content.name)
    if "encoder_hidden_states" in needed and "encoder_hidden_states" not in given:
        told["encoder_hidden_states"] = empty_prompt(content, needed["encoder_hidden_states"])
    return {**needed, **told}


def row(name: str, value: Any, like: Tensor | None, source: str) -> Tensor:  # noqa: ANN401 (what the caller gave)
    """A condition with its batch axis.

    Errors:
        FormatError: it has another number of axes, or another width than the network wants.
    """
    tensor = torch.as_tensor(value, dtype=torch.float32).detach().cpu()
    axes = ROW_AXES.get(name, 1)
    tensor = tensor[None] if tensor.ndim == axes else tensor
    fits = tensor.ndim == axes + 1 and (like is None or axes == 0 or tensor.shape[-1] == like.shape[-1])
    if not fits:
        wanted = "(B, N, D)" if axes == 2 else "(B, D)" if axes else "(B,)"
        width = f" with D = {like.shape[-1]}" if like is not None and axes else ""
        raise FormatError(f"{name} of shape {tuple(tensor.shape)} for {source}", f"expected {wanted}{width}")
    return tensor


def needs(content: Content, kind: str, size: int) -> dict[str, Tensor]:
    """What a class wants to be told, by its config: zeros, and the sizes of the image where it asks for them."""
    pixels = float(8 * size)  # the autoencoders of all of them make one latent of 8 x 8 pixels

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(1, *shape)

    def width(name: str) -> int:
        value = content.fact(name, None)
        value = value[0] if isinstance(value, list | tuple) and value else value
        if not isinstance(value, int):
            require(content, f"a {kind}", [name])
            raise FormatError(f"{content.name} has {name} = {value}", "expected a whole number")
        return value

    if kind == "UNet2DModel":
        return {}
    if kind in FLOWS:
        return {
            "encoder_hidden_states": zeros(TOKENS, width("joint_attention_dim")),
            "pooled_projections": zeros(width("pooled_projection_dim")),
            **({"guidance": torch.tensor([3.5])} if content.fact("guidance_embeds", False) else {}),
        }
    if kind == "PixArtTransformer2DModel":
        extra = {"resolution": torch.tensor([[pixels, pixels]]), "aspect_ratio": torch.tensor([[1.0]])}
        micro = content.fact("use_additional_conditions", None)
        asks = size == 128 if micro is None else bool(micro)
        return {"encoder_hidden_states": zeros(TOKENS, width("caption_channels")), **(extra if asks else {})}
    told = {"encoder_hidden_states": zeros(TOKENS, prompt_width(content, width))}
    if content.fact("addition_embed_type", None) == "text_time":
        ids = torch.tensor([[pixels, pixels, 0.0, 0.0, pixels, pixels]])
        pooled = width("projection_class_embeddings_input_dim") - ids.shape[1] * width("addition_time_embed_dim")
        told |= {"text_embeds": zeros(pooled), "time_ids": ids}
    elif content.fact("addition_embed_type", None) not in (None, "text"):
        raise FormatError(
            f"{content.name} has addition_embed_type {content.fact('addition_embed_type')}",
            "expected null or text_time",
        )
    return told


def prompt_width(content: Content, width: Any) -> int:  # noqa: ANN401 (a function from a name to a number)
    """Channels of a U-Net's prompt: what its projection takes, where it has one, or its attention."""
    return int(width("cross_attention_dim" if content.fact("encoder_hid_dim", None) is None else "encoder_hid_dim"))


def empty_prompt(content: Content, zeros: Tensor) -> Tensor:
    """The embedding of "": by the pipeline's CLIP where one lies beside the network, else zeros.

    Where a pipeline says `force_zeros_for_empty_prompt` (Stable Diffusion XL), zeros are what it was made for.
    """
    index = content.data.get("model_index") or {}
    folder = content.data["folder"].parent if index else content.data["folder"]
    root = folder if (folder / "tokenizer").is_dir() else content.data["folder"].parent
    if index.get("force_zeros_for_empty_prompt"):
        return zeros
    found = encoded("", root) if is_clip(root) else None
    if found is not None and found.shape[-1] == zeros.shape[-1]:
        return found
    LOG.warning("%s: no prompt was given and no CLIP lies beside it; its embedding is all zeros", content.name)
    return zeros


def is_clip(root: Path) -> bool:
    """Whether a pipeline's text encoder is CLIP, in safetensors."""
    folder = root / "text_encoder"
    if not (folder / "model.safetensors").is_file() or not (root / "tokenizer").is_dir():
        return False
    found = common.read_json(folder / "config.json")
    return found.get("architectures") == [CLIP] and "auto_map" not in found


def encoded(prompt: str, root: Path) -> Tensor:
    """The embedding of a prompt by the CLIP of a pipeline's folder, (1, 77, D); nothing is downloaded.

    Errors:
        UsageError: transformers is not installed.
    """
    try:
        from transformers import CLIPTextModel, CLIPTokenizer
    except ImportError as error:
        raise common.extra_missing(error) from error
    tokenizer = CLIPTokenizer.from_pretrained(str(root / "tokenizer"), local_files_only=True)
    model = CLIPTextModel.from_pretrained(str(root / "text_encoder"), local_files_only=True, use_safetensors=True)
    tokens = tokenizer(prompt, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
    with torch.no_grad():
        out: Tensor = model.eval()(tokens.input_ids).last_hidden_state
    return out.float()


FAMILY = Family(
    "diffusers text-conditioned",
    common.written_by(*(name for name in CLASSES if name != "UNet2DModel")),
    load,
    common.LICENSE,
    compared=True,
)

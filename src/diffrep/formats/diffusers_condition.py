"""Folders of networks that diffusers itself runs: text-conditioned U-Nets and transformers.

These are UNet2DConditionModel (Stable Diffusion 1.5, 2.1, XL), PixArt, SD3 and Flux, and UNet2DModels with parts that
diffrep has not. They listen to a prompt, as an embedding: `architecture={"encoder_hidden_states": tensor}`, or
`{"prompt": "a cat"}` where a pipeline's CLIP lies beside the network. Without either it is the empty prompt's: encoded
by that CLIP, otherwise all zeros, which is said in the log.
`attention_head_dim` is the number of heads in UNet2DConditionModel; diffusers' own class reads it so.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffrep.continuous import FlowSchedule
from diffrep.denoiser import Conditioning, Denoiser, LabelSpec
from diffrep.errors import FormatError
from diffrep.formats import diffusers_common as common
from diffrep.formats.content import Content, require
from diffrep.formats.families import Family
from diffrep.formats.folder import load_strictly
from diffrep.networks.diffusers_hosted import CLASSES, GUIDANCE, Prompted, diffusers_hosted

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
    needed = needs(content.data["config"], kind, size, content.name)
    given = {name: value for name in GIVEN if (value := content.fact(name, None)) is not None}
    if unknown := set(given) - needed.keys() - {"encoder_attention_mask"}:
        raise FormatError(f"{kind} does not take {sorted(unknown)[0]}", f"it takes {', '.join(needed) or 'nothing'}")
    told: dict[str, Tensor] = {}
    for name, value in given.items():
        told[name] = row(name, value, needed.get(name), content.name)
    if "encoder_hidden_states" in needed and "encoder_hidden_states" not in given:
        told["encoder_hidden_states"] = prompt_embedding(content, needed["encoder_hidden_states"])
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


def needs(config: Mapping[str, Any], kind: str, size: int, name: str) -> dict[str, Tensor]:
    """What a class wants to be told, by its config: zeros, and the sizes of the image where it asks for them.

    Errors:
        FormatError: the config does not tell a width, or asks for something else.
    """
    pixels = float(8 * size)  # the autoencoders of all of them make one latent of 8 x 8 pixels

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(1, *shape)

    def width(key: str) -> int:
        value = config.get(key)
        value = value[0] if isinstance(value, list | tuple) and value else value
        if not isinstance(value, int):
            raise FormatError(f"{name} has {key} = {value}", "expected a whole number in its config")
        return value

    if kind == "UNet2DModel":
        return {}
    if kind in FLOWS:
        told = {"encoder_hidden_states": zeros(TOKENS, width("joint_attention_dim"))}
        told["pooled_projections"] = zeros(width("pooled_projection_dim"))
        return told | ({"guidance": torch.tensor([GUIDANCE])} if config.get("guidance_embeds") else {})
    if kind == "PixArtTransformer2DModel":
        asked = config.get("use_additional_conditions")
        extra = {"resolution": torch.tensor([[pixels, pixels]]), "aspect_ratio": torch.tensor([[1.0]])}
        told = {"encoder_hidden_states": zeros(TOKENS, width("caption_channels"))}
        return told | (extra if (size == 128 if asked is None else asked) else {})
    projected = config.get("encoder_hid_dim") is not None
    told = {"encoder_hidden_states": zeros(TOKENS, width("encoder_hid_dim" if projected else "cross_attention_dim"))}
    extra_kind = config.get("addition_embed_type")
    if extra_kind not in (None, "text", "text_time"):
        raise FormatError(f'{name} has addition_embed_type "{extra_kind}"', 'expected null, "text" or "text_time"')
    if extra_kind == "text_time":
        ids = torch.tensor([[pixels, pixels, 0.0, 0.0, pixels, pixels]])
        pooled = width("projection_class_embeddings_input_dim") - ids.shape[1] * width("addition_time_embed_dim")
        told |= {"text_embeds": zeros(pooled), "time_ids": ids}
    return told


def prompt_embedding(content: Content, zeros: Tensor) -> Tensor:
    """The embedding of `prompt`, or of "": by the pipeline's CLIP where one lies beside the network, else zeros.

    Where a pipeline says `force_zeros_for_empty_prompt` (Stable Diffusion XL), zeros are what it was made for.

    Errors:
        FormatError: a prompt, but no CLIP that makes embeddings of this network's width.
    """
    index, folder = content.data.get("model_index") or {}, content.data["folder"]
    prompt = str(content.fact("prompt", ""))
    if not prompt and index.get("force_zeros_for_empty_prompt"):
        return zeros
    found = encoded(prompt, folder.parent) if is_clip(folder.parent) else None
    if found is not None and found.shape[-1] == zeros.shape[-1]:
        return found
    if prompt:
        raise FormatError(
            f"{content.name} has no CLIP of width {zeros.shape[-1]} beside it to read the prompt",
            'give its embedding: architecture={"encoder_hidden_states": tensor}',
        )
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

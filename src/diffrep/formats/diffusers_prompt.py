"""The embedding of a prompt, by the CLIP text encoders that lie in a pipeline's folder (Stable Diffusion 1.5, 2.1, XL).

An encoder's settings and weights are read as everything else is; transformers gets the numbers that describe a CLIP and
nothing else of its config, so that nothing can be fetched or run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffrep.errors import FormatError
from diffrep.formats.components import Weights, settings, weight_files
from diffrep.formats.content import Content
from diffrep.formats.diffusers_common import extra_missing
from diffrep.formats.folder import load_strictly

LOG = logging.getLogger("diffrep.formats")
TOKENS = 77
"""Length of CLIP's prompts; an embedding of zeros says the same at any length."""
ENCODERS = (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2"))
CLIPS = ("CLIPTextModel", "CLIPTextModelWithProjection")
SETTINGS = (
    *("vocab_size", "hidden_size", "intermediate_size", "projection_dim", "num_hidden_layers", "num_attention_heads"),
    *("max_position_embeddings", "hidden_act", "layer_norm_eps", "bos_token_id", "eos_token_id", "pad_token_id"),
)


def embedded(content: Content, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The embeddings of `prompt`, or of "", as far as the pipeline's encoders make them; what is absent is all zeros.

    Where a pipeline says `force_zeros_for_empty_prompt` (Stable Diffusion XL), zeros are what it was made for.

    Args:
        content: a component of diffusers.
        wanted: "encoder_hidden_states", (1, N, D), and for Stable Diffusion XL "text_embeds", (1, P).

    Errors:
        FormatError: a prompt, but no CLIP of this network's width, or no prompt's text; a broken encoder.
        UsageError: transformers is not installed.
    """
    prompt = content.fact("prompt", "")
    if not isinstance(prompt, str):
        raise FormatError(f"prompt is {prompt!r:.80}", "expected one text, for all images")
    if not prompt and content.data.index.get("force_zeros_for_empty_prompt"):
        return {}
    states = [encoded(prompt, folder, tokenizer) for folder, tokenizer in clips(content.data.pipeline)]
    found: dict[str, Tensor] = {}
    if states and "text_embeds" in wanted:  # XL: the layer before the last, of both; the last one's projection
        pooled = {"text_embeds": states[-1].text_embeds} if hasattr(states[-1], "text_embeds") else {}
        found = {"encoder_hidden_states": torch.cat([out.hidden_states[-2] for out in states], dim=-1), **pooled}
    elif states:
        found = {"encoder_hidden_states": states[0].last_hidden_state}
    if found and all(name in found and found[name].shape[-1] == like.shape[-1] for name, like in wanted.items()):
        return {name: found[name] for name in wanted}
    if prompt:
        width = wanted["encoder_hidden_states"].shape[-1]
        raise FormatError(
            f"{content.name} has no CLIP of width {width} beside it to read the prompt",
            'give its embedding: architecture={"encoder_hidden_states": tensor}',
        )
    LOG.warning("%s: no prompt was given and no CLIP lies beside it; its embedding is all zeros", content.name)
    return {}


def clips(pipeline: Path) -> list[tuple[Path, Path]]:
    """(encoder, tokenizer) of the CLIPs in a pipeline's folder."""
    places = [(pipeline / encoder, pipeline / tokenizer) for encoder, tokenizer in ENCODERS]
    return [place for place in places if place[1].is_dir() and _class_of(settings(place[0] / "config.json"))]


def _class_of(config: Mapping[str, Any]) -> str | None:
    named = config.get("architectures")
    known = isinstance(named, list) and len(named) == 1 and named[0] in CLIPS and "auto_map" not in config
    return str(named[0]) if known and isinstance(named, list) else None


def encoded(prompt: str, folder: Path, tokenizer: Path) -> Any:  # noqa: ANN401 (what transformers returns)
    """What a CLIP makes of a prompt, with `hidden_states`; nothing is downloaded.

    Errors:
        FormatError: broken settings or weights. UsageError: transformers is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise extra_missing(error) from error
    config = settings(folder / "config.json")
    try:
        with torch.random.fork_rng(devices=[]):
            described = transformers.CLIPTextConfig(**{name: config[name] for name in SETTINGS if name in config})
            model = getattr(transformers, str(_class_of(config)))(described)
        words = transformers.CLIPTokenizer.from_pretrained(str(tokenizer), local_files_only=True)
        tokens = words(prompt, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt").input_ids
    except (ValueError, TypeError, KeyError, OSError, RuntimeError) as error:
        text = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise FormatError(f"the text encoder in {folder} is broken ({text})", "copy the folder again") from error
    load_strictly(model, _renamed(Weights(_files(folder)), model), folder)
    with torch.no_grad():
        return model.float().eval()(tokens, output_hidden_states=True)


def _files(folder: Path) -> list[Path]:
    """Weight files of transformers: model.safetensors, else pytorch_model.bin."""
    stem = "model" if any(folder.glob("model.*safetensors*")) else "pytorch_model"
    return weight_files(folder, stem)


def _renamed(weights: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:  # noqa: ANN401 (a class of transformers)
    """Names with and without `text_model.` before them, by version; old files hold the positions' numbers."""
    own = {name.removeprefix("text_model."): name for name in model.state_dict()}
    named = {name.removeprefix("text_model."): tensor for name, tensor in weights.items()}
    return {own.get(n, n): t for n, t in named.items() if not n.endswith("position_ids")}

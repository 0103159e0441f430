"""Files that lie among checkpoints and are no model, or one that is read in another form: what they are, what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffrep.formats.components import Component
from diffrep.formats.state_dicts import state_dict

VAES = ("AutoencoderKL", "VQModel")
"""Classes of VAEs of diffusers, which `diffrep.formats.vae` reads."""
PARTS = "load the autoencoder: what lies in trained-models/ beside it comes with it"
STATISTICS = "load the autoencoder: statistics beside it come with it"
KEYS = (
    ({"ema_latent_denoise_fn"}, "the latent DPM of a PDAE autoencoder", PARTS),
    ({"ema_classifier"}, "the classifier of a PDAE autoencoder", PARTS),
    ({"conds_mean"}, "a table of codes of Diff-AE and their statistics", STATISTICS),
    ({"param_groups"}, "the state of an optimizer", "load the model of the same run"),
    ({"net", "optimizer_state"}, "a training state of EDM, with raw weights", "load network-snapshot-*.pkl of its run"),
    ({"state", "net", "optimizer"}, "a training state of EDM2, with raw weights", "load a snapshot of the same run"),
)
"""Keys of the outermost dictionary, what such a file is, and what to do."""


def described(data: Any) -> tuple[str, str] | None:  # noqa: ANN401 (what the file says)
    """(what it is, what to do) of a file that is known to be no model; None for anything else."""
    if isinstance(data, Component):
        known = data.class_name in VAES
        return ("a VAE, not a model of images", "name it with --vae, or dr.load_vae(...)") if known else None
    if not isinstance(data, Mapping):
        return None
    for keys, what, hint in KEYS:
        if data.keys() >= keys:
            return what, hint
    if data and data.keys() <= {"mean", "std"}:
        return "statistics of codes", STATISTICS
    return _by_names([str(name) for name in state_dict(data)])


def _by_names(names: list[str]) -> tuple[str, str] | None:
    starts = {name.split(".")[0] for name in names}
    if any(name.startswith("model.diffusion_model.") for name in names):
        return (
            "Stable Diffusion in one file of its first program",
            "diffusers makes a folder of it: StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)",
        )
    if "ema_classifier" in starts and "ema_model" not in starts:
        return "a classifier of Diff-AE's codes", "load its autoencoder; the classifier itself is not read"
    if "input_blocks" in starts and "output_blocks" not in starts:
        return "a classifier of noisy images, half of a U-Net", "load the diffusion model that it guides"
    if any(".lora_" in name or ".lora." in name for name in names):
        return "an adapter (LoRA), which changes a model", "load the model; adapters are not read"
    return None

"""Small random networks of diffusers, saved by diffusers: what our readers are compared with."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

WHY = 'needs diffusers: pip install "diffrep[diffusers]"'
UNET = {
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 1,
    "block_out_channels": (16, 32),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 8,
}
DIT = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 2,
    "sample_size": 8,
    "num_embeds_ada_norm": 10,
}
CONDITION = {
    **UNET,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 2,
    "cross_attention_dim": 16,
}
PIXART = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 2,
    "cross_attention_dim": 16,
    "sample_size": 8,
    "caption_channels": 12,
    "use_additional_conditions": False,
}
SD3 = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 12,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 20,
    "pos_embed_max_size": 8,
}
FLUX = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 12,
    "pooled_projection_dim": 20,
    "axes_dims_rope": (4, 6, 6),
}


def diffusers():
    """The library, or a skipped test."""
    return pytest.importorskip("diffusers", reason=WHY)


def random(name: str, seed: int = 0, **config) -> nn.Module:
    """An instance with random weights, also where training starts at zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(diffusers(), name)(**config).eval()
        for weight in model.parameters():
            spread = 0.3 if weight.ndim == 1 else 0.8 / max(weight[0].numel(), 1) ** 0.5
            nn.init.normal_(weight, mean=float(weight.ndim == 1) * 0.2, std=spread)
    return model.requires_grad_(False)


def saved(model, folder: Path, scheduler=None) -> Path:
    """The folder that diffusers writes: a component, or, with a scheduler, a pipeline's folders."""
    if scheduler is None:
        model.save_pretrained(folder)
        return folder
    part = "unet" if "UNet" in type(model).__name__ else "transformer"
    model.save_pretrained(folder / part)
    scheduler.save_pretrained(folder / "scheduler")
    names = {part: ["diffusers", type(model).__name__], "scheduler": ["diffusers", type(scheduler).__name__]}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "DiffusionPipeline", **names}))
    return folder


def inputs(channels: int, size: int = 8, n: int = 2) -> tuple[Tensor, Tensor]:
    """Noisy images and times, counted from 0."""
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1)), torch.tensor([7, 850])[:n]


def close(ours: Tensor, theirs: Tensor, share: float = 1e-5) -> None:
    """Hold a tensor to another: a share of its largest value."""
    assert ours.shape == theirs.shape
    assert float((ours.detach() - theirs).abs().max()) <= share * float(theirs.abs().max())

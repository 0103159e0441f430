"""LightningDiT (Yao, Yang and Wang 2025, arXiv 2501.01423): DiT with RMSNorm, SwiGLU and rotary positions.

It works on normalized latents of a VA-VAE, one token per latent pixel.
"""

from __future__ import annotations

from diffrep.networks.blocks import TimeEmbedding
from diffrep.networks.dit import WAVES, DiT, initialized
from diffrep.networks.dit_blocks import (
    AdaBlock,
    AdaHead,
    FeedForward,
    Gelu,
    PatchEmbed,
    Rotary,
    SwiGLU,
    TokenAttention,
    TokenNorm,
    position_table,
)
from diffrep.networks.network import layout


@layout
def lightningdit(
    *,
    image_channels: int = 32,
    size: int = 16,
    patch: int = 1,
    width: int = 1152,
    depth: int = 28,
    heads: int = 16,
    mlp_ratio: float = 4.0,
    classes: int | None = None,
    learns_variance: bool = False,
    norm: TokenNorm = "rms",
    feed_forward: FeedForward = "swiglu",
    rotary: bool = True,
    qk_norm: bool = False,
    shift: bool = True,
    zero_init: bool = True,
) -> DiT:
    """Build a LightningDiT; the defaults are LightningDiT-XL/1 without classes.

    Args:
        image_channels: channels of latent and prediction.
        size: height and width of the latents.
        patch: height and width of a patch.
        width: D, width of the tokens.
        depth: number of blocks.
        heads: attention heads of a block.
        mlp_ratio: width of the feed-forward layers, in D; SwiGLU has two thirds of it.
        classes: rows of the label table, one for "no class" included where there is one; None for no table.
        learns_variance: twice the output channels, the prediction first.
        norm: kind of normalization, also of queries and keys.
        feed_forward: kind of feed-forward layer.
        rotary: rotary positions besides the table of positions.
        qk_norm: normalized queries and keys.
        shift: blocks are scaled, shifted and gated; otherwise scaled and gated.
        zero_init: blocks start as the identity and the output at 0.

    Example:
        >>> import torch
        >>> with torch.device("meta"):
        ...     network = lightningdit(classes=1001)
        >>> sum(p.numel() for p in network.parameters())
        674961824
    """
    inner = int(width * mlp_ratio)
    embed = PatchEmbed(image_channels, width, patch)
    grid = embed.grid((size, size))

    def block() -> AdaBlock:
        attention = TokenAttention(width, heads, qk_norm=norm if qk_norm else None)
        layers = SwiGLU(width, int(2 / 3 * inner)) if feed_forward == "swiglu" else Gelu(width, inner)
        return AdaBlock(width, attention, layers, norm=norm, shift=shift)

    out_channels = image_channels * (2 if learns_variance else 1)
    network = DiT(
        patch=embed,
        positions=position_table(width, grid),
        time=TimeEmbedding(WAVES, width, classes=classes),
        blocks=[block() for _ in range(depth)],
        head=AdaHead(width, patch**2 * out_channels, norm=norm),
        rotary=Rotary(width // heads, grid) if rotary else None,
        learns_variance=learns_variance,
    )
    return initialized(network, zero_init)

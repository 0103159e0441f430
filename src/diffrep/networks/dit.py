"""The diffusion transformer DiT (Peebles and Xie 2023, arXiv 2212.09748): patches in, blocks steered by time and class.

SiT and REPA have this shape too; LightningDiT has it with other parts (`lightningdit`). The tap `block.k` is the output
of the k-th block, from 1, as a map over the patches.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from diffrep.networks.blocks import Size, TimeEmbedding, zeroed
from diffrep.networks.dit_blocks import (
    AdaBlock,
    AdaHead,
    Gelu,
    PatchEmbed,
    Rotary,
    TokenAttention,
    TokenNorm,
    TokensToMap,
    position_table,
    unpatchify,
)
from diffrep.networks.network import Network, Place, layout

WAVES = 256
"""Width of the sinusoid of time, in every program of this family."""
OFFICIAL = ("layer-", "blocks.", "transformer_blocks.")
"""What DDAE, the official programs and diffusers call a block, before its number from 0."""


class DiT(Network):
    """A diffusion transformer as a plain network: (x, time, y) -> output, for images of one size.

    Args:
        patch: images to tokens.
        positions: added to the tokens, (1, N, D); kept with the weights.
        time: embeds time and labels into (B, D).
        blocks: from tokens to tokens.
        head: from tokens to patches.
        rotary: turns queries and keys, or None.
        learns_variance: the second half of the output channels is a variance.
    """

    positions: Tensor
    fixed_size = True

    def __init__(
        self,
        *,
        patch: PatchEmbed,
        positions: Tensor,
        time: TimeEmbedding,
        blocks: Sequence[AdaBlock],
        head: AdaHead,
        rotary: Rotary | None = None,
        learns_variance: bool = False,
    ) -> None:
        super().__init__()
        self.time_width, self.learns_variance = time.linear2.out_features, learns_variance
        self.patch, self.time, self.rotary, self.head = patch, time, rotary, head
        self.register_buffer("positions", positions)
        self.blocks = nn.ModuleList(blocks)
        self.maps = nn.ModuleDict({str(k): TokensToMap() for k in range(1, len(blocks) + 1)})

    def forward(self, x: Tensor, time: Tensor, y: Tensor | None = None) -> Tensor:
        """Run the network.

        Args:
            x: images or latents, (B, C, H, W), of the size that it was built for.
            time: what the network was trained to see as time, (B,).
            y: class labels, (B,); without them the class term is left out.

        Returns:
            (B, C, H, W), or (B, 2C, H, W) with a learned variance.
        """
        grid = self.patch.grid((x.shape[2], x.shape[3]))
        if grid[0] * grid[1] != self.positions.shape[1]:
            raise ValueError(f"{grid[0]}x{grid[1]} patches, but this network has {self.positions.shape[1]} positions")
        tokens = self.patch(x) + self.positions
        emb = self.time(time, y)
        for block, show in zip(self.blocks, self.maps.values(), strict=True):
            tokens = block(tokens, emb, self.rotary)
            show(tokens, grid)
        return unpatchify(self.head(tokens, emb), grid, self.patch.patch)

    def places(self, size: Size) -> tuple[Place, ...]:
        """The taps for images of `size` (height, width), in the order in which they are computed."""
        grid, width = self.patch.grid(size), self.positions.shape[2]
        blocks = (
            Place(f"block.{k}", f"maps.{k}", width, grid, True, tuple(f"{name}{k - 1}" for name in OFFICIAL))
            for k in range(1, len(self.blocks) + 1)
        )
        return (Place("time", "time", self.time_width, None), *blocks)


@layout
def dit(
    *,
    image_channels: int = 4,
    size: int = 32,
    patch: int = 2,
    width: int = 384,
    depth: int = 12,
    heads: int = 6,
    mlp_ratio: float = 4.0,
    classes: int | None = None,
    learns_variance: bool = False,
    qk_norm: bool = False,
    zero_init: bool = True,
) -> DiT:
    """Build a DiT; the defaults are DiT-S/2 without classes.

    Args:
        image_channels: channels of image (or latent) and prediction.
        size: height and width of the images.
        patch: height and width of a patch, which divides the size.
        width: D, width of the tokens.
        depth: number of blocks.
        heads: attention heads of a block.
        mlp_ratio: width of the feed-forward layers, in D.
        classes: rows of the label table, one for "no class" included where there is one; None for no table.
        learns_variance: twice the output channels, the prediction first.
        qk_norm: normalized queries and keys (an option of REPA).
        zero_init: blocks start as the identity and the output at 0, as the official one's.

    Example:
        >>> sum(p.numel() for p in dit(classes=1001, learns_variance=True).parameters())
        32865056
    """

    def block() -> AdaBlock:
        kind: TokenNorm | None = "layer" if qk_norm else None
        attention = TokenAttention(width, heads, qk_norm=kind)
        return AdaBlock(width, attention, Gelu(width, int(width * mlp_ratio)))

    embed = PatchEmbed(image_channels, width, patch)
    out_channels = image_channels * (2 if learns_variance else 1)
    network = DiT(
        patch=embed,
        positions=position_table(width, embed.grid((size, size))),
        time=TimeEmbedding(WAVES, width, classes=classes),
        blocks=[block() for _ in range(depth)],
        head=AdaHead(width, patch**2 * out_channels),
        learns_variance=learns_variance,
    )
    return initialized(network, zero_init)


def initialized(network: DiT, zero_init: bool) -> DiT:
    """Draw the first weights as DiT's program does: Xavier; 0.02 for what embeds time and class; 0 as `dit` says."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
    nn.init.xavier_uniform_(network.patch.proj.weight.view(network.patch.proj.out_channels, -1))
    for linear in (network.time.linear1, network.time.linear2):
        nn.init.normal_(linear.weight, std=0.02)
    if zero_init:
        zeroed(network.head.linear)
        for part in (*network.blocks, network.head):
            zeroed(part.modulation)
    return network

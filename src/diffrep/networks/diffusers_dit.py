"""The DiT of diffusers (DiTTransformer2DModel), where it is not the official one.

In diffusers every block embeds time and label by itself, the sinusoid's frequencies end at exactly 1e-4, and the
second normalization of a block has a larger epsilon (DDAE 5.7). A network that was trained so needs all three.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from diffrep.networks.blocks import TimeEmbedding
from diffrep.networks.diffusers_unet import ShiftedTime
from diffrep.networks.dit import WAVES, DiT, initialized
from diffrep.networks.dit_blocks import (
    AdaBlock,
    AdaHead,
    Gelu,
    PatchEmbed,
    TokenAttention,
    position_table,
    unpatchify,
)
from diffrep.networks.network import layout


class BlockwiseDiT(DiT):
    """A DiT whose blocks each have their own embedding of time and label; the head uses the first block's.

    Args:
        patch: images to tokens.
        positions: added to the tokens, (1, N, D).
        times: one embedding per block; the first is the tap `time`.
        blocks: from tokens to tokens.
        head: from tokens to patches.
        learns_variance: the second half of the output channels is a variance.
    """

    def __init__(
        self,
        *,
        patch: PatchEmbed,
        positions: Tensor,
        times: Sequence[TimeEmbedding],
        blocks: Sequence[AdaBlock],
        head: AdaHead,
        learns_variance: bool = False,
    ) -> None:
        super().__init__(
            patch=patch, positions=positions, time=times[0], blocks=blocks, head=head, learns_variance=learns_variance
        )
        self.times = nn.ModuleList(times[1:])

    def forward(self, x: Tensor, time: Tensor, y: Tensor | None = None) -> Tensor:
        """As `DiT.forward`."""
        grid = self.patch.grid((x.shape[2], x.shape[3]))
        if grid[0] * grid[1] != self.positions.shape[1]:
            raise ValueError(f"{grid[0]}x{grid[1]} patches, but this network has {self.positions.shape[1]} positions")
        tokens = self.patch(x) + self.positions
        first = self.time(time, y)
        for k, (block, show) in enumerate(zip(self.blocks, self.maps.values(), strict=True)):
            tokens = block(tokens, first if k == 0 else self.times[k - 1](time, y))
            show(tokens, grid)
        return unpatchify(self.head(tokens, first), grid, self.patch.patch)


@layout
def diffusers_dit(
    *,
    image_channels: int = 4,
    size: int = 32,
    patch: int = 2,
    width: int = 384,
    depth: int = 12,
    heads: int = 6,
    mlp_ratio: float = 4.0,
    classes: int | None = 1001,
    learns_variance: bool = False,
    endpoint: bool = True,
    eps: float = 1e-5,
    approximate: str = "tanh",
    zero_init: bool = True,
) -> BlockwiseDiT:
    """Build diffusers' DiT.

    Args:
        image_channels: channels of image (or latent) and prediction.
        size: height and width of the images.
        patch: height and width of a patch, which divides the size.
        width: D, width of the tokens.
        depth: number of blocks.
        heads: attention heads of a block.
        mlp_ratio: width of the feed-forward layers, in D.
        classes: rows of each label table; the last one is "no class".
        learns_variance: twice the output channels, the prediction first.
        endpoint: whether the last frequency of the sinusoid is exactly 1e-4.
        eps: of the second normalization of each block; the others have 1e-6.
        approximate: of GELU, "tanh" or "none".
        zero_init: blocks start as the identity and the output at 0.

    Example:
        >>> diffusers_dit(width=32, depth=2, heads=2, classes=11).time_width
        32
    """

    def block() -> AdaBlock:
        made = AdaBlock(width, TokenAttention(width, heads), Gelu(width, int(width * mlp_ratio), approximate))
        made.norm2 = nn.LayerNorm(width, eps=eps, elementwise_affine=False)
        return made

    embed = PatchEmbed(image_channels, width, patch)
    network = BlockwiseDiT(
        patch=embed,
        positions=position_table(width, embed.grid((size, size))),
        times=[ShiftedTime(WAVES, width, endpoint=endpoint, classes=classes) for _ in range(depth)],
        blocks=[block() for _ in range(depth)],
        head=AdaHead(width, patch**2 * image_channels * (2 if learns_variance else 1)),
        learns_variance=learns_variance,
    )
    initialized(network, zero_init)
    return network

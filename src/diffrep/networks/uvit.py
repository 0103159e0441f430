"""The U-ViT (Bao et al. 2023, arXiv 2209.12152): everything is a token, and late blocks see what early blocks saw.

Time, and the class where there is one, are tokens before those of the patches. Block k of the second half takes the
output of the block that lies as far before the middle. The tap `block.k` counts all blocks, from 1, and shows the
tokens of patches only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffrep.networks.blocks import Size, sinusoid
from diffrep.networks.dit_blocks import Gelu, PatchEmbed, TokenAttention, TokensToMap, unpatchify
from diffrep.networks.network import Network, Place, layout


class UViTBlock(nn.Module):
    """Attention and a feed-forward layer on normalized tokens; `skip`: first joined with an earlier block's tokens."""

    def __init__(self, width: int, attention: TokenAttention, feed_forward: nn.Module, *, skip: bool = False) -> None:
        super().__init__()
        self.join = nn.Linear(2 * width, width) if skip else None
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.feed_forward = attention, feed_forward

    def forward(self, tokens: Tensor, earlier: Tensor | None = None) -> Tensor:
        """Map (B, N, D), with (B, N, D) of the earlier block where it is joined, to the same shape."""
        if self.join is not None and earlier is not None:
            tokens = self.join(torch.cat([tokens, earlier], dim=-1))
        tokens = tokens + self.attention(self.norm1(tokens))
        out: Tensor = tokens + self.feed_forward(self.norm2(tokens))
        return out


class TimeToken(nn.Module):
    """Sinusoid of the tokens' width and, where `inner` is given, two linear layers with SiLU between them."""

    def __init__(self, width: int, inner: int | None = None) -> None:
        super().__init__()
        self.width = width
        self.linear1 = nn.Linear(width, inner) if inner else None
        self.linear2 = nn.Linear(inner, width) if inner else None

    def forward(self, time: Tensor) -> Tensor:
        """Times (B,) to (B, D)."""
        token = sinusoid(time, self.width)
        if self.linear1 is None or self.linear2 is None:
            return token
        out: Tensor = self.linear2(F.silu(self.linear1(token.to(self.linear1.weight.dtype))))
        return out


class UViT(Network):
    """A U-ViT as a plain network: (x, time, y) -> output, for images of one size.

    Args:
        patch: images to tokens.
        time: embeds time.
        classes: the label table, or None.
        positions: how many tokens there are, those of time and class included; learned.
        blocks: first half, middle, second half.
        image_channels: C.
        conv: whether a 3x3 convolution comes last.
    """

    fixed_size = True

    def __init__(
        self,
        *,
        patch: PatchEmbed,
        time: TimeToken,
        classes: nn.Embedding | None,
        positions: int,
        blocks: Sequence[UViTBlock],
        image_channels: int,
        conv: bool,
    ) -> None:
        super().__init__()
        width = self.time_width = time.width
        self.patch, self.time, self.classes = patch, time, classes
        self.positions = nn.Parameter(torch.zeros(1, positions, width))
        self.extras, self.needs_label = (1, False) if classes is None else (2, True)
        self.blocks = nn.ModuleList(blocks)
        self.maps = nn.ModuleDict({str(k): TokensToMap(self.extras) for k in range(1, len(blocks) + 1)})
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, patch.patch**2 * image_channels)
        self.conv = nn.Conv2d(image_channels, image_channels, 3, padding=1) if conv else nn.Identity()
        _initialize(self)

    def forward(self, x: Tensor, time: Tensor, y: Tensor | None = None) -> Tensor:
        """Run the network.

        Args:
            x: images or latents, (B, C, H, W), of the size that it was built for.
            time: what the network was trained to see as time, (B,).
            y: class labels, (B,); for a network with classes they are a must.

        Returns:
            (B, C, H, W).
        """
        grid = self.patch.grid((x.shape[2], x.shape[3]))
        tokens = torch.cat([*self._extra_tokens(time, y), self.patch(x)], dim=1)
        if tokens.shape[1] != self.positions.shape[1]:
            raise ValueError(
                f"{grid[0]}x{grid[1]} patches make {tokens.shape[1]} tokens, this network has {self.positions.shape[1]}"
            )
        tokens = tokens + self.positions
        earlier: list[Tensor] = []
        half = len(self.blocks) // 2
        for k, (block, show) in enumerate(zip(self.blocks, self.maps.values(), strict=True)):
            tokens = block(tokens, earlier.pop()) if k > half else block(tokens)
            if k < half:
                earlier.append(tokens)
            show(tokens, grid)
        patches = self.linear(self.norm(tokens))[:, self.extras :]
        out: Tensor = self.conv(unpatchify(patches, grid, self.patch.patch))
        return out

    def _extra_tokens(self, time: Tensor, y: Tensor | None) -> list[Tensor]:
        """The class's token, where there are classes, then time's."""
        token = self.time(time).to(self.positions.dtype)[:, None]
        if (y is None) != (self.classes is None):
            raise ValueError(
                "class labels y given, but this network has no classes: call it without y"
                if self.classes is None
                else "no class labels y given: this network has a token for the class and cannot leave it out"
            )
        return [token] if self.classes is None else [self.classes(y)[:, None], token]

    def places(self, size: Size) -> tuple[Place, ...]:
        """The taps for images of `size` (height, width), in the order in which they are computed."""
        grid, half = self.patch.grid(size), len(self.blocks) // 2
        official = [f"in_blocks.{k}" for k in range(half)] + ["mid_block"] + [f"out_blocks.{k}" for k in range(half)]
        blocks = (
            Place(f"block.{k}", f"maps.{k}", self.time_width, grid, True, (f"layer-{k - 1}", name))
            for k, name in enumerate(official, start=1)
        )
        return (Place("time", "time", self.time_width, None), *blocks)


def _initialize(network: UViT) -> None:
    """The official first weights: truncated normal of 0.02, biases 0."""
    nn.init.trunc_normal_(network.positions, std=0.02)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@layout
def uvit(
    *,
    image_channels: int = 3,
    size: int = 32,
    patch: int = 2,
    width: int = 512,
    depth: int = 12,
    heads: int = 8,
    mlp_ratio: float = 4.0,
    qkv_bias: bool = False,
    time_layers: bool = False,
    classes: int | None = None,
    skip: bool = True,
    conv: bool = True,
) -> UViT:
    """Build a U-ViT; the defaults are U-ViT-S/2 for CIFAR-10.

    Args:
        image_channels: channels of image and prediction.
        size: height and width of the images.
        patch: height and width of a patch, which divides the size.
        width: D, width of the tokens.
        depth: number of blocks besides the middle one; even, otherwise ValueError.
        heads: attention heads of a block.
        mlp_ratio: width of the feed-forward layers, in D.
        qkv_bias: whether q, k and v have a bias.
        time_layers: time goes through two linear layers of 4 D.
        classes: rows of the label table, one for "no class" included where there is one; None for no table.
        skip: the second half takes the first half's tokens.
        conv: a 3x3 convolution comes last.

    Example:
        >>> sum(p.numel() for p in uvit().parameters())
        44255328
    """
    if depth % 2:
        raise ValueError(f"depth is {depth}, but a U-ViT has as many blocks before the middle as after it")

    def block(joins: bool) -> UViTBlock:
        attention = TokenAttention(width, heads, bias=qkv_bias)
        return UViTBlock(width, attention, Gelu(width, int(width * mlp_ratio), "none"), skip=joins)

    embed = PatchEmbed(image_channels, width, patch)
    rows, columns = embed.grid((size, size))
    return UViT(
        patch=embed,
        time=TimeToken(width, 4 * width if time_layers else None),
        classes=nn.Embedding(classes, width) if classes else None,
        positions=rows * columns + (1 if classes is None else 2),
        blocks=[block(skip and k > depth // 2) for k in range(depth + 1)],
        image_channels=image_channels,
        conv=conv,
    )

"""The parts of diffusion transformers: tokens, positions, attention, feed-forward layers, adaptive normalization.

Tokens are (B, N, D), row by row over a grid of h x w patches. What differs between the programs of the field (kind of
normalization, rotary positions, gated feed-forward layers) is one argument with a name.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffrep.networks.attention import attend
from diffrep.networks.blocks import Size, known

MAX_POSITIONS = 2**27
"""Numbers in a table of positions; 4096 pixels in patches of 16 need half of them."""

TokenNorm = Literal["layer", "rms"]
FeedForward = Literal["gelu", "swiglu"]


class PatchEmbed(nn.Module):
    """Cut images into patches of `patch` x `patch` pixels, one token each: (B, C, H, W) to (B, N, D)."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)

    def grid(self, size: Size) -> Size:
        """Rows and columns of tokens. Errors: ValueError where the patch does not divide the size."""
        if size[0] % self.patch or size[1] % self.patch:
            raise ValueError(f"patches of {self.patch} pixels do not divide images of {size[0]}x{size[1]}")
        return size[0] // self.patch, size[1] // self.patch

    def forward(self, x: Tensor) -> Tensor:
        """Tokens of the images, row by row."""
        self.grid((x.shape[2], x.shape[3]))
        tokens: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return tokens


class TokensToMap(nn.Module):
    """Show the tokens of a grid as a map: the place where taps of transformers are read; costs nothing.

    Args:
        extras: how many leading tokens stand for no place (time, label) and are left out.
    """

    def __init__(self, extras: int = 0) -> None:
        super().__init__()
        self.extras = extras

    def forward(self, tokens: Tensor, grid: Size) -> Tensor:
        """Tokens (B, extras + h * w, D) to a map (B, D, h, w)."""
        patches = tokens[:, self.extras :].transpose(1, 2)
        return patches.reshape(*patches.shape[:2], *grid)


def unpatchify(tokens: Tensor, grid: Size, patch: int) -> Tensor:
    """Put patches together: (B, h * w, p * p * C), inside a patch row, column, channel, to (B, C, h * p, w * p)."""
    b, (h, w) = len(tokens), grid
    pixels = tokens.reshape(b, h, w, patch, patch, -1).permute(0, 5, 1, 3, 2, 4)
    return pixels.reshape(b, -1, h * patch, w * patch)


def position_table(width: int, grid: Size) -> Tensor:
    """Fixed sine-cosine positions: the first half of the channels tells the column, the second the row (DDAE 2.4).

    Args:
        width: D, a multiple of 4 or ValueError.
        grid: rows and columns; a table of more than 2^27 numbers is a ValueError.

    Returns:
        (1, rows * columns, D), float32; computed in float64 as in the official program.
    """
    if width % 4:
        raise ValueError(f"a position table needs a width that 4 divides, not {width}")
    if grid[0] * grid[1] * width > MAX_POSITIONS:
        raise ValueError(f"a position table of {grid[0]} x {grid[1]} places of {width} numbers is too large")
    rows, columns = (torch.arange(n, dtype=torch.float64) for n in grid)
    frequencies = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    phases = [p.flatten()[:, None] * frequencies for p in torch.meshgrid(rows, columns, indexing="ij")]
    parts = [wave for phase in reversed(phases) for wave in (phase.sin(), phase.cos())]
    return torch.cat(parts, dim=1).float()[None]


class Rotary(nn.Module):
    """Rotary positions over a grid: pairs of neighbouring channels turn with the row, then with the column.

    The first half of a head's channels belongs to the row, the second to the column; the angles are fixed tables that
    travel with the weights, as in EVA-02 and LightningDiT (DDAE 5.6).

    Args:
        width: channels of a head, a multiple of 4 or ValueError.
        grid: rows and columns.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, width: int, grid: Size) -> None:
        super().__init__()
        if width % 4:
            raise ValueError(f"rotary positions need heads whose width 4 divides, not {width}")
        frequencies = 10000.0 ** -(torch.arange(0, width // 2, 2).float() / (width // 2))
        rows, columns = torch.meshgrid(*(torch.arange(n).float() for n in grid), indexing="ij")
        angles = torch.cat([p.flatten()[:, None] * frequencies for p in (rows, columns)], dim=1)
        angles = angles.repeat_interleave(2, dim=1)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, x: Tensor) -> Tensor:
        """Turn queries or keys (B, heads, N, width)."""
        even, odd = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
        turned = torch.stack([-odd, even], dim=-1).flatten(-2)
        return x * self.cos + turned * self.sin


class TokenAttention(nn.Module):
    """Every token looks at every other: out(softmax(q k' / sqrt(d)) v), the rows of qkv all q, then k, then v.

    Args:
        width: D; the number of heads must divide it, otherwise ValueError.
        heads: number of heads, d = D / heads.
        bias: whether q, k and v have one (U-ViT: no).
        qk_norm: normalization of queries and keys, inside each head.
    """

    def __init__(self, width: int, heads: int, *, bias: bool = True, qk_norm: TokenNorm | None = None) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"{heads} attention heads do not divide {width} channels")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.q_norm, self.k_norm = (_qk_norm(qk_norm, width // heads) for _ in "qk")
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, rotary: Rotary | None = None) -> Tensor:
        """Map (B, N, D) to the same shape."""
        b, n, width = tokens.shape
        q, k, v = self.qkv(tokens).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = rotary(q), rotary(k)
        mixed = attend(q, k, v).transpose(1, 2).reshape(b, n, width)
        out: Tensor = self.out(mixed)
        return out


def _qk_norm(kind: TokenNorm | None, width: int) -> nn.Module:
    if kind is None:
        return nn.Identity()
    known(kind, "qk_norm", ("layer", "rms"))
    return nn.RMSNorm(width, eps=1e-6) if kind == "rms" else nn.LayerNorm(width)


class Gelu(nn.Module):
    """Linear, GELU, linear: `approximate` is "tanh" in DiT, "none" in U-ViT."""

    def __init__(self, width: int, inner: int, approximate: str = "tanh") -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, D) to the same shape."""
        out: Tensor = self.linear2(F.gelu(self.linear1(x), approximate=self.approximate))
        return out


class SwiGLU(nn.Module):
    """Linear to twice `inner`, the first half's SiLU times the second, linear (Shazeer 2020)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(width, 2 * inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, D) to the same shape."""
        gate, value = self.linear1(x).chunk(2, dim=-1)
        out: Tensor = self.linear2(F.silu(gate) * value)
        return out


def token_norm(kind: str, width: int) -> nn.Module:
    """Normalization whose scale and shift come from outside: "layer" has no weights, "rms" has a scale."""
    known(kind, "norm", ("layer", "rms"))
    return nn.RMSNorm(width, eps=1e-6) if kind == "rms" else nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)


class AdaBlock(nn.Module):
    """Attention and a feed-forward layer, each scaled, shifted and gated by the conditioning (adaLN-zero, DDAE 2.4).

    Args:
        width: D.
        attention: module from tokens, and `rotary`, to tokens.
        feed_forward: module from tokens to tokens.
        norm: kind of normalization.
        shift: whether the conditioning shifts too (LightningDiT's `wo_shift` leaves it out).
        emb_width: width of the conditioning, D where None.
    """

    def __init__(
        self,
        width: int,
        attention: TokenAttention,
        feed_forward: nn.Module,
        *,
        norm: TokenNorm = "layer",
        shift: bool = True,
        emb_width: int | None = None,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = token_norm(norm, width), token_norm(norm, width)
        self.attention, self.feed_forward = attention, feed_forward
        self.modulation = nn.Linear(emb_width or width, (6 if shift else 4) * width)
        self.parts = 3 if shift else 2

    def forward(self, tokens: Tensor, emb: Tensor, rotary: Rotary | None = None) -> Tensor:
        """Map tokens (B, N, D) with emb (B, emb_width) to the same shape."""
        first, second = self.modulation(F.silu(emb))[:, None].chunk(2, dim=-1)
        *affine, gate = first.chunk(self.parts, dim=-1)
        tokens = tokens + gate * self.attention(modulate(self.norm1(tokens), affine), rotary)
        *affine, gate = second.chunk(self.parts, dim=-1)
        out: Tensor = tokens + gate * self.feed_forward(modulate(self.norm2(tokens), affine))
        return out


def modulate(tokens: Tensor, affine: list[Tensor]) -> Tensor:
    """(1 + scale) * tokens + shift; affine is [shift, scale] or [scale], each (B, 1, D)."""
    scaled = tokens * (1 + affine[-1])
    return scaled + affine[0] if len(affine) == 2 else scaled


class AdaHead(nn.Module):
    """The last layers: normalization with scale and shift from the conditioning, then linear to patches.

    Args:
        width: D.
        patch_width: numbers per patch, p * p * C.
        norm: kind of normalization.
        emb_width: width of the conditioning, D where None.
    """

    def __init__(
        self, width: int, patch_width: int, *, norm: TokenNorm = "layer", emb_width: int | None = None
    ) -> None:
        super().__init__()
        self.norm = token_norm(norm, width)
        self.linear = nn.Linear(width, patch_width)
        self.modulation = nn.Linear(emb_width or width, 2 * width)

    def forward(self, tokens: Tensor, emb: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, patch_width)."""
        affine = list(self.modulation(F.silu(emb))[:, None].chunk(2, dim=-1))
        out: Tensor = self.linear(modulate(self.norm(tokens), affine))
        return out

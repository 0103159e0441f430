"""The residual block that listens to time and to a code: the one part that the shift has and a plain U-Net has not."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from diffrep.networks.blocks import Norm, Size, double, zeroed


class ShiftBlock(nn.Module):
    """A residual block modulated by time, then by the code: (1+zs) ((1+ts) GN(h) + tb) + zb (PDAE 2.3).

    Args:
        in_channels: channels that come in.
        channels: channels that go out.
        time_width: width of the time embedding and of the embedded code.
        norm: kind of normalization.
        dropout: before the second convolution, which starts at 0.
    """

    def __init__(self, in_channels: int, channels: int, time_width: int, *, norm: Norm, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.time = nn.Linear(time_width, 2 * channels)
        self.code = nn.Linear(time_width, 2 * channels)
        self.norm2 = norm(channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(channels, channels, 3, padding=1))
        self.shortcut = nn.Identity() if in_channels == channels else nn.Conv2d(in_channels, channels, 1)

    def forward(self, x: Tensor, time: Tensor, code: Tensor, size: Size | None = None) -> Tensor:
        """One step through the block.

        Args:
            x: (B, in_channels, H, W).
            time: (B, time_width).
            code: the embedded code, (B, time_width) or (1, time_width).
            size: (H', W') to enlarge to, between the first activation and the first convolution.

        Returns:
            (B, channels, H', W').
        """
        h = F.silu(self.norm1(x))
        if size is not None:
            h, x = double(h, size), double(x, size)
        h = _modulate(self.norm2(self.conv1(h)), self.time(F.silu(time)))
        h = _modulate(h, self.code(F.silu(code)))
        out: Tensor = self.shortcut(x) + self.conv2(self.dropout(F.silu(h)))
        return out


def _modulate(h: Tensor, scale_and_shift: Tensor) -> Tensor:
    scale, shift = scale_and_shift[:, :, None, None].chunk(2, dim=1)
    return h * (1 + scale) + shift

"""Scaled dot-product attention, in the precision that is fast where it runs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Mix values by softmax(q k^T / sqrt(width)): (B, heads, N, width) to the same shape.

    Under bf16 on a CPU it computes in float32: the bf16 kernel there was up to 8 times slower on short sequences and
    no faster on long ones.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)

"""Sine position embeddings of maps and of text, counted over what is not padding; no parameters.

Source: Vaswani et al. 2017, section 3.5, in two dimensions as in DETR (Carion et al. 2020). Deviation: the cosine is the sine a quarter
turn ahead. Computed in float32: the count of cells is not rounded to half precision.

Shapes: B batch, (H, W) a map or an image, T tokens, C width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from humar_bench.args import Size

EPS = 1e-6
TEXT_TEMPERATURE = 10_000


def resized_padding(padding: Tensor, size: Size) -> Tensor:
    """Padding of an image [B, H, W], True where there is none of it, at the size of a map, nearest cell -> [B, h, w]."""
    return F.interpolate(padding.unsqueeze(1).float(), size=size, mode="nearest").squeeze(1).bool()


def map_positions(padding: Tensor, channels: int, temperature_h: float, temperature_w: float) -> Tensor:
    """Padding of a map [B, H, W] -> [B, C, H, W]: half of the channels for y, then half for x."""
    y = _waves(_places(padding, dim=1), channels // 2, temperature_h)
    x = _waves(_places(padding, dim=2), channels // 2, temperature_w)
    return torch.cat((y, x), dim=-1).permute(0, 3, 1, 2)


def text_positions(padding: Tensor, channels: int) -> Tensor:
    """Padding of tokens [B, T] -> [B, T, C]."""
    return _waves(_places(padding, dim=1), channels, TEXT_TEMPERATURE)


def _places(padding: Tensor, dim: int) -> Tensor:
    """How many cells are valid up to each one, as a part of all of them times 2 pi; the first is 1, not 0, as upstream."""
    counts = (~padding).cumsum(dim, dtype=torch.float32)
    return counts / (counts.narrow(dim, -1, 1) + EPS) * (2 * math.pi)


def _waves(places: Tensor, channels: int, temperature: float) -> Tensor:
    """places [...] -> [..., channels]: sine and cosine in turn, of the place over temperature^(2 floor(c / 2) / channels)."""
    channel = torch.arange(channels, device=places.device)
    frequencies = temperature ** ((channel // 2) * (-2 / channels))
    return torch.addcmul(channel.remainder(2) * (math.pi / 2), places.unsqueeze(-1), frequencies).sin()

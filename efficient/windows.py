"""Attention within square windows of the cells, beside the linear attention of all: sharp where that one is smooth.

Windows after Swin (Liu et al. 2021, section 3.2), without shifts: the linear attention carries what crosses a border. Each level is cut
from its own corner, so that no window holds two levels and padding on the right or below moves none.

Shapes: B batch, T cells of the canvas, C width, M heads, (h, w) the canvas in cells, W side of a window, n windows of an image.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from efficient.canvas import Canvas


class Windows(NamedTuple):
    """Where the windows of a canvas lie, and which of their cells are looked at."""

    size: tuple[int, int]  # (h, w)
    slots: tuple[tuple[slice, slice], ...]  # rows and columns of each level
    side: int
    bias: Tensor  # [B * n, 1, 1, W * W], very negative at padding and beyond the level: finite, so that an empty window is too


def windows_of(canvas: Canvas, valid: Tensor, side: int) -> Windows:
    """valid [B, h, w, 1], 1 or 0: which cells hold a token."""
    found = Windows((canvas.h, canvas.w), tuple(canvas.cell_slots), side, valid)
    return found._replace(bias=((cut(valid, found).transpose(1, 2) - 1) * (torch.finfo(valid.dtype).max / 2)).unsqueeze(1))


def cut(cells: Tensor, windows: Windows) -> Tensor:
    """[B, h, w, D] -> [B * n, W * W, D], level after level, zero beyond a level."""
    side, parts = windows.side, []
    for rows, columns in windows.slots:
        level = cells[:, rows, columns]
        high, wide = level.shape[1:3]
        level = F.pad(level, (0, 0, 0, -wide % side, 0, -high % side)).unflatten(2, (-1, side)).unflatten(1, (-1, side))
        parts.append(level.transpose(2, 3).flatten(3, 4).flatten(1, 2))  # [B, n_l, W * W, D]
    return torch.cat(parts, dim=1).flatten(0, 1)


def join(parts: Tensor, windows: Windows, batch: int) -> Tensor:
    """[B * n, W * W, D] -> [B, h, w, D], zero between the levels: what `cut` took apart."""
    side, begin = windows.side, 0
    parts = parts.unflatten(0, (batch, -1))
    cells = parts.new_zeros(batch, *windows.size, parts.shape[-1])
    for rows, columns in windows.slots:
        high, wide = rows.stop - rows.start, columns.stop - columns.start
        down, across = -(-high // side), -(-wide // side)
        level = parts[:, begin : begin + down * across].unflatten(2, (side, side)).unflatten(1, (down, across))
        cells[:, rows, columns] = level.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :high, :wide]
        begin += down * across
    return cells


def window_attention(qkv: Tensor, windows: Windows, heads: int) -> Tensor:
    """Softmax attention within each window. qkv [B, T, 3 * C] -> [B, T, C]."""
    inside = cut(qkv.unflatten(1, windows.size), windows).unflatten(-1, (3, heads, -1))  # [B * n, W * W, 3, M, D]
    q, k, v = inside.permute(2, 0, 3, 1, 4)
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=windows.bias.to(q.dtype))
    return join(attended.transpose(1, 2).flatten(2), windows, len(qkv)).flatten(1, 2)

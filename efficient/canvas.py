"""All feature levels side by side on one canvas, so that a convolution over every level is one operator.

The levels lie on shelves, in order, with a free cell between neighbours: a 3x3 convolution never mixes two levels, and what lies between
them is treated like padding. With a stride, the canvas also knows its cells: squares of stride x stride tokens that never cross a level.

Shapes: B batch, S memory tokens, C width, (H, W) the canvas in tokens, (h, w) the canvas in cells.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from humar_bench.skeleton.geometry import Shapes, split_levels


class Canvas:
    """Where each level lies: a host-side layout, made from the level sizes alone."""

    def __init__(self, shapes: Shapes, stride: int) -> None:
        self.shapes, self.stride = shapes, stride
        cells = [(-(-height // stride), -(-width // stride)) for height, width in shapes]
        self.w = max(width for _, width in cells)
        self.slots: list[tuple[slice, slice]] = []  # of each level, in tokens
        self.cell_slots: list[tuple[slice, slice]] = []  # and in cells
        top = left = shelf = 0
        for (height, width), (rows, columns) in zip(shapes, cells, strict=True):
            if left + columns > self.w:
                top, left, shelf = top + shelf + 1, 0, 0
            y, x = top * stride, left * stride
            self.slots.append((slice(y, y + height), slice(x, x + width)))
            self.cell_slots.append((slice(top, top + rows), slice(left, left + columns)))
            left, shelf = left + columns + 1, max(shelf, rows)
        self.h = top + shelf
        self.size = self.h * stride, self.w * stride  # (H, W)

    def place(self, levels: list[Tensor]) -> Tensor:
        """L maps [B, H_l, W_l, D] -> canvas [B, H, W, D], zero between the levels."""
        first = levels[0]
        canvas = first.new_zeros(len(first), *self.size, first.shape[-1])
        for (rows, columns), level in zip(self.slots, levels, strict=True):
            canvas[:, rows, columns] = level
        return canvas

    def place_tokens(self, tokens: Tensor) -> Tensor:
        """Tokens [B, S, D] -> canvas [B, H, W, D], zero between the levels."""
        return self.place(split_levels(tokens, self.shapes))

    def gather(self, canvas: Tensor) -> Tensor:
        """Canvas [B, H, W, D] -> tokens [B, S, D]."""
        return torch.cat([canvas[:, rows, columns].flatten(1, 2) for rows, columns in self.slots], dim=1)

    def pool(self, canvas: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of the valid tokens of each cell.

        canvas [B, H, W, C], zero where valid [B, H, W, 1] is 0 -> cells [B, h, w, C] and where they hold anything, 1 or 0, [B, h, w, 1].
        """
        if self.stride == 1:
            return canvas, valid
        means = self._mean(canvas)
        share = self._mean(valid)
        return means / share.clamp(min=0.5 / self.stride**2), share.ceil()  # an empty cell is 0 / positive

    def slots_in_unit_square(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where the levels lie when the canvas spans -1 to 1, as `grid_sample` counts: corners and sizes [L, 2] as (x, y); a token's [2].

        Filled on the device: a copy from the host would have to wait for it.
        """
        high, wide = self.size
        corners = [side for y, x in self.slots for side in (2 * x.start / wide - 1, 2 * y.start / high - 1)]
        sizes = [side for y, x in self.slots for side in (2 * (x.stop - x.start) / wide, 2 * (y.stop - y.start) / high)]
        sides = (*corners, *sizes, 2 / wide, 2 / high)
        filled = {side: like.new_full((), side) for side in dict.fromkeys(sides)}  # many are equal, and each is an operator
        told = torch.stack([filled[side] for side in sides])
        corners, sizes = told[:-2].view(2, -1, 2)
        return corners, sizes, told[-2:]

    def _mean(self, canvas: Tensor) -> Tensor:
        return F.avg_pool2d(canvas.permute(0, 3, 1, 2), self.stride).permute(0, 2, 3, 1)

    def spread(self, cells: Tensor) -> Tensor:
        """Each cell's value at all its tokens: cells [B, h, w, C] -> canvas [B, H, W, C]."""
        return F.interpolate(cells.permute(0, 3, 1, 2), scale_factor=float(self.stride), mode="nearest").permute(0, 2, 3, 1)

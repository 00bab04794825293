"""Where the memory tokens lie: valid sizes, token centres, level sizes. All on the device, no host synchronisation.

Shapes: B batch, L levels, (H_l, W_l) size of level l, S = sum of H_l * W_l tokens, C width. Pairs are (x, y) or (width, height).
"""

from __future__ import annotations

import torch
from torch import Tensor

Shapes = list[tuple[int, int]]  # (H_l, W_l) of each level, on the host


def split_levels(tokens: Tensor, shapes: Shapes) -> list[Tensor]:
    """Views of the levels of a token tensor [B, S, ...] as maps: L of [B, H_l, W_l, ...]."""
    parts = tokens.split([height * width for height, width in shapes], dim=1)
    return [part.unflatten(1, size) for part, size in zip(parts, shapes, strict=True)]


def flatten_levels(maps: list[Tensor]) -> Tensor:
    """L maps [B, C, H_l, W_l] -> tokens [B, S, C]."""
    return torch.cat([each.flatten(2).transpose(1, 2) for each in maps], dim=1)


def valid_sizes(padding: Tensor, shapes: Shapes, dtype: torch.dtype) -> Tensor:
    """Unpadded cells along the first row and the first column of each level of padding [B, S] -> [B, L, 2].

    An image that is padding throughout counts as one cell, so that nothing divides by zero.
    """
    counts = []
    for valid in split_levels(~padding, shapes):
        counts += [valid[:, 0].sum(1), valid[:, :, 0].sum(1)]
    return torch.stack(counts, dim=1).clamp(min=1).to(dtype).unflatten(1, (-1, 2))


def token_centres(shapes: Shapes, like: Tensor) -> Tensor:
    """Cell centres of all tokens in cells of their own level: [S, 2]."""
    centres = []
    for height, width in shapes:
        y = torch.arange(0.5, height, device=like.device, dtype=like.dtype)
        x = torch.arange(0.5, width, device=like.device, dtype=like.dtype)
        centres.append(torch.stack((x.expand(height, width), y.unsqueeze(1).expand(height, width)), dim=-1).flatten(0, 1))
    return torch.cat(centres)


def level_sizes(centres: Tensor, shapes: Shapes) -> Tensor:
    """(W_l, H_l) of each level [L, 2], read off the last centre of each: a copy from the host would have to wait for the device."""
    return torch.stack([level[-1] for level in centres.split([height * width for height, width in shapes])]) + 0.5


def per_token(values: Tensor, shapes: Shapes) -> Tensor:
    """One row per level [B, L, 2] -> one row per token [B, S, 2]."""
    return torch.cat([values[:, level : level + 1].expand(-1, h * w, -1) for level, (h, w) in enumerate(shapes)], dim=1)

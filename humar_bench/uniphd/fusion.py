"""From backbone maps to what the transformer reads: projection to one width, then attention to the prompt.

Source: UniPHD; the projection is Deformable DETR's (Zhu et al. 2021, section 4.1). Deviations: none.
Under padding, a projected map differs from a cropped one: group normalisation and the 3x3 convolutions look at padded cells too.

Shapes: B batch, C width, (H, W) a map, T prompt tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from humar_bench.uniphd.prompts import PromptTokens

GROUPS = 32
HEADS = 8  # whatever the transformer has


def input_projections(channels: Sequence[int], width: int, levels: int) -> nn.ModuleList:
    """One projection a level: 1x1 for each backbone map of `channels`, then 3x3 with stride 2, the first of these from the last map."""
    projections = [_projection(inputs, width, kernel=1) for inputs in channels]
    for level in range(len(channels), levels):
        projections.append(_projection(channels[-1] if level == len(channels) else width, width, kernel=3))
    return nn.ModuleList(projections)


def _projection(inputs: int, width: int, kernel: int) -> nn.Sequential:
    stride, padding = (1, 0) if kernel == 1 else (2, 1)
    conv = nn.Conv2d(inputs, width, kernel, stride=stride, padding=padding)
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, nn.GroupNorm(GROUPS, width))


class PromptFusion(nn.Module):
    """Every cell of a map looks at the prompt; text and what is drawn have weights of their own, shared by all levels."""

    def __init__(self, width: int, *, text: bool, drawn: bool) -> None:
        super().__init__()
        if text:
            self.multihead_attn = nn.MultiheadAttention(width, HEADS, batch_first=True)
        if drawn:
            self.multihead_attn2 = nn.MultiheadAttention(width, HEADS, batch_first=True)

    def forward(self, x: Tensor, prompt: PromptTokens, *, drawn: bool) -> Tensor:
        """x [B, C, H, W] -> [B, C, H, W]."""
        attention = self.multihead_attn2 if drawn else self.multihead_attn
        cells, keys = x.flatten(2).transpose(1, 2), prompt.tokens + prompt.positions
        attended, _ = attention(cells, keys, prompt.tokens, key_padding_mask=prompt.padding, need_weights=False)
        return (cells + attended).transpose(1, 2).unflatten(2, x.shape[2:])

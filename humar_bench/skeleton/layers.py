"""Small layers that both architectures use.

Source: DETR (Carion et al. 2020) for the MLP and the sine embedding; Deformable DETR (Zhu et al. 2021) for the inverse sigmoid.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOGIT_EPS = 1e-3  # reference points are refined as logits, clamped this far from 0 and 1


class MLP(nn.Module):
    """Linear layers with ReLU between them: `layers` of them, `hidden` wide, `outputs` at the end."""

    def __init__(self, *, inputs: int, hidden: int, outputs: int, layers: int) -> None:
        super().__init__()
        widths = [inputs, *[hidden] * (layers - 1), outputs]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in zip(widths, widths[1:], strict=False))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


def sine_embedding(points: Tensor, channels: int) -> Tensor:
    """Sine embedding of points [..., 2] (x, y) -> [..., channels]: half for y, then half for x, (sin, cos) in turn.

    Pair i of a coordinate v holds the sine and cosine of 2 pi v / 10000^(2i / (channels/2)) (Vaswani et al. 2017, section 3.5).
    """
    pairs = channels // 4
    exponents = torch.arange(pairs, device=points.device, dtype=points.dtype) * (2 / (channels // 2))
    angles = points.flip(-1).unsqueeze(-1) * (2 * math.pi) / 10000**exponents  # [..., 2, pairs]
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-3)


def inverse_sigmoid(x: Tensor, eps: float = LOGIT_EPS) -> Tensor:
    """log(x / (1 - x)) with both sides at least `eps`."""
    x = x.clamp(min=0, max=1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))

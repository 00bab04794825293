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


class SineEmbedding:
    """Sine embedding of points (x, y): half the channels for y, then half for x, sine and cosine in turn.

    Pair i of a coordinate v holds the sine and cosine of 2 pi v / 10000^(2i / (channels/2)) (Vaswani et al. 2017, section 3.5).
    The cosine is computed as the sine a quarter turn ahead. Made once per forward: `scale` [B, 2] says what a coordinate of 1 is in an
    image.
    """

    def __init__(self, channels: int, scale: Tensor) -> None:
        channel = torch.arange(channels // 2, device=scale.device, dtype=scale.dtype)
        self.phases = channel.remainder(2) * (math.pi / 2)
        frequencies = 2 * math.pi * 10000 ** ((channel // 2) * (-4 / channels))
        self.frequencies = scale.flip(-1)[:, None, None, :, None] * frequencies  # [B, 1, 1, 2 (y, x), channels/2]

    def __call__(self, points: Tensor) -> Tensor:
        """points [B, Q, N, 2] -> [B, Q, N, channels]."""
        return torch.addcmul(self.phases, points.flip(-1).unsqueeze(-1), self.frequencies).sin().flatten(-2)


def inverse_sigmoid(x: Tensor, eps: float = LOGIT_EPS) -> Tensor:
    """log(x / (1 - x)) with both sides at least `eps`."""
    x = x.clamp(min=0, max=1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))

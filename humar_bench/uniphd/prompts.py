"""What says whom to find (a caption, a point, a scribble) and the tokens it becomes.

Source: UniPHD (Referring Human Pose and Mask Estimation in the Wild, 2024). Deviation: no noise is drawn for copies of a point; upstream
draws it and never uses it.

Shapes: B batch, T tokens, D width of the text encoder, C width, (H, W) the padded image, (h, w) a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humar_bench.args import Size
from humar_bench.errors import UsageError
from humar_bench.uniphd.positions import text_positions

RESIZER_EPS, RESIZER_DROPOUT = 1e-12, 0.1
EVALUATION_POINT = 5  # which point of a scribble is the point prompt in evaluation, from 0


class Captions(NamedTuple):
    """One caption an image, as token ids."""

    ids: Tensor  # [B, T], whole numbers
    attention: Tensor  # [B, T], 1 = token, anything else = padding


class TextFeatures(NamedTuple):
    """What a text encoder makes of captions."""

    features: Tensor  # [B, T, D], the last hidden state
    padding: Tensor  # [B, T], True = padding
    sentence: Tensor  # [B, D]


class Points(NamedTuple):
    """One point an image, (x, y) in pixels of the resized image."""

    points: Tensor  # [B, 2]


class Scribbles(NamedTuple):
    """One scribble an image, (x, y) in pixels of the resized image; RefHuman's have 12 points."""

    points: Tensor  # [B, 12, 2]

    def point(self, index: int = EVALUATION_POINT) -> Points:
        """One of the points as the prompt."""
        return Points(self.points[:, index])


Prompt = Captions | TextFeatures | Points | Scribbles


class PromptTokens(NamedTuple):
    """A prompt as the model sees it."""

    tokens: Tensor  # [B, T, C]
    padding: Tensor | None  # [B, T], True = padding; None where there is none
    positions: Tensor  # [B, T, C]
    sentence: Tensor  # [B, C]


class Resizer(nn.Module):
    """From any width to the model's."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.fc = nn.Linear(inputs, outputs)
        self.layer_norm = nn.LayerNorm(outputs, eps=RESIZER_EPS)
        self.dropout = nn.Dropout(RESIZER_DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        return self.dropout(self.layer_norm(self.fc(x)))


def check_prompt(prompt: Prompt, sizes: Sequence[Size]) -> None:
    """Hold what a user gives against the images, number by number; a forward looks at shapes alone. sizes: (height, width), no padding.

    Raises UsageError where a caption has no tokens or a point lies outside its image.
    """
    if isinstance(prompt, (Captions, TextFeatures)):
        there = prompt.attention == 1 if isinstance(prompt, Captions) else ~prompt.padding
        empty = (~there.any(1)).nonzero().flatten().tolist()
        if empty:
            raise UsageError(f"caption {empty[0]} has no tokens; write at least one word.")
        return
    for index, (points, (height, width)) in enumerate(zip(prompt.points.reshape(len(prompt.points), -1, 2).tolist(), sizes, strict=True)):
        for x, y in points:
            if not (0 <= x <= width and 0 <= y <= height):
                raise UsageError(f"the point ({x:g}, {y:g}) lies outside image {index}, which is {width} wide and {height} high.")


def text_tokens(text: TextFeatures, proj: Resizer, sentence_proj: Resizer) -> PromptTokens:
    """Each token's features, placed by its number in the caption."""
    tokens = proj(text.features)
    positions = text_positions(text.padding, tokens.shape[-1]).to(tokens.dtype)
    return PromptTokens(tokens, text.padding, positions, sentence_proj(text.sentence))


def point_tokens(
    points: Tensor, image_size: Size, features: Tensor, positions: Tensor, proj: Resizer, sentence_proj: Resizer
) -> PromptTokens:
    """What a map holds at each point: points [B, T, 2] in pixels, the padded image's size, features [B, D, h, w], positions [B, C, h, w].

    A point outside the image counts as the nearest one on its border.
    """
    height, width = image_size
    x, y = points.float().unbind(-1)
    places = torch.stack((x / width, y / height), dim=-1).clamp(0, 1)
    tokens = proj(_samples(features, places))
    return PromptTokens(tokens, None, _samples(positions, places), sentence_proj(tokens.mean(1)))


def _samples(maps: Tensor, places: Tensor) -> Tensor:
    """Bilinear samples of maps [B, D, h, w] at places [B, T, 2] in [0, 1], where 0 and 1 are the centres of the outermost cells."""
    samples = F.grid_sample(maps.to(places.dtype), (2 * places - 1).unsqueeze(1), align_corners=True)  # [B, D, 1, T]
    return samples.squeeze(2).transpose(1, 2).to(maps.dtype)

"""Closed forms: headline FLOPs of the whole model between backbone and masks, in plain integers, from its description. No torch here.

Letters: B batch, T prompt tokens, D width of the text encoder or of the stride-16 map, C width, Q queries, M masks, K keypoints, L levels,
n cells of a map. 2 FLOP per multiply-add; bias, norms, softmax, interpolation and sampling are not in here.
"""

from __future__ import annotations

from typing import Any

from tests import closed_forms
from tests.closed_forms import attention, linear
from tests.uniphd.encoder_forms import Size, cells, conv, halved

MASK_WIDTH, SCRIBBLE_POINTS = 16, 12


def whole(
    args: dict[str, Any], architecture: str, *, batch: int, queries: int, padded: Size, channels: tuple[int, ...], text: int, prompt: str,
    tokens: int, masks: str,
) -> dict[str, int]:
    """FLOPs by component; `channels` are the backbone's at strides 4 to 32, `text` is the width of the text encoder."""
    B, Q, C, L, K = batch, queries, args["hidden_dim"], args["num_feature_levels"], args["num_body_points"]
    maps = [halved(halved(padded))]
    while len(maps) < L + 1:
        maps.append(halved(maps[-1]))
    fine, *sizes = maps
    T = {"text": tokens, "scribble": SCRIBBLE_POINTS, "point": 1}[prompt]
    if prompt == "text":
        resized = linear(B * T, text, C) + linear(B, text, C)
    else:
        resized = linear(B * T, channels[2], C) + linear(B, C, C)

    projected, wide = 0, [*channels[1:], channels[3], *[C] * L]
    for level, size in enumerate(sizes):
        projected += conv(B * cells(size), wide[level], C, 1 if level < 3 else 3)
    fused = sum(2 * linear(B * n, C, C) + linear(B * T, C, 2 * C) + attention(B, n, T, C) for n in map(cells, sizes))

    form = {"original": closed_forms.original, "efficient": closed_forms.efficient}[architecture]
    inside = form(args, B, Q, sizes)
    steps = args["dec_layers"] * linear(B * Q * K, C, C, C, 2)
    inside["heads"] += linear(B * Q, C, args["num_classes"]) - steps  # the chosen proposals are scored once more, for a loss
    layer = linear(B * Q, C, args["num_classes"]) + linear(B * Q, C, C, C, 4) + linear(B * Q * K, C, 1)

    M = B * {"all": Q, "best": 1, "none": 0}[masks]
    drawn = linear(M, C, C, C, MASK_WIDTH * (C + 2) + MASK_WIDTH**2 + 2 * MASK_WIDTH)
    drawn += M * cells(sizes[0]) * 2 * (MASK_WIDTH * (C + 2) + MASK_WIDTH**2)
    for size, inputs in ((sizes[0], channels[1]), (fine, channels[0])):
        drawn += 2 * conv(M * cells(size), MASK_WIDTH, MASK_WIDTH, 3) + (conv(B * cells(size), inputs, MASK_WIDTH, 3) if M else 0)
    return {
        "prompt": resized, "projection": projected, "fusion": fused, "heads": steps + args["dec_layers"] * layer, "mask head": drawn,
        **{f"transformer: {name}": flops for name, flops in inside.items()},
    }

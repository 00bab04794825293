"""Closed forms: headline FLOPs of our own backbones and text encoder, in plain integers, written from their papers. No torch here.

Letters: B batch, (H, W) image, (h, w) map, C width, T tokens, M heads. 2 FLOP per multiply-add; bias, norms, softmax are not in here.
"""

from __future__ import annotations

import math

from tests.closed_forms import attention, linear

Size = tuple[int, int]


def conv(sites: int, inputs: int, outputs: int, kernel: int = 1, *, groups: int = 1) -> int:
    return 2 * sites * (inputs // groups) * outputs * kernel**2


def cells(size: Size) -> int:
    return size[0] * size[1]


def halved(size: Size) -> Size:
    return (math.ceil(size[0] / 2), math.ceil(size[1] / 2))


def swin(batch: int, image: Size, width: int = 96, depths: tuple[int, ...] = (2, 2, 6, 2), window: int = 7) -> int:
    size = halved(halved(image))
    total = conv(batch * cells(size), 3, width, 4)
    for i, depth in enumerate(depths):
        channels = width * 2**i
        tokens, windows = batch * cells(size), batch * math.ceil(size[0] / window) * math.ceil(size[1] / window)
        padded = windows * window**2
        block = linear(padded, channels, 3 * channels) + attention(windows, window**2, window**2, channels)
        block += linear(padded, channels, channels) + linear(tokens, channels, 4 * channels, channels)
        total += depth * block
        if i < len(depths) - 1:
            size = halved(size)
            total += linear(batch * cells(size), 4 * channels, 2 * channels)
    return total


def efficientformer(batch: int, image: Size, published: tuple) -> int:
    widths, depths, ratios, attended, _ = published
    heads, size = 8, halved(image)
    total = conv(batch * cells(size), 3, widths[0] // 2, 3)
    size = halved(size)
    total += conv(batch * cells(size), widths[0] // 2, widths[0], 3)

    def attend(keys: Size, queries: Size, inputs: int, outputs: int, key_width: int, at: Size) -> int:
        """Keys on a map, queries on the same or the halved one; the output is projected on the map `at`."""
        k, q, key, value = cells(keys), cells(queries), heads * key_width, 4 * heads * key_width
        total = conv(batch * q, inputs, key) + conv(batch * k, inputs, key) + conv(batch * k, inputs, value)
        total += conv(batch * q, value, value, 3, groups=value) + conv(batch * cells(at), value, outputs)
        return total + 2 * batch * q * k * (key + value)

    for i, (channels, depth) in enumerate(zip(widths, depths, strict=True)):
        if i:
            before, size, inputs = size, halved(size), widths[i - 1]
            total += conv(batch * cells(size), inputs, channels, 3)
            if i == 3:
                total += conv(batch * cells(size), inputs, inputs, 3, groups=inputs) + attend(before, size, inputs, channels, 16, size)
        sites = batch * cells(size)
        for ratio in (4,) * depth if i < 2 else ratios[i - 2]:
            hidden = ratio * channels
            total += conv(sites, channels, hidden) + conv(sites, hidden, hidden, 3, groups=hidden) + conv(sites, hidden, channels)
        if i >= 2:
            inner = halved(size) if i == 2 else size
            mixer = attend(inner, inner, channels, channels, 32, size) + 2 * conv(batch * cells(inner) ** 2, heads, heads)
            mixer += conv(batch * cells(inner), channels, channels, 3, groups=channels) if i == 2 else 0
            total += attended * mixer
    return total


def bert(batch: int, tokens: int, *, width: int, hidden: int, layers: int, pooler: bool) -> int:
    rows = batch * tokens
    layer = 4 * linear(rows, width, width) + attention(batch, tokens, tokens, width) + linear(rows, width, hidden, width)
    return layers * layer + (linear(batch, width, width) if pooler else 0)


def tite(batch: int, tokens: int, *, width: int = 768, hidden: int = 3072, layers: int = 12, positions: int = 512) -> int:
    first, total = layers - (positions - 1).bit_length(), 0
    for i in range(layers):
        asking = math.ceil(tokens / 2) if i >= first else tokens
        rows = batch * tokens
        total += linear(rows, width, width)  # value
        if tokens > 1:
            total += linear(rows, width, width) + linear(batch * asking, width, width) + attention(batch, asking, tokens, width)
        total += linear(batch * asking, width, width) + linear(batch * asking, width, hidden, width)
        tokens = asking
    return total

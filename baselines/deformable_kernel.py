"""Deformable attention as one Triton kernel, forward only: softmax, sampling places, bilinear samples and their weighted sum.

Source: Deformable DETR (Zhu et al. 2021), equation 3. Nothing but the result is stored; the original stores every sample, P L rows of
width D a query and head. A program computes a block of query tokens of one head of one image; each sample is four loads of D neighbours.
Logits, places and sums are float32 whatever the inputs are. With TRITON_INTERPRET=1 in the environment when this module is imported, it
runs on CPU tensors, slowly.

Shapes: B batch, S memory tokens, T query tokens, M heads, D = C / M, L levels, P points.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 512  # query tokens times channels of a program: 128 threads with four neighbouring channels each


@triton.jit(do_not_specialize=["tokens", "memory_tokens"])
def deformable_attention_kernel(
    value, padding, offsets, logits, points, sizes, out, tokens, memory_tokens,
    value_batch, value_token, value_head, padding_batch, offsets_batch, offsets_token, logits_batch, logits_token,
    points_batch, points_token,
    HEADS: tl.constexpr, CHANNELS: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Names that end in a dimension are strides, in elements. sizes holds (W, H) of each level as floats, on the device."""
    blocks = tl.cdiv(tokens, BLOCK_T)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    head = tl.program_id(1)
    token = (tl.program_id(0) % blocks) * BLOCK_T + tl.arange(0, BLOCK_T)
    there = token < tokens
    row = token.to(tl.int64)
    n = tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    samples: tl.constexpr = LEVELS * POINTS

    logits += batch * logits_batch + row * logits_token + head * samples
    offsets += batch * offsets_batch + row * offsets_token + head * samples * 2
    points += batch * points_batch + row * points_token
    padding += batch * padding_batch
    value += batch * value_batch + head * value_head + d

    all_logits = tl.load(logits[:, None] + n[None, :], mask=there[:, None] & (n < samples)[None, :], other=0.0).to(tl.float32)
    all_logits = tl.where((n < samples)[None, :], all_logits, float("-inf"))
    top = tl.max(all_logits, axis=1)
    total = tl.sum(tl.exp(all_logits - top[:, None]), axis=1)

    summed = tl.zeros([BLOCK_T, BLOCK_D], dtype=tl.float32)
    first = tl.zeros([], dtype=tl.int32)  # memory token the level starts at
    for level in range(LEVELS):
        width = tl.load(sizes + 2 * level).to(tl.float32)
        height = tl.load(sizes + 2 * level + 1).to(tl.float32)
        columns, rows = width.to(tl.int32), height.to(tl.int32)
        centre_x = tl.load(points + 2 * level, mask=there, other=0.0).to(tl.float32) * width - 0.5
        centre_y = tl.load(points + 2 * level + 1, mask=there, other=0.0).to(tl.float32) * height - 0.5
        for point in tl.static_range(POINTS):
            sample = level * POINTS + point
            share = tl.exp(tl.load(logits + sample, mask=there, other=0.0).to(tl.float32) - top) / total
            x = centre_x + tl.load(offsets + 2 * sample, mask=there, other=0.0).to(tl.float32)
            y = centre_y + tl.load(offsets + 2 * sample + 1, mask=there, other=0.0).to(tl.float32)
            # two cells outside is as far as any place: no integer overflows, and no corner is inside
            x = tl.minimum(tl.maximum(x, -2.0), width + 1.0)
            y = tl.minimum(tl.maximum(y, -2.0), height + 1.0)
            low_x, low_y = tl.floor(x), tl.floor(y)
            for right in tl.static_range(2):
                for down in tl.static_range(2):
                    column, line = low_x.to(tl.int32) + right, low_y.to(tl.int32) + down
                    inside = there & (column >= 0) & (column < columns) & (line >= 0) & (line < rows)
                    cell = first + line * columns + column
                    inside = inside & (tl.load(padding + cell, mask=inside, other=1) == 0)
                    near_x = (x - low_x) if right else (1.0 - (x - low_x))
                    near_y = (y - low_y) if down else (1.0 - (y - low_y))
                    place = value[None, :] + (cell.to(tl.int64) * value_token)[:, None]
                    values = tl.load(place, mask=inside[:, None] & (d < CHANNELS)[None, :], other=0.0).to(tl.float32)
                    summed += (share * near_x * near_y)[:, None] * values
        first += columns * rows

    place = out + ((batch * tokens + row) * HEADS + head)[:, None] * CHANNELS + d[None, :]
    tl.store(place, summed.to(out.dtype.element_ty), mask=there[:, None] & (d < CHANNELS)[None, :])


def launch(value: Tensor, padding: Tensor, offsets: Tensor, logits: Tensor, points: Tensor, sizes: Tensor) -> Tensor:
    """value [B, S, M, D]; padding [B, S], True = padding; offsets [B, T, M, L, P, 2] in cells as (x, y); logits [B, T, M, L*P], softmax
    over the last; points [B, T, L, 2] in [0, 1]; sizes [L, 2] as (W, H) -> [B, T, M * D] in the value's number type.
    """
    batch, tokens, heads, levels, samples, _ = offsets.shape
    channels = value.shape[-1]
    value = value if value.stride(-1) == 1 else value.contiguous()
    padding = (padding if padding.stride(-1) == 1 else padding.contiguous()).view(torch.uint8)
    offsets, logits, points = _dense_rows(offsets), _dense_rows(logits), _dense_rows(points)
    out = value.new_empty(batch, tokens, heads * channels)
    if not out.numel():
        return out
    block_d = triton.next_power_of_2(channels)
    block_t = max(1, TILE // block_d)
    with torch.cuda.device_of(value):
        deformable_attention_kernel[(batch * triton.cdiv(tokens, block_t), heads)](
            value, padding, offsets, logits, points, sizes.contiguous(), out, tokens, value.shape[1],
            *value.stride()[:3], padding.stride(0), *offsets.stride()[:2], *logits.stride()[:2], *points.stride()[:2],
            HEADS=heads, CHANNELS=channels, LEVELS=levels, POINTS=samples,
            BLOCK_T=block_t, BLOCK_D=block_d, BLOCK_N=triton.next_power_of_2(levels * samples), num_warps=4,
        )  # fmt: skip
    return out


def _dense_rows(x: Tensor) -> Tensor:
    """x [B, T, ...] with the dimensions behind T packed, as a slice of a wider projection has them already."""
    packed = 1
    for size, stride in zip(reversed(x.shape[2:]), reversed(x.stride()[2:]), strict=True):
        if size != 1 and stride != packed:
            return x.contiguous()
        packed *= size
    return x

"""The replacement's linear attention and its depthwise convolution as Triton kernels, forward only.

Sources: linear attention, Katharopoulos et al. 2020, equation 5; the convolution is plain. Sums are float32 whatever the inputs are, and
no atomic addition is used: the same inputs give the same bits. With TRITON_INTERPRET=1 in the environment when this module is imported,
they run on CPU tensors, slowly.

Shapes: B batch, T tokens, C width, M heads, D = C / M, (H, W) a canvas.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from efficient.layers import FLOOR

BLOCK_T = 64
MOST_SPLITS = 16  # programs that share the tokens of one head of one image


@triton.jit(do_not_specialize=["tokens", "blocks"])
def key_value_sums_kernel(
    qkv, counts, sums, tokens, blocks, qkv_batch, qkv_token, counts_batch, counts_token,
    HEADS: tl.constexpr, DEPTH: tl.constexpr, COUNTED: tl.constexpr, FLOOR: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """sums [B * M, splits, D, D + 1]: over the tokens of a split, the products of keys with values, and with counts in the last column."""
    which, split = tl.program_id(0), tl.program_id(1)
    head = which % HEADS
    batch = (which // HEADS).to(tl.int64)
    d = tl.arange(0, BLOCK_D)
    width: tl.constexpr = HEADS * DEPTH
    keys = qkv + batch * qkv_batch + width + head * DEPTH + d
    products = tl.zeros([BLOCK_D, BLOCK_D], dtype=tl.float32)
    weights = tl.zeros([BLOCK_D], dtype=tl.float32)
    for block in range(split * blocks, (split + 1) * blocks):
        token = block * BLOCK_T + tl.arange(0, BLOCK_T)
        there = (token < tokens)[:, None] & (d < DEPTH)[None, :]
        place = keys[None, :] + (token.to(tl.int64) * qkv_token)[:, None]
        key = tl.where(there, tl.maximum(tl.load(place, mask=there, other=0.0).to(tl.float32), FLOOR), 0.0)
        value = tl.load(place + width, mask=there, other=0.0).to(tl.float32)
        if COUNTED:
            count = tl.load(counts + batch * counts_batch + token * counts_token, mask=token < tokens, other=0.0).to(tl.float32)
            value = value * count[:, None]
            weights += tl.sum(key * count[:, None], axis=0)
        else:
            weights += tl.sum(key, axis=0)
        products = tl.dot(tl.trans(key), value, acc=products, input_precision=PRECISION)
    first = sums + (which.to(tl.int64) * tl.num_programs(1) + split) * DEPTH * (DEPTH + 1)
    tl.store(first + d[:, None] * (DEPTH + 1) + d[None, :], products, mask=(d < DEPTH)[:, None] & (d < DEPTH)[None, :])
    tl.store(first + d * (DEPTH + 1) + DEPTH, weights, mask=d < DEPTH)


@triton.jit(do_not_specialize=["tokens"])
def attend_kernel(
    qkv, sums, out, tokens, qkv_batch, qkv_token,
    HEADS: tl.constexpr, DEPTH: tl.constexpr, FLOOR: tl.constexpr, PRECISION: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """out [B, T, C]: queries times the summed products [B * M, D, D + 1], divided by queries times their last column."""
    which = tl.program_id(0)
    head = which % HEADS
    batch = (which // HEADS).to(tl.int64)
    token = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    d = tl.arange(0, BLOCK_D)
    there = (token < tokens)[:, None] & (d < DEPTH)[None, :]
    place = qkv + batch * qkv_batch + head * DEPTH + d[None, :] + (token.to(tl.int64) * qkv_token)[:, None]
    query = tl.where(there, tl.maximum(tl.load(place, mask=there, other=0.0).to(tl.float32), FLOOR), 0.0)
    first = sums + which.to(tl.int64) * DEPTH * (DEPTH + 1)
    products = tl.load(first + d[:, None] * (DEPTH + 1) + d[None, :], mask=(d < DEPTH)[:, None] & (d < DEPTH)[None, :], other=0.0)
    weights = tl.load(first + d * (DEPTH + 1) + DEPTH, mask=d < DEPTH, other=0.0)
    total = tl.where(token < tokens, tl.sum(query * weights[None, :], axis=1), 1.0)
    attended = tl.dot(query, products, input_precision=PRECISION) / total[:, None]
    place = out + ((batch * tokens + token) * HEADS + head)[:, None] * DEPTH + d[None, :]
    tl.store(place, attended.to(out.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["height", "width"])
def depthwise_kernel(
    canvas, weight, bias, valid, residual, out, height, width, canvas_batch, canvas_row, canvas_column, valid_batch,
    CHANNELS: tl.constexpr, MASKED: tl.constexpr, ADDED: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """out [B, H, W, C]: a 3x3 convolution of each channel, of the canvas times `valid` [B, H, W], plus `residual`."""
    batch = tl.program_id(2).to(tl.int64)
    position = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    row, column = position // width, position % width
    there = (position < height * width)[:, None] & (c < CHANNELS)[None, :]
    summed = tl.zeros([BLOCK_P, BLOCK_C], dtype=tl.float32)
    summed += tl.load(bias + c, mask=c < CHANNELS, other=0.0).to(tl.float32)[None, :]
    for down in tl.static_range(3):
        for right in tl.static_range(3):
            y, x = row + (down - 1), column + (right - 1)
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            factor = tl.load(weight + c * 9 + down * 3 + right, mask=c < CHANNELS, other=0.0).to(tl.float32)
            place = canvas + batch * canvas_batch + y[:, None] * canvas_row + x[:, None] * canvas_column + c[None, :]
            values = tl.load(place, mask=inside[:, None] & (c < CHANNELS)[None, :], other=0.0).to(tl.float32)
            if MASKED:
                values = values * tl.load(valid + batch * valid_batch + y * width + x, mask=inside, other=0.0).to(tl.float32)[:, None]
            summed += values * factor[None, :]
    place = (batch * height * width + position)[:, None] * CHANNELS + c[None, :]
    if ADDED:
        summed += tl.load(residual + place, mask=there, other=0.0).to(tl.float32)
    tl.store(out + place, summed.to(out.dtype.element_ty), mask=there)


def launch_linear_attention(qkv: Tensor, counts: Tensor | None, heads: int) -> Tensor:
    """qkv [B, T, 3 C], queries, keys, values; counts [B, T, 1] or None -> [B, T, C]. D at most 128."""
    batch, tokens, width = qkv.shape
    width //= 3
    depth = width // heads
    qkv = qkv if qkv.stride(-1) == 1 else qkv.contiguous()
    blocks = triton.cdiv(tokens, BLOCK_T)
    splits = max(1, min(MOST_SPLITS, blocks))
    sums = torch.empty(batch * heads, splits, depth, depth + 1, dtype=torch.float32, device=qkv.device)
    out = qkv.new_empty(batch, tokens, width)
    if not out.numel():
        return out
    sizes = {"HEADS": heads, "DEPTH": depth, "BLOCK_T": BLOCK_T, "BLOCK_D": max(16, triton.next_power_of_2(depth)), "num_warps": 4}
    how = {"FLOOR": FLOOR, "PRECISION": "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"}
    of_counts = (0, 0) if counts is None else counts.stride()[:2]
    with torch.cuda.device_of(qkv):
        key_value_sums_kernel[(batch * heads, splits)](
            qkv, counts, sums, tokens, triton.cdiv(blocks, splits), *qkv.stride()[:2], *of_counts,
            COUNTED=counts is not None, **sizes, **how,
        )  # fmt: skip
        attend_kernel[(batch * heads, blocks)](qkv, sums.sum(1), out, tokens, *qkv.stride()[:2], **sizes, **how)
    return out


def launch_depthwise(canvas: Tensor, weight: Tensor, bias: Tensor, valid: Tensor | None, residual: Tensor | None) -> Tensor:
    """canvas [B, H, W, C], weight [C, 1, 3, 3], bias [C], valid [B, H, W, 1], residual [B, H, W, C] -> [B, H, W, C]."""
    batch, height, width, channels = canvas.shape
    canvas = canvas if canvas.stride(-1) == 1 else canvas.contiguous()
    valid = None if valid is None else valid.contiguous()
    residual = None if residual is None else residual.contiguous()
    out = canvas.new_empty(canvas.shape)
    if not out.numel():
        return out
    block_c = min(64, triton.next_power_of_2(channels))
    block_p = 32
    with torch.cuda.device_of(canvas):
        depthwise_kernel[(triton.cdiv(height * width, block_p), triton.cdiv(channels, block_c), batch)](
            canvas, weight.contiguous(), bias, valid, residual, out, height, width, *canvas.stride()[:3], height * width,
            CHANNELS=channels, MASKED=valid is not None, ADDED=residual is not None, BLOCK_P=block_p, BLOCK_C=block_c, num_warps=4,
        )  # fmt: skip
    return out

"""A fast way through MobileViT's modules of `transformers`, for inference: same weights, same maps.

Source: MobileViT (Mehta and Rastegari 2022). What differs from the way transformers goes: maps lie in memory channel by channel within a
cell, as 1x1 convolutions and tokens want them; batch normalisation is folded into the convolution before it; no matrix of attention scores
is kept; activations overwrite their input.

Shapes: B images, C channels, (H, W) a map, P = 4 places in a patch of 2 x 2 cells, N patches, M heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mobilevit_maps(model: nn.Module, images: Tensor) -> list[Tensor]:
    """images [B, 3, H, W] -> the states of a `MobileViTModel` in evaluation, at strides 2, 4, 8, 16, 32."""
    x, maps = _conv(model.conv_stem, images.contiguous(memory_format=torch.channels_last)), []
    for stage in model.encoder.layer:
        x = _mobile(stage, x) if hasattr(stage, "layer") else _vit(stage, x)
        maps.append(x)
    return maps


def _conv(layer: nn.Module, x: Tensor) -> Tensor:
    """Convolution, batch normalisation and activation, those that the layer has."""
    conv, norm = layer.convolution, layer.normalization
    if norm is None or x.is_cuda:  # a GPU folds no faster than it normalises: six small kernels for one
        x = conv(x) if norm is None else norm(conv(x))
    else:
        factor = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight, bias = conv.weight * factor[:, None, None, None], norm.bias - norm.running_mean * factor
        x = F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    return x if layer.activation is None else F.silu(x, inplace=True)


def _inverted(block: nn.Module, x: Tensor) -> Tensor:
    y = _conv(block.reduce_1x1, _conv(block.conv_3x3, _conv(block.expand_1x1, x)))
    return y.add_(x) if block.use_residual else y


def _mobile(stage: nn.Module, x: Tensor) -> Tensor:
    for block in stage.layer:
        x = _inverted(block, x)
    return x


def _vit(stage: nn.Module, x: Tensor) -> Tensor:
    x = _inverted(stage.downsampling_layer, x)
    y = _conv(stage.conv_1x1, _conv(stage.conv_kxk, x))
    side, size = stage.patch_width, y.shape[2:]
    whole = tuple(-(-length // side) * side for length in size)
    if whole != size:
        y = F.interpolate(y, size=whole, mode="bilinear", align_corners=False)
    batch, grid = len(y), (whole[0] // side, whole[1] // side)
    tokens = y.permute(0, 2, 3, 1).reshape(batch, grid[0], side, grid[1], side, -1)
    tokens = tokens.permute(0, 2, 4, 1, 3, 5).reshape(batch * side * side, grid[0] * grid[1], -1)  # [B * P, N, C]
    for layer in stage.transformer.layer:
        tokens = _layer(layer, tokens)
    tokens = stage.layernorm(tokens).view(batch, side, side, *grid, -1).permute(0, 3, 1, 4, 2, 5)
    y = tokens.reshape(batch, *whole, -1).permute(0, 3, 1, 2)
    if whole != size:
        y = F.interpolate(y, size=size, mode="bilinear", align_corners=False)
    return _conv(stage.fusion, torch.cat((x, _conv(stage.conv_projection, y)), dim=1))


def _layer(layer: nn.Module, x: Tensor) -> Tensor:
    """Pre-norm attention among the cells at one place of their patches, then a pre-norm MLP: x [B * P, N, C]."""
    attention, inner = layer.attention.attention, layer.layernorm_before(x)
    q, k, v = (
        part(inner).unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)
        for part in (attention.query, attention.key, attention.value)
    )
    x = x + layer.attention.output.dense(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    return x + layer.output.dense(F.silu(layer.intermediate.dense(layer.layernorm_after(x)), inplace=True))

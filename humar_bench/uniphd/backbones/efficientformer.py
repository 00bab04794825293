"""EfficientFormerV2 S0, S1, S2: convolutional blocks, with attention in the last blocks of the two coarse stages.

Source: Rethinking Vision Transformers for MobileNet Size and Speed (Li et al. 2023); module names, and sizes the paper leaves open, are
those of timm, so that its weights load. Changed: any image size works. The bias of an attention is a table over (rows, columns) between two
cells of the map it was built for; for a map of another size, and for weights of another size, the table is stretched, which keeps offset 0.

Shapes: B images, (H, W) a map's size in cells, C width, M heads, K keys (cells), Q queries (cells).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from humar_bench.args import Size
from humar_bench.uniphd.backbones.swin import DropPath

HEADS, VALUE_RATIO = 8, 4  # of every attention; a head's values are this many times as wide as its keys
LAYER_SCALE = 1e-5


class Published(NamedTuple):
    """Widths and depths of the four stages, MLP ratio of every block of the last two, attention blocks at the end of those, drop path."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    ratios: tuple[tuple[int, ...], tuple[int, ...]]
    attention: int
    drop_path: float = 0.0


PUBLISHED = {
    "efficientformerv2_s0": Published((32, 48, 96, 176), (2, 2, 6, 4), ((4, 3, 3, 3, 4, 4), (4, 3, 3, 4)), attention=2),
    "efficientformerv2_s1": Published(
        (32, 48, 120, 224), (3, 3, 9, 6), ((4, 4, 3, 3, 3, 3, 4, 4, 4), (4, 4, 3, 3, 4, 4)), attention=2
    ),
    "efficientformerv2_s2": Published(
        (32, 64, 144, 288), (4, 4, 12, 8), ((4, 4, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4), (4, 4, 3, 3, 3, 3, 4, 4)), attention=4, drop_path=0.02
    ),
}


def halved(size: Size) -> Size:
    return (math.ceil(size[0] / 2), math.ceil(size[1] / 2))


def stretched(table: Tensor, built: Size, size: Size) -> Tensor:
    """A bias table [M, h*w] over offsets of a map of `built` (h, w) -> [M, H*W] for one of `size`; smallest and largest stay."""
    if built == size:
        return table
    table = F.interpolate(table.view(1, -1, *built), size=size, mode="bilinear", align_corners=True)
    return table.flatten(2)[0]


def offset_index(size: Size, step: int, device: torch.device) -> Tensor:
    """Place in the bias table of a map of `size` of every query (each `step`-th cell) and key (each cell): [Q, K] int64."""
    rows, columns = (torch.arange(length, device=device) for length in size)
    apart_y = (rows[::step, None] - rows).abs()  # [queries, keys] along one axis
    apart_x = (columns[::step, None] - columns).abs()
    index = apart_y[:, None, :, None] * size[1] + apart_x[None, :, None, :]
    return index.flatten(2).flatten(0, 1)


class ConvNorm(nn.Module):
    """Convolution, same padding, then batch normalisation."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class SubsampledQuery(nn.Module):
    """Queries of every second cell: the cell itself plus a depthwise convolution around it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.local = nn.Conv2d(inputs, inputs, 3, stride=2, padding=1, groups=inputs)
        self.proj = ConvNorm(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.local(x) + x[:, :, ::2, ::2])


class Attention(nn.Module):
    """Attention between the cells of a map, with a bias per head and offset, and a depthwise convolution of the values beside it.

    `step` is 1 or 2: every cell asks, or every second one along each axis, and the output has that size. `built` is the map's (H, W).
    """

    def __init__(self, inputs: int, outputs: int, *, key_width: int, built: Size, step: int = 1) -> None:
        super().__init__()
        self.built, self.step, self.scale = built, step, key_width**-0.5
        keys, values = HEADS * key_width, HEADS * key_width * VALUE_RATIO
        self.q = ConvNorm(inputs, keys) if step == 1 else SubsampledQuery(inputs, keys)
        self.k = ConvNorm(inputs, keys)
        self.v = ConvNorm(inputs, values)
        self.v_local = ConvNorm(values, values, 3, stride=step, groups=values)
        self.proj = ConvNorm(values, outputs)
        self.attention_biases = nn.Parameter(torch.zeros(HEADS, built[0] * built[1]))
        self.register_load_state_dict_pre_hook(self._stretch_loaded)

    def mix(self, scores: Tensor) -> Tensor:
        """Scores [B, M, Q, K] -> weights."""
        return scores.softmax(dim=-1)

    def attend(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, M * value width, ceil(H/step), ceil(W/step)]."""
        size = (x.shape[2], x.shape[3])
        q, k, values = self.q(x), self.k(x), self.v(x)
        local = self.v_local(values)
        q, k, v = (part.flatten(2).unflatten(1, (HEADS, -1)) for part in (q, k, values))  # [B, M, width, cells]
        bias = stretched(self.attention_biases, self.built, size)[:, offset_index(size, self.step, x.device)]
        weights = self.mix((q.transpose(2, 3) * self.scale) @ k + bias)
        return (v @ weights.transpose(2, 3)).flatten(1, 2).view_as(local) + local

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(F.gelu(self.attend(x)))

    def _stretch_loaded(self, module: nn.Module, state: dict[str, Tensor], prefix: str, *unused: Any) -> None:
        """Weights of another image size: stretch their table, whose map was square or had the shape of ours."""
        name = f"{prefix}attention_biases"
        if name not in state or (cells := state[name].shape[-1]) == self.attention_biases.shape[1]:
            return
        side, height = math.isqrt(cells), round(math.sqrt(cells * self.built[0] / self.built[1]))
        if side * side == cells:
            state[name] = stretched(state[name], (side, side), self.built)
        elif cells % height == 0:
            state[name] = stretched(state[name], (height, cells // height), self.built)


class TalkingHeads(Attention):
    """Attention of a block: heads mix before and after the softmax; with `stride` 2 it works on a halved map and is enlarged again."""

    def __init__(self, channels: int, *, built: Size, stride: int) -> None:
        super().__init__(channels, channels, key_width=32, built=halved(built) if stride == 2 else built)
        self.stride_conv = ConvNorm(channels, channels, 3, stride=2, groups=channels) if stride == 2 else None
        self.talking_head1 = nn.Conv2d(HEADS, HEADS, 1)
        self.talking_head2 = nn.Conv2d(HEADS, HEADS, 1)

    def mix(self, scores: Tensor) -> Tensor:
        return self.talking_head2(self.talking_head1(scores).softmax(dim=-1))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C, H, W]."""
        if self.stride_conv is None:
            return self.proj(F.gelu(self.attend(x)))
        coarse = self.attend(self.stride_conv(x))
        return self.proj(F.gelu(F.interpolate(coarse, size=x.shape[2:], mode="bilinear", align_corners=False)))


class ConvMlp(nn.Module):
    """Pointwise, depthwise 3x3, pointwise."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = ConvNorm(channels, hidden)
        self.mid = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.fc2 = ConvNorm(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.mid(F.gelu(self.fc1(x)))))


class LayerScale(nn.Module):
    """A learned factor per channel, small at first (Touvron et al. 2021)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), LAYER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma[:, None, None]


class Block(nn.Module):
    """Attention where the block has one, then the convolutional MLP, each scaled and added."""

    def __init__(self, channels: int, *, ratio: int, attention: TalkingHeads | None, drop_path: float) -> None:
        super().__init__()
        self.token_mixer = attention
        self.ls1 = LayerScale(channels) if attention is not None else None
        self.mlp = ConvMlp(channels, ratio * channels)
        self.ls2 = LayerScale(channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        if self.token_mixer is not None:
            x = x + self.drop_path(self.ls1(self.token_mixer(x)))
        return x + self.drop_path(self.ls2(self.mlp(x)))


class Downsample(nn.Module):
    """A strided convolution; into the last stage, strided attention beside it."""

    def __init__(self, inputs: int, outputs: int, *, attention: bool, built: Size) -> None:
        super().__init__()
        self.conv = ConvNorm(inputs, outputs, 3, stride=2)
        self.attn = Attention(inputs, outputs, key_width=16, built=built, step=2) if attention else None

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if self.attn is None else self.attn(x) + self.conv(x)


class Stem(nn.Module):
    """Two strided convolutions: stride 4."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, channels // 2, 3, stride=2)
        self.conv2 = ConvNorm(channels // 2, channels, 3, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        return F.gelu(self.conv2(F.gelu(self.conv1(images))))


class Stage(nn.Module):
    """A downsampling, but for the first stage, then blocks; the last ones have attention where the stage is given some."""

    def __init__(
        self, inputs: int, outputs: int, *, index: int, ratios: tuple[int, ...], attention: int, built: Size, drop_paths: list[float]
    ) -> None:
        """`built` is the size of the stage's input map."""
        super().__init__()
        self.downsample = Downsample(inputs, outputs, attention=index == 3, built=built) if index else nn.Identity()
        size = halved(built) if index else built
        blocks = []
        for i, (ratio, drop_path) in enumerate(zip(ratios, drop_paths, strict=True)):
            attends = index >= 2 and i >= len(ratios) - attention
            mixer = TalkingHeads(outputs, built=size, stride=2 if index == 2 else 1) if attends else None
            blocks.append(Block(outputs, ratio=ratio, attention=mixer, drop_path=drop_path))
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class EfficientFormerV2(nn.Module):
    """Images [B, 3, H, W] -> four maps [B, C_i, ceil(H/s), ceil(W/s)] at strides s = 4, 8, 16, 32; `channels` are the C_i.

    `image_size` sets the size of the attention bias tables, and with it the number of parameters; images of any other size work too.
    """

    def __init__(self, name: str, image_size: Size) -> None:
        super().__init__()
        widths, depths, ratios, attention, drop_path = PUBLISHED[name]
        self.channels = widths
        self.stem = Stem(widths[0])
        stages, inputs, size = [], widths[0], halved(halved(image_size))
        rates = [drop_path * i / (sum(depths) - 1) for i in range(sum(depths))]
        for index, (outputs, depth) in enumerate(zip(widths, depths, strict=True)):
            drop_paths, rates = rates[:depth], rates[depth:]
            stage_ratios = (4,) * depth if index < 2 else ratios[index - 2]
            stages.append(
                Stage(inputs, outputs, index=index, ratios=stage_ratios, attention=attention, built=size, drop_paths=drop_paths)
            )
            inputs, size = outputs, halved(size) if index else size
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> list[Tensor]:
        x, maps = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

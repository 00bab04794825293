"""Swin-T, with the names of the published checkpoints; its four maps go to the rest of the model.

Source: Swin Transformer (Liu et al. 2021). Kept as published: maps are padded with zeros to whole windows and the padding is not masked,
windows never shrink on small maps, every stage's map is taken before its merging and has its own LayerNorm.

Shapes: B images, (H, W) a map's size in tokens, (Hp, Wp) padded to whole windows, C width, M heads, N windows of an image, T tokens of a
window (its side squared).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WINDOW = 7
APART = -100.0  # bias between tokens that only the shift brought into one window
INIT_STD = 0.02


def pad_to_multiple(x: Tensor, side: int) -> Tensor:
    """x [B, H, W, C] -> [B, Hp, Wp, C], zeros at the right and the bottom."""
    height, width = x.shape[1:3]
    return F.pad(x, (0, 0, 0, -width % side, 0, -height % side))


def split_windows(x: Tensor, side: int) -> Tensor:
    """x [B, Hp, Wp, C] -> [B, N, T, C], windows row by row."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // side, side, width // side, side, channels)
    return x.transpose(2, 3).reshape(batch, -1, side * side, channels)


def join_windows(x: Tensor, size: tuple[int, int], side: int) -> Tensor:
    """The way back: x [B, N, T, C], size (Hp, Wp) -> [B, Hp, Wp, C]."""
    (height, width), channels = size, x.shape[-1]
    x = x.view(-1, height // side, width // side, side, side, channels)
    return x.transpose(2, 3).reshape(-1, height, width, channels)


def shift_bias(size: tuple[int, int], side: int, shift: int, like: Tensor) -> Tensor:
    """0 between tokens of one region, `APART` between regions, once the map was rolled by `shift`: [N, 1, T, T] for size (Hp, Wp)."""

    def regions(length: int) -> Tensor:
        place = torch.arange(length, device=like.device)
        return (place >= length - side).to(torch.int64) + (place >= length - shift).to(torch.int64)

    region = 3 * regions(size[0])[:, None] + regions(size[1])
    windows = split_windows(region[None, :, :, None], side)[0]  # [N, T, 1]
    return torch.zeros((), dtype=like.dtype, device=like.device).where(windows == windows.transpose(1, 2), APART).unsqueeze(1)


class DropPath(nn.Module):
    """Leaves a residual branch out for some of the images in training, and scales the others up (Huang et al. 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(1 - self.rate)
        return x * kept / (1 - self.rate)


class WindowAttention(nn.Module):
    """Multi-head attention inside each window, with a learned bias per head and offset of two tokens."""

    def __init__(self, channels: int, *, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        place = torch.cartesian_prod(torch.arange(window), torch.arange(window))  # [T, 2]
        offset = place[:, None] - place[None] + window - 1
        self.register_buffer("relative_position_index", offset[..., 0] * (2 * window - 1) + offset[..., 1])
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, apart: Tensor | None) -> Tensor:
        """x [B, N, T, C], apart [N, 1, T, T] or None -> [B, N, T, C]."""
        batch, windows, tokens, channels = x.shape
        q, k, v = self.qkv(x).view(batch * windows, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # [B*N, M, T, C/M]
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()].view(tokens, tokens, -1).permute(2, 0, 1)
        bias = bias.unsqueeze(0) if apart is None else (bias + apart).repeat(batch, 1, 1, 1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(out.transpose(1, 2).reshape(batch, windows, tokens, channels))


class Mlp(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm window attention, shifted or not, then a pre-norm MLP."""

    def __init__(self, channels: int, *, heads: int, window: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads=heads, window=window)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, 4 * channels)

    def forward(self, x: Tensor, apart: Tensor) -> Tensor:
        """x [B, H, W, C], apart [N, 1, T, T] -> [B, H, W, C]."""
        height, width = x.shape[1:3]
        inner = pad_to_multiple(self.norm1(x), self.window)
        size = (inner.shape[1], inner.shape[2])
        if self.shift:
            inner = inner.roll((-self.shift, -self.shift), dims=(1, 2))
        inner = self.attn(split_windows(inner, self.window), apart if self.shift else None)
        inner = join_windows(inner, size, self.window)
        if self.shift:
            inner = inner.roll((self.shift, self.shift), dims=(1, 2))
        x = x + self.drop_path(inner[:, :height, :width])
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchMerging(nn.Module):
    """Four neighbours become one token of twice the width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(4 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, H, W, C] -> [B, ceil(H/2), ceil(W/2), 2C]."""
        x = pad_to_multiple(x, 2)
        corners = (x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2])
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))


class Stage(nn.Module):
    """Blocks, every second one shifted; `downsample` is run by the backbone, after the map was taken."""

    def __init__(self, channels: int, *, heads: int, window: int, drop_paths: list[float], merging: bool) -> None:
        super().__init__()
        self.window, self.shift = window, window // 2
        self.blocks = nn.ModuleList(
            Block(channels, heads=heads, window=window, shift=i % 2 * self.shift, drop_path=rate) for i, rate in enumerate(drop_paths)
        )
        self.downsample = PatchMerging(channels) if merging else None

    def forward(self, x: Tensor) -> Tensor:
        """x [B, H, W, C] -> [B, H, W, C]."""
        padded = tuple(length + -length % self.window for length in x.shape[1:3])
        apart = shift_bias(padded, self.window, self.shift, like=x)
        for block in self.blocks:
            x = block(x, apart)
        return x


class PatchEmbed(nn.Module):
    """4x4 patches to tokens."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, kernel_size=4, stride=4)
        self.norm = nn.LayerNorm(channels)

    def forward(self, images: Tensor) -> Tensor:
        """images [B, 3, H, W] -> [B, ceil(H/4), ceil(W/4), C]."""
        height, width = images.shape[2:]
        x = self.proj(F.pad(images, (0, -width % 4, 0, -height % 4)))
        return self.norm(x.permute(0, 2, 3, 1))


class SwinTransformer(nn.Module):
    """Images [B, 3, H, W] -> four maps [B, C_i, ceil(H/s), ceil(W/s)] at strides s = 4, 8, 16, 32. Any size of at least 1 works."""

    def __init__(
        self,
        *,
        width: int = 96,
        depths: tuple[int, ...] = (2, 2, 6, 2),
        heads: tuple[int, ...] = (3, 6, 12, 24),
        window: int = WINDOW,
        drop_path: float = 0.2,
    ) -> None:
        super().__init__()
        self.channels = tuple(width * 2**i for i in range(len(depths)))
        self.patch_embed = PatchEmbed(width)
        last = len(depths) - 1
        rates = [drop_path * i / (sum(depths) - 1) for i in range(sum(depths))]
        self.layers = nn.ModuleList()
        for i, (channels, depth) in enumerate(zip(self.channels, depths, strict=True)):
            drop_paths, rates = rates[:depth], rates[depth:]
            self.layers.append(Stage(channels, heads=heads[i], window=window, drop_paths=drop_paths, merging=i < last))
            self.add_module(f"norm{i}", nn.LayerNorm(channels))
        self.apply(self._reset)

    @staticmethod
    def _reset(module: nn.Module) -> None:
        """As the paper's code: linear layers and bias tables normal with 0.02, cut at 2; biases 0."""
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=INIT_STD)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, WindowAttention):
            nn.init.trunc_normal_(module.relative_position_bias_table, std=INIT_STD)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.patch_embed(images)
        maps = []
        for i, stage in enumerate(self.layers):
            x = stage(x)
            maps.append(self.get_submodule(f"norm{i}")(x).permute(0, 3, 1, 2).contiguous())
            if stage.downsample is not None:
                x = stage.downsample(x)
        return maps

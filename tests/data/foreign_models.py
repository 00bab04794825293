"""Architectures of somebody else, loaded by file: a small one that answers the shared call, and ones that go wrong each in its own way."""

from __future__ import annotations

import ctypes
import os
import time

import torch
from torch import Tensor, nn


class SmallPose(nn.Module):
    """The smallest model that answers the call: every query gets the mean of the memory, the same at each iteration."""

    def __init__(self, width: int, keypoints: int, iterations: int) -> None:
        super().__init__()
        self.keypoints, self.iterations = keypoints, iterations
        self.encode = nn.Linear(width, width)
        self.tokens = nn.Parameter(torch.randn(keypoints + 1, width))
        self.points = nn.Linear(width, 2)

    def forward(self, srcs: list[Tensor], masks: list[Tensor], pos_embeds: list[Tensor], query_embed: Tensor):
        query_embed = query_embed if query_embed.dim() == 4 else query_embed.unsqueeze(2)
        flat = torch.cat([(src + pos).flatten(2).transpose(1, 2) for src, pos in zip(srcs, pos_embeds, strict=True)], dim=1)
        memory = self.encode(flat).relu()
        pose = query_embed + memory.mean(1)[:, None, None] + self.tokens
        points = self.points(pose).flatten(2).sigmoid()
        sizes = [src.shape[-2:] for src in srcs]
        maps = memory.transpose(1, 2).split([height * width for height, width in sizes], dim=2)
        maps = [each.unflatten(2, tuple(size)) for each, size in zip(maps, sizes, strict=True)]
        return [pose] * self.iterations, [points] * (self.iterations + 1), points[..., 2:], pose[:, :, 0], maps[:-1]


def build(args) -> nn.Module:
    return SmallPose(args.hidden_dim, args.num_body_points, args.dec_layers)


def wider(args) -> nn.Module:
    """The same with a second linear layer in a component of its own."""
    model = build(args)
    model.encode = nn.Sequential(nn.Linear(args.hidden_dim, 2 * args.hidden_dim), nn.Linear(2 * args.hidden_dim, args.hidden_dim))
    model.built = {"width": 2 * args.hidden_dim}
    return model


class Twisted(SmallPose):
    """Answers, then lets `twist` change the outputs."""

    twist = staticmethod(lambda outputs: outputs)

    def forward(self, *inputs):
        return self.twist(super().forward(*inputs))


def _twisted(args, twist) -> nn.Module:
    model = Twisted(args.hidden_dim, args.num_body_points, args.dec_layers)
    model.twist = twist
    return model


def not_finite(args) -> nn.Module:
    return _twisted(args, lambda outputs: (*outputs[:3], outputs[3] / 0, outputs[4]))


def other_shapes(args) -> nn.Module:
    return _twisted(args, lambda outputs: (*outputs[:3], outputs[3].transpose(1, 2), outputs[4]))


def four_outputs(args) -> nn.Module:
    return _twisted(args, lambda outputs: outputs[:4])


def one_tensor(args) -> nn.Module:
    return _twisted(args, lambda outputs: outputs[3])


def fails_in_forward(args) -> nn.Module:
    return _twisted(args, lambda outputs: outputs[7])


def crashes(args) -> nn.Module:
    """Reads address 0 when it really runs (never on the meta device, nor when its cost is predicted)."""
    return _twisted(args, lambda outputs: ctypes.string_at(0) if _is_real(outputs[3]) else outputs)


def hangs(args) -> nn.Module:
    return _twisted(args, lambda outputs: time.sleep(3600) if _is_real(outputs[3]) else outputs)


def hungry(args) -> nn.Module:
    """Asks for 8 TiB when it really runs."""
    return _twisted(args, lambda outputs: torch.ones(2**43, dtype=torch.uint8) if _is_real(outputs[3]) else outputs)


def large(args) -> nn.Module:
    """Asks for 64 GiB of address space when it really runs, and touches none of it."""
    return _twisted(args, lambda outputs: outputs if torch.empty(2**36, dtype=torch.uint8).numel() else None)


def late(args) -> nn.Module:
    """Answers right ten times, then with NaN."""
    model = _twisted(args, None)
    calls = []
    model.twist = lambda outputs: calls.append(1) or (outputs if len(calls) < 10 else (*outputs[:3], outputs[3] / 0, outputs[4]))
    return model


def chatty(args) -> nn.Module:
    """Prints to both streams and to the file descriptors below them."""
    print("printed by a builder")
    os.write(1, b"written by a builder\n")
    return build(args)


def raises(args) -> nn.Module:
    raise ValueError(f"width {args.hidden_dim} is too wide\nfor me")


def leaves(args) -> nn.Module:
    raise SystemExit("the builder left")


def not_a_model(args) -> list:
    return [1, 2]


a_number = 3


def _is_real(tensor: Tensor) -> bool:
    return type(tensor) is Tensor and tensor.device.type != "meta"


class Interface(SmallPose):
    """Somebody's model whose parts carry the names of the shared interface, with one part of its own."""

    def __init__(self, width: int, keypoints: int, iterations: int) -> None:
        super().__init__(width, keypoints, iterations)
        self.level_embed = nn.Parameter(torch.randn(3, width))
        self.decoder = nn.Module()
        self.decoder.pose_embed = nn.ModuleList(nn.Linear(width, 2) for _ in range(iterations))
        self.decoder.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(iterations))
        self.enc_output, self.enc_pose_embed = nn.Linear(width, width), nn.Linear(width, 2)

    def forward(self, srcs, masks, pos_embeds, query_embed):
        hs, points, mix_points, mix, maps = super().forward(srcs, masks, pos_embeds, query_embed)
        for layer, head in zip(self.decoder.layers, self.decoder.pose_embed, strict=True):
            hs[0] = hs[0] + layer(hs[0]) + head(hs[0]).mean() + self.enc_pose_embed(self.enc_output(mix)).mean() + self.level_embed.mean()
        return hs, points, mix_points, mix, maps


def interface(args) -> nn.Module:
    return Interface(args.hidden_dim, args.num_body_points, args.dec_layers)


# What fake_worker.py does under these names; as builders they do not exist, and are never loaded.
ONLY_IN_THE_FAKE_WORKER = [
    "forges", "floods", "killed_once", "escapes", "lies", "garbage", "list", "deep", "number", "stranger", "unstaged", "share", "bytes",
    "more", "endless", "surrogate", "typed", "cut", "empty", "array", "bare", "deepened", "latin", "resultless", "packages", "status",
    "measured", "nan", "digits", "pipe", "half", "usage", "half_pair",
]

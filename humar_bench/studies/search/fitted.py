"""Designs of different width and depth behind one call, so that they can be timed in turn on the same inputs.

A narrower design looks at the first of the channels it is given, and its outputs are filled up with zeros, and its last iteration repeated,
to the shapes of the call. That costs a copy of the outputs, about as much for all.

Shapes: B batch, L levels, (H_l, W_l) size of level l, C channels given, c <= C the design's own, Q queries, N tokens of an instance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from humar_bench.args import ModelArgs
from humar_bench.errors import HumarBenchError
from humar_bench.running.plan import parse_settings
from humar_bench.studies import switches
from humar_bench.subjects.registry import load_builder

FITTED = "fitted__"


class Fitted(nn.Module):
    """A design as a model of `channels` and `iterations`."""

    def __init__(self, design: nn.Module, own: int, channels: int, iterations: int) -> None:
        super().__init__()
        self.design, self.own, self.more, self.iterations = design, own, channels - own, iterations
        self.built = design.built
        self.components = (("", "frame"), *((f"design.{path}".rstrip("."), name) for path, name in design.components))

    def forward(self, srcs: list[Tensor], masks: list[Tensor], pos_embeds: list[Tensor], query_embed: Tensor) -> tuple:
        """srcs, pos_embeds: L of [B, C, H_l, W_l]; masks: L of [B, H_l, W_l]; query_embed [B, Q, 1, C] -> the five outputs of the call."""
        own = self.own
        hs_pose, refpoint_pose, mix_refpoint, mix_embedding, maps = self.design(
            [each[:, :own] for each in srcs], masks, [each[:, :own] for each in pos_embeds], query_embed[..., :own]
        )
        hs_pose = [F.pad(each, (0, self.more)) for each in hs_pose]
        repeats = self.iterations - len(hs_pose)
        return (
            hs_pose + hs_pose[-1:] * repeats, refpoint_pose + refpoint_pose[-1:] * repeats, mix_refpoint,
            F.pad(mix_embedding, (0, self.more)), [F.pad(each, (0, 0, 0, 0, 0, self.more)) for each in maps],
        )


def __getattr__(name: str) -> Callable[[Any], nn.Module]:
    """`fitted__hidden_dim__128__and__efficient_graph_bias__false`: builds that design for arguments of at least its width and depth."""
    if not name.startswith(FITTED):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        changes = settings_in(name)
    except HumarBenchError as error:
        raise AttributeError(str(error)) from None

    def build(args: Any) -> nn.Module:
        frame = ModelArgs.of(args)
        own = dataclasses.replace(frame, **changes)
        return Fitted(load_builder(switches.DESIGN)(own), own.hidden_dim, frame.hidden_dim, frame.dec_layers)

    return build


def settings_in(spec: str) -> Mapping[str, Any]:
    """The fields that a builder's name sets."""
    return parse_settings(switches.settings_in(spec.rpartition(":")[2].removeprefix(FITTED)))

"""The transformer as a subject: the inputs of one forward, made from a workload and a seed, and what its outputs must be.

Shapes: B batch, L levels, (H_l, W_l) size of level l, C width, Q queries.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from humar_bench.args import ModelArgs, Workload
from humar_bench.errors import MeasurementError
from humar_bench.subjects.registry import Architecture, build
from humar_bench.subjects.subject import NotFiniteOutputs, Subject


class Inputs(NamedTuple):
    """What `model(*inputs)` is called with."""

    srcs: list[Tensor]  # L of [B, C, H_l, W_l]
    masks: list[Tensor]  # L of [B, H_l, W_l], bool, True = padding
    pos_embeds: list[Tensor]  # L of [B, C, H_l, W_l]
    query_embed: Tensor  # [B, Q, 1, C]


def make_inputs(
    args: ModelArgs,
    workload: Workload,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Inputs:
    """Standard normal maps, embeddings and queries; the same numbers on every device for one seed.

    Drawn in float32 on the CPU, then converted, so that a comparison across devices and number types compares the same input.
    On the meta device, and under a fake tensor mode, nothing is allocated.
    """
    generator = None if torch.device(device).type == "meta" else torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        if generator is None:
            return torch.empty(shape, device=device, dtype=dtype)
        return torch.randn(shape, generator=generator).to(device=device, dtype=dtype)

    def padding(height: int, width: int) -> Tensor:
        mask = torch.zeros(workload.batch, height, width, dtype=torch.bool, device=device)
        if workload.padded:
            mask[1:, math.ceil(0.75 * height) :, :] = True
            mask[1:, :, math.ceil(0.6 * width) :] = True
        return mask

    channels, batch = args.hidden_dim, workload.batch
    return Inputs(
        srcs=[normal(batch, channels, height, width) for height, width in workload.feature_sizes],
        masks=[padding(height, width) for height, width in workload.feature_sizes],
        pos_embeds=[normal(batch, channels, height, width) for height, width in workload.feature_sizes],
        query_embed=normal(batch, workload.num_queries, 1, channels),
    )


def check_outputs(outputs: Any, args: ModelArgs, workload: Workload, *, name: str = "the model") -> None:
    """Hold a model's outputs against the call both architectures share: five parts, their shapes, every number finite.

    Expected, with B batch, Q queries, K keypoints, C width, D decoder iterations, L levels: hs_pose D of [B, Q, K+1, C];
    refpoint_pose D+1 of [B, Q, 2(K+1)]; mix_refpoint [B, Q, 2K]; mix_embedding [B, Q, C]; memory_features L-1 of [B, C, H_l, W_l].
    On the meta device only shapes are checked. Raises MeasurementError, for NaN and infinity its subclass NotFiniteOutputs.
    """
    parts = ("hs_pose", "refpoint_pose", "mix_refpoint", "mix_embedding", "memory_features")
    if not isinstance(outputs, (tuple, list)) or len(outputs) != len(parts):
        got = f"{len(outputs)} outputs" if isinstance(outputs, (tuple, list)) else f"a {type(outputs).__name__}"
        raise MeasurementError(f"{name} returned {got}; it must return {', '.join(parts)}.")
    batch, queries, width = workload.batch, workload.num_queries, args.hidden_dim
    tokens = args.num_body_points + 1
    expected = {
        "hs_pose": [(batch, queries, tokens, width)] * args.dec_layers,
        "refpoint_pose": [(batch, queries, 2 * tokens)] * (args.dec_layers + 1),
        "mix_refpoint": (batch, queries, 2 * args.num_body_points),
        "mix_embedding": (batch, queries, width),
        "memory_features": [(batch, width, *size) for size in workload.feature_sizes[:-1]],
    }
    named: dict[str, Any] = {}
    for part, output in zip(parts, outputs, strict=True):
        if isinstance(expected[part], tuple):
            named[part] = (output, expected[part])
            continue
        if not isinstance(output, (tuple, list)) or len(output) != len(expected[part]):
            got = f"of {len(output)}" if isinstance(output, (tuple, list)) else f"that is a {type(output).__name__}"
            raise MeasurementError(f"{name} returned {part} {got}; it must be a list of {len(expected[part])}.")
        named.update({f"{part}[{index}]": pair for index, pair in enumerate(zip(output, expected[part], strict=True))})
    for part, (output, shape) in named.items():
        if not isinstance(output, torch.Tensor):
            raise MeasurementError(f"{name} returned {part} as a {type(output).__name__}; it must be a tensor of shape {list(shape)}.")
        if output.device.type != "meta" and type(output).__module__.partition(".")[0] != "torch":
            raise MeasurementError(
                f"{name} returned {part} as a {type(output).__name__}; it must be a plain tensor, whose numbers are there when it returns."
            )
        if tuple(output.shape) != shape:
            raise MeasurementError(f"{name} returned {part} of shape {list(output.shape)}; it must be {list(shape)}.")
    for part, (output, _) in named.items():
        if output.device.type != "meta" and not bool(torch.isfinite(output).all()):
            bad = int((~torch.isfinite(output)).sum())
            raise NotFiniteOutputs(f"{name} returned {part} with {bad} of {output.numel()} numbers NaN or infinite.")


class TransformerSubject(Subject):
    """A pose transformer alone."""

    def build(self, architecture: Architecture, *, device: str, dtype: torch.dtype, seed: int) -> torch.nn.Module:
        return build(architecture, self.args, device=device, dtype=dtype, seed=seed)

    def inputs(self, *, device: str, dtype: torch.dtype, seed: int) -> Inputs:
        return make_inputs(self.args, self.workload, device=device, dtype=dtype, seed=seed)

    def check(self, outputs: Any, *, name: str) -> None:
        check_outputs(outputs, self.args, self.workload, name=name)

    def renewed(self, inputs: Inputs) -> list[tuple[Tensor, int]]:
        """Maps and queries, along their channels."""
        return [*((each, 1) for each in inputs.srcs), (inputs.query_embed, -1)]

"""Helpers for the tests of the two architectures: weights from names, outputs by name, inputs with noise under the padding."""

from __future__ import annotations

import math
import zlib
from argparse import Namespace

import numpy as np
import torch
from torch import Tensor, nn

from baselines import build_fused_transformer, build_transformer
from efficient import build_accurate_transformer, build_efficient_conv_attention_transformer, build_fused_efficient_transformer
from humar_bench.subjects.transformer import Inputs

BUILDERS = {
    "original": build_transformer,
    "original-fused": build_fused_transformer,
    "efficient": build_efficient_conv_attention_transformer,
    "efficient-fused": build_fused_efficient_transformer,
    "efficient-accurate": build_accurate_transformer,
}

# every switch of the replacement, away from its default
SWITCHES = [
    {},
    {"efficient_encoder_stride": 1},
    {"efficient_encoder_stride": 3},
    {"efficient_cross_tokens": "instance"},
    {"efficient_cross_tokens": "instance", "efficient_memory_stride": 1},
    {"efficient_cross_tokens": "instance", "efficient_memory_stride": 4},
    {"efficient_cross_tokens": "all"},
    {"efficient_local_conv": False},
    {"efficient_value_conv": False},
    {"efficient_window": 2},
    {"efficient_window": 3, "efficient_encoder_stride": 1, "efficient_value_conv": False},
    {"efficient_encoder_samples": False},
    {"efficient_encoder_samples": False, "efficient_encoder_stride": 1},
    {"efficient_point_samples": False},
    {"efficient_point_samples": False, "efficient_cross_tokens": "instance"},
    {"efficient_look_mlp": False},
    {"efficient_instance_iterations": 0},
    {"efficient_graph_bias": False},
    {"efficient_skeleton_hops": 1, "num_body_points": 17},
    {"efficient_skeleton_hops": 2, "efficient_graph_bias": False, "num_body_points": 17},
    {"efficient_sample_heads": 1},
    {"efficient_sample_heads": 2, "efficient_cross_tokens": "all"},
    {"efficient_sample_points": 3, "efficient_rank": 2},
    {"efficient_across_tokens": "all", "efficient_decoder_mlp_ratio": 1},
    {"efficient_decoder": "original", "efficient_decoder_sets": 2},
    {"efficient_nheads": 1},
    {"efficient_mlp_ratio": 3},
    {"efficient_encoder_sets": 2, "efficient_decoder_sets": 3},
]


def fill_from_names(model: nn.Module) -> None:
    """Fill every entry of the state dict from its own name, as the golden files were made."""
    entries = {}
    for name, entry in model.state_dict().items():
        r = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(entry.shape)).astype(np.float32)
        if r.ndim >= 2:
            r = r / math.sqrt(r.shape[-1])
        else:
            r = 1 + 0.1 * r if name.endswith("weight") else 0.1 * r
        entries[name] = torch.from_numpy(np.asarray(r, dtype=np.float32))
    model.load_state_dict(entries)


def golden_inputs(
    args: Namespace, sizes: list[list[int]], pad: bool, batch: int = 2, dtype: torch.dtype = torch.float32
) -> Inputs:
    """The inputs the golden files were made with."""

    def normal(seed: int, *shape: int) -> Tensor:
        return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32)).to(dtype)

    masks = []
    for height, width in sizes:
        mask = torch.zeros(batch, height, width, dtype=torch.bool)
        if pad:
            mask[1, math.ceil(0.75 * height) :] = True
            mask[1, :, math.ceil(0.6 * width) :] = True
        masks.append(mask)
    return Inputs(
        srcs=[normal(100 + level, batch, args.hidden_dim, *size) for level, size in enumerate(sizes)],
        masks=masks,
        pos_embeds=[normal(200 + level, batch, args.hidden_dim, *size) for level, size in enumerate(sizes)],
        query_embed=normal(300, batch, args.num_queries, 1, args.hidden_dim),
    )


def outputs_by_name(outputs: tuple) -> dict[str, Tensor]:
    """The five outputs under the names of the golden files."""
    hs_pose, refpoint_pose, mix_refpoint, mix_embedding, memory_features = outputs
    lists = {"hs_pose": hs_pose, "refpoint_pose": refpoint_pose, "memory_features": memory_features}
    named = {f"{name}_{i}": tensor for name, tensors in lists.items() for i, tensor in enumerate(tensors)}
    return {**named, "mix_refpoint": mix_refpoint, "mix_embedding": mix_embedding}


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with every parameter moved, so that zero-initialised layers take part."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def with_noise_under_padding(inputs: Inputs, scale: float = 1e6) -> Inputs:
    """The same inputs, with random values wherever a mask says padding."""
    generator = torch.Generator().manual_seed(7)

    def noisy(maps: list[Tensor]) -> list[Tensor]:
        noise = [scale * torch.randn(each.shape, generator=generator) for each in maps]
        return [torch.where(mask[:, None], n, each) for each, n, mask in zip(maps, noise, inputs.masks, strict=True)]

    return Inputs(noisy(inputs.srcs), inputs.masks, noisy(inputs.pos_embeds), inputs.query_embed)


def at_valid_places(outputs: tuple, masks: list[Tensor]) -> dict[str, Tensor]:
    """Outputs by name, the memory maps blanked where there is padding."""
    named = outputs_by_name(outputs)
    for level, mask in enumerate(masks[:-1]):
        named[f"memory_features_{level}"] = named[f"memory_features_{level}"].masked_fill(mask[:, None], 0)
    return named

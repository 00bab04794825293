"""Which attention kernel torch takes on a CPU: the fused one in inference, whatever bias the replacement gives it."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from efficient import build_efficient_conv_attention_transformer
from humar_bench.subjects.transformer import make_inputs

FUSED = "_scaled_dot_product_flash_attention_for_cpu"


class Named(TorchDispatchMode):
    """Counts operators by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func.name().removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("changes", "calls"), [
    ({}, 2), ({"efficient_graph_bias": False}, 2), ({"efficient_skeleton_hops": 2, "num_body_points": 17}, 2),
    ({"efficient_cross_tokens": "all"}, 2 + 3), ({"efficient_window": 2}, 2 + 2),
])
def test_every_softmax_attention_is_one_fused_call(changes, calls, tiny_args, tiny_workload):
    """Two whole iterations of three attend within an instance, all three look at the memory, two encoder blocks have windows."""
    model = build_efficient_conv_attention_transformer(dataclasses.replace(tiny_args, **changes)).eval()
    with torch.no_grad(), Named() as seen:
        model(*make_inputs(tiny_args, tiny_workload))
    assert (seen.calls[FUSED], seen.calls["_softmax"]) == (calls, 3 + 1)  # and the weights of samples, each iteration's and the encoder's

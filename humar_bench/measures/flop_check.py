"""The FLOP counter proves itself before it is believed: every form of multiplication a model may use, counted and held against arithmetic.

Tiny modules, some milliseconds each. Sizes are unequal, so that a swapped axis shows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from humar_bench.errors import MeasurementError
from humar_bench.measures import flops

B, T, S, E, F, HEADS = 2, 5, 7, 12, 20, 3  # batch, queries, keys, width, width of the MLP, heads
ATTENTION = 2 * B * T * S * 2 * E  # scores and values, all heads together
SELF_ATTENTION = 2 * B * T * T * 2 * E + 2 * B * T * 4 * E * E  # and the four projections


class _Function(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


class _SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(E, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        return self.attention(x, x, x)


# name -> module, shapes of its inputs, FLOPs by hand: 2 per multiply-add
KNOWN: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...], int]] = {
    "a linear layer": (lambda: nn.Linear(E, F), ((B, T, E),), 2 * B * T * E * F),
    "a batched matrix product": (lambda: _Function(torch.bmm), ((B, T, E), (B, E, S)), 2 * B * T * E * S),
    "an einsum": (lambda: _Function(functools.partial(torch.einsum, "bte,bse->bts")), ((B, T, E), (B, S, E)), 2 * B * T * E * S),
    "a grouped convolution": (lambda: nn.Conv2d(E, 2 * E, 3, groups=3, padding=1), ((B, E, T, S),), 2 * B * 2 * E * T * S * E // 3 * 9),
    "scaled_dot_product_attention": (
        lambda: _Function(nn.functional.scaled_dot_product_attention), tuple((B, HEADS, n, E // HEADS) for n in (T, S, S)), ATTENTION,
    ),
    "nn.MultiheadAttention": (_SelfAttention, ((B, T, E),), SELF_ATTENTION),
    "nn.TransformerEncoderLayer": (
        lambda: nn.TransformerEncoderLayer(E, HEADS, F, batch_first=True), ((B, T, E),), SELF_ATTENTION + 2 * B * T * 2 * E * F,
    ),
}


def check_counter() -> None:
    """Count what is known. Raises MeasurementError naming the first form whose count is wrong."""
    for name, (make, shapes, known) in KNOWN.items():
        with torch.device("meta"):
            module, inputs = make().eval(), [torch.empty(shape) for shape in shapes]
        with torch.no_grad():
            counted = flops.count_flops(module, inputs).matmul_flops
        if counted != known:
            raise MeasurementError(
                f"the FLOP counter gives {counted} for {name} of {known} FLOPs; with torch {torch.__version__} it cannot be trusted."
            )

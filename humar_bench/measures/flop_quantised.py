"""What torch's quantised operators cost: as their floating-point ones, whatever weights are packed as. A rule as in `flop_formulas.py`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from humar_bench.measures.operators import CONVOLUTION, MATMUL

Cost = dict[str, int]


def _linear(result: Tensor, x: Tensor, *_: Any, **__: Any) -> Cost:
    """Weights and bias are in one object."""
    return {MATMUL: 2 * x.numel() * result.shape[-1], "bias": result.numel()}


def _convolution(result: Tensor, x: Tensor, packed: Any, *_: Any, transposed: bool = False) -> Cost:
    weight, bias = packed.unpack()
    sites = x.numel() if transposed else result.numel()
    cost = {CONVOLUTION: 2 * sites * math.prod(weight.shape[1:])}
    return cost if bias is None else {**cost, "bias": result.numel()}


def _transposed(result: Tensor, x: Tensor, packed: Any, *_: Any) -> Cost:
    return _convolution(result, x, packed, transposed=True)


def _matmul(result: Tensor, a: Tensor, *_: Any, **__: Any) -> Cost:
    return {MATMUL: 2 * a.numel() * result.shape[-1]}


def _bags(result: Tensor, packed: Any, indices: Tensor, *_: Any, **__: Any) -> Cost:
    return {"reduction": indices.numel() * result.shape[-1]}


def _free(*_: Any, **__: Any) -> Cost:
    return {"movement": 0}


def _per_element(category: str, flops: int) -> Callable[..., Cost]:
    return lambda result, *_, **__: {category: flops * result.numel()}


_PLANES = (1, 2, 3)
_ELEMENTWISE = ("add add_relu add_scalar add_scalar_relu mul mul_relu mul_scalar mul_scalar_relu clamp relu6 hardswish leaky_relu prelu "
                "threshold dropout").split()
QUANTISED: dict[str, Callable[..., Cost]] = {f"quantized::{name}": rule for name, rule in {
    **dict.fromkeys((f"linear{kind}" for kind in (
        "", "_relu", "_leaky_relu", "_tanh", "_dynamic", "_relu_dynamic", "_dynamic_fp16", "_relu_dynamic_fp16",
        "_with_input_q_dq_qweight_dq_output_fp32", "_with_input_q_dq_qweight_dq_relu_output_fp32")), _linear),
    **dict.fromkeys((f"conv{n}d{kind}" for n in _PLANES for kind in ("", "_relu", "_dynamic", "_add", "_add_relu")), _convolution),
    **dict.fromkeys((f"conv_transpose{n}d{kind}" for n in _PLANES for kind in ("", "_dynamic")), _transposed),
    "matmul": _matmul,
    **dict.fromkeys(("embedding_bag_byte", "embedding_bag_4bit"), _bags),
    **dict.fromkeys(("embedding_byte", "embedding_4bit", "cat", "cat_relu"), _free),
    **dict.fromkeys(_ELEMENTWISE, _per_element("elementwise", 1)),
    **dict.fromkeys(("sigmoid", "elu", "celu"), _per_element("transcendental", 1)),
    "softmax": _per_element("softmax", 5),
    **dict.fromkeys(("layer_norm", "group_norm", "instance_norm"), _per_element("normalisation", 8)),
    **dict.fromkeys((f"batch_norm{kind}" for kind in ("", "1d", "2d", "3d", "_relu", "1d_relu", "2d_relu", "3d_relu")),
                    _per_element("normalisation", 8)),
}.items()}  # fmt: skip

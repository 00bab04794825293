"""What each operator costs: one multiply or one add is 1 FLOP, a multiply-add 2.

The headline tier is matrix multiplication and convolution. The second tier is a convention with the coefficients of `COEFFICIENTS`;
views, data movement, selection and logic are 0 (`operators.py` names them). One that is in no table has no cost here: the count says so, it
never guesses.

A rule takes (result, *args, **kwargs) of the call and gives FLOPs by category. `register_formula` adds a rule for an operator of your own;
what is registered with `torch.utils.flop_counter.register_flop_formula` is used where this file has no rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket

from humar_bench.errors import UsageError
from humar_bench.measures import operators
from humar_bench.measures.flop_quantised import QUANTISED
from humar_bench.measures.operators import CONVOLUTION, MATMUL, first_tensor

COEFFICIENTS = {
    MATMUL: "2 per multiply-add (headline)",
    CONVOLUTION: "2 per multiply-add (headline)",
    "bias": "1 per output element of an operator that adds one (addmm, baddbmm, convolution)",
    "grid_sample": "bilinear: 7 per sampled element, 18 per location; trilinear 15 and 37; bicubic 35 and 62; nearest 0 and 10",
    "interpolation": "per output element: linear 3, bilinear 7, trilinear 15, bicubic 35, nearest 0",
    "pooling": "1 per element of each window; adaptive: 1 per input element",
    "softmax": "5 per element",
    "normalisation": "8 per element",
    "elementwise": "1 per output element, comparisons too (addcmul, addcdiv, glu, native_dropout, to and from quantised 2; lerp, cross 3)",
    "transcendental": "1 per output element",
    "reduction": "1 per input element (norm, distance along one feature 2; losses 3; var, std, logsumexp 4)",
    "movement": "0: copies, casts, gathers, fills, random numbers",
    "selection": "0: sorting, masks, logic",
    "synchronisation": "0: the host waits for a value or a copy",
    "view": "0: nothing is computed or moved",
    "bookkeeping": "0: allocation and checks",
}

Cost = dict[str, int]
Rule = Callable[..., Cost]


def _bias(result: Tensor, is_there: Any = True) -> Cost:
    return {"bias": entries(result)} if is_there is not None else {}


def entries(tensor: Tensor) -> int:
    """Elements that are there: of a sparse tensor those it stores, zeros among them too."""
    if tensor.layout is torch.strided:
        return tensor.numel()
    if tensor.layout is torch.sparse_coo:
        return tensor._values().numel()
    return tensor.values().numel()


def _pairs(a: Tensor, b: Tensor) -> int:
    """Multiply-adds of a matrix product: of dense matrices all, of a sparse one those with its entries."""
    if a.layout is torch.strided and b.layout is torch.strided:
        return a.numel() * b.shape[-1]
    if b.layout is torch.strided:
        return entries(a) * b.shape[-1]
    if a.layout is torch.strided:
        return entries(b) * a.shape[-2]
    columns, rows = (each.to_sparse_coo().coalesce()._indices()[-2 + axis] for each, axis in ((a, 1), (b, 0)))
    return int((torch.bincount(columns, minlength=a.shape[-1]) * torch.bincount(rows, minlength=b.shape[-2])).sum())


def _flops(tensor: Tensor) -> int:
    """FLOPs of one multiply-add: a complex one is four multiplies and four adds."""
    return 8 if tensor.is_complex() else 2


def _mm(result: Tensor, a: Tensor, b: Tensor, *_: Any, **__: Any) -> Cost:
    return {MATMUL: _flops(result) * _pairs(a, b)}


def _addmm(result: Tensor, bias: Tensor, a: Tensor, b: Tensor, *_: Any, **__: Any) -> Cost:
    return {MATMUL: _flops(result) * _pairs(a, b), **_bias(result)}


def _sampled_addmm(result: Tensor, bias: Tensor, a: Tensor, *_: Any, **__: Any) -> Cost:
    """A product of dense matrices where a sparse one has entries."""
    return {MATMUL: _flops(result) * entries(bias) * a.shape[-1], "bias": entries(bias)}


def _packed_mm(result: Tensor, a: Tensor, *_: Any, **__: Any) -> Cost:
    """A product with packed weights: whatever they are packed as, each meets each row."""
    return {MATMUL: 2 * a.numel() * result.shape[-1]}


def _grouped_mm(result: Tensor, a: Tensor, b: Tensor, *_: Any, **__: Any) -> Cost:
    """Products of groups of rows, each with a matrix of its own (routed experts): [M, K] by [G, K, N], or [M, K] by [K, N] cut along K."""
    return {MATMUL: 2 * a.numel() * b.shape[-1]}


def _sparse_mm_reduce(result: Any, a: Tensor, b: Tensor, *_: Any, **__: Any) -> Cost:
    return {MATMUL: 2 * _pairs(a, b)}


def _vector(result: Tensor, a: Tensor, *_: Any, **__: Any) -> Cost:
    """mv, dot, vdot: every element of the first operand is used in one multiply-add."""
    return {MATMUL: _flops(result) * entries(a)}


def _addmv(result: Tensor, bias: Tensor, a: Tensor, *_: Any, **__: Any) -> Cost:
    return {MATMUL: _flops(result) * entries(a), **_bias(result)}


def _addr(result: Tensor, *_: Any, **__: Any) -> Cost:
    return {"elementwise": 2 * result.numel()}  # an outer product has one multiply an element, and here one add


def _trilinear(result: Tensor, a: Tensor, weight: Tensor, b: Tensor, *_: Any, **__: Any) -> Cost:
    """nn.Bilinear: for each output x^T W (I x J multiply-adds), then with y (J)."""
    outputs, left, right = weight.shape[-3:]
    rows = a.numel() // left
    return {MATMUL: 2 * rows * outputs * (left * right + right)}


def _euclidean(result: Tensor, a: Tensor, b: Tensor, *_: Any, **__: Any) -> Cost:
    """|a - b|^2 as one matrix product of rows lengthened by two (their norm and a 1); the norms, then clamp and root."""
    return {MATMUL: 2 * result.numel() * (a.shape[-1] + 2), "reduction": 2 * (a.numel() + b.numel()),
            "elementwise": result.numel(), "transcendental": result.numel()}  # fmt: skip


def _distance(result: Tensor, a: Tensor, b: Tensor, *_: Any, **__: Any) -> Cost:
    """cdist without a matrix product: per pair and feature a subtraction, a power and an add; per pair a root."""
    pairs = result.numel() * a.shape[-1]
    return {"elementwise": pairs, "reduction": 2 * pairs, "transcendental": result.numel()}


def _convolution(result: Tensor, x: Tensor, weight: Tensor, *rest: Any, **kwargs: Any) -> Cost:
    transposed = kwargs.get("transposed", rest[4] if len(rest) > 4 and isinstance(rest[4], bool) else False)
    bias = kwargs.get("bias", next((value for value in rest[:1] if isinstance(value, Tensor)), None))
    sites = x.numel() if transposed else result.numel()  # each meets weight[.., c/groups, kernel]
    return {CONVOLUTION: _flops(result) * sites * math.prod(weight.shape[1:]), **_bias(result, bias)}


def _transposed_convolution(result: Tensor, x: Tensor, weight: Tensor, bias: Any = None, *_: Any, **__: Any) -> Cost:
    return _convolution(result, x, weight, bias, transposed=True)


def _conv_tbc(result: Tensor, x: Tensor, weight: Tensor, *_: Any, **__: Any) -> Cost:
    return {CONVOLUTION: 2 * result.numel() * weight.shape[0] * weight.shape[1], **_bias(result)}


def attention_flops(queries: int, keys: int, qk_width: int, v_width: int, masked: bool) -> Cost:
    """Softmax attention of `queries` rows (heads and batch included) over `keys` each, the mask counted in full also when causal."""
    scores = queries * keys
    return {MATMUL: 2 * scores * (qk_width + v_width), "softmax": 5 * scores, "elementwise": scores * (2 if masked else 1)}


def _sdpa(result: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any = None, *_: Any, **kwargs: Any) -> Cost:
    mask = kwargs.get("attn_mask", kwargs.get("attn_bias", mask))
    masked = isinstance(mask, Tensor) and mask.dtype is not torch.bool
    return attention_flops(q.numel() // q.shape[-1], k.shape[-2], q.shape[-1], v.shape[-1], masked)


def _native_attention(result: Any, query: Tensor, key: Tensor, value: Tensor, width: int, heads: int, *rest: Any, **kwargs: Any) -> Cost:
    batch, queries, _ = query.shape
    keys = key.shape[1]
    mask = kwargs.get("mask", rest[4] if len(rest) > 4 else None)
    weights = kwargs.get("need_weights", rest[5] if len(rest) > 5 else True)
    added = isinstance(mask, Tensor) and mask.dtype is not torch.bool
    cost = attention_flops(batch * heads * queries, keys, width // heads, width // heads, added)
    cost[MATMUL] += 2 * width * width * batch * (2 * queries + 2 * keys)  # Q and output projections, K and V projections
    cost["bias"] = width * batch * (2 * queries + 2 * keys)
    if weights:
        cost["reduction"] = batch * heads * queries * keys
    return cost


def _native_encoder_layer(result: Any, x: Tensor, width: int, heads: int, *rest: Any, **kwargs: Any) -> Cost:
    """`rest`: four projection tensors, gelu or not, norm first, eps, four norm tensors, the two layers of the MLP, mask."""
    gelu, mask = rest[4], kwargs.get("mask", rest[15] if len(rest) > 15 else None)
    cost = _native_attention(result, x, x, x, width, heads, *rest[:4], mask, False)
    tokens, hidden = x.numel() // width, rest[11].shape[0]
    cost[MATMUL] += 2 * tokens * 2 * width * hidden
    cost["bias"] += tokens * (hidden + width)
    cost["normalisation"] = 2 * 8 * x.numel()
    cost["elementwise"] += 2 * x.numel() + (0 if gelu else tokens * hidden)
    cost["transcendental"] = tokens * hidden if gelu else 0
    return cost


def _grid_sample(result: Tensor, x: Tensor, grid: Tensor, mode: int = 0, *_: Any, **__: Any) -> Cost:
    planes = x.dim() - 2
    per_element, per_location = {0: (7, 18) if planes == 2 else (15, 37), 1: (0, 10), 2: (35, 62)}[int(mode)]
    return {"grid_sample": per_element * result.numel() + per_location * (grid.numel() // planes)}


def _window_pool(result: Any, x: Tensor, kernel: Any, *_: Any, **__: Any) -> Cost:
    sizes = [kernel] if isinstance(kernel, int) else list(kernel)
    planes = x.dim() - (1 if x.dim() == 3 else 2)
    window = math.prod(sizes) if len(sizes) > 1 else sizes[0] ** planes
    return {"pooling": first_tensor(result).numel() * window}


def _embedding_bag(result: Any, weight: Tensor, indices: Tensor, *_: Any, **__: Any) -> Cost:
    return {"reduction": indices.numel() * weight.shape[1]}


def _cpu_lstm(result: Any, x: Tensor, input_weight: Tensor, hidden_weight: Tensor, *_: Any, **__: Any) -> Cost:
    """One layer, one direction, all steps: four gates from input and state; three sigmoids and two tanh per cell."""
    gates, inputs = input_weight.shape
    steps, cells = x.numel() // inputs, gates // 4
    return {MATMUL: 2 * steps * (input_weight.numel() + hidden_weight.numel()), "bias": 2 * steps * gates,
            "elementwise": steps * (gates + 4 * cells), "transcendental": 5 * steps * cells}  # fmt: skip


def _scatter_add(result: Any, x: Tensor, dim: int, index: Tensor, source: Tensor, *_: Any, **__: Any) -> Cost:
    return {"elementwise": source.numel()}  # one add for each element that is scattered


def _losses(result: Tensor, x: Tensor, target: Tensor, *_: Any, **__: Any) -> Cost:
    return {"reduction": target.numel()}  # one number of each row


def _deformable_attention(result: Tensor, value: Tensor, padding: Tensor, offsets: Tensor, logits: Tensor, *_: Any) -> Cost:
    """Samples as `grid_sample` counts them, each weighed and summed; a softmax over them; places: a product and a sum a coordinate."""
    sampled = logits.numel() * value.shape[-1]
    return {"grid_sample": 7 * sampled + 18 * logits.numel(), "softmax": 5 * logits.numel(),
            "elementwise": sampled + 2 * offsets.numel(), "reduction": sampled}  # fmt: skip


def _linear_attention(result: Tensor, qkv: Tensor, counts: Tensor | None, heads: int) -> Cost:
    """K^T V and Q (K^T V) with a column of counts; V times the counts, the floor under Q and K, the division."""
    return {MATMUL: 4 * result.numel() * (result.shape[-1] // heads + 1),
            "elementwise": (3 if counts is None else 4) * result.numel()}  # fmt: skip


def _depthwise(result: Tensor, canvas: Tensor, weight: Tensor, bias: Tensor, valid: Tensor | None, residual: Tensor | None) -> Cost:
    added = sum(result.numel() for each in (valid, residual) if each is not None)
    return {CONVOLUTION: 2 * result.numel() * math.prod(weight.shape[1:]), "bias": result.numel(), "elementwise": added}


RULES: dict[str, Rule] = {
    **dict.fromkeys(("mm", "bmm", "_int_mm", "_scaled_mm", "_sparse_mm", "smm", "hspmm", "_sparse_sparse_matmul"), _mm),
    **dict.fromkeys(("addmm", "baddbmm", "addbmm", "_addmm_activation", "_sparse_addmm", "sspaddmm"), _addmm),
    **dict.fromkeys(("_grouped_mm", "_scaled_grouped_mm"), _grouped_mm), "_sparse_mm_reduce_impl": _sparse_mm_reduce,
    "sparse_sampled_addmm": _sampled_addmm, **dict.fromkeys((name.partition("::")[2] for name in operators.PACKED), _packed_mm),
    **dict.fromkeys(("mv", "dot", "vdot"), _vector),
    "addmv": _addmv, "addr": _addr, "_trilinear": _trilinear, "_euclidean_dist": _euclidean, "_cdist_forward": _distance,
    **dict.fromkeys(("convolution", "_convolution", "convolution_overrideable", "mkldnn_convolution", "cudnn_convolution",
                     "_conv_depthwise2d", "conv_depthwise3d", "_slow_conv2d_forward", "slow_conv3d_forward",
                     "slow_conv_dilated2d", "conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed_convolution),
    "conv_tbc": _conv_tbc, "mkldnn_rnn_layer": _cpu_lstm, "nll_loss_forward": _losses, "nll_loss2d_forward": _losses,
    **dict.fromkeys(("index_add", "scatter_add", "scatter_reduce", "index_reduce"), _scatter_add),
    **dict.fromkeys(("scaled_dot_product_attention", "_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_for_cpu",
                     "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
                     "_scaled_dot_product_fused_attention_overrideable", "_scaled_dot_product_attention_math"), _sdpa),
    "_native_multi_head_attention": _native_attention, "_transformer_encoder_layer_fwd": _native_encoder_layer,
    **dict.fromkeys(("grid_sampler_2d", "grid_sampler_3d", "_grid_sampler_2d_cpu_fallback", "cudnn_grid_sampler"), _grid_sample),
    **dict.fromkeys(operators.WINDOWS, _window_pool),
    **dict.fromkeys(("_embedding_bag", "_embedding_bag_forward_only"), _embedding_bag),
}  # fmt: skip
OWN: dict[str, Callable[..., int | Cost]] = {
    **QUANTISED,
    "humar_bench::deformable_attention": _deformable_attention,
    "humar_bench::linear_attention": _linear_attention,
    "humar_bench::depthwise_conv": _depthwise,
}


def qualified_name(op: Any) -> str:
    """'namespace::name' of an operator, a packet of overloads, a custom operator or such a text."""
    if isinstance(op, str) and "::" in op:
        return op
    if isinstance(op, OpOverload):
        return op._schema.name
    if isinstance(op, OpOverloadPacket):
        return op._qualified_op_name
    name = getattr(op, "_qualname", None)
    if name is None:
        raise UsageError(f"{op!r} is not an operator; give a torch.library custom operator, torch.ops.NAMESPACE.NAME or 'NAMESPACE::NAME'.")
    return name


def register_formula(op: Any, formula: Callable[..., int | Cost]) -> None:
    """Let calls of `op` count `formula(result, *args, **kwargs)`: a number (matmul FLOPs) or FLOPs by category of COEFFICIENTS."""
    OWN[qualified_name(op)] = formula


def counted_whole(op: OpOverload, args: tuple = ()) -> bool:
    """Whether a composite operator has a formula itself, so that it is not taken apart. A complex convolution would come apart into three
    real ones; it counts by its complex multiply-adds, as all that is complex."""
    namespace, _, name = op._schema.name.partition("::")
    if name in operators.COMPLEX_WHOLE and isinstance(args[0], Tensor) and args[0].is_complex():
        return True
    return op._schema.name in OWN or (namespace == "aten" and name in operators.WHOLE)


def cost_of(op: Any, name: str, args: tuple, kwargs: dict[str, Any], result: Any) -> tuple[str, Cost] | None:
    """(category of the operator, FLOPs by category) of one call; None when no rule knows the operator."""
    if name in OWN:
        cost = OWN[name](result, *args, **kwargs)
        cost = {MATMUL: cost} if isinstance(cost, int) else cost
        return next(iter(cost), MATMUL), cost
    namespace, _, base = name.partition("::")
    if namespace == "profiler":
        return operators.BOOKKEEPING, {}
    if namespace in ("aten", "prims"):
        base = base if base.startswith("__") else base.rstrip("_")
        found = _aten_cost(op, base, name, args, kwargs, result)
        if found is not None:
            return found
    return _registered_with_torch(op, args, kwargs, result)


def _aten_cost(op: OpOverload, base: str, name: str, args: tuple, kwargs: dict[str, Any], result: Any) -> tuple[str, Cost] | None:
    if base in RULES:
        cost = RULES[base](result, *args, **kwargs)
        return next(iter(cost)), cost
    free = operators.free_category(op, base, name.partition("::")[2], args, kwargs)
    if free is not None:
        return free, {}
    out, source = first_tensor(result), first_tensor(args)
    made, read = entries(out) if out is not None else 0, entries(source) if source is not None else 0
    if base in operators.SOFTMAX:
        return "softmax", {"softmax": 5 * made}
    if base in operators.NORMALISATION:
        return "normalisation", {"normalisation": 8 * made}
    if base in operators.TRANSCENDENTAL:
        return "transcendental", {"transcendental": made}
    if base in operators.ELEMENTWISE:
        return "elementwise", {"elementwise": operators.ELEMENTWISE[base] * made}
    if base in operators.INTERPOLATION:
        return "interpolation", {"interpolation": operators.INTERPOLATION[base] * made}
    if base in operators.ADAPTIVE_POOLING:
        return "pooling", {"pooling": read}
    if base in operators.REDUCTION and op._overloadname not in ("other", "binary_out"):
        return "reduction", {"reduction": operators.REDUCTION[base] * read}
    if torch.Tag.pointwise in op.tags or torch.Tag.pointwise in _functional_tags(base):
        return "elementwise", {"elementwise": made}
    return None


def _functional_tags(base: str) -> list:
    packet = getattr(torch.ops.aten, base, None)
    return [tag for name in packet.overloads() for tag in getattr(packet, name).tags] if isinstance(packet, OpOverloadPacket) else []


def _registered_with_torch(op: Any, args: tuple, kwargs: dict[str, Any], result: Any) -> tuple[str, Cost] | None:
    from torch.utils.flop_counter import flop_registry

    formula = flop_registry.get(op.overloadpacket if isinstance(op, OpOverload) else op)
    if formula is None:
        return None
    return MATMUL, {MATMUL: int(formula(*args, **kwargs, out_val=result))}

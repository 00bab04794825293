"""What each operator costs: one multiply or one add is 1 FLOP, a multiply-add 2.

The headline tier is matrix multiplication and convolution. The second tier is a convention with the coefficients of `COEFFICIENTS`;
views, data movement, selection and logic are 0. An operator that is in no table has no cost here: the count says so, it never guesses.

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

MATMUL, CONVOLUTION = "matmul", "convolution"
HEADLINE = (MATMUL, CONVOLUTION)
VIEW, BOOKKEEPING, MOVEMENT, SELECTION, SYNCHRONISATION = "view", "bookkeeping", "movement", "selection", "synchronisation"
NO_KERNEL = (VIEW, BOOKKEEPING)

COEFFICIENTS = {
    MATMUL: "2 per multiply-add (headline)",
    CONVOLUTION: "2 per multiply-add (headline)",
    "bias": "1 per output element of an operator that adds one (addmm, baddbmm, convolution)",
    "grid_sample": "bilinear: 7 per sampled element, 18 per location; trilinear 15 and 37; bicubic 35 and 62; nearest 0 and 10",
    "interpolation": "per output element: linear 3, bilinear 7, trilinear 15, bicubic 35, nearest 0",
    "pooling": "1 per element of each window; adaptive: 1 per input element",
    "softmax": "5 per element",
    "normalisation": "8 per element",
    "elementwise": "1 per output element, comparisons too (addcmul, addcdiv, glu, native_dropout 2; lerp 3)",
    "transcendental": "1 per output element",
    "reduction": "1 per input element (norm, distance along one feature 2; var, std, logsumexp 4)",
    "movement": "0: copies, casts, gathers, fills, random numbers",
    "selection": "0: sorting, masks, logic",
    "synchronisation": "0: the host waits for a value or a copy",
    "view": "0: nothing is computed or moved",
    "bookkeeping": "0: allocation and checks",
}


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


TRANSCENDENTAL = _names(
    "acos acosh asin asinh atan atan2 atanh celu cos cosh digamma elu erf erfc erfinv exp exp2 expm1 float_power gelu hypot igamma igammac "
    "lgamma log log10 log1p log2 log_sigmoid_forward logaddexp logaddexp2 logit mish mvlgamma pow polar polygamma rsqrt selu sigmoid silu "
    "sin sinc sinh softplus sqrt tan tanh xlogy i0"
)
ELEMENTWISE = {
    **dict.fromkeys(_names("_prelu_kernel abs floor_divide hardswish rrelu_with_noise threshold"), 1),
    **dict.fromkeys(_names("addcmul addcdiv glu native_dropout _fused_dropout"), 2),
    "lerp": 3,
}
REDUCTION = {
    **dict.fromkeys(_names("sum mean amax amin aminmax _aminmax max min prod any all argmax argmin cumsum cumprod cummax cummin"), 1),
    **dict.fromkeys(_names("nansum count_nonzero trace median nanmedian kthvalue mode _cummax_helper _cummin_helper logcumsumexp"), 1),
    **dict.fromkeys(_names("_sparse_sum _sparse_csr_sum"), 1),
    **dict.fromkeys(_names("linalg_vector_norm norm dist"), 2),
    **dict.fromkeys(_names("var std var_mean std_mean logsumexp"), 4),
}
SOFTMAX = _names("_sparse_softmax _sparse_log_softmax _softmax _log_softmax _safe_softmax _masked_softmax softmax log_softmax")
NORMALISATION = _names(
    "native_layer_norm native_group_norm native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_functional "
    "_native_batch_norm_legit_no_training _batch_norm_with_update _batch_norm_with_update_functional _batch_norm_no_update "
    "cudnn_batch_norm rms_norm _fused_rms_norm _weight_norm_interface renorm"
)
INTERPOLATION = {"upsample_linear1d": 3, "upsample_bilinear2d": 7, "_upsample_bilinear2d_aa": 7, "upsample_trilinear3d": 15,
                 "upsample_bicubic2d": 35, "_upsample_bicubic2d_aa": 35}  # fmt: skip
WINDOWS = _names("avg_pool1d avg_pool2d avg_pool3d max_pool2d_with_indices max_pool3d_with_indices max_pool2d max_pool3d")
ADAPTIVE_POOLING = _names("_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d")
EMPTY = _names(
    "empty empty_like empty_strided empty_permuted new_empty new_empty_strided set_ resize_ resize_as_ record_stream is_same_size sym_size "
    "sym_stride sym_numel sym_storage_offset _assert_tensor_metadata _assert_async _functional_assert_async is_pinned _fused_sdp_choice "
    "_has_compatible_shallow_copy_type _nested_tensor_size sym_constrain_range sym_constrain_range_for_size _print "
    "_linalg_check_errors _nnz _dimI _dimV sparse_dim dense_dim is_coalesced _coalesced sparse_resize_ sparse_resize_and_clear_ "
    "_validate_sparse_coo_tensor_args _validate_compressed_sparse_indices _validate_sparse_compressed_tensor_args"
)
VIEWS_IN_PLACE = _names(
    "lift squeeze_ t_ transpose_ unsqueeze_ detach_ as_strided_ _unsafe_view _indices _values crow_indices col_indices ccol_indices "
    "row_indices"
)
MOVED = _names(
    "arange bernoulli block_diag cat channel_shuffle clone _lazy_clone col2im complex constant_pad_nd contiguous copy copy_ _copy_from "
    "cauchy diag_embed diagonal_scatter embedding eye exponential fill flip full full_like gather im2col index index_copy index_fill "
    "index_put _index_put_impl index_select "
    "geometric linspace log_normal logspace masked_scatter new_full new_ones new_zeros normal normal_functional ones ones_like "
    "_pack_padded_sequence repeat_interleave "
    "pixel_shuffle pixel_unshuffle put rand rand_like randint randint_like randn randn_like random randperm range reflection_pad1d "
    "reflection_pad2d reflection_pad3d repeat replication_pad1d replication_pad2d replication_pad3d roll rot90 scalar_tensor scatter "
    "select_scatter slice_scatter as_strided_scatter split_with_sizes_copy stack _stack take _to_copy tril tril_indices triu triu_indices "
    "uniform unsafe_split unsafe_split_with_sizes _unsafe_index _unsafe_index_put upsample_nearest1d upsample_nearest2d upsample_nearest3d "
    "_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d max_unpool2d max_unpool3d zero zeros zeros_like "
    "_to_sparse _to_sparse_csr _to_sparse_csc _to_sparse_bsr _to_sparse_bsc _to_dense to_dense sparse_mask _sparse_mask_projection "
    "sparse_coo_tensor _sparse_coo_tensor_with_dims _sparse_coo_tensor_with_dims_and_tensors _sparse_coo_tensor_unsafe _coalesce "
    "sparse_compressed_tensor _sparse_compressed_tensor_unsafe _sparse_compressed_tensor_with_dims _sparse_broadcast_to "
    "_convert_indices_from_coo_to_csr _convert_indices_from_csr_to_coo "
    "_pin_memory _conj_physical _efficientzerotensor to_padded_tensor bartlett_window blackman_window hamming_window hann_window "
    "kaiser_window"
)
SELECTED = _names(
    "where masked_fill topk sort bucketize searchsorted bincount histc isin multinomial nonzero_static bitwise_and bitwise_or bitwise_xor "
    "bitwise_not logical_and logical_or logical_xor logical_not __and__ __or__ __xor__ __iand__ __ior__ __ixor__ __lshift__ __rshift__ "
    "isnan isinf isfinite isneginf isposinf sgn sign signbit bitwise_left_shift bitwise_right_shift"
)
WAITING = _names(
    "_local_scalar_dense nonzero masked_select unique_dim _unique _unique2 unique_consecutive unique_dim_consecutive equal is_nonzero "
    "allclose _is_all_true _is_any_true"
)

# (input, packed weights, ...): weights of 4 or 8 bits, several of them in one element of the tensor that holds them
PACKED = {f"aten::{name}" for name in (
    "_weight_int4pack_mm", "_weight_int4pack_mm_for_cpu", "_weight_int4pack_mm_with_scales_and_zeros", "_weight_int8pack_mm",
    "_dyn_quant_matmul_4bit")}  # fmt: skip

Cost = dict[str, int]
Rule = Callable[..., Cost]


def first_tensor(values: Any) -> Tensor | None:
    """The first tensor among the results or arguments of a call."""
    if isinstance(values, Tensor):
        return values
    for value in values if isinstance(values, (tuple, list)) else ():
        if (found := first_tensor(value)) is not None:
            return found
    return None


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


def _packed_linear(result: Tensor, a: Tensor, *_: Any, **__: Any) -> Cost:
    """torch's int8 linear layers: weights and bias are in one object."""
    return {MATMUL: 2 * a.numel() * result.shape[-1], **_bias(result)}


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
    "sparse_sampled_addmm": _sampled_addmm, **dict.fromkeys((name.partition("::")[2] for name in PACKED), _packed_mm),
    **dict.fromkeys(("mv", "dot", "vdot"), _vector),
    "addmv": _addmv, "addr": _addr, "_trilinear": _trilinear, "_euclidean_dist": _euclidean, "_cdist_forward": _distance,
    **dict.fromkeys(("convolution", "_convolution", "convolution_overrideable", "mkldnn_convolution", "cudnn_convolution",
                     "_conv_depthwise2d", "conv_depthwise3d", "_slow_conv2d_forward", "slow_conv3d_forward",
                     "slow_conv_dilated2d", "conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed_convolution),
    "conv_tbc": _conv_tbc, "mkldnn_rnn_layer": _cpu_lstm, "index_add": _scatter_add, "scatter_add": _scatter_add,
    **dict.fromkeys(("scaled_dot_product_attention", "_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_for_cpu",
                     "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
                     "_scaled_dot_product_fused_attention_overrideable", "_scaled_dot_product_attention_math"), _sdpa),
    "_native_multi_head_attention": _native_attention, "_transformer_encoder_layer_fwd": _native_encoder_layer,
    **dict.fromkeys(("grid_sampler_2d", "grid_sampler_3d", "_grid_sampler_2d_cpu_fallback", "cudnn_grid_sampler"), _grid_sample),
    **dict.fromkeys(WINDOWS, _window_pool),
    **dict.fromkeys(("_embedding_bag", "_embedding_bag_forward_only"), _embedding_bag),
}  # fmt: skip
# composite for torch, yet one kernel where it matters
WHOLE = {"scaled_dot_product_attention", "native_batch_norm", "rms_norm", *INTERPOLATION, *(name for name in MOVED if "upsample_" in name)}
COMPLEX_WHOLE = {f"conv{kind}{planes}d" for kind in ("", "_transpose") for planes in (1, 2, 3)}
OWN: dict[str, Callable[..., int | Cost]] = {
    **dict.fromkeys((f"quantized::linear{kind}" for kind in ("", "_relu", "_dynamic", "_relu_dynamic", "_dynamic_fp16",
                                                             "_relu_dynamic_fp16")), _packed_linear),
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
    if name in COMPLEX_WHOLE and isinstance(args[0], Tensor) and args[0].is_complex():
        return True
    return op._schema.name in OWN or (namespace == "aten" and name in WHOLE)


def cost_of(op: Any, name: str, args: tuple, kwargs: dict[str, Any], result: Any) -> tuple[str, Cost] | None:
    """(category of the operator, FLOPs by category) of one call; None when no rule knows the operator."""
    if name in OWN:
        cost = OWN[name](result, *args, **kwargs)
        cost = {MATMUL: cost} if isinstance(cost, int) else cost
        return next(iter(cost), MATMUL), cost
    namespace, _, base = name.partition("::")
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
    free = _free_category(op, base, name.partition("::")[2], args, kwargs)
    if free is not None:
        return free, {}
    out, source = first_tensor(result), first_tensor(args)
    made, read = entries(out) if out is not None else 0, entries(source) if source is not None else 0
    if base in SOFTMAX:
        return "softmax", {"softmax": 5 * made}
    if base in NORMALISATION:
        return "normalisation", {"normalisation": 8 * made}
    if base in TRANSCENDENTAL:
        return "transcendental", {"transcendental": made}
    if base in ELEMENTWISE:
        return "elementwise", {"elementwise": ELEMENTWISE[base] * made}
    if base in INTERPOLATION:
        return "interpolation", {"interpolation": INTERPOLATION[base] * made}
    if base in ADAPTIVE_POOLING:
        return "pooling", {"pooling": read}
    if base in REDUCTION and op._overloadname not in ("other", "binary_out"):
        return "reduction", {"reduction": REDUCTION[base] * read}
    if torch.Tag.pointwise in op.tags or torch.Tag.pointwise in _functional_tags(base):
        return "elementwise", {"elementwise": made}
    return None


def _free_category(op: OpOverload, base: str, name: str, args: tuple, kwargs: dict[str, Any]) -> str | None:
    """The category of an operator that costs no FLOP, or None."""
    if base in WAITING or _waits(base, args, kwargs):
        return SYNCHRONISATION
    if base in EMPTY:
        return BOOKKEEPING
    if base in MOVED or name in MOVED:
        return MOVEMENT
    if base in SELECTED:
        return SELECTION
    return VIEW if op.is_view or name in VIEWS_IN_PLACE else None


def _waits(base: str, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Copies between host and device, boolean indexing, and repeats whose number is on the device: the host waits for each."""
    if base in ("_to_copy", "copy"):
        here = first_tensor(args).device.type
        there = args[1].device.type if base == "copy" and isinstance(args[1], Tensor) else torch.device(kwargs.get("device") or here).type
        return here != there
    if base in ("index", "index_put", "_index_put_impl", "_unsafe_index"):
        return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return base == "repeat_interleave" and isinstance(args[-1], Tensor) and kwargs.get("output_size") is None


def _functional_tags(base: str) -> list:
    packet = getattr(torch.ops.aten, base, None)
    return [tag for name in packet.overloads() for tag in getattr(packet, name).tags] if isinstance(packet, OpOverloadPacket) else []


def _registered_with_torch(op: Any, args: tuple, kwargs: dict[str, Any], result: Any) -> tuple[str, Cost] | None:
    from torch.utils.flop_counter import flop_registry

    formula = flop_registry.get(op.overloadpacket if isinstance(op, OpOverload) else op)
    if formula is None:
        return None
    return MATMUL, {MATMUL: int(formula(*args, **kwargs, out_val=result))}

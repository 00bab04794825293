"""Which operators of torch belong together: by what they compute, and by what they do without computing anything."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

MATMUL, CONVOLUTION = "matmul", "convolution"
HEADLINE = (MATMUL, CONVOLUTION)
VIEW, BOOKKEEPING, MOVEMENT, SELECTION, SYNCHRONISATION = "view", "bookkeeping", "movement", "selection", "synchronisation"
NO_KERNEL = (VIEW, BOOKKEEPING)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


TRANSCENDENTAL = _names(
    "acos acosh asin asinh atan atan2 atanh celu cos cosh digamma elu erf erfc erfinv exp exp2 expm1 float_power gelu hypot igamma igammac "
    "lgamma log log10 log1p log2 log_sigmoid_forward logaddexp logaddexp2 logit mish mvlgamma pow polar polygamma rsqrt selu sigmoid silu "
    "sin sinc sinh softplus sqrt tan tanh xlogy i0"
)
ELEMENTWISE = {
    **dict.fromkeys(_names("_prelu_kernel abs floor_divide hardswish rrelu_with_noise threshold _prelu_kernel_backward elu_backward"), 1),
    **dict.fromkeys(_names("hardtanh_backward leaky_relu_backward softplus_backward"), 1),
    **dict.fromkeys(_names("addcmul addcdiv glu native_dropout _fused_dropout quantize_per_tensor quantize_per_tensor_dynamic "
                           "quantize_per_channel dequantize _fused_moving_avg_obs_fq_helper fake_quantize_per_tensor_affine "
                           "fake_quantize_per_tensor_affine_cachemask fake_quantize_per_channel_affine_cachemask "
                           "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams"), 2),
    **dict.fromkeys(_names("linalg_cross"), 3),
    "lerp": 3,
}
REDUCTION = {
    **dict.fromkeys(_names("sum mean amax amin aminmax _aminmax max min prod any all argmax argmin cumsum cumprod cummax cummin"), 1),
    **dict.fromkeys(_names("nansum count_nonzero trace median nanmedian kthvalue mode _cummax_helper _cummin_helper logcumsumexp"), 1),
    **dict.fromkeys(_names("_sparse_sum _sparse_csr_sum segment_reduce histogram"), 1),
    **dict.fromkeys(_names("linalg_vector_norm norm dist"), 2),
    **dict.fromkeys(_names("mse_loss smooth_l1_loss huber_loss soft_margin_loss binary_cross_entropy binary_cross_entropy_with_logits"), 3),
    **dict.fromkeys(_names("var std var_mean std_mean logsumexp"), 4),
}
SOFTMAX = _names(
    "_softmax_backward_data _log_softmax_backward_data _sparse_softmax _sparse_log_softmax _softmax _log_softmax _safe_softmax "
    "_masked_softmax softmax log_softmax"
)
NORMALISATION = _names(
    "native_layer_norm native_group_norm native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_functional "
    "_native_batch_norm_legit_no_training _batch_norm_with_update _batch_norm_with_update_functional _batch_norm_no_update "
    "native_layer_norm_backward native_group_norm_backward native_batch_norm_backward cudnn_batch_norm rms_norm _fused_rms_norm "
    "_weight_norm_interface renorm"
)
INTERPOLATION = {"upsample_linear1d": 3, "upsample_bilinear2d": 7, "_upsample_bilinear2d_aa": 7, "upsample_trilinear3d": 15,
                 "upsample_bicubic2d": 35, "_upsample_bicubic2d_aa": 35}  # fmt: skip
WINDOWS = _names("avg_pool1d avg_pool2d avg_pool3d max_pool2d_with_indices max_pool3d_with_indices max_pool2d max_pool3d")
ADAPTIVE_POOLING = _names("_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d")
EMPTY = _names(
    "empty empty_like empty_strided empty_permuted new_empty new_empty_strided set_ resize_ resize_as_ record_stream is_same_size sym_size "
    "sym_stride sym_numel sym_storage_offset _assert_tensor_metadata _assert_async _functional_assert_async is_pinned _fused_sdp_choice "
    "_has_compatible_shallow_copy_type _has_same_storage_numel _nested_tensor_size sym_constrain_range sym_constrain_range_for_size _print "
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
    "index_put _index_put_impl index_select geometric linspace log_normal logspace masked_scatter new_full new_ones new_zeros normal "
    "normal_functional ones ones_like _pack_padded_sequence repeat_interleave pixel_shuffle pixel_unshuffle put rand rand_like randint "
    "randint_like randn randn_like random randperm range reflection_pad1d reflection_pad2d reflection_pad3d repeat replication_pad1d "
    "replication_pad2d replication_pad3d roll rot90 scalar_tensor scatter select_scatter slice_scatter as_strided_scatter "
    "split_with_sizes_copy stack _stack take _to_copy tril tril_indices triu triu_indices uniform unsafe_split unsafe_split_with_sizes "
    "_unsafe_index _unsafe_index_put upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d "
    "_upsample_nearest_exact2d _upsample_nearest_exact3d max_unpool2d max_unpool3d zero zeros zeros_like _to_sparse _to_sparse_csr "
    "_to_sparse_csc _to_sparse_bsr _to_sparse_bsc _to_dense to_dense sparse_mask _sparse_mask_projection sparse_coo_tensor "
    "_sparse_coo_tensor_with_dims _sparse_coo_tensor_with_dims_and_tensors _sparse_coo_tensor_unsafe _coalesce sparse_compressed_tensor "
    "_sparse_compressed_tensor_unsafe _sparse_compressed_tensor_with_dims _sparse_broadcast_to _convert_indices_from_coo_to_csr "
    "_convert_indices_from_csr_to_coo alias_copy as_strided_copy diagonal_copy expand_copy narrow_copy permute_copy squeeze_copy t_copy "
    "transpose_copy unbind_copy unfold_copy unsqueeze_copy view_copy select_backward slice_backward unfold_backward "
    "reflection_pad1d_backward reflection_pad2d_backward _chunk_cat _unsafe_masked_index _pin_memory _conj_physical "
    "_efficientzerotensor to_padded_tensor bartlett_window blackman_window hamming_window hann_window kaiser_window"
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
# composite for torch, yet one kernel where it matters
WHOLE = {"scaled_dot_product_attention", "native_batch_norm", "rms_norm", *INTERPOLATION, *(name for name in MOVED if "upsample_" in name)}
COMPLEX_WHOLE = {f"conv{kind}{planes}d" for kind in ("", "_transpose") for planes in (1, 2, 3)}


def first_tensor(values: Any) -> Tensor | None:
    """The first tensor among the results or arguments of a call."""
    if isinstance(values, Tensor):
        return values
    for value in values if isinstance(values, (tuple, list)) else ():
        if (found := first_tensor(value)) is not None:
            return found
    return None


def free_category(op: OpOverload, base: str, name: str, args: tuple, kwargs: dict[str, Any]) -> str | None:
    """The category of an operator that costs no FLOP, or None."""
    if base in WAITING or _waits(base, args, kwargs):
        return SYNCHRONISATION
    if base in EMPTY or name in EMPTY:
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

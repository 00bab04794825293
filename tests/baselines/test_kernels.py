"""The Triton kernels: run by Triton's interpreter on the CPU, compiled for GPUs that need not be there, and wrapped as operators of torch.

Triton reads TRITON_INTERPRET when a kernel is defined, so that what runs interpreted runs in a process of its own: tests/interpreted/.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from baselines.deformable_op import deformable_attention_op
from baselines.weighted_rows import weighted_rows
from efficient.kernel_ops import depthwise_conv_op, linear_attention_op
from efficient.layers import NO_WEIGHT, EfficientLinearAttention
from humar_bench.args import ModelArgs, Workload
from humar_bench.measures.flops import count_flops
from humar_bench.measures.live_memory import track_peak
from humar_bench.subjects.registry import build
from humar_bench.subjects.transformer import make_inputs
from tests.models import outputs_by_name
from tests.tolerance import assert_close

HERE = Path(__file__).parents[1]
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed; it is for Linux only")


def deformable_arguments(dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple:
    """value, padding, offsets, logits, points, sizes, shapes of a small call, strided as a model has them."""
    torch.manual_seed(0)
    batch, tokens, heads, depth, samples, shapes = 2, 3, 2, 4, 2, [(3, 4), (2, 1)]
    memory, levels, exact = sum(height * width for height, width in shapes), len(shapes), torch.promote_types(dtype, torch.float32)
    arguments = (
        torch.randn(batch, memory, heads, depth).to(dtype), torch.rand(batch, memory) < 0.3,
        torch.randn(batch, tokens, heads, levels, samples, 2).to(dtype), torch.randn(batch, tokens, heads, levels * samples).to(dtype),
        torch.rand(batch, tokens, levels, 2).to(exact), torch.tensor([[width, height] for height, width in shapes]).to(exact),
    )  # fmt: skip
    return (*(each.to(device) for each in arguments), [side for shape in shapes for side in shape])


@needs_triton
def test_the_kernels_equal_plain_pytorch_in_tritons_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(HERE / "interpreted" / "checks.py")]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=HERE.parent, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout) and "skipped" not in done.stdout


def compiled(kernel, constants: dict[str, int], types: dict[str, str], capability: int):
    """A kernel for one kind of GPU; what is not in `types` is a 32-bit integer."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in kernel.arg_names}
    source = ASTSource(kernel, signature=signature, constexprs=constants)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32))


@needs_triton
@pytest.mark.parametrize("number", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_the_deformable_kernel_compiles_for_a_gpu_that_is_not_there(number, monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from baselines.deformable_kernel import deformable_attention_kernel

    constants = {"HEADS": 8, "CHANNELS": 32, "LEVELS": 3, "POINTS": 4, "BLOCK_T": 16, "BLOCK_D": 32, "BLOCK_N": 16}
    types = {**dict.fromkeys(("value", "out", "offsets", "logits"), f"*{number}"), "points": "*fp32", "sizes": "*fp32", "padding": "*u8"}
    assert compiled(deformable_attention_kernel, constants, types, 90).asm["cubin"]


@needs_triton
@pytest.mark.parametrize("number", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_the_replacements_kernels_compile_for_a_gpu_that_is_not_there(number, monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from efficient import kernels

    head = {"HEADS": 4, "DEPTH": 64, "BLOCK_T": kernels.BLOCK_T, "BLOCK_D": 64, "FLOOR": 1e-6, "PRECISION": "ieee"}
    floats = dict.fromkeys(("counts", "sums"), "*fp32")
    floats |= dict.fromkeys(("qkv", "out", "canvas", "weight", "bias", "residual"), f"*{number}")
    for kernel, constants in (
        (kernels.key_value_sums_kernel, {**head, "COUNTED": True}),
        (kernels.attend_kernel, head),
        (kernels.depthwise_kernel, {"CHANNELS": 256, "MASKED": True, "ADDED": True, "BLOCK_P": 32, "BLOCK_C": 64}),
    ):
        assert compiled(kernel, constants, {**floats, "valid": "*fp32"}, 90).asm["cubin"]


def test_the_operator_without_a_kernel_is_plain_pytorch_and_padding_counts_as_zero():
    value, padding, offsets, logits, points, sizes, shapes = arguments = deformable_arguments(torch.float64)
    made = deformable_attention_op(*arguments)
    blank = value.masked_fill(padding[:, :, None, None], 0)
    expected = weighted_rows(blank, offsets, logits, points, sizes, list(zip(shapes[::2], shapes[1::2], strict=True)))
    assert_close(made, expected)
    value[padding] = float("nan")
    assert_close(deformable_attention_op(*arguments), expected)


def test_the_replacements_operators_without_a_kernel_are_its_own_functions():
    torch.manual_seed(0)
    layer = EfficientLinearAttention(8, heads=2, value_conv=True).double()
    x, counts = torch.randn(2, 12, 8, dtype=torch.float64), torch.ones(2, 12, 1, dtype=torch.float64)
    counts[1, 5:] = NO_WEIGHT
    with torch.no_grad():
        qkv, valid = layer.qkv(x), counts.unflatten(1, (3, 4))
        attended = linear_attention_op(qkv, counts, 2).unflatten(1, (3, 4))
        conv = layer.value_conv
        added = depthwise_conv_op(qkv[..., 16:].unflatten(1, (3, 4)), conv.weight, conv.bias, valid, attended)
        assert_close(layer.out(added.flatten(1, 2)), layer(x, counts, (3, 4)), terms=12 * 8)


def test_the_operators_pass_torchs_own_checks():
    canvas, weight = torch.randn(2, 3, 4, 8), torch.randn(8, 1, 3, 3)
    for operator, arguments in (
        (deformable_attention_op, deformable_arguments()),
        (linear_attention_op, (torch.randn(2, 5, 24), torch.ones(2, 5, 1), 2)),
        (linear_attention_op, (torch.randn(2, 5, 24), None, 1)),
        (depthwise_conv_op, (canvas, weight, torch.randn(8), torch.ones(2, 3, 4, 1), canvas)),
        (depthwise_conv_op, (canvas, weight, torch.randn(8), None, None)),
    ):
        torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


def test_compile_and_export_keep_the_operator_as_one_call():
    class Call(torch.nn.Module):
        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            return deformable_attention_op(*tensors, [3, 4, 2, 1]) + 1

    *tensors, _ = deformable_arguments(torch.float64)
    with torch.no_grad():
        expected = Call()(*tensors)
        assert_close(torch.compile(Call(), fullgraph=True, backend="aot_eager")(*tensors), expected)
        program = torch.export.export(Call(), tuple(tensors))
    assert "humar_bench.deformable_attention" in program.graph_module.code
    assert_close(program.module()(*tensors), expected)


def test_on_a_device_with_the_kernel_a_model_is_one_call_a_layer_and_counts_fewer_kernels(tiny_args, tiny_workload):
    inputs = make_inputs(tiny_args, tiny_workload, device="meta")
    counts = {name: count_flops(build(name, tiny_args, device="meta"), inputs, strict=True) for name in ("original", "original-fused")}
    rows = {row.operator: row for row in counts["original-fused"].operators}
    assert rows["humar_bench::deformable_attention"].calls == tiny_args.enc_layers + tiny_args.dec_layers
    assert rows["humar_bench::deformable_attention"].matmul_flops == 0
    assert counts["original-fused"].kernels < 0.75 * counts["original"].kernels
    assert counts["original-fused"].uncounted == ()


def test_the_replacements_kernels_save_kernels_and_no_multiplication(tiny_args, tiny_workload):
    inputs = make_inputs(tiny_args, tiny_workload, device="meta")
    plain, fused = (count_flops(build(name, tiny_args, device="meta"), inputs, strict=True) for name in ("efficient", "efficient-fused"))
    assert fused.matmul_flops == plain.matmul_flops
    assert fused.kernels < plain.kernels - 8 * tiny_args.efficient_enc_layers
    calls = {row.operator: row.calls for row in fused.operators}
    assert calls["humar_bench::linear_attention"] == tiny_args.efficient_enc_layers + tiny_args.dec_layers
    assert calls["humar_bench::depthwise_conv"] == tiny_args.efficient_enc_layers + 3  # on V, two local ones, the smoothing one


def test_a_head_too_wide_for_the_kernel_stays_with_plain_pytorch(tiny_args, tiny_workload):
    wide = dataclasses.replace(tiny_args, hidden_dim=136, efficient_nheads=1)
    count = count_flops(build("efficient-fused", wide, device="meta"), make_inputs(wide, tiny_workload, device="meta"), strict=True)
    assert "humar_bench::linear_attention" not in {row.operator for row in count.operators}


def test_the_replacement_with_kernels_has_its_weights_and_without_a_kernel_its_very_outputs(tiny_args, tiny_workload):
    plain, fused = build("efficient", tiny_args, seed=2), build("efficient-fused", tiny_args, seed=2)
    assert list(plain.state_dict()) == list(fused.state_dict()) and plain.built == fused.built
    inputs = make_inputs(tiny_args, tiny_workload)
    with torch.inference_mode():
        one, other = outputs_by_name(plain(*inputs)), outputs_by_name(fused(*inputs))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_operators_second_tier_is_what_the_plain_one_counts(tiny_args, tiny_workload):
    inputs = make_inputs(tiny_args, tiny_workload, device="meta")
    tiers = {name: count_flops(build(name, tiny_args, device="meta"), inputs).second_tier for name in ("original", "original-fused")}
    assert tiers["original"]["grid_sample"] == tiers["original-fused"]["grid_sample"] > 0


def test_no_sample_is_stored_on_a_device_with_the_kernel():
    args = ModelArgs(num_feature_levels=3, enc_layers=1, dec_layers=1)
    workload = dataclasses.replace(Workload.speed_test(), num_queries=20)
    peaks = {}
    for name in ("original", "original-fused"):
        model = build(name, args, device="meta")
        peaks[name] = track_peak(model, make_inputs(args, workload, device="meta")).peak_bytes
    samples = 4 * 15000 * 256 * 4 * 3  # bytes: tokens, width, points, levels
    assert peaks["original"] > 3 * samples and peaks["original-fused"] < 0.3 * peaks["original"]

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
from humar_bench.args import ModelArgs, Workload
from humar_bench.inputs import make_inputs
from humar_bench.measures.flops import count_flops
from humar_bench.measures.memory import track_peak
from humar_bench.registry import build

HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed; it is for Linux only")


def deformable_arguments(dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple:
    """value, padding, offsets, logits, points, sizes, shapes of a small call, strided as a model has them."""
    torch.manual_seed(0)
    batch, tokens, heads, depth, samples, shapes = 2, 3, 2, 4, 2, [(3, 4), (2, 1)]
    memory, levels = sum(height * width for height, width in shapes), len(shapes)
    arguments = (
        torch.randn(batch, memory, heads, depth).to(dtype), torch.rand(batch, memory) < 0.3,
        torch.randn(batch, tokens, heads, levels, samples, 2).to(dtype), torch.randn(batch, tokens, heads, levels * samples).to(dtype),
        torch.rand(batch, tokens, levels, 2), torch.tensor([[width, height] for height, width in shapes]).float(),
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
@pytest.mark.parametrize("number", ["fp32", "bf16"])
def test_the_deformable_kernel_compiles_for_a_gpu_that_is_not_there(number, monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from baselines.deformable_kernel import deformable_attention_kernel

    constants = {"HEADS": 8, "CHANNELS": 32, "LEVELS": 3, "POINTS": 4, "BLOCK_T": 16, "BLOCK_D": 32, "BLOCK_N": 16}
    types = {**dict.fromkeys(("value", "out", "offsets", "logits"), f"*{number}"), "points": "*fp32", "sizes": "*fp32", "padding": "*u8"}
    assert compiled(deformable_attention_kernel, constants, types, 90).asm["cubin"]


def test_the_operator_without_a_kernel_is_plain_pytorch_and_padding_counts_as_zero():
    value, padding, offsets, logits, points, sizes, shapes = arguments = deformable_arguments()
    made = deformable_attention_op(*arguments)
    blank = value.masked_fill(padding[:, :, None, None], 0)
    expected = weighted_rows(blank, offsets, logits, points, sizes, list(zip(shapes[::2], shapes[1::2], strict=True)))
    torch.testing.assert_close(made, expected)
    value[padding] = float("nan")
    torch.testing.assert_close(deformable_attention_op(*arguments), expected)


def test_the_operator_passes_torchs_own_checks():
    torch.library.opcheck(deformable_attention_op, deformable_arguments(), test_utils=("test_schema", "test_faketensor"))


def test_compile_and_export_keep_the_operator_as_one_call():
    class Call(torch.nn.Module):
        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            return deformable_attention_op(*tensors, [3, 4, 2, 1]) + 1

    *tensors, _ = deformable_arguments()
    with torch.no_grad():
        expected = Call()(*tensors)
        torch.testing.assert_close(torch.compile(Call(), fullgraph=True, backend="aot_eager")(*tensors), expected)
        program = torch.export.export(Call(), tuple(tensors))
    assert "humar_bench.deformable_attention" in program.graph_module.code
    torch.testing.assert_close(program.module()(*tensors), expected)


def test_on_a_device_with_the_kernel_a_model_is_one_call_a_layer_and_counts_fewer_kernels(tiny_args, tiny_workload):
    inputs = make_inputs(tiny_args, tiny_workload, device="meta")
    counts = {name: count_flops(build(name, tiny_args, device="meta"), inputs, strict=True) for name in ("original", "original-fused")}
    rows = {row.operator: row for row in counts["original-fused"].operators}
    assert rows["humar_bench::deformable_attention"].calls == tiny_args.enc_layers + tiny_args.dec_layers
    assert rows["humar_bench::deformable_attention"].matmul_flops == 0
    assert counts["original-fused"].kernels < 0.75 * counts["original"].kernels
    assert counts["original-fused"].uncounted == ()


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

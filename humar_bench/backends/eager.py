"""Eager: the model as it is; with int8, its linear layers quantised dynamically by torch."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from humar_bench.backends import Prepared
from humar_bench.backends.tensors import saved_bytes
from humar_bench.errors import MeasurementError


def prepare(name: str, model: nn.Module, inputs: Any, *, dtype: str) -> Prepared:
    """The model itself, or a copy with int8 linear layers."""
    if dtype != "int8":
        return Prepared(model, {"threads": torch.get_num_threads(), "file_bytes": saved_bytes(model)})
    quantised = quantise_linear(model)
    layers = sum(type(each).__module__.startswith("torch.ao.") and hasattr(each, "weight") for each in quantised.modules())
    if not layers:
        raise MeasurementError("dtype int8 quantises torch.nn.Linear layers, and this model has none.")
    did = {
        "threads": torch.get_num_threads(), "file_bytes": saved_bytes(quantised), "int8_layers": layers,
        "int8_by": f"torch.ao, {torch.backends.quantized.engine}",
    }
    return Prepared(quantised, did, needs_model=False)


def quantise_linear(model: nn.Module) -> nn.Module:
    """A copy whose linear layers have int8 weights and quantise what they are given at each call.

    torch.ao is deprecated in favour of torchao, which is slower here. CPU seconds of one forward at 3 levels of 25x25, batch 1, default
    arguments, one thread of a CPU with AVX-512 VNNI (efficient, original): eager float32 0.14, 1.21; torch.ao 0.08, 0.82; torchao 0.18,
    1.28 (`Int8DynamicActivationInt8WeightConfig`); onnxruntime float32 0.11, 0.73, and its own int8 0.11, 0.39.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from torch.ao.quantization import quantize_dynamic

            return quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
        except (ImportError, NotImplementedError, RuntimeError) as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise MeasurementError(f"this torch cannot quantise linear layers here: {said}; use the backend onnxruntime.") from error

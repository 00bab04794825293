"""Where the Triton kernels of both architectures run; they lie beside the layers they stand for, plain PyTorch is their reference."""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

HAS_TRITON = importlib.util.find_spec("triton") is not None
INTERPRETED = HAS_TRITON and os.environ.get("TRITON_INTERPRET") == "1"  # kernels then run on CPU tensors, slowly
KERNEL_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def has_kernel(x: Tensor) -> bool:
    """Whether there is a kernel for tensors like this one. On the meta device always, so that every machine counts the same."""
    if x.dtype not in KERNEL_TYPES:
        return False
    return x.is_meta or (HAS_TRITON and (x.device.type == "cuda" or (INTERPRETED and x.device.type == "cpu")))


def is_exporting() -> bool:
    """Whether `torch.export` looks on."""
    return torch.compiler.is_exporting() if hasattr(torch.compiler, "is_exporting") else False  # new in torch 2.7


def may_use_kernel(x: Tensor) -> bool:
    """Whether to use one here: there is one, no gradient is wanted (they are forward only), and nothing is exported to ONNX."""
    return has_kernel(x) and not torch.is_grad_enabled() and not (is_exporting() and torch.onnx.is_in_onnx_export())

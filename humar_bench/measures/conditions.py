"""The state of a process that changes what a forward costs or computes: number formats, autocast, grad mode, threads, cuDNN, training.

Two architectures are only comparable when each of these was the same for both, before and after every timed block.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

IN_INFERENCE_MODE = ("grad mode",)  # is off inside every forward that is timed


def conditions(model: nn.Module | None = None) -> dict[str, Any]:
    """Name -> plain value, for this process now and, where one is given, for a model."""
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that the names for TF32 will change
        state = {
            "float32 matmul precision": torch.get_float32_matmul_precision(),
            "TF32 in matmul": _read(lambda: cuda.matmul.allow_tf32),
            "TF32 in cuDNN": _read(lambda: cudnn.allow_tf32),
        }
    state |= {
        "cudnn.benchmark": cudnn.benchmark, "cudnn.deterministic": cudnn.deterministic,
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "attention kernels": [cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()],
        "default dtype": _name(torch.get_default_dtype()), "grad mode": torch.is_grad_enabled(), "threads": torch.get_num_threads(),
        **{f"autocast on {kind}": _autocast(kind) for kind in ("cpu", "cuda")},
    }
    if model is not None:
        state["training"] = any(module.training for module in model.modules())
        state["weights"] = sorted({_name(each.dtype) for each in model.parameters() if each.is_floating_point()})
    return state


def _read(flag: Any) -> Any:
    """A flag, or "mixed" where torch refuses to say because its old and its new name disagree."""
    try:
        return flag()
    except RuntimeError:
        return "mixed"


def _autocast(kind: str) -> str:
    return _name(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else "off"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@contextlib.contextmanager
def watch_inside(inside: dict[str, Any]) -> Iterator[None]:
    """Put into `inside` what differs, at any module a forward calls, from the state now: what it turns on and off again by itself.

    Costs some microseconds a module: for forwards that are not timed. What torch compiles by itself, such as the branches of torch.cond, is
    not looked into: the compiler would have to take the looking in.
    """
    outside = conditions()

    def look(module: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling():
            return
        for name, value in conditions().items():
            if name not in IN_INFERENCE_MODE and value != outside[name]:
                inside[name] = value

    hook = nn.modules.module.register_module_forward_pre_hook(look)
    try:
        yield
    finally:
        hook.remove()


@contextlib.contextmanager
def plain_float32() -> Iterator[None]:
    """Inference mode with neither TF32 nor autocast, whatever was set; afterwards all is as before."""
    cudnn = torch.backends.cudnn
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        precision, in_cudnn = torch.get_float32_matmul_precision(), _read(lambda: cudnn.allow_tf32)
        torch.set_float32_matmul_precision("highest")
        cudnn.allow_tf32 = False
        try:
            with torch.inference_mode(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
                yield
        finally:
            torch.set_float32_matmul_precision(precision)
            if in_cudnn != "mixed":
                cudnn.allow_tf32 = in_cudnn

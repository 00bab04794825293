"""Execution backends: what runs a forward. One small interface, one file a backend; no torch until one of them is prepared.

`prepare` turns an eager model into a call with the same arguments and the same outputs. `why_not` says, before anything is started,
which combinations cannot work; what only shows while it is tried is a MeasurementError. Every backend is given as many CPU threads as
torch has.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from humar_bench.args import BACKENDS, DTYPES
from humar_bench.errors import MeasurementError, UsageError, not_installed

if TYPE_CHECKING:
    import torch

# Backend -> its file, and the packages beside torch that it needs with the extra that brings them.
_FILES = {
    "eager": "eager", "compile": "compiled", "compile-graph": "compiled", "cuda-graph": "cuda_graph", "onnxruntime": "onnx_runtime",
    "openvino": "open_vino",
}
_NEEDS = {"onnxruntime": ("onnx", ("onnx", "onnxscript", "onnxruntime")), "openvino": ("openvino", ("openvino",))}
_GRAPHS = ("cuda-graph", "compile-graph")


@dataclass(frozen=True)
class Prepared:
    """A forward that is ready: `call(*inputs, **named)` gives the model's outputs as torch tensors.

    `did` are plain facts about how it was made. With `overwrites`, the outputs of one call are overwritten by the next. With
    `needs_model`, the call still uses the eager model, which else may be dropped.
    """

    call: Callable[..., Any]
    did: Mapping[str, Any] = field(default_factory=dict)
    overwrites: bool = False
    needs_model: bool = True


def prepare(name: str, model: torch.nn.Module, inputs: Any, *, dtype: str = "float32") -> Prepared:
    """Make `model` (in eval mode, its weights and `inputs` on one device and in the number type that `dtype` means) ready to run.

    Everything that can be done before the first call is done here, for inputs of these shapes. Raises UsageError for a backend that does
    not exist or whose package is missing, MeasurementError with the reason where this backend cannot run this model here.
    """
    check_backend(name, dtype)
    check_installed(name)
    device = next((each.device for each in model.parameters()), None)
    if reason := why_not(name, dtype, device.type if device is not None else "cpu"):
        raise MeasurementError(reason)
    return importlib.import_module(f"{__name__}.{_FILES[name]}").prepare(name, model, inputs, dtype=dtype)


def rehearse(name: str, device: str = "cpu") -> None:
    """Prepare one small layer, call it and forget it.

    What a backend, its exporter and its compiler load for the first time is then there, and not taken for memory of the next model.
    """
    import torch

    class Rehearsal(torch.nn.Linear):
        def forward(self, srcs: Any, masks: Any, pos_embeds: Any, query_embed: Any) -> Any:
            return torch.nn.functional.layer_norm(super().forward(query_embed + srcs[0]), (4,)).softmax(-1)

    inputs = ([torch.ones(1, 4, device=device)], [], [], torch.ones(1, 4, device=device))
    with contextlib.suppress(MeasurementError):
        prepare(name, Rehearsal(4, 4).eval().to(device), inputs).call(*inputs)


def check_backend(name: str, dtype: str = "float32") -> None:
    """Raises UsageError for a name that does not exist."""
    for what, value, known in (("backend", name, BACKENDS), ("dtype", dtype, DTYPES)):
        if value not in known:
            raise UsageError(f"{what} is {value!r}; choose one of {', '.join(known)}.")


def check_installed(name: str) -> None:
    """Raises UsageError, naming the extra to install, where a backend's package is missing. Imports nothing."""
    extra, packages = _NEEDS.get(name, ("", ()))
    missing = [each for each in packages if importlib.util.find_spec(each) is None]
    if missing:
        raise not_installed(f"the backend {name} needs", *missing, extra=extra)


def why_not(name: str, dtype: str, kind: str) -> str:
    """Why a backend cannot run a number type on a kind of device (cpu, cuda); empty where nothing is known to be in the way."""
    on_gpu = kind == "cuda"
    if name in _GRAPHS and not on_gpu:
        return f"the backend {name} records a CUDA graph, and this is a {kind}; use compile or eager."
    if dtype == "tf32" and not on_gpu:
        return f"dtype tf32 is a format of CUDA's matrix units, and this is a {kind}; use float32."
    if dtype == "int8" and on_gpu:
        return "dtype int8 quantises linear layers for the CPU; use --device cpu."
    if dtype == "int8" and name not in ("eager", "onnxruntime"):
        return f"dtype int8 is made by torch's and onnxruntime's dynamic quantisation; the backend {name} has none here."
    if name == "openvino" and on_gpu:
        return "openvino runs on the CPU and on Intel's devices, not on CUDA; use --device cpu."
    if name == "onnxruntime" and dtype == "bfloat16" and not on_gpu:
        return "onnxruntime has no bfloat16 kernels for the CPU; use float32 or float16."
    return ""

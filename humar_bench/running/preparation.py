"""What the child of `fps` does between building an architecture and timing it: number formats, the backend, what it left in memory."""

from __future__ import annotations

import contextlib
import time
import warnings
from dataclasses import dataclass
from typing import Any

import torch

from humar_bench import backends
from humar_bench.devices.device import Device
from humar_bench.measures.footprint import Footprint
from humar_bench.running.task import Task
from humar_bench.subjects.registry import Architecture


@dataclass
class Ready:
    """One architecture, ready to be called through its backend. `model` is the eager one, or its shapes alone where it was dropped."""

    model: Any
    prepared: backends.Prepared
    prepare_s: float
    footprint: Footprint | None
    dropped: bool = False

    def measured(self, backend: str) -> dict[str, Any]:
        """For the record."""
        told = {"name": backend, "prepare_s": self.prepare_s, **self.prepared.did}
        return {"backend": told, "footprint": None if self.footprint is None else self.footprint.measured()}


def set_formats(dtype: str) -> None:
    """TF32 in every matrix product and convolution of this process where it is asked for; torch's own setting otherwise."""
    if dtype != "tf32":
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that these names will change
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True


def missing_instructions(dtype: str, kind: str) -> str:
    """What a CPU lacks for a number type, as part of a sentence; such a run says nothing about hardware that has it."""
    supported = {"bfloat16": "_is_mkldnn_bf16_supported", "float16": "_is_mkldnn_fp16_supported"}.get(dtype)
    if supported is None or kind != "cpu":
        return ""
    with contextlib.suppress(AttributeError, RuntimeError):
        if getattr(torch.ops.mkldnn, supported)():
            return ""
    return f"this CPU ({torch.backends.cpu.get_cpu_capability()}) has no {dtype} instructions, each operator converts to float32 and back"


def make_ready(task: Task, architecture: Architecture, inputs: Any, device: Device, *, alone: bool) -> Ready:
    """Build an architecture and prepare it for its backend; `alone` in the process, also read what that leaves in memory.

    Where the backend does not need the eager model any more and memory is read, the model is dropped.
    """
    backend, name = task.run.backend, architecture.name
    if alone and backend != "eager":
        task.tell("rehearse", name)
        backends.rehearse(backend, device.name)
    footprint = Footprint(device) if alone else None
    model = task.model(architecture, device.name)
    if backend != "eager":
        task.tell("prepare", name)
    device.synchronize()
    start_s = time.perf_counter()
    prepared = backends.prepare(backend, model, inputs, dtype=task.run.dtype)
    device.synchronize()
    ready = Ready(model, prepared, time.perf_counter() - start_s, footprint)
    if footprint is not None:
        if not prepared.needs_model:
            ready.model, ready.dropped = _shapes_of(model), True
            del model
        footprint.prepared()
    return ready


def _shapes_of(model: torch.nn.Module) -> torch.nn.Module:
    """The same modules without their numbers: what a model is made of can still be told."""
    return model.to("meta")

"""Peak memory of one forward: predicted without running it, proved on a real run.

Prediction: live storages under a fake tensor mode (`memory_prediction.py`). Proof on the CPU: the allocator's own events during a real
forward; blocks that no tensor lies on are a library's hidden workspace and are told apart. So on the CPU: measured = predicted + workspace
+ difference, and the difference is 0. On CUDA: the allocator's peaks above what is there after a warm-up. Units: bytes.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from humar_bench.errors import MeasurementError
from humar_bench.measures.allocator import allocation_trace, allocator_peak, replay
from humar_bench.measures.live_memory import MemoryPeak, step_of, track_peak, tracked
from humar_bench.measures.memory_prediction import Prediction, predict_built
from humar_bench.measures.outside import look_outside, resident_bytes
from humar_bench.measures.storages import LiveStorages, LiveTensor
from humar_bench.measures.untouched import left_untouched

if TYPE_CHECKING:
    from humar_bench.devices.device import Device


@dataclass(frozen=True)
class DevicePeak:
    """CUDA: allocated and requested peaks above the warm baseline; reserved and NVML are the whole process's.

    `start_allocated_bytes` was there before the model was built: 0 in a process of its own.
    """

    peak_allocated_bytes: int
    peak_requested_bytes: int
    peak_reserved_bytes: int
    nvml_process_bytes: int | None
    start_allocated_bytes: int = 0


@dataclass(frozen=True)
class MeasuredPeak:
    """A real forward: the allocator's peak above weights, buffers and inputs.

    `workspace_bytes` is what of it no tensor lay on and `tensors` what did, both from the CPU's allocation trace (None on CUDA).
    """

    allocator_bytes: int
    workspace_bytes: int | None
    tensors: MemoryPeak | None
    cuda: DevicePeak | None


@dataclass(frozen=True)
class Memory:
    """What a record holds: the real peak, the prediction, and what stands between them.

    On the CPU `peak_bytes` is `allocator_bytes`, and equals `predicted_bytes + workspace_bytes + difference_bytes`. On CUDA it is the
    allocated peak (after rounding), `allocator_bytes` the requested one, which is what a prediction can be held against.
    `predicted_bytes` is None for a model that cannot run on fake tensors. Operator, components and tensors are the prediction's where
    it is exact, else those of a real run: on the CPU components and workspace add up to the peak either way. `resident_bytes` is the
    process's footprint, `resident_start_bytes` the one before the model was built; `python_bytes` and `resident_growth_bytes` are of one
    forward, where it was looked for (`outside.py`), and not in the peak. Where the prediction or what was followed in a real run is more
    than the allocator reported, the larger one is `peak_bytes`.
    """

    weights_bytes: int
    buffers_bytes: int
    inputs_bytes: int
    outputs_bytes: int
    peak_bytes: int
    predicted_bytes: int | None
    allocator_bytes: int
    difference_bytes: int | None
    workspace_bytes: int | None
    method: str
    peak_operator: str
    peak_component: str
    by_component: dict[str, int]
    alive: tuple[LiveTensor, ...]
    resident_bytes: int | None
    cuda: DevicePeak | None
    resident_start_bytes: int | None = None
    python_bytes: int | None = None
    resident_growth_bytes: int | None = None

    def measured(self) -> dict[str, Any]:
        """The result as the plain values a record holds, the largest tensors first."""
        values = asdict(self)
        values["alive"] = [{**asdict(each), "shape": list(each.shape)} for each in self.alive]
        return values


def measure_peak(
    model: nn.Module, inputs: Sequence[Any], device: Device, *, training: bool = False, predicted_bytes: int | None = None,
    check: Callable[[Any], None] | None = None,
) -> MeasuredPeak:
    """The allocator's peak of a real forward, after one that warms up (libraries allocate for themselves on a first call).

    `check` is given the outputs of the one that warms up and may refuse them by raising.
    On the CPU, unless the peak is `predicted_bytes` to the byte, a further forward tells tensors from hidden workspace.
    """

    def step() -> Any:
        return step_of(model, inputs, training, torch.inference_mode)  # as it is timed

    with _mode(model, training):
        with left_untouched():
            outputs = step()
        if check is not None:
            check(outputs)
        del outputs
        _forget(None, model)
        if device.memory() is not None:
            return _device_peak(step, model, device)
        allocator_bytes = allocator_peak(step)
        _forget(None, model)
        if allocator_bytes == predicted_bytes:
            return MeasuredPeak(allocator_bytes, 0, None, None)
        marked: list[tuple[MemoryPeak, LiveStorages]] = []
        trace = allocation_trace(lambda: marked.append(tracked(model, inputs, training=training, mark=True)))
        _forget(None, model)
        tensors, live = marked[0]
        return MeasuredPeak(allocator_bytes, max(0, allocator_bytes - replay(trace, live.pointers).tensor_bytes), tensors, None)


def _device_peak(step: Callable[[], Any], model: nn.Module, device: Device) -> MeasuredPeak:
    _forget(step(), model)
    gc.collect()
    device.synchronize()
    before = device.memory()
    device.reset_peak_memory()
    if (kept := device.memory().peak_allocated_bytes) != before.allocated_bytes:
        raise MeasurementError(
            f"the device's peak stands at {kept} bytes after it was reset, with {before.allocated_bytes} allocated; "
            "a peak of something earlier would be taken for this forward's."
        )
    outputs = step()
    device.synchronize()
    after = device.memory()
    del outputs
    _forget(None, model)
    peak = DevicePeak(
        peak_allocated_bytes=after.peak_allocated_bytes - before.allocated_bytes,
        peak_requested_bytes=after.peak_requested_bytes - before.requested_bytes,
        peak_reserved_bytes=after.peak_reserved_bytes,
        nvml_process_bytes=device.process_memory_bytes(),
    )
    return MeasuredPeak(peak.peak_requested_bytes, None, None, peak)


def measure_memory(
    build: Callable[[], nn.Module], make_inputs: Callable[[], Sequence[Any]], device: Device, *, training: bool = False,
    check: Callable[[Any], None] | None = None, prediction: Prediction | None = None, outside: bool = True,
) -> Memory:
    """Predict the peak, unless it was predicted before, then measure it on `device`. A fresh process each is what keeps the numbers
    independent of each other.

    `build` is called once, for real; a prediction is made of a copy of what it gives.

    `check` is given the outputs of a real forward and may refuse them by raising. With `outside`, a last forward on the CPU tells what
    torch's allocator does not give out.
    """
    start, resident_start_bytes = device.memory(), resident_bytes()
    model, inputs = build(), make_inputs()
    prediction = prediction or predict_built(model, make_inputs, training=training)
    predicted = prediction.peak
    predicted_bytes = predicted and predicted.peak_bytes
    real = measure_peak(model, inputs, device, training=training, predicted_bytes=predicted_bytes, check=check)
    peak, cuda = real.tensors or predicted, real.cuda
    if cuda is not None and start is not None:
        cuda = replace(cuda, start_allocated_bytes=start.allocated_bytes)
    if peak is None:
        with _mode(model, training):
            peak = track_peak(model, inputs, training=training)
    peak_bytes, workspace_bytes = real.cuda.peak_allocated_bytes if real.cuda else real.allocator_bytes, real.workspace_bytes
    unreported = max((each for each in (real.tensors, predicted) if each is not None), key=lambda each: each.peak_bytes, default=peak)
    if real.cuda is None and unreported.peak_bytes > peak_bytes:
        peak, peak_bytes, workspace_bytes = unreported, unreported.peak_bytes, 0
    difference = None if predicted is None else real.allocator_bytes - predicted_bytes - (workspace_bytes or 0)
    resident = resident_bytes()
    found = None
    if outside and real.cuda is None:
        found = look_outside(lambda: _once(model, inputs, training))
        resident = resident and max(resident, resident_bytes() or 0)  # looking outside lets it begin anew
    proof = "allocator events of a real run" if real.cuda is None else "allocator peaks of a real run above a warm baseline"
    return Memory(
        weights_bytes=peak.weights_bytes,
        buffers_bytes=peak.buffers_bytes,
        inputs_bytes=peak.inputs_bytes,
        outputs_bytes=peak.outputs_bytes,
        peak_bytes=peak_bytes,
        predicted_bytes=predicted_bytes,
        allocator_bytes=real.allocator_bytes,
        difference_bytes=difference,
        workspace_bytes=workspace_bytes,
        method=f"{prediction.method}; {proof}",
        peak_operator=peak.peak_operator,
        peak_component=peak.peak_component,
        by_component=peak.by_component,
        alive=peak.alive,
        resident_bytes=resident,
        cuda=cuda,
        resident_start_bytes=resident_start_bytes,
        python_bytes=found and found.python_bytes,
        resident_growth_bytes=found and found.resident_growth_bytes,
    )


def _once(model: nn.Module, inputs: Sequence[Any], training: bool) -> Any:
    """One more forward as it is timed, and nothing left of it but its outputs."""
    with _mode(model, training):
        outputs = step_of(model, inputs, training, torch.inference_mode)
        _forget(None, model)
        return outputs


@contextlib.contextmanager
def _mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Put every module in training or eval mode, and each back into its own afterwards."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was in before:
            module.training = was


def _forget(outputs: Any, model: nn.Module) -> None:
    """Drop a step's outputs and the gradients it left."""
    del outputs
    for parameter in model.parameters():
        parameter.grad = None

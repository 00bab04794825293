"""Peak memory of one forward: predicted without running it, proved on a real run.

Prediction: live storages under a fake tensor mode. Proof on the CPU: the allocator's own events during a real forward; blocks that no
tensor lies on are a library's hidden workspace and are told apart. So on the CPU: measured = predicted + workspace + difference, and
the difference is 0. On CUDA: the allocator's peaks above what is there after a warm-up. Units: bytes.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves

from humar_bench.errors import HumarBenchError, MeasurementError
from humar_bench.measures.allocator import allocation_trace, allocator_peak, replay
from humar_bench.measures.call import called
from humar_bench.measures.outside import look_outside, resident_bytes
from humar_bench.measures.storages import LiveStorages, LiveTensor, current_component, storage_bytes
from humar_bench.measures.trace import tensors_in
from humar_bench.measures.twins import fake_copy
from humar_bench.measures.untouched import left_untouched

if TYPE_CHECKING:
    from humar_bench.devices.device import Device

ON_FAKES = "live storages on fake tensors"


@dataclass(frozen=True)
class MemoryPeak:
    """Live tensor memory of one forward. `peak_bytes` is above weights, buffers and inputs; `by_component` and `alive` add up to it."""

    weights_bytes: int
    buffers_bytes: int
    inputs_bytes: int
    outputs_bytes: int
    peak_bytes: int
    peak_operator: str
    peak_component: str
    by_component: dict[str, int]
    alive: tuple[LiveTensor, ...]


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


@dataclass(frozen=True)
class Prediction:
    """The peak of one forward without a run, None for a model that cannot run on fake tensors; `method` says how or why not."""

    peak: MemoryPeak | None
    method: str

    def plain(self) -> dict[str, Any]:
        """The prediction as plain values, the largest tensors first."""
        return asdict(self)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Prediction:
        """What `plain` made."""
        peak = values["peak"]
        if peak is not None:
            peak = MemoryPeak(**{**peak, "alive": tuple(LiveTensor(**{**each, "shape": tuple(each["shape"])}) for each in peak["alive"])})
        return cls(peak, values["method"])


def predict(build: Callable[[], nn.Module], make_inputs: Callable[[], Sequence[Any]], *, training: bool = False) -> Prediction:
    """`predict_peak`, or why there is none. Raises HumarBenchError of `build` or `make_inputs`."""
    try:
        return Prediction(predict_peak(build, make_inputs, training=training), ON_FAKES)
    except HumarBenchError:
        raise
    except Exception as error:
        return _not_predicted(error)


def _not_predicted(error: Exception) -> Prediction:
    """A model of somebody else may look at values, which fake tensors do not have, or hold what cannot be copied."""
    return Prediction(None, f"live storages of a real run, nothing was predicted (on fake tensors: {type(error).__name__})")


def predict_built(
    model: nn.Module, make_inputs: Callable[[], Sequence[Any]], device: str = "cpu", *, training: bool = False
) -> Prediction:
    """As `predict`, for a model that is there, real or on meta, and stays as it is: its builder may have done to its weights what fake
    tensors do not allow. What is on meta is taken for `device`. Raises HumarBenchError of `make_inputs`."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        twin, fakes = fake_copy(getattr(model, "_orig_mod", model), mode, device)  # of what torch.compile wrapped
        with mode, _no_addresses():
            return Prediction(track_peak(twin, make_inputs(), training=training, twins=fakes), ON_FAKES)
    except HumarBenchError:
        raise
    except Exception as error:
        return _not_predicted(error)


@contextlib.contextmanager
def _no_addresses() -> Iterator[None]:
    """A fake tensor lies nowhere: who reads or writes there by hand ends the process."""
    def refuse(tensor: Tensor) -> int:
        if isinstance(tensor, FakeTensor):
            raise RuntimeError("a fake tensor has no address")
        return where(tensor)

    where, own = Tensor.data_ptr, "data_ptr" in vars(Tensor)
    Tensor.data_ptr = refuse
    try:
        yield
    finally:
        if own:
            Tensor.data_ptr = where
        else:
            del Tensor.data_ptr


def predict_peak(build: Callable[[], nn.Module], make_inputs: Callable[[], Sequence[Any]], *, training: bool = False) -> MemoryPeak:
    """The peak of one forward (in training: forward and backward) without weights, inputs or a run: `build` and `make_inputs` are
    called under a fake tensor mode."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        return track_peak(build(), make_inputs(), training=training)


def track_peak(
    model: nn.Module, inputs: Sequence[Any], *, training: bool = False, twins: Mapping[int, Tensor] | None = None
) -> MemoryPeak:
    """The peak of live tensor memory while `model` runs on `inputs`, real or fake; `twins` as in `LiveStorages`."""
    peak, _ = _tracked(model, inputs, training=training, twins=twins)
    return peak


def _tracked(
    model: nn.Module, inputs: Sequence[Any], *, training: bool, mark: bool = False, twins: Mapping[int, Tensor] | None = None
) -> tuple[MemoryPeak, LiveStorages]:
    """What torch.compile made runs as what it was made of: under a dispatch mode it does anyway, or not at all."""
    parameters, buffers = list(model.parameters()), list(model.buffers())
    tensors = [leaf for leaf in tree_leaves(tuple(inputs)) if isinstance(leaf, Tensor)]
    there = [*parameters, *buffers, *tensors]
    with (
        current_component(model) as component, torch.compiler.set_stance("force_eager"),
        LiveStorages(there, component, mark=mark, twins=twins) as live,
    ):
        outputs = _step(model, inputs, training)
        outputs_bytes = live.bytes_of(tensors_in(outputs))
    by_component: dict[str, int] = {}
    for each in live.at_peak:
        by_component[each.component] = by_component.get(each.component, 0) + each.bytes
    peak = MemoryPeak(
        weights_bytes=storage_bytes(parameters),
        buffers_bytes=storage_bytes(buffers),
        inputs_bytes=storage_bytes(tensors),
        outputs_bytes=outputs_bytes,
        peak_bytes=live.peak_bytes,
        peak_operator=live.peak_operator,
        peak_component=live.peak_component,
        by_component=by_component,
        alive=tuple(sorted(live.at_peak, key=lambda each: -each.bytes)),
    )
    return peak, live


@contextlib.contextmanager
def _as_in_inference_mode() -> Iterator[None]:
    """No gradients, also where a forward turns them on: inference mode, in which it is timed, has none whatever a forward asks for, unless
    it leaves that mode by `torch.inference_mode(False)`. Inference mode itself would hide what composite operators allocate between their
    parts."""
    switch, guard = torch._C._set_grad_enabled, torch._C._InferenceMode
    left: list[bool] = []  # by each guard that the forward is in

    class Guard(guard):
        def __init__(self, enabled: bool) -> None:
            super().__init__(enabled)
            self.leaves = not enabled

        def __enter__(self) -> None:
            super().__enter__()
            left.append(self.leaves)

        def __exit__(self, *error: Any) -> None:
            left.pop()
            super().__exit__(*error)

    with torch.no_grad():
        torch._C._set_grad_enabled = lambda wanted: switch(wanted and bool(left) and left[-1])
        torch._C._InferenceMode = Guard
        try:
            yield
        finally:
            torch._C._set_grad_enabled, torch._C._InferenceMode = switch, guard


def _step(model: nn.Module, inputs: Sequence[Any], training: bool, no_grad: Any = _as_in_inference_mode) -> Any:
    """One forward without gradients; in training, a forward with its graph and the backward of the sum of all its outputs."""
    if not training:
        with no_grad():
            return called(model, inputs)
    with torch.enable_grad():
        outputs = called(model, inputs)
        ends = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.requires_grad]
        if ends:
            torch.autograd.backward(ends, [torch.ones_like(end) for end in ends])
        return outputs


def measure_peak(
    model: nn.Module, inputs: Sequence[Any], device: Device, *, training: bool = False, predicted_bytes: int | None = None,
    check: Callable[[Any], None] | None = None,
) -> MeasuredPeak:
    """The allocator's peak of a real forward, after one that warms up (libraries allocate for themselves on a first call).

    `check` is given the outputs of the one that warms up and may refuse them by raising.
    On the CPU, unless the peak is `predicted_bytes` to the byte, a further forward tells tensors from hidden workspace.
    """

    def step() -> Any:
        return _step(model, inputs, training, torch.inference_mode)  # as it is timed

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
        trace = allocation_trace(lambda: marked.append(_tracked(model, inputs, training=training, mark=True)))
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
        outputs = _step(model, inputs, training, torch.inference_mode)
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

"""The tensor memory that is alive during one forward, its peak and what it is made of, on tensors real or fake. Units: bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from humar_bench.measures.call import called
from humar_bench.measures.nested import tensors_in
from humar_bench.measures.storages import LiveStorages, LiveTensor, current_component, storage_bytes


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


def track_peak(
    model: nn.Module, inputs: Sequence[Any], *, training: bool = False, twins: Mapping[int, Tensor] | None = None
) -> MemoryPeak:
    """The peak of live tensor memory while `model` runs on `inputs`, real or fake; `twins` as in `LiveStorages`."""
    peak, _ = tracked(model, inputs, training=training, twins=twins)
    return peak


def tracked(
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
        outputs = step_of(model, inputs, training)
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


def step_of(model: nn.Module, inputs: Sequence[Any], training: bool, no_grad: Any = _as_in_inference_mode) -> Any:
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

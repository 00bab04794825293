"""Dead weight: parameters no operator reads in a forward, and computations whose result is thrown away.

Both come from the data flow between operators, on the meta device. A parameter counts as read when an operator looks at its numbers, called
through a module or not. A computation is used when a path leads from it to an output, to a buffer, to a value the host reads, or to an
index that selects something used; otherwise it is discarded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn
from torch._ops import OpOverload
from torch.multiprocessing.reductions import StorageWeakRef

from humar_bench.measures.components import component_of
from humar_bench.measures.flop_formulas import HEADLINE, SYNCHRONISATION, VIEW, cost_of
from humar_bench.measures.params import unique_tensors
from humar_bench.measures.trace import Call, Forward, Observer, observe_forward, tensors_in


@dataclass(frozen=True)
class Discarded:
    """Calls of one operator in one module whose result reaches nothing. `shapes` are those of the tensors it was given, `origin` is the
    operator the program called."""

    component: str
    module: str
    operator: str
    origin: str
    calls: int
    matmul_flops: int
    second_tier_flops: int
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class DeadWeight:
    """`never_read`: (name, elements) of each parameter no operator reads; `discarded`: computations thrown away."""

    never_read: tuple[tuple[str, int], ...]
    discarded: tuple[Discarded, ...]

    def measured(self) -> dict[str, Any]:
        """The plain values the records of params and flops hold."""
        return {
            "never_read": [{"name": name, "parameters": elements} for name, elements in self.never_read],
            "discarded": [{**asdict(row), "shapes": [list(shape) for shape in row.shapes]} for row in self.discarded],
        }


@dataclass(frozen=True, slots=True)
class _Step:
    """One call as the data flow sees it: storages in and out, and what to say about it."""

    reads: frozenset[int]
    writes: frozenset[int]
    row: tuple
    flops: tuple[int, int] | None
    anchored: bool


class Flow(Observer):
    """Who computes what from what. Storages are told apart by address; a weak reference keeps each address from being used again."""

    def __init__(self) -> None:
        self.steps: list[_Step] = []
        self.spans: dict[int, list[tuple[int, int]]] = {}
        self.references: dict[int, StorageWeakRef] = {}

    def storage(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.references:
            self.references[key] = StorageWeakRef(storage)
        return key

    def joined(self, host: Tensor, twin: Tensor) -> None:
        self.steps.append(_Step(frozenset([self.storage(host)]), frozenset([self.storage(twin)]), (), None, False))

    def add(self, call: Call) -> None:
        found = cost_of(call.op, call.name, call.args, call.kwargs, call.result)
        category, cost = found if found is not None else ("", {})
        if category == VIEW:
            return
        given, made = list(tensors_in((call.args, call.kwargs))), list(tensors_in(call.result))
        read = [] if _looks_at_shape_only(call.name) else given
        for tensor in read:
            self.spans.setdefault(self.storage(tensor), []).append(_span(tensor))
        written = {self.storage(tensor) for tensor in made} | {self.storage(tensor) for tensor in _written_to(call)}
        headline = sum(cost.get(name, 0) for name in HEADLINE)
        self.steps.append(
            _Step(
                reads=frozenset(self.storage(tensor) for tensor in read),
                writes=frozenset(written),
                row=(call.path, call.name, call.origin, tuple(tuple(tensor.shape) for tensor in given)),
                flops=(headline, sum(cost.values()) - headline) if cost or found is None else None,
                anchored=category == SYNCHRONISATION or not written,
            )
        )

    def discarded(self, kept: Iterable[Tensor]) -> tuple[Counter, dict[tuple, tuple[int, int]]]:
        """Calls by row of what never reaches `kept`, and the FLOPs of one such call, walking back from the end."""
        live = {self.storage(tensor) for tensor in kept}
        calls: Counter[tuple] = Counter()
        flops: dict[tuple, tuple[int, int]] = {}
        for step in reversed(self.steps):
            if step.anchored or step.writes & live:
                live |= step.reads
            elif step.flops is not None:
                calls[step.row] += 1
                flops[step.row] = step.flops
        return calls, flops


def find_dead_weight(model: nn.Module, inputs: Iterable[Any]) -> DeadWeight:
    """Find what one forward of `model` carries for nothing. Raises MeasurementError when the forward raises."""
    flows: list[Flow] = []

    def watch() -> Flow:
        flows.append(Flow())
        return flows[-1]

    forward = observe_forward(model, tuple(inputs), watch)
    return read_flow(flows[-1], model, forward)


def read_flow(flow: Flow, model: nn.Module, forward: Forward) -> DeadWeight:
    """What one forward of `model` carried for nothing, from the data flow that was seen in it."""
    twin = forward.model
    kept = [*tensors_in(forward.outputs), *twin.parameters(), *twin.buffers(), *tensors_in(forward.inputs)]
    for tensor in tensors_in(forward.outputs):  # a parameter that is handed out as it is was not for nothing
        flow.spans.setdefault(flow.storage(tensor), []).append(_span(tensor))
    never_read = [
        (names[0], tensor.numel())
        for names, tensor in unique_tensors(twin, "parameters")
        if not any(_overlap(_span(tensor), span) for span in flow.spans.get(flow.storage(tensor), ()))
    ]
    calls, flops = flow.discarded(kept)
    rows = [
        Discarded(component_of(model, path), path, operator, origin, count, count * flops[key][0], count * flops[key][1], shapes)
        for key, count in calls.items()
        for path, operator, origin, shapes in [key]
    ]
    rows.sort(key=lambda row: (-row.matmul_flops, -row.second_tier_flops, row.module, row.operator))
    return DeadWeight(tuple(never_read), tuple(rows))


def _looks_at_shape_only(name: str) -> bool:
    base = name.partition("::")[2]
    return base.startswith(("new_", "empty")) or base.endswith("_like")


def _written_to(call: Call) -> list[Tensor]:
    """Arguments the operator writes to (in-place and out variants)."""
    if not isinstance(call.op, OpOverload) or not call.op._schema.is_mutable:
        return []
    written: list[Tensor] = []
    for index, argument in enumerate(call.op._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = call.args[index] if index < len(call.args) else call.kwargs.get(argument.name)
            written += tensors_in(value)
    return written


def _span(tensor: Tensor) -> tuple[int, int]:
    """First and last byte (exclusive) of a tensor in its storage."""
    if tensor.numel() == 0:
        return (0, 0)
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.storage_offset() * tensor.element_size()
    return start, start + (last + 1) * tensor.element_size()


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[1] and b[0] < a[1]

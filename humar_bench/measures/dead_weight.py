"""Dead weight: parameters no operator reads in a forward, and computations whose result is thrown away. And its opposite: numbers that a
forward reads and nothing registered.

All come from the data flow between operators, on the meta device. A parameter counts as read when an operator looks at its numbers, called
through a module or not. A computation is used when a path leads from it to an output, to a buffer or whatever else the model holds
afterwards, to a value the host reads, or to an index that selects something used; otherwise it is discarded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from humar_bench.measures.components import component_of
from humar_bench.measures.flop_formulas import cost_of
from humar_bench.measures.held import held_tensors, packed_weights
from humar_bench.measures.nested import tensors_in
from humar_bench.measures.operators import HEADLINE, PACKED, SYNCHRONISATION, VIEW
from humar_bench.measures.params import bytes_of, numbers_in, unique_tensors
from humar_bench.measures.storages import storages_of
from humar_bench.measures.trace import observe_forward
from humar_bench.measures.trace_watch import OVERWRITE, Call, Forward, Observer, written_to


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
class Unregistered:
    """Numbers that are no parameter: how many weights, and the bytes they take. `kind` says what they are: '' for a plain tensor that a
    forward reads, else how they are packed ('int8', '4-bit'), as a buffer or anywhere."""

    name: str
    elements: int
    bytes: int
    kind: str = ""


@dataclass(frozen=True)
class DeadWeight:
    """`never_read`: (name, elements) of each parameter no operator reads; `discarded`: computations thrown away; `unregistered`: weights
    that are neither parameter, plain buffer nor input, the largest first."""

    never_read: tuple[tuple[str, int], ...]
    discarded: tuple[Discarded, ...]
    unregistered: tuple[Unregistered, ...] = ()

    def measured(self) -> dict[str, Any]:
        """The plain values the records of params and flops hold."""
        return {
            "never_read": [{"name": name, "parameters": elements} for name, elements in self.never_read],
            "discarded": [{**asdict(row), "shapes": [list(shape) for shape in row.shapes]} for row in self.discarded],
            "unregistered": [asdict(row) for row in self.unregistered],
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
        self.stands_for: dict[int, list[int]] = {}  # storage -> those of the tensors on meta that stand for it
        self.stood_for: dict[int, list[int]] = {}  # the other way round
        self.strangers: list[Tensor] = []  # that were there before, nobody knows where
        self.packed: dict[int, int] = {}  # storage -> weights packed in it, of those that an operator unpacks

    def storages(self, tensor: Tensor) -> list[int]:
        found = storages_of(tensor)
        for storage in found:
            if storage._cdata not in self.references:
                self.references[storage._cdata] = StorageWeakRef(storage)
        return [storage._cdata for storage in found]

    def joined(self, host: Tensor, twin: Tensor) -> None:
        there, stand_ins = self.storages(host), self.storages(twin)
        for storage in there:
            self.stands_for.setdefault(storage, []).extend(stand_ins)
        for storage in stand_ins:
            self.stood_for.setdefault(storage, []).extend(there)
        self.steps.append(_Step(frozenset(there), frozenset(stand_ins), (), None, False))

    def found(self, tensor: Tensor) -> None:
        self.strangers.append(tensor)

    def read(self, tensor: Tensor) -> None:
        """Somebody looked at the numbers of a tensor."""
        for storage in self.storages(tensor):
            self.spans.setdefault(storage, []).append(_span(tensor))

    def unknown(self, name: str, path: str, read: list[Tensor], made: list[Tensor]) -> None:
        """An operator that is used."""
        for tensor in read:
            self.read(tensor)
        places = (frozenset(storage for tensor in tensors for storage in self.storages(tensor)) for tensors in (read, made))
        self.steps.append(_Step(*places, (), None, True))

    def left(self, tensor: Tensor) -> None:
        """What is done with numbers outside torch is not seen; they are used."""
        self.read(tensor)
        self.steps.append(_Step(frozenset(self.storages(tensor)), frozenset(), (), None, True))

    def was_read(self, tensor: Tensor) -> bool:
        """Whether an operator looked at any of its numbers, or of what stands for it."""
        own = self.storages(tensor)
        places = [place for storage in own for place in (storage, *self.stands_for.get(storage, ()))]
        return any(_overlap(_span(tensor), span) for place in places for span in self.spans.get(place, ()))

    def add(self, call: Call) -> None:
        found = cost_of(call.op, call.name, call.args, call.kwargs, call.result)
        category, cost = found if found is not None else ("", {})
        if category == VIEW:
            return
        given, made = list(tensors_in((call.args, call.kwargs))), list(tensors_in(call.result))
        read = _read_by(call)
        for tensor in read:
            self.read(tensor)
        if call.name in PACKED:
            self.packed.update(dict.fromkeys(self.storages(given[1]), given[0].shape[-1] * made[0].shape[-1]))
        written = {storage for tensor in (*made, *written_to(call.op, call.args, call.kwargs)) for storage in self.storages(tensor)}
        for host in {host for storage in written for host in self.stood_for.get(storage, ())}:  # the program has that one, and views of it
            written |= {host, *self.stands_for[host]}
        headline = sum(cost.get(name, 0) for name in HEADLINE)
        self.steps.append(
            _Step(
                reads=frozenset(storage for tensor in read for storage in self.storages(tensor)),
                writes=frozenset(written),
                row=(call.path, call.name, call.origin, tuple(tuple(tensor.shape) for tensor in given)),
                flops=(headline, sum(cost.values()) - headline) if cost or found is None else None,
                anchored=category == SYNCHRONISATION or not written,
            )
        )

    def discarded(self, kept: Iterable[Tensor]) -> tuple[Counter, dict[tuple, tuple[int, int]]]:
        """Calls by row of what never reaches `kept`, and the FLOPs of one such call, walking back from the end."""
        live = {storage for tensor in kept for storage in self.storages(tensor)}
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
    kept = [*tensors_in(forward.outputs), *twin.parameters(), *twin.buffers(), *held_tensors(twin).values(), *tensors_in(forward.inputs)]
    written = {storage for step in flow.steps for storage in step.writes}
    for tensor in tensors_in(forward.outputs):  # a parameter that is handed out as it is was not for nothing
        if not written.issuperset(flow.storages(tensor)):
            flow.read(tensor)
    never_read = [
        (names[0], numbers_in(tensor)) for names, tensor in unique_tensors(twin, "parameters") if not flow.was_read(tensor)
    ]
    calls, flops = flow.discarded(kept)
    rows = [
        Discarded(component_of(model, path), path, operator, origin, count, count * flops[key][0], count * flops[key][1], shapes)
        for key, count in calls.items()
        for path, operator, origin, shapes in [key]
    ]
    rows.sort(key=lambda row: (-row.matmul_flops, -row.second_tier_flops, row.module, row.operator))
    return DeadWeight(tuple(never_read), tuple(rows), _unregistered(flow, forward))


def _unregistered(flow: Flow, forward: Forward) -> tuple[Unregistered, ...]:
    """Plain tensors that were read, and packed weights by the number of weights in them."""
    twin = forward.model
    registered = [*twin.parameters(), *twin.buffers(), *tensors_in(forward.inputs)]
    known = {storage for tensor in registered for storage in flow.storages(tensor)}
    rows = [Unregistered(name, elements, size, kind) for name, elements, size, kind in packed_weights(twin)]
    seen: set[tuple] = set()
    nameless = [(f"(a tensor of {'x'.join(map(str, tensor.shape))})", tensor) for tensor in flow.strangers]
    for name, tensor in (*forward.held.items(), *twin.named_buffers(), *nameless):
        storages = flow.storages(tensor)
        weights = sum(flow.packed.get(storage, 0) for storage in storages)
        if weights == 0 and (known.issuperset(storages) or not flow.was_read(tensor)):
            continue
        if (key := (*storages, _span(tensor))) in seen:
            continue
        seen.add(key)
        size = sum(each.nbytes() for each in storages_of(tensor)) if weights else bytes_of(tensor)
        bits = 8 * size // weights if weights else 0
        rows.append(Unregistered(name, weights or numbers_in(tensor), size, f"{bits}-bit" if weights else ""))
    return tuple(sorted(rows, key=lambda row: (-row.bytes, row.name)))


def _read_by(call: Call) -> list[Tensor]:
    """Arguments whose numbers the operator looks at: not those of which it takes the shape alone, or that it writes over."""
    if _looks_at_shape_only(call.name):
        return []
    if call.op in OVERWRITE:
        return list(tensors_in((call.args[1:], call.kwargs)))
    arguments = call.op._schema.arguments if isinstance(call.op, OpOverload) and call.op._schema.is_mutable else ()
    out = {argument.name for argument in arguments if argument.is_out}
    return list(tensors_in((call.args, {name: value for name, value in call.kwargs.items() if name not in out})))


def _looks_at_shape_only(name: str) -> bool:
    base = name.partition("::")[2]
    return base.startswith(("new_", "empty")) or base.endswith("_like")


def _span(tensor: Tensor) -> tuple[int, int]:
    """First and last byte (exclusive) of a tensor in its storage; of one made of several, all of each."""
    if tensor.layout is not torch.strided or tensor.is_nested or is_traceable_wrapper_subclass(tensor):
        return (0, 2**63)
    if tensor.numel() == 0:
        return (0, 0)
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.storage_offset() * tensor.element_size()
    return start, start + (last + 1) * tensor.element_size()


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[1] and b[0] < a[1]

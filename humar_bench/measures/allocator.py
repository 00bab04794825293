"""What the CPU allocator really gave out during a call: the profiler's allocation events, summed in the order they happened."""

from __future__ import annotations

import bisect
import contextlib
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from humar_bench.errors import MeasurementError
from humar_bench.measures.storages import MARK


def allocator_peak(call: Callable[[], Any]) -> int:
    """Highest bytes given out by the CPU allocator during `call`, above what was given out before it."""
    with _profiled() as profiler:
        outputs = call()
    del outputs
    events = _memory_events(profiler)
    if not events and not _sees_allocations():
        raise MeasurementError(f"torch {torch.__version__}'s profiler reported no allocation; its memory events are needed here.")
    return highest_sum(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))


def _memory_events(profiler: Any) -> list[Any]:
    return [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]


def _sees_allocations() -> bool:
    """Whether torch's profiler reports memory at all: another thread's it never does."""
    with _profiled() as profiler:
        torch.empty(16)
    return bool(_memory_events(profiler))


def highest_sum(changes: Any) -> int:
    """The highest running sum of `changes`, at least 0."""
    total = peak = 0
    for change in changes:
        total += change
        peak = max(peak, total)
    return peak


@dataclass(frozen=True)
class Replay:
    """Two peaks of one allocation trace: of everything, and of the blocks that tensors lie on. The rest is hidden workspace."""

    all_bytes: int
    tensor_bytes: int


@dataclass(frozen=True)
class Allocation:
    """One change of one block: `bytes` is negative when it is given back; `operator` is the number of the range around it, or of the
    next one: what is made between two operators (a constant, a number turned into a tensor) is made for the one that follows."""

    pointer: int
    bytes: int
    operator: int


def replay(trace: list[Allocation], pointers: dict[int, set[int]]) -> Replay:
    """Run a trace again and tell tensor blocks from hidden ones.

    A block of operator n is a tensor's when it is the last one of its address there and `pointers[n]` holds that address.
    """
    last: dict[tuple[int, int], int] = {}
    for index, each in enumerate(trace):
        if each.bytes > 0:
            last[each.operator, each.pointer] = index
    owned: dict[int, bool] = {}
    changes, tensor_changes = [], []
    for index, each in enumerate(trace):
        changes.append(each.bytes)
        if each.bytes > 0:
            operator, pointer = each.operator, each.pointer
            owned[pointer] = pointer in pointers.get(operator, ()) and last[operator, pointer] == index
            mine = owned[pointer]
        else:
            mine = owned.pop(each.pointer, True)
        tensor_changes.append(each.bytes if mine else 0)
    return Replay(highest_sum(changes), highest_sum(tensor_changes))


def allocation_trace(call: Callable[[], Any]) -> list[Allocation]:
    """Every change of the CPU allocator during `call`, with the number of the MARK range it belongs to."""
    with _profiled() as profiler:
        outputs = call()
    del outputs
    found: list[tuple[int, int, int, int | None]] = []
    starts: dict[int, int] = {}

    def walk(nodes: list[Any], operator: int | None) -> None:
        for node in nodes:
            fields, inside = node.extra_fields, operator
            if hasattr(fields, "alloc_size"):
                found.append((node.start_time_ns, fields.ptr, fields.alloc_size, operator))
            elif node.name.startswith(MARK):
                inside = int(node.name.removeprefix(MARK))
                starts[inside] = node.start_time_ns
            walk(node.children, inside)

    walk(profiler.profiler.kineto_results.experimental_event_tree(), None)
    numbers = sorted(starts, key=starts.__getitem__)
    times = [starts[number] for number in numbers]

    def following(time_ns: int) -> int:
        place = bisect.bisect_left(times, time_ns)
        return numbers[place] if place < len(numbers) else -1

    found.sort(key=lambda each: each[0])
    return [
        Allocation(pointer, size, following(time_ns) if operator is None else operator) for time_ns, pointer, size, operator in found
    ]


@contextlib.contextmanager
def _profiled() -> Iterator[torch.profiler.profile]:
    """The profiler with allocation events, and no garbage collection that would free older memory meanwhile."""
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
            yield profiler
    finally:
        if collecting:
            gc.enable()

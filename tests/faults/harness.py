"""The real product path on a virtual device, in this process: `benchmark`, the worker's answers, the records, the tables.

Only the start of child processes is left out; each child's answer goes through JSON, and is checked, as it is between processes.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from humar_bench.args import ModelArgs, RunArgs, Workload
from humar_bench.devices import environment, opening
from humar_bench.devices.device import Device
from humar_bench.devices.virtual import VirtualDevice
from humar_bench.measures import memory
from humar_bench.records.record import Run
from humar_bench.report.comparison import compare
from humar_bench.running import bench, children, cost_worker, costs
from humar_bench.running.task import Task
from tests.faults import models

Patch = Callable[[pytest.MonkeyPatch], None]
ARGS = ModelArgs(hidden_dim=16, nheads=2, dim_feedforward=8, enc_layers=1, dec_layers=2, num_queries=5, num_body_points=3)
RUN = RunArgs(device="cpu", processes=3, min_runs=30, max_runs=30, budget=6e5)

# Feet that say how something was measured and that it is in order. Every other sentence of a table is a flag.
IN_ORDER = (
    r"(More|Less) is better", r"Speed is the batch", r"[^:]*: (faster|slower|same): (within|\d)", r"Ratios are ", r"Looked at after",
    r"Control: .*: same\.$", r"[^:]*: outputs as a float32 eager forward's, the same",
    r"[^:]*: on inputs it had not seen .*: agrees\.$", r"p90 needs", r"One multiply or one add", r"Every operator was counted",
    r"A component's time is its own", r"Medians over rounds of one forward",
    r"The peak is the most", r"[^:]*: live storages .*differs by 0\.$", r"[^:]*: 1 tensor has several names and is counted once",
)


class VirtualGpu(VirtualDevice):
    """A virtual device whose tensors torch can hold: they lie on the CPU."""

    name = "cpu"

    def __init__(self, **more: Any) -> None:
        super().__init__(**{"feed": lambda now_s: self.reading(), "clock_read_s": 1e-8, **more})
        self.clock_mhz, self.throttled = 1980, False

    def reading(self) -> dict[str, Any]:
        clock, self.clock_mhz = self.clock_mhz, 1980
        return {"sm_clock_mhz": clock, "temperature_c": 50, "power_w": 400.0, "throttle_reasons": [], "throttled": self.throttled}


class VirtualCpu(VirtualGpu):
    """What the host does is all there is."""

    kind = "cpu"

    def time_call(self, call: Any, calls: int = 1, *, device_time: bool = True, telemetry: bool = False) -> Any:
        return Device.time_call(self, call, calls)

    def clock_cost_s(self) -> float:
        return Device.clock_cost_s(self)

    def memory(self) -> None:
        return None


class Mirror(TorchDispatchMode):
    """Gives the virtual allocator every storage that torch makes and gives it back when the storage dies."""

    def __init__(self, allocator: Any) -> None:
        super().__init__()
        self.allocator = allocator
        self.handles: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(outputs):
            if type(leaf) in (torch.Tensor, torch.nn.Parameter) and leaf.device.type == "cpu":
                self._keep(leaf.untyped_storage())
        return outputs

    def _keep(self, storage: Any) -> None:
        key = storage._cdata
        if key not in self.handles:
            self.handles[key] = self.allocator.allocate(storage.nbytes())
            weakref.finalize(storage, self._died, key).atexit = False

    def _died(self, key: int) -> None:
        self.allocator.free(self.handles.pop(key))


def in_this_process(pairs: Iterable[tuple[Any, children.Child]], *, at_once: int) -> Iterator[tuple[Any, children.Outcome]]:
    """What `children.run_children` does, without children: what they tell is heard at once."""
    for tag, child in pairs:
        def tell(task: Task, stage: str, architecture: str = "", child: children.Child = child, **more: Any) -> None:
            event = json.loads(json.dumps({"stage": stage, "architecture": architecture, **more}, allow_nan=False))
            if child.check_event is not None:
                child.check_event(event)
            child.hear(event)

        program = importlib.import_module(child.command[-1])
        with pytest.MonkeyPatch.context() as patches:
            patches.setattr(Task, "tell", tell)
            reply = json.loads(json.dumps(program.answer(child.request), allow_nan=False))
        child.check(reply)
        yield tag, children.Outcome(reply, architecture="")


def alone_where_it_must_be(pairs: Iterable[tuple[Any, children.Child]], *, at_once: int) -> Iterator[tuple[Any, children.Outcome]]:
    """As `in_this_process`, but memory in a child as ever: a footprint is that of a process which did nothing else."""
    for pair in pairs:
        yield from (children.run_children if pair[1].request["measure"] == "memory" else in_this_process)([pair], at_once=at_once)


@contextlib.contextmanager
def without_children(run_children: Callable[..., Any] = alone_where_it_must_be) -> Iterator[pytest.MonkeyPatch]:
    """What `benchmark` measures and all that is counted, in this process. Not for models that crash, hang or meddle."""
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(bench, "run_children", run_children)
        patches.setattr(costs, "run_children", run_children)
        threads = torch.get_num_threads()
        try:
            yield patches
        finally:
            torch.set_num_threads(threads)
            torch.set_float32_matmul_precision("highest")


def measured(
    builders: Iterable[str], measures: Iterable[str], *, make: Callable[[], VirtualDevice] = VirtualGpu, patch: Patch | None = None,
    run: RunArgs = RUN,
) -> Run:
    """Measure builders of `models`; `make` makes each process's device, `patch` seeds a fault in the harness."""
    def opened(name: str) -> VirtualDevice:
        models.DEVICE = make()
        return models.DEVICE

    with without_children(in_this_process) as patches:
        cost_worker._check_counter_once.cache_clear()
        patches.setattr(opening, "open_device", opened)
        patches.setattr(environment, "source_state", lambda: (None, None))
        patches.setattr(environment, "package_versions", dict)
        if "memory" in measures:
            _own_footprint(patches)
        if patch is not None:
            patch(patches)
        named = [f"{name}=tests.faults.models:{name.partition('_again')[0]}" for name in builders]
        return bench.benchmark(named, ARGS, Workload.tiny(), list(measures), run, command="")


def _own_footprint(patches: pytest.MonkeyPatch) -> None:
    """Memory is measured with the virtual allocator and a footprint that grows with it, so that this test process does not matter."""
    measure = memory.measure_memory

    def mirrored(build: Any, make_inputs: Any, device: Any, **more: Any) -> Any:
        with Mirror(models.DEVICE.allocator):
            return measure(build, make_inputs, device, **more)

    patches.setattr(memory, "measure_memory", mirrored)
    patches.setattr(memory, "resident_bytes", lambda: 300 * 2**20 + models.DEVICE.allocator.memory().peak_allocated_bytes)


def flags(run: Run) -> list[str]:
    """Everything a table of this run says that is not in order, and every verdict that is none."""
    comparison = compare(run)
    said = [*comparison.failures, *run.notes]
    for table in comparison.tables:
        said += [note for note in table.notes if not any(re.match(pattern, note) for pattern in IN_ORDER)]
    said += [f"{name}: {speed.verdict}" for name, speed in comparison.speeds.items() if speed.verdict in ("undecided", "invalid")]
    return list(dict.fromkeys(said))

"""What a child that counts does: parameters, FLOPs and predicted peak memory of many models, none of them run.

Request: works (arguments and a workload each), items (each a measure, an architecture and the number of a work), run, counters. Each
result is said on the pipe as soon as it is there; the reply says only that the child came to its end, which may be before the last item.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # the meta device's kernels in Python load it on first use; here it costs less
from torch import nn

from humar_bench.args import FreeWorkload
from humar_bench.devices.device import CpuDevice
from humar_bench.devices.environment import environment
from humar_bench.devices.opening import open_device
from humar_bench.errors import HumarBenchError, MeasurementError
from humar_bench.measures.conditions import conditions
from humar_bench.measures.dead_weight import DeadWeight, find_dead_weight
from humar_bench.measures.exact import Exact, count_exactly
from humar_bench.measures.flop_check import check_counter
from humar_bench.measures.live_memory import MemoryPeak, track_peak
from humar_bench.measures.memory_prediction import Prediction, predict, predict_built
from humar_bench.measures.params import count_parameters
from humar_bench.records.record import plain
from humar_bench.running.costs import PEAK
from humar_bench.running.task import Task, success
from humar_bench.subjects.registry import Architecture
from humar_bench.subjects.subject import NotFiniteOutputs


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Count item by item; what one item cannot tell stands in its own result."""
    facts, before, loaded = environment(CpuDevice()), conditions(), set(sys.modules)
    point: _Point | None = None
    for index, item in enumerate(request["items"]):
        task = Task.read({
            **{name: request.get(name) for name in ("run", "counters", "events")}, "measure": item["measure"],
            "architectures": [item["architecture"]], **request["works"][item["work"]],
        })
        if index and (conditions() != before or _meets_a_namesake(task.architectures[0], loaded)):
            break  # another child goes on: what was loaded here would count with it
        task.tell("count", task.architectures[0].name, item=index)
        if point is None or point.item != (item["architecture"], item["work"]):
            point = _Point(task, (item["architecture"], item["work"]))
        result = plain(point.result(item["measure"]))
        task.tell("counted", task.architectures[0].name, item=index, result=result, environment=facts)
    return {"environment": facts}


def _meets_a_namesake(architecture: Architecture, loaded: set[str]) -> bool:
    """Whether a file's neighbours are called like modules that an earlier item brought in from elsewhere."""
    where = architecture.place.where
    if not architecture.foreign or not where.endswith(".py"):
        return False
    folder = Path(where).resolve().parent
    brought = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items()) if name not in loaded}
    return any(file and Path(file).parent not in (folder, folder / name) and ((folder / f"{name}.py").exists() or (folder / name).is_dir())
               for name, file in brought.items() if "." not in name)


class _Point:
    """One architecture on one piece of work: built and watched once for all that is counted of it."""

    def __init__(self, task: Task, item: tuple) -> None:
        self.task, self.item, self.architecture = task, item, task.architectures[0]

    def result(self, measure: str) -> dict[str, Any]:
        """What the record of a measure holds, or its failure."""
        make = {"params": self._params, "flops": self._flops, "memory": self._memory, PEAK: self._peak}[measure]
        try:
            measured = make()
            return success(self.model if measure != PEAK else None, measured)
        except Exception as error:
            return self.task.failure(error, self.architecture.name)

    @functools.cached_property
    def _built(self) -> tuple[nn.Module, str]:
        """The model on the meta device; a foreign one that cannot be built there, on the CPU."""
        try:
            return self.task.model(self.architecture, "meta"), "meta"
        except HumarBenchError:
            if not self.architecture.foreign:
                raise
            return self.task.model(self.architecture, "cpu"), "cpu"

    @property
    def model(self) -> nn.Module:
        return self._built[0]

    @functools.cached_property
    def _watched(self) -> Exact:
        model, where = self._built
        try:
            return count_exactly(model, self.task.inputs(where), strict=not self.architecture.foreign)
        except HumarBenchError:
            if where != "meta" or not self.architecture.foreign:
                raise
            return count_exactly(self.task.model(self.architecture, "cpu"), self.task.inputs("cpu"))  # it looks at values

    def _params(self) -> dict[str, Any]:
        measured = count_parameters(self.model).measured()
        try:
            found = self._dead_weight().measured()
            measured["never_read"] = found["never_read"]
            if found["unregistered"]:
                measured["unregistered"] = found["unregistered"]
        except HumarBenchError as error:  # a model that cannot run still has parameters
            measured["never_read"], measured["never_read_reason"] = None, str(error)
        return measured

    def _dead_weight(self) -> DeadWeight:
        try:
            if isinstance(self.task.workload, FreeWorkload):
                with contextlib.suppress(NotFiniteOutputs):  # what comes out of a generator nobody has computed
                    self.task.check(self.architecture, self._watched.outputs)
            return self._watched.dead_weight
        except HumarBenchError:
            if self.architecture.foreign:
                raise
            model, where = self._built  # an operator without a formula is read all the same
            return find_dead_weight(model, self.task.inputs(where))

    def _flops(self) -> dict[str, Any]:
        _check_counter_once()
        found = self._watched
        if self.architecture.foreign:
            self.task.check(self.architecture, found.outputs)
        discarded = found.dead_weight.measured()["discarded"]
        measured = {**found.flops.measured(), "batch": self._batch(found), "discarded": discarded, "cross_checks": []}
        if self.task.counters:
            from humar_bench.measures.counters import cross_check

            real, inputs = self.task.model(self.architecture, "cpu"), self.task.inputs("cpu")  # other counters run the model
            checks = [cross_check(real, inputs, counter, count=found.flops) for counter in self.task.counters]
            measured["cross_checks"] = [each.measured() for each in checks]
        return measured

    def _batch(self, found: Exact) -> int:
        """Of the first input; where somebody's function makes it, its first dimension may be anything."""
        return self.task.workload.batch if isinstance(self.task.workload, FreeWorkload) else found.flops.batch

    def _peak(self) -> dict[str, Any]:
        """On the device that will be measured: kernels may differ."""
        return self._predicted(open_device(self.task.run.device).name).plain()

    def _predicted(self, where: str) -> Prediction:
        """A foreign builder never sees fake tensors: it may do to its weights what only real ones allow."""
        def inputs() -> Any:
            return self.task.inputs(where)

        if not self.architecture.foreign:
            return predict(lambda: self.task.model(self.architecture, where), inputs)
        model, made_on = self._built
        found = predict_built(model, inputs, where)
        if found.peak is None and made_on == "meta":
            return predict_built(self.task.model(self.architecture, "cpu"), inputs, where)
        return found

    def _memory(self) -> dict[str, Any]:
        """The predicted peak in the fields of a memory record; what only a real run could say is None."""
        found = self._predicted("cpu")
        if found.peak is not None:
            return _memory_fields(found.peak, found.peak.peak_bytes, f"{found.method}, not run")
        if not self.architecture.foreign:
            raise MeasurementError(f"the peak of {self.architecture.name} cannot be predicted: {found.method}.")
        with torch.no_grad():
            return _memory_fields(track_peak(self.task.model(self.architecture, "cpu"), self.task.inputs("cpu")), None, found.method)


@functools.cache
def _check_counter_once() -> None:
    check_counter()


def _memory_fields(peak: MemoryPeak, predicted_bytes: int | None, method: str) -> dict[str, Any]:
    fields = {each.name: getattr(peak, each.name) for each in dataclasses.fields(peak)}
    fields["alive"] = [{**dataclasses.asdict(each), "shape": list(each.shape)} for each in peak.alive]
    unknown = dict.fromkeys(("allocator_bytes", "difference_bytes", "workspace_bytes", "resident_bytes", "cuda"))
    return {**fields, **unknown, "predicted_bytes": predicted_bytes, "method": method}

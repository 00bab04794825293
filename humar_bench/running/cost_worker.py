"""The child process that counts exact costs: parameters, FLOPs and predicted peak memory of many models, none of them run.

Request: items (each an architecture, arguments and a workload), run. Reply: environment, and per item and measure a result.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import torch
from torch import nn

from humar_bench.devices.environment import environment
from humar_bench.devices.opening import open_device
from humar_bench.errors import HumarBenchError
from humar_bench.measures.flops import count_flops
from humar_bench.measures.memory import MemoryPeak, predict_peak, track_peak
from humar_bench.measures.params import count_parameters
from humar_bench.records.record import plain
from humar_bench.running.task import Task, failure, success
from humar_bench.running.worker import serve
from humar_bench.subjects.registry import Architecture


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Every item's costs; what one item cannot tell stands in its own results."""
    results = []
    for item in request["items"]:
        task = Task.read({
            "measure": "costs", "architectures": [item["architecture"]], "asked": item["asked"], "workload": item["workload"],
            "run": request["run"], "events": request.get("events"),
        })
        task.tell("count", task.architectures[0].name)
        results.append(costs_of(task, task.architectures[0]))
    return {"environment": environment(open_device("cpu")), "results": plain(results)}


def costs_of(task: Task, architecture: Architecture) -> dict[str, Any]:
    """Measure -> result of one architecture on one workload."""
    made: list[tuple[nn.Module, str]] = []

    def model() -> tuple[nn.Module, str]:
        if not made:
            made.append(_shapes_only(task, architecture))
        return made[0]

    def params() -> dict[str, Any]:
        return {**count_parameters(model()[0]).measured(), "never_read": None, "never_read_reason": "it was not looked for."}

    def flops() -> dict[str, Any]:
        each, where = model()
        try:
            count = count_flops(each, task.inputs(where), strict=not architecture.foreign)
        except HumarBenchError:
            if where != "meta" or not architecture.foreign:
                raise
            count = count_flops(task.model(architecture, "cpu"), task.inputs("cpu"))  # it looks at values
        return {**count.measured(), "discarded": [], "cross_checks": []}

    results = {}
    for name, measure in (("params", params), ("flops", flops), ("memory", lambda: _memory(task, architecture))):
        try:
            results[name] = success(model()[0], measure())
        except Exception as error:
            results[name] = failure(error, architecture.name)
    return results


def _shapes_only(task: Task, architecture: Architecture) -> tuple[nn.Module, str]:
    """The model on the meta device; a foreign one that cannot be built there, on the CPU."""
    try:
        return task.model(architecture, "meta"), "meta"
    except HumarBenchError:
        if not architecture.foreign:
            raise
        return task.model(architecture, "cpu"), "cpu"


def _memory(task: Task, architecture: Architecture) -> dict[str, Any]:
    """The predicted peak in the fields of a memory record; what only a real run could say is None."""
    method = "live storages on fake tensors, not run"
    try:
        peak = predict_peak(lambda: task.model(architecture, "cpu"), lambda: task.inputs("cpu"))
        predicted = peak.peak_bytes
    except Exception as error:  # somebody else's model may look at values, which fake tensors do not have
        if not architecture.foreign:
            raise
        method, predicted = f"live storages of a real run (on fake tensors: {type(error).__name__})", None
        with torch.no_grad():
            peak = track_peak(task.model(architecture, "cpu"), task.inputs("cpu"))
    return _memory_fields(peak, predicted, method)


def _memory_fields(peak: MemoryPeak, predicted_bytes: int | None, method: str) -> dict[str, Any]:
    fields = {each.name: getattr(peak, each.name) for each in dataclasses.fields(peak)}
    fields["alive"] = [{**dataclasses.asdict(each), "shape": list(each.shape)} for each in peak.alive]
    unknown = dict.fromkeys(("allocator_bytes", "difference_bytes", "workspace_bytes", "resident_bytes", "cuda"))
    return {**fields, **unknown, "predicted_bytes": predicted_bytes, "method": method}


if __name__ == "__main__":
    sys.exit(serve(answer))

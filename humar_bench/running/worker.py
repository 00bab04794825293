"""The child process in which one measurement runs: `python -m humar_bench.running.worker`.

Reads one JSON request on standard input, writes one JSON reply to the file the request names, and says on the pipe it names what it
is doing, so that the parent knows whom to blame when this process dies. Request: measure, architectures, asked, workload, run,
process, plan, predicted, limit_bytes, reply, events. Reply: environment, and per architecture status, kind, reason, built, measured.
A request to count is another: `cost_worker.py`.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from humar_bench.args import RunArgs
from humar_bench.backends import why_not
from humar_bench.errors import HumarBenchError, UsageError
from humar_bench.reading import check_json
from humar_bench.records.record import COMPONENT_TIME, END_TO_END, plain
from humar_bench.running import leftovers
from humar_bench.running.task import Task, failure, success
from humar_bench.subjects.registry import Architecture

if TYPE_CHECKING:
    import torch

    from humar_bench.devices.device import Device


def measure_memory(task: Task, architecture: Architecture, device: Device) -> dict[str, Any]:
    from humar_bench.measures import memory
    from humar_bench.measures.memory_prediction import Prediction

    models: list[Any] = []

    def make() -> torch.nn.Module:
        models[:] = [task.model(architecture, device.name)]
        return models[0]

    found = memory.measure_memory(
        make, lambda: task.inputs(device.name), device, check=lambda outputs: task.check(architecture, outputs),
        prediction=None if task.predicted is None else Prediction.read(task.predicted), outside=architecture.foreign,
    )
    return success(models[0], found.measured())


def measure_component_time(task: Task, architecture: Architecture, device: Device) -> dict[str, Any]:
    import torch

    from humar_bench.measures.call import called
    from humar_bench.measures.component_time import time_components
    from humar_bench.running.preparation import set_formats

    set_formats(task.run.dtype)
    model, inputs = task.model(architecture, device.name), task.inputs(device.name)

    def forward() -> Any:
        with torch.inference_mode():
            return called(model, inputs)

    found = time_components(
        model, forward, device, budget_s=task.run.budget / task.run.most_processes, max_rounds=task.run.max_runs,
        check=lambda outputs: task.check(architecture, outputs),
    )
    return success(model, {**found.measured(), "batch": task.workload.batch, "threads": torch.get_num_threads()})


MEASURES = {"memory": measure_memory, COMPONENT_TIME: measure_component_time}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do what a request asks."""
    with _quick_imports():
        import torch

        from humar_bench.devices.environment import environment
        from humar_bench.devices.opening import open_device

        if request["measure"] == "count":
            from humar_bench.running import cost_worker

    run = RunArgs(**request["run"])
    if run.threads:
        torch.set_num_threads(run.threads)
    try:
        device = open_device(run.device)
    except UsageError as error:
        return {"usage_error": str(error)}
    if why := why_not(run.backend, run.dtype, device.kind):
        return {"usage_error": why}
    if request["measure"] == "count":
        return cost_worker.answer(request)
    task, conditions = Task.read(request), environment(device)
    if task.measure == "fps":
        from humar_bench.running.speed_worker import measure_fps

        try:
            results = measure_fps(task, device)
        except HumarBenchError as error:  # of the device or the clock, not of one architecture
            results = {each.name: task.failure(error, each.name) for each in task.architectures}
    elif task.measure == END_TO_END:
        from humar_bench.running.end_to_end import measure_end_to_end

        try:
            results = measure_end_to_end(task, device)
        except UsageError as error:
            return {"usage_error": str(error)}
    else:
        results = {}
        for architecture in task.architectures:
            task.tell("measure", architecture.name)
            try:
                results[architecture.name] = MEASURES[task.measure](task, architecture, device)
            except Exception as error:
                results[architecture.name] = task.failure(error, architecture.name)
    return {"environment": conditions, "results": {name: writable(result, name) for name, result in results.items()}}


def writable(result: dict[str, Any], name: str) -> dict[str, Any]:
    """A result as JSON has it; a failed one where what an architecture left in it cannot be written."""
    try:
        made = plain(result)
        json.dumps(made, allow_nan=False).encode()
        check_json(made)
        return made
    except (TypeError, ValueError, RecursionError) as error:
        return failure(error, name)


@contextlib.contextmanager
def _quick_imports() -> Iterator[None]:
    """Loading torch makes some hundred thousand objects that stay; looking for garbage among them would take a fifth of its time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _die_with_parent() -> None:
    """Ask the kernel to end this process when its parent is killed (Linux); a measurement nobody waits for only disturbs the next."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(Exception):
            import ctypes

            pr_set_pdeathsig = 1  # linux/prctl.h
            ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def serve(answer: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
    """The life of any child: read the request, answer it, leave the reply in one piece, end without tearing down."""
    _die_with_parent()
    leftovers.adopt_orphans()
    request = json.load(sys.stdin)
    if request.get("parent") not in (None, os.getppid()):
        return 1  # the parent died before the kernel was asked
    if request.get("events") is not None:
        os.set_inheritable(request["events"], False)
    if limit_bytes := request.get("limit_bytes"):
        resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))
    reply = answer(request)
    written = f"{request['reply']}.part"
    with open(written, "w", encoding="utf-8") as file:
        json.dump(reply, file, allow_nan=False)
    os.replace(written, request["reply"])
    leftovers.end_all(leftovers.descendants(os.getpid()))  # what an architecture started and left behind
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # somebody's library may hang or crash while it is torn down; the result is safe


def main() -> int:
    return serve(answer)


if __name__ == "__main__":
    sys.exit(main())

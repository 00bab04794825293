"""The child process in which one measurement runs: `python -m humar_bench.worker`.

Reads one JSON request on standard input, writes one JSON reply to the file the request names, and says on the pipe it names what it
is doing, so that the parent knows whom to blame when this process dies. Request: measure, architectures, asked, workload, run,
process, of, plan, counters, limit_bytes, reply, events. Reply: environment, and per architecture status, kind, reason, built, measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import secrets
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from humar_bench.args import ModelArgs, RunArgs, Workload
from humar_bench.errors import HumarBenchError, UsageError
from humar_bench.record import plain
from humar_bench.registry import Architecture, NotFiniteOutputs, build, check_outputs, is_out_of_memory, one_line

if TYPE_CHECKING:
    import torch

    from humar_bench.device import Device
    from humar_bench.measures.speed import Progress, SpeedSample

EVENT_EVERY_S = 1.0  # a running measurement says so at most this often, between two rounds


@dataclass
class Task:
    """A request, read."""

    measure: str
    architectures: list[Architecture]
    args: ModelArgs
    workload: Workload
    run: RunArgs
    process: int = 0
    plan: dict[str, Any] = field(default_factory=dict)
    counters: list[str] = field(default_factory=list)
    events: int | None = None

    @classmethod
    def read(cls, request: dict[str, Any]) -> Task:
        workload = request["workload"]
        sizes = tuple((height, width) for height, width in workload["feature_sizes"])
        return cls(
            measure=request["measure"],
            architectures=[Architecture(**each) for each in request["architectures"]],
            args=ModelArgs(**request["asked"]),
            workload=Workload(**{**workload, "feature_sizes": sizes}),
            run=RunArgs(**request["run"]),
            process=request.get("process", 0),
            plan=request.get("plan", {}),
            counters=request.get("counters", []),
            events=request.get("events"),
        )

    def tell(self, stage: str, architecture: str = "", **more: Any) -> None:
        """One line to the parent; a parent that is gone is no reason to fail."""
        if self.events is None:
            return
        line = json.dumps({"stage": stage, "architecture": architecture, **more}).encode() + b"\n"
        with contextlib.suppress(OSError):
            os.write(self.events, line)

    @property
    def dtype(self) -> torch.dtype:
        import torch

        return getattr(torch, self.run.dtype)

    def model(self, architecture: Architecture, device: str) -> torch.nn.Module:
        return build(architecture, self.args, device=device, dtype=self.dtype, seed=self.run.seed)

    def inputs(self, device: str) -> Any:
        from humar_bench.inputs import make_inputs

        return make_inputs(self.args, self.workload, device=device, dtype=self.dtype, seed=self.run.seed)

    def check(self, architecture: Architecture, outputs: Any) -> None:
        check_outputs(outputs, self.args, self.workload, name=architecture.name)


def failure(error: BaseException, architecture: str) -> dict[str, Any]:
    """An exception as a failed result: its kind and one sentence."""
    if isinstance(error, NotFiniteOutputs):
        kind = "not finite"
    else:
        kind = "out of memory" if is_out_of_memory(error) else "error"
    if isinstance(error, HumarBenchError):
        reason = str(error)
    elif kind == "out of memory":
        reason = f"{architecture} ran out of memory ({one_line(error)}); try a smaller batch."
    else:
        reason = f"{architecture} raised {one_line(error)}."
    return {"status": "failed", "kind": kind, "reason": reason, "built": {}, "measured": None}


def success(model: Any, measured: dict[str, Any]) -> dict[str, Any]:
    built = getattr(model, "built", None)
    return {"status": "ok", "kind": "", "reason": "", "built": dict(built) if isinstance(built, dict) else {}, "measured": measured}


def measure_params(task: Task, architecture: Architecture, device: Device) -> dict[str, Any]:
    from humar_bench.measures.dead_weight import find_dead_weight
    from humar_bench.measures.params import count_parameters

    model, where = _shapes_only(task, architecture)
    measured = count_parameters(model).measured()
    try:
        measured["never_read"] = find_dead_weight(model, task.inputs(where)).measured()["never_read"]
    except HumarBenchError as error:  # a model that cannot run still has parameters
        measured["never_read"], measured["never_read_reason"] = None, str(error)
    return success(model, measured)


def measure_flops(task: Task, architecture: Architecture, device: Device) -> dict[str, Any]:
    from humar_bench.measures.dead_weight import find_dead_weight
    from humar_bench.measures.flops import count_flops

    model, where = _shapes_only(task, architecture)
    inputs = task.inputs(where)
    try:
        count = count_flops(model, inputs, strict=not architecture.foreign)
    except HumarBenchError:
        if where != "meta" or not architecture.foreign:
            raise
        model, where = task.model(architecture, "cpu"), "cpu"  # it looks at values, which the meta device does not have
        inputs = task.inputs(where)
        count = count_flops(model, inputs)
    if architecture.foreign:
        _check_without_running(task, architecture, model, inputs)
    measured = count.measured()
    measured["discarded"] = find_dead_weight(model, inputs).measured()["discarded"]
    measured["cross_checks"] = []
    if task.counters:
        from humar_bench.measures.counters import cross_check

        real, inputs = task.model(architecture, "cpu"), task.inputs("cpu")  # other counters run the model
        measured["cross_checks"] = [cross_check(real, inputs, counter, count=count).measured() for counter in task.counters]
    return success(model, measured)


def _shapes_only(task: Task, architecture: Architecture) -> tuple[torch.nn.Module, str]:
    """The model on the meta device; a foreign one that cannot be built there, on the CPU."""
    try:
        return task.model(architecture, "meta"), "meta"
    except HumarBenchError:
        if not architecture.foreign:
            raise
        return task.model(architecture, "cpu"), "cpu"


def _check_without_running(task: Task, architecture: Architecture, model: Any, inputs: Any) -> None:
    from humar_bench.measures.trace import Observer, observe_forward

    class Nobody(Observer):
        def add(self, call: Any) -> None:
            pass

    task.check(architecture, observe_forward(model, inputs, Nobody).outputs)


def measure_memory(task: Task, architecture: Architecture, device: Device) -> dict[str, Any]:
    from humar_bench.measures import memory

    models: list[Any] = []

    def make() -> torch.nn.Module:
        models[:] = [task.model(architecture, device.name)]
        return models[0]

    found = memory.measure_memory(
        make, lambda: task.inputs(device.name), device, check=lambda outputs: task.check(architecture, outputs)
    )
    return success(models[0], found.measured())


class FirstCalls:
    """One forward in inference mode. The first call's outputs are kept and, ahead of the second, held against the shared call, so
    that the first call's time stays its own and nothing is timed before its outputs were seen to be right."""

    def __init__(self, model: Any, inputs: Any, check: Callable[[Any], None], started: Callable[[], None]) -> None:
        import torch

        self.model, self.inputs, self.check, self.started = model, inputs, check, started
        self.inference_mode = torch.inference_mode
        self.first: Any = None
        self.fresh = True
        self.checked = False
        self.error: Exception | None = None

    def __call__(self) -> None:
        if self.checked:
            with self.inference_mode():
                self.model(*self.inputs)
            return
        try:
            self._unchecked_call()
        except Exception as error:
            self.error, self.first = error, None
            raise

    def _unchecked_call(self) -> None:
        if self.fresh:
            self.fresh = False
            self.started()
            with self.inference_mode():
                self.first = self.model(*self.inputs)
            return
        self.check(self.first)
        self.first, self.checked = None, True
        self()

    def once_more(self) -> None:
        """After the timing: the outputs must still be right."""
        with self.inference_mode():
            outputs = self.model(*self.inputs)
        self.check(outputs)


def measure_fps(task: Task, device: Device) -> dict[str, dict[str, Any]]:
    """Every architecture built in this one process, in an order shuffled by the seed, then timed in turn."""
    from humar_bench.measures.speed import TimingPlan, time_architectures

    inputs = task.inputs(device.name)
    results: dict[str, dict[str, Any]] = {}
    calls: dict[str, FirstCalls] = {}
    for architecture in construction_order(task):
        name = architecture.name
        task.tell("build", name)
        try:
            model = task.model(architecture, device.name)
        except Exception as error:
            results[name] = failure(error, name)
            continue
        calls[name] = FirstCalls(
            model, inputs, lambda outputs, each=architecture: task.check(each, outputs), lambda name=name: task.tell("first call", name)
        )
    before = device.telemetry()
    samples = time_architectures(calls, device, TimingPlan(**task.plan), progress=_throttled(task)) if calls else {}
    after = device.telemetry()
    child = secrets.token_hex(8)  # rounds pair by index only within one child
    for name, sample in samples.items():
        task.tell("last check", name)
        results[name] = _speed_result(task, name, calls[name], sample)
        if results[name]["status"] == "ok":
            telemetry = None if before is None and after is None else {"before": before, "after": after}
            results[name]["measured"] |= {"child": child, "telemetry": telemetry, **_conditions(task)}
    return results


def _speed_result(task: Task, name: str, call: FirstCalls, sample: SpeedSample) -> dict[str, Any]:
    if call.error is None and not sample.error:
        try:
            call.once_more()
        except Exception as error:
            call.error = error
    if call.error is not None:
        return failure(call.error, name)
    if sample.error:
        return {"status": "failed", "kind": sample.error_kind, "reason": f"{sample.error.rstrip('.')}.", "built": {}, "measured": None}
    return success(call.model, {"process": task.process, **sample.measured(), "finite": True})


def construction_order(task: Task) -> list[Architecture]:
    """Architectures in the order this process builds them: where they come to lie in memory must not always favour the same one."""
    return random.Random(f"{task.run.seed}/{task.process}").sample(task.architectures, len(task.architectures))


def _conditions(task: Task) -> dict[str, Any]:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that these names will change
        tf32 = {
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "matmul": bool(torch.backends.cuda.matmul.allow_tf32),
            "cudnn": bool(torch.backends.cudnn.allow_tf32),
        }
    return {"batch": task.workload.batch, "threads": torch.get_num_threads(), "dtype": task.run.dtype, "tf32": tf32}


def _throttled(task: Task) -> Callable[[Progress], None]:
    """Pass each stage's first progress on, then at most one every EVENT_EVERY_S seconds: the parent that shows it would run on the
    cores that are being measured."""
    last_s, stage = 0.0, ""

    def tell(progress: Progress) -> None:
        nonlocal last_s, stage
        now_s = time.monotonic()
        if progress.stage != stage or now_s - last_s >= EVENT_EVERY_S:
            last_s, stage = now_s, progress.stage
            task.tell(progress.stage, progress.architecture, share=progress.share)

    return tell


MEASURES = {"params": measure_params, "flops": measure_flops, "memory": measure_memory}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do what a request asks."""
    import torch

    from humar_bench.device import open_device
    from humar_bench.environment import environment

    task = Task.read(request)
    if task.run.threads:
        torch.set_num_threads(task.run.threads)
    try:
        device = open_device("cpu" if task.measure in ("params", "flops") else task.run.device)
    except UsageError as error:
        return {"usage_error": str(error)}
    conditions = environment(device)
    if task.measure == "fps":
        results = measure_fps(task, device)
    else:
        results = {}
        for architecture in task.architectures:
            task.tell("measure", architecture.name)
            try:
                results[architecture.name] = MEASURES[task.measure](task, architecture, device)
            except Exception as error:
                results[architecture.name] = failure(error, architecture.name)
    return {"environment": conditions, "results": plain(results)}


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
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # somebody's library may hang or crash while it is torn down; the result is safe


def main() -> int:
    return serve(answer)


if __name__ == "__main__":
    sys.exit(main())

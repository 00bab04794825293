"""What a child process is asked, and how it answers: a request read into a Task, a success or an exception as a result."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import traceback
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from humar_bench.args import HELD_IN_FLOAT32, FreeWorkload, ModelArgs, RunArgs, Workload, read_workload
from humar_bench.errors import HumarBenchError, is_out_of_memory, one_line
from humar_bench.records.record import failed_result
from humar_bench.subjects.making import as_built
from humar_bench.subjects.registry import Architecture
from humar_bench.subjects.subject import NotFiniteOutputs, Subject, subject_of

if TYPE_CHECKING:
    import torch


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
    predicted: dict[str, Any] | None = None
    events: int | None = None

    @classmethod
    def read(cls, request: dict[str, Any]) -> Task:
        return cls(
            measure=request["measure"],
            architectures=[Architecture(**each) for each in request["architectures"]],
            args=ModelArgs(**request["asked"]),
            workload=read_workload(request["workload"]),
            run=RunArgs(**request["run"]),
            process=request.get("process", 0),
            plan=request.get("plan", {}),
            counters=request.get("counters", []),
            predicted=request.get("predicted"),
            events=request.get("events"),
        )

    def tell(self, stage: str, architecture: str = "", **more: Any) -> None:
        """One line to the parent; a parent that is gone is no reason to fail."""
        if self.events is None:
            return
        line = json.dumps({"stage": stage, "architecture": architecture, **more}).encode() + b"\n"
        with contextlib.suppress(OSError):
            while line:
                line = line[os.write(self.events, line) :]

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and inputs: what the run's number type is held in."""
        import torch

        return getattr(torch, "float32" if self.run.dtype in HELD_IN_FLOAT32 else self.run.dtype)

    @functools.cached_property
    def subject(self) -> Subject:
        return subject_of(self.args, self.workload)

    def model(self, architecture: Architecture, device: str) -> torch.nn.Module:
        with _foreign(architecture.foreign, f"the builder of {architecture.name}"):
            return self.subject.of(architecture).build(architecture, device=device, dtype=self.dtype, seed=self.run.seed)

    def inputs(self, device: str, *, other: int = 0) -> Any:
        """The inputs of the run; with `other` 1, 2, ... other ones of the same shapes."""
        free = isinstance(self.workload, FreeWorkload)
        with _foreign(free, self.workload.inputs if free else ""):
            return self.subject.inputs(device=device, dtype=self.dtype, seed=self.run.seed + other)

    def check(self, architecture: Architecture, outputs: Any) -> None:
        self.subject.of(architecture).check(outputs, name=architecture.name)

    def failure(self, error: BaseException, architecture: str) -> dict[str, Any]:
        """As `failure`, which knows what the models of this task are called with."""
        return failure(error, architecture, self.subject)


def _foreign(it_is: bool, who: str) -> contextlib.AbstractContextManager[None]:
    """Around somebody's code: what `who` replaces for all that come after it is put back, and MeasurementError raised."""
    from humar_bench.measures.untouched import left_untouched

    return left_untouched(who) if it_is else contextlib.nullcontext()


_NOT_IN_INFERENCE_MODE = "inference tensor"  # what torch speaks of where it refuses one
_NOT_RECORDED = "does not require grad and does not have a grad_fn"  # torch says


def failure(error: BaseException, architecture: str, subject: Subject | None = None) -> dict[str, Any]:
    """An exception as a failed result: its kind and one sentence."""
    if isinstance(error, NotFiniteOutputs):
        kind = "not finite"
    else:
        kind = "out of memory" if is_out_of_memory(error) else "error"
    cause = error if error.__cause__ is None else error.__cause__
    if isinstance(cause, TypeError) and _of_the_call(cause):
        called_with, said = (subject or Subject).called_with, str(cause).splitlines()[0].rstrip(".")
        way_out = "let the two agree" if isinstance(getattr(subject, "workload", None), FreeWorkload) else (
            "let its forward take these, or call it by --inputs with others"
        )
        reason = f"{architecture} is called with {called_with}, and {said}; {way_out}."
    elif _NOT_RECORDED in str(cause):
        reason = (
            f"{architecture} differentiates inside its forward, and inference mode, in which it is measured, records nothing to "
            "differentiate; let it do so on copies of its inputs inside torch.inference_mode(False)."
        )
    elif isinstance(cause, RuntimeError) and _NOT_IN_INFERENCE_MODE in str(cause).lower():
        reason = (
            f"{architecture} does in its forward what inference mode, in which it is measured, does not allow ("
            f"{str(cause).splitlines()[0].partition('. ')[0].rstrip('.')}); let it do so on copies of its inputs inside "
            "torch.inference_mode(False), and under torch.no_grad() where it needs no gradient."
        )
    elif isinstance(error, HumarBenchError):
        reason = str(error)
    elif kind == "out of memory":
        reason = f"{architecture} ran out of memory ({one_line(error)}); try a smaller batch."
    else:
        reason = f"{architecture} raised {one_line(error)}."
    return failed_result(kind, reason)


def _of_the_call(error: TypeError) -> bool:
    """Whether a model's own forward refused what it was given: nothing of somebody else had begun to run."""
    said = str(error)
    if "forward() " not in said or not any(each in said for each in ("positional argument", "keyword argument", "required keyword")):
        return False
    ours, torchs = os.path.dirname(os.path.dirname(os.path.abspath(__file__))), f"{os.sep}torch{os.sep}"
    return all(each.filename.startswith(ours) or torchs in each.filename for each in traceback.extract_tb(error.__traceback__))


def success(model: Any, measured: dict[str, Any]) -> dict[str, Any]:
    built = getattr(model, "built", None)
    measured = {**measured, **as_built(model).measured()}
    return {"status": "ok", "kind": "", "reason": "", "built": dict(built) if isinstance(built, dict) else {}, "measured": measured}

"""The measuring of a roofline: exact counts, this machine's ceilings, forwards in turn. No torch here; children do the work."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

from humar_bench.args import RunArgs
from humar_bench.errors import UsageError
from humar_bench.records.record import CEILINGS, MACHINE, Record, Run, failed_result
from humar_bench.running.children import Child, run_children
from humar_bench.running.costs import Point, Progress, exact_records
from humar_bench.running.in_turn import time_in_turn, timing_run
from humar_bench.running.messages import check_environment, check_result
from humar_bench.running.plan import Plan
from humar_bench.studies.roofline.roofline import Roofline
from humar_bench.subjects.sources import child_command

DTYPES = ("float32", "tf32", "bfloat16", "float16")  # that a matmul rate is measured for
CEILING_S, STATIC_S = 12.0, 2.0  # about what one of them takes, and counting one architecture; only the progress bar depends on it
COMMAND = child_command("humar_bench.studies.roofline.worker")


def measure_roofline(
    plan: Plan, *, timed: bool = True, budget_s: float = 120.0, done: Run | None = None, sink: Any = None,
    progress: Progress = lambda share, text: None, command: str = "", exact: Callable[..., list[Record]] = exact_records,
    bench: Callable[..., Run] | None = None, ceilings: Callable[[RunArgs], dict[str, Any]] | None = None,
    now: Callable[[], float] = time.monotonic,
) -> Roofline:
    """Count every architecture, measure the ceilings, time the forwards in turn, measure the ceilings again: a neighbour that came or went
    in between shows.

    `exact`, `bench`, `ceilings` and `now` stand in for tests. Raises UsageError for a dtype without a rate.
    """
    check_dtype(plan.run.dtype)
    done = done or Run()
    points = [Point(each, plan.args, plan.workload) for each in plan.architectures]
    static_s = len(points) * STATIC_S
    whole_s = static_s + CEILING_S + (budget_s + CEILING_S if timed else 0)

    def keep(*made: Record) -> None:
        if sink is not None:
            sink.write(*made)

    def ceiling(process: int, begun_s: float) -> Record:
        def hear(said: str) -> None:
            progress(min(1.0, begun_s / whole_s), f"ceilings, {said}")

        wanted = _ceilings_record(plan, process, {"measured": {}}, {}, command)
        earlier = [record for record in done if record.ok and record.key == wanted.key]
        if earlier:
            return earlier[-1]
        reply = ceilings(plan.run) if ceilings is not None else ask_ceilings(plan.run, hear)
        record = _ceilings_record(plan, process, reply["result"], reply["environment"], command)
        keep(record)
        return record

    records = exact(
        points, plan.run, done=done, keep=keep, progress=lambda share, text: progress(static_s * share / whole_s, text), command=command,
    )
    records.append(ceiling(0, static_s))
    if timed:
        records += time_in_turn(
            points, timing_run(plan.run, budget_s, len(points), control=False), budget_s, reference=plan.reference, done=done, sink=sink,
            command=command, bench=bench, now=now,
            progress=lambda share, text: progress((static_s + CEILING_S + budget_s * share) / whole_s, text),
        )
        records.append(ceiling(1, whole_s - CEILING_S))
    return Roofline(Run(tuple(records)), plan.reference)


def check_dtype(dtype: str) -> None:
    """Raises UsageError for a number type whose matmul rate nobody measures here."""
    if dtype not in DTYPES:
        raise UsageError(f"dtype is {dtype!r}; roofline measures the matmul rate of {', '.join(DTYPES)}, choose one of these.")


def ask_ceilings(run: RunArgs, hear: Callable[[str], None]) -> dict[str, Any]:
    """Environment and result of one child process that measures the ceilings. Raises UsageError when none can."""
    child = Child(
        {"run": dataclasses.asdict(run)}, timeout_s=run.timeout, hear=lambda event: hear(event["stage"]), names=(MACHINE,), command=COMMAND,
        check=_check,
    )
    [(_, outcome)] = run_children([(None, child)], at_once=1)
    if outcome.reply is None:
        return {"environment": {}, "result": failed_result(outcome.kind, outcome.reason)}
    if "usage_error" in outcome.reply:
        raise UsageError(outcome.reply["usage_error"])
    return outcome.reply


def _check(reply: dict[str, Any]) -> None:
    """Raises ValueError for a reply without an environment and a result."""
    if "usage_error" not in reply:
        check_environment(reply.get("environment"))
        check_result(reply.get("result"), "the result")


def _ceilings_record(plan: Plan, process: int, result: Mapping[str, Any], environment: Mapping[str, Any], command: str) -> Record:
    """Of the machine alone: neither arguments nor a workload take part."""
    return Record(
        measure=CEILINGS, architecture=MACHINE, spec="", foreign=False, asked={}, workload={}, run=dataclasses.asdict(plan.run),
        process=process, environment=dict(environment), command=command, **result,
    )

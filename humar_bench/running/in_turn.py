"""Architectures timed in turn in a few fresh processes within a budget, for the studies that time through the bench."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from humar_bench.args import RunArgs
from humar_bench.records.record import Record, Run
from humar_bench.running.costs import Point, Progress

FEWEST, MOST = 3, 7  # processes: fewer give no interval worth the name; each builds every architecture
PROCESS_S = 50.0  # of the budget a process is worth starting for, beyond the fewest
START_S, ROW_START_S = 6.0, 0.5  # about what a child needs before it times: torch, and each architecture's building
TIMED_SHARE = 0.3  # of a process: timed forwards; the rest is checks and warm-up


def timing_run(run: RunArgs, budget_s: float, rows: int, *, control: bool = True) -> RunArgs:
    """How to time so many architectures within a budget: all of them in each of a few processes. A control is one row more."""
    processes = min(MOST, max(FEWEST, int(budget_s // PROCESS_S)))
    process_s = max(0.0, budget_s / processes - START_S - ROW_START_S * rows)
    share_s = max(0.1, round(TIMED_SHARE * process_s / (rows + control), 2))
    return dataclasses.replace(run, processes=processes, min_runs=processes, budget=round(share_s * processes, 2), control=control)


def time_in_turn(
    points: Sequence[Point], run: RunArgs, budget_s: float, *, reference: str, done: Run, sink: Any = None,
    progress: Progress = lambda share, text: None, command: str = "", bench: Callable[..., Run] | None = None,
    now: Callable[[], float] = time.monotonic,
) -> list[Record]:
    """The fps records of architectures on one piece of work, `run` from `timing_run`; what `done` holds is not timed again.

    A process is begun only when it would end within the budget if it took as long as the longest so far; the first always is.
    """
    if bench is None:
        from humar_bench.running.bench import benchmark as bench
    kept, clock = _Keep(sink), _Clock(budget_s, now)

    def hear(event: Mapping[str, Any]) -> None:
        said = ", ".join(filter(None, ("timing", f"process {event['process'] + 1} of {event['of']}", event.get("architecture"))))
        progress(min(1.0, clock.elapsed_s / budget_s), said)
        if event["status"] == "started" and not clock.begin(event["process"]):
            raise _TimeOver

    own = {dataclasses.replace(point.record("fps", run, {"measured": {}}, {}), process=process, id="").key
           for point in points for process in range(run.processes)}
    earlier = [record for record in done if record.key in own or record.control_of == reference and record.measure == "fps"]
    try:
        bench(tuple(each.architecture for each in points), points[0].args, points[0].workload, ["fps"], run, sink=kept, progress=hear,
              done=done, command=command, reference=reference)
    except _TimeOver:
        pass
    return list(Run((*earlier, *kept.records)).latest())


class _TimeOver(Exception):
    """Another process would not end within the budget."""


class _Keep:
    """Takes the bench's records as they come, so that what was measured before a stop is kept."""

    def __init__(self, sink: Any) -> None:
        self.sink, self.records = sink, []

    def write(self, *records: Record) -> None:
        if self.sink is not None:
            self.sink.write(*records)
        self.records += records


class _Clock:
    """Whether there is time for another process, by what the ones before it took."""

    def __init__(self, budget_s: float, now: Callable[[], float]) -> None:
        self.budget_s, self.now, self.start_s = budget_s, now, now()
        self.begun: dict[int, float] = {}

    @property
    def elapsed_s(self) -> float:
        return self.now() - self.start_s

    def begin(self, process: int) -> bool:
        """Note that a process begins; False where it would end too late."""
        if process in self.begun:
            return True
        begun = [*self.begun.values(), self.elapsed_s]
        longest_s = max((after - before for before, after in zip(begun, begun[1:], strict=False)), default=0.0)
        self.begun[process] = self.elapsed_s
        return len(begun) == 1 or self.elapsed_s + longest_s <= self.budget_s

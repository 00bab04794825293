"""`humar-bench backends`: every architecture through every execution backend in every number type, each cell in processes of its own.

Different runtimes keep thread pools that disturb each other, so no two share a process: each cell is timed in fresh ones, one after the
other, all cells once before any a second time. A cell that cannot work here is a row with the reason and no process; one that crashes,
hangs or is refused is a failed record, and the others go on.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from humar_bench.args import BACKENDS, DTYPES, RunArgs
from humar_bench.backends import check_backend, check_installed, why_not
from humar_bench.errors import UsageError
from humar_bench.records.record import Record, Run
from humar_bench.running.costs import Point, Progress
from humar_bench.running.plan import Plan
from humar_bench.studies.backends.tables import Matrix
from humar_bench.subjects.registry import Architecture

PROCESSES = 3  # of each cell where the budget allows; two give a wide interval, one none
START_S = 10.0  # about what a process needs before it times: torch, building, preparing, checks
TIMED_SHARE = 0.3  # of a process: timed forwards; the rest is starts, checks and warm-up
LEAST_S, MOST_S = 0.5, 20.0  # of timed forwards in one process


@dataclass(frozen=True)
class Cell:
    """One architecture through one backend in one number type."""

    architecture: Architecture
    backend: str
    dtype: str


def cells_of(architectures: Sequence[Architecture], backends: Sequence[str], dtypes: Sequence[str]) -> list[Cell]:
    """Every cell, what the others are held against (eager float32) first. Raises UsageError for a name that does not exist."""
    for name in backends:
        check_backend(name)
    for dtype in dtypes:
        check_backend("eager", dtype)
    backends = [name for name in BACKENDS if name in backends]
    dtypes = [dtype for dtype in DTYPES if dtype in dtypes]
    cells = [Cell(each, name, dtype) for name in backends for dtype in dtypes for each in architectures]
    return sorted(cells, key=lambda cell: (cell.backend, cell.dtype) != ("eager", "float32"))


def reasons_against(backends: Sequence[str], dtypes: Sequence[str], kind: str) -> dict[str, str]:
    """'BACKEND DTYPE' -> why that cannot work on a kind of device, or which package is missing."""
    found = {}
    for name in backends:
        for dtype in dtypes:
            reason = why_not(name, dtype, kind)
            try:
                check_installed(name)
            except UsageError as missing:
                reason = reason or str(missing)
            if reason:
                found[f"{name} {dtype}"] = reason
    return found


def cell_run(run: RunArgs, cell: Cell, budget_s: float, cells: int) -> RunArgs:
    """How one cell is timed: its share of the budget, in as many processes as are asked for."""
    processes = run.processes or PROCESSES
    process_s = max(0.0, budget_s / max(1, cells) / processes - START_S)
    timed_s = round(min(MOST_S, max(LEAST_S, TIMED_SHARE * process_s)), 2)
    return dataclasses.replace(
        run, backend=cell.backend, dtype=cell.dtype, processes=processes, control=False, min_runs=min(run.min_runs, processes),
        budget=round(timed_s * processes, 2),
    )


def measure_matrix(
    plan: Plan, *, kind: str, backends: Sequence[str] = BACKENDS, dtypes: Sequence[str] = DTYPES, budget_s: float = 600.0,
    timed: bool = True, done: Run | None = None, sink: Any = None, progress: Progress = lambda share, text: None, command: str = "",
    bench: Callable[..., Record] | None = None, now: Callable[[], float] = time.monotonic,
) -> Matrix:
    """Time every cell that can work on this kind of device (cpu, cuda), as often as the budget allows; the first is always timed.

    A process is begun only where it would end within the budget if it took as long as its cell's last one, or as the longest of its
    backend. What `done` holds with status ok is not timed again. `bench` and `now` stand in for tests. Raises UsageError.
    """
    cells = cells_of(plan.architectures, backends, dtypes)
    reasons = reasons_against(backends, dtypes, kind)
    runnable = [cell for cell in cells if f"{cell.backend} {cell.dtype}" not in reasons]
    runs = {cell: cell_run(plan.run, cell, budget_s, len(runnable)) for cell in runnable}
    timer = _Timer(plan, runs, budget_s, done or Run(), sink, progress, command, bench or _one_process, now)
    records = timer.time_all() if timed else []
    settings = {
        "architectures": [each.name for each in plan.architectures], "backends": [name for name in BACKENDS if name in backends],
        "dtypes": [dtype for dtype in DTYPES if dtype in dtypes], "reasons": reasons,
    }
    return Matrix(Run(tuple(records)), settings)


def _one_process(*given: Any, **named: Any) -> Record:
    from humar_bench.running.bench import one_speed_process

    return one_speed_process(*given, **named)


class _Timer:
    """Processes of cells in rounds, until the budget is used up."""

    def __init__(
        self, plan: Plan, runs: Mapping[Cell, RunArgs], budget_s: float, done: Run, sink: Any, progress: Progress, command: str,
        bench: Callable[..., Record], now: Callable[[], float],
    ) -> None:
        self.plan, self.runs, self.budget_s, self.sink, self.progress, self.command = plan, runs, budget_s, sink, progress, command
        self.bench, self.now, self.start_s = bench, now, now()
        self.done = done
        self.have = {record.key: record for record in done if record.ok}
        self.took_s: dict[Cell, float] = {}
        self.begun = 0

    def time_all(self) -> list[Record]:
        """The records of every process that was reached, cell by cell in each round."""
        records: list[Record] = []
        given_up: set[Cell] = set()
        for process, cell in self._turns():
            if cell in given_up:
                continue
            key = self._key(cell, process)
            record = self.have.get(key)
            if record is None:
                if not self._is_time(cell):
                    continue
                record = self._time(cell, process)
            records.append(record)
            if not record.ok:
                given_up.add(cell)
        return records

    def _turns(self) -> Iterator[tuple[int, Cell]]:
        rounds = max((run.processes for run in self.runs.values()), default=0)
        return ((process, cell) for process in range(rounds) for cell in self.runs)

    def _key(self, cell: Cell, process: int) -> str:
        point = Point(cell.architecture, self.plan.args, self.plan.workload)
        return dataclasses.replace(point.record("fps", self.runs[cell], {"measured": {}}, {}), process=process, id="").key

    def _is_time(self, cell: Cell) -> bool:
        """Whether another process of this cell is thought to end within the budget."""
        if not self.begun:
            return True
        alike = [took_s for other, took_s in self.took_s.items() if other.backend == cell.backend]
        expected_s = self.took_s.get(cell) or max(alike, default=START_S)
        return self.now() - self.start_s + expected_s <= self.budget_s

    def _time(self, cell: Cell, process: int) -> Record:
        self.begun += 1
        begun_s = self.now()
        said = f"{cell.architecture.name}, {cell.backend}, {cell.dtype}, process {process + 1} of {self.runs[cell].processes}"
        share = self.begun / (1 + sum(run.processes for run in self.runs.values()))

        def hear(event: Mapping[str, Any]) -> None:
            stage = event.get("stage")
            self.progress(min(1.0, max(share, (self.now() - self.start_s) / self.budget_s)), f"{said}, {stage}" if stage else said)

        hear({})
        record = self.bench(
            cell.architecture, self.plan.args, self.plan.workload, self.runs[cell], process, sink=self.sink, progress=hear,
            done=self.done, command=self.command,
        )
        self.took_s[cell] = self.now() - begun_s
        return record

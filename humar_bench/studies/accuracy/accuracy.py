"""`humar-bench accuracy`: architectures trained side by side on the same pictures, and what each keeps of the reference's accuracy.

Every run is a child process with its own folder; a record says what came of it. What has a record is not trained again, and a run that was
stopped goes on from its last checkpoint.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from humar_bench.devices.environment import usable_cores
from humar_bench.errors import MeasurementError, UsageError
from humar_bench.judging.retention import chosen_rate
from humar_bench.records.audit import audited
from humar_bench.records.record import TRAINING, Record, Run
from humar_bench.running.children import Child, Outcome, run_children
from humar_bench.running.costs import Progress
from humar_bench.studies.accuracy.kept import (
    FRONT_END,
    RENDERED,
    RUNS,
    front_end_there,
    hold_runs,
    keep_front_end,
    refuse_strange,
    remove_rendered,
)
from humar_bench.studies.accuracy.plan import FLOOR, RATE, WIDER, AccuracyPlan, Job
from humar_bench.studies.accuracy.tables import Accuracy, rate_accuracy, settings_of
from humar_bench.subjects.sources import child_command

PROGRAM = child_command("humar_bench.studies.accuracy.worker")
SILENCE_S = 1800.0  # a child that says nothing for so long is stopped
WARM = "warm"
EVALUATION_SHARE = 1.25  # of the time a run trains, with its evaluations and its start
Children = Callable[..., Iterator[tuple[Any, Outcome]]]


def measure_accuracy(
    plan: AccuracyPlan, folder: str | os.PathLike, *, done: Run | None = None, sink: Any = None,
    progress: Progress = lambda share, text: None, command: str = "", time_limit_s: float | None = None,
    children: Children = run_children, now: Callable[[], float] = time.monotonic,
) -> Accuracy:
    """Train everything that `done` does not hold. Runs are kept in `folder`; records go to `sink` as they come.

    With `time_limit_s` no run is started that would not end in time; what is then missing can be resumed. Raises UsageError, and
    InvalidMeasurement where `folder` holds other weights than the runs in `done` began with.
    """
    refuse_strange(Path(folder))
    pool = _Pool(plan, Path(folder), Run() if done is None else done, sink, progress, command, time_limit_s, children, now)
    pool.run([plan.floor_job])
    rates = list(plan.rates)
    pool.run(plan.rate_jobs(rates))
    plan = pool.settled(plan)
    while len(rates) < len(plan.rates) + WIDER and (beyond := _beyond(plan, pool, rates)) is not None:
        rates.append(beyond)
        pool.run(plan.rate_jobs([beyond]))
        plan = pool.settled(plan)
    chosen = plan.chosen({arm.name: chosen_rate(pool.rates_of(arm.name))[0] for arm in plan.arms if pool.rates_of(arm.name)})
    if len(chosen) == len(plan.arms):
        pool.run(plan.run_jobs(chosen))
    found = Accuracy(Run(tuple(pool.kept)), settings_of(plan))
    if found.complete:
        remove_rendered(Path(folder))
    return found


def _beyond(plan: AccuracyPlan, pool: _Pool, rates: Sequence[float]) -> float | None:
    """A learning rate to widen the grid by: beyond the edge at which the reference does best; None where it does not, or runs are
    missing."""
    found = pool.rates_of(plan.reference.name)
    if len(found) < len(rates) or not max(found.values()) > 0:
        return None
    best, at_edge = chosen_rate(found)
    return plan.wider(rates, lower=best == min(rates)) if at_edge else None


class _Pool:
    """Runs jobs that have no record yet, several side by side, and keeps the records of all that were asked for."""

    def __init__(
        self, plan: AccuracyPlan, folder: Path, done: Run, sink: Any, progress: Progress, command: str, time_limit_s: float | None,
        children: Children, now: Callable[[], float],
    ) -> None:
        self.plan, self.folder, self.sink, self.progress, self.command = plan, folder, sink, progress, command
        self.have = {record.key: record for record in done if record.measure == TRAINING and _stands(record)}
        self.earlier = frozenset(self.have)
        self.children, self.now, self.start_s, self.limit_s = children, now, now(), time_limit_s
        self.kept: list[Record] = []
        self.begun: dict[str, float] = {}  # job -> when it began
        self.pace: dict[str, float] = {}  # architecture -> seconds a picture of the slowest run
        self.shares: dict[str, float] = {}

    @property
    def at_once(self) -> int:
        return self.plan.preset.at_once or usable_cores()

    def run(self, jobs: Sequence[Job]) -> None:
        """All of these, the longest first. Raises UsageError where a child says that it cannot work."""
        missing = [job for job in jobs if job.key not in self.have]
        self.shares |= {job.folder: float(job.key in self.have) for job in jobs}
        if self.plan.warm_options is not None and any(job.role != FLOOR for job in missing):
            self._warm_up()
            known = (*self.kept, *(self.have[job.key] for job in jobs if job.key in self.have))
            hold_runs(self.folder, [record for record in known if record.key in self.earlier])
        missing.sort(key=lambda job: -self.pace.get(job.architecture.name, 0.0) * job.weight)
        for job, outcome in self.children(self._started(missing), at_once=self.at_once):
            self._finish(job, outcome)
        self.kept += [self.have[job.key] for job in jobs if job.key in self.have]

    def rates_of(self, arm: str) -> dict[float, float]:
        """Learning rate -> accuracy of an arm's runs on the seed for learning rates."""
        return rate_accuracy(self.kept, arm)

    def settled(self, plan: AccuracyPlan) -> AccuracyPlan:
        """The plan with the better of rivals, by the runs for learning rates."""
        return plan.settled({arm.name: max(self.rates_of(arm.name).values(), default=0.0) for arm in (*plan.arms, *plan.beaten)})

    @property
    def _front_end(self) -> Path:
        return self.folder / FRONT_END

    @property
    def _rendered(self) -> str:
        """Where procedural pictures are kept that several runs see."""
        return str((self.folder / RENDERED).resolve()) if self.plan.base.is_procedural else ""

    def _warm_up(self) -> None:
        """Train what stands before the transformer, where that is not there yet."""
        options = self.plan.warm_options
        if front_end_there(self.folder, options):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        name = "the shared front end"
        drawing = dataclasses.replace(options, rendered=self._rendered)
        request = {"role": WARM, "name": name, "options": drawing.to_json(), "front_end": str(self._front_end.resolve())}
        child = self._child(request, name, _check_warm)
        [(_, outcome)] = self.children(iter([(None, child)]), at_once=1)
        if outcome.reply is None or "result" not in outcome.reply or outcome.reply["result"]["status"] != "ok":
            raise _error(outcome)
        keep_front_end(self.folder, options)

    def _started(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Child]]:
        """The jobs' children; a job is passed over when it would end after the limit."""
        for job in jobs:
            if self._fits(job):
                options = dataclasses.replace(job.options, rendered=self._rendered)
                if job.role != FLOOR and self.plan.warm_options is not None:
                    options = dataclasses.replace(options, front_end=str(self._front_end.resolve()))
                request = {
                    "role": job.role, "name": job.name, "options": options.to_json(), "folder": str(self.folder / RUNS / job.folder),
                }
                self.begun[job.folder] = self.now()
                yield job, self._child(request, job.name, _check_job, job)

    def _fits(self, job: Job) -> bool:
        if self.limit_s is None:
            return True
        expected_s = EVALUATION_SHARE * self.pace.get(job.architecture.name, 0.0) * job.options.pictures
        return self.now() - self.start_s + expected_s <= self.limit_s

    def _child(self, request: dict[str, Any], name: str, check: Callable[[dict], None], job: Job | None = None) -> Child:
        def hear(event: Mapping[str, Any]) -> None:
            child.renew()
            self._tell(job, name, event.get("share", 0.0))

        child = Child(request, timeout_s=SILENCE_S, hear=hear, names=(name,), command=PROGRAM, check=check)
        return child

    def _tell(self, job: Job | None, name: str, share: float) -> None:
        if job is None:
            self.progress(self._share, f"{name}, {100 * share:.0f} %")
            return
        self.shares[job.folder] = share
        doing = "choosing the learning rate of" if job.role == RATE else "training" if job.role != FLOOR else "scoring"
        self.progress(self._share, f"{doing} {name}, seed {job.options.seed}, {100 * share:.0f} %")

    @property
    def _share(self) -> float:
        """About how much of everything is done, in pictures."""
        plan = self.plan
        whole = len(plan.tried) * len(plan.rates) * plan.preset.rate_share + (len(plan.arms) + 1) * plan.seeds
        done = sum(share * (plan.preset.rate_share if name.startswith(RATE) else not name.startswith(FLOOR))
                   for name, share in self.shares.items())
        return min(1.0, done / whole)

    def _finish(self, job: Job, outcome: Outcome) -> None:
        if outcome.reply is not None and "usage_error" in outcome.reply:
            raise UsageError(outcome.reply["usage_error"])
        reply = outcome.reply or {
            "environment": {},
            "result": {"status": "failed", "kind": outcome.kind, "reason": outcome.reason, "built": {}, "measured": None},
        }
        result = audited(job.name, TRAINING, reply["result"], job.work, reply["environment"])
        record = job.record(result, reply["environment"], self.command)
        if self.sink is not None:
            self.sink.write(record)
        self.have[job.key] = record
        self.shares[job.folder] = 1.0
        if record.ok and job.options.pictures:
            seconds = (self.now() - self.begun[job.folder]) / job.options.pictures / EVALUATION_SHARE
            name = job.architecture.name
            self.pace[name] = max(seconds, self.pace.get(name, 0.0))


def _stands(record: Record) -> bool:
    """Whether a run need not be made again: it ended well, or diverged, which it would again."""
    return record.ok or record.kind == "not finite"


def _check_job(reply: dict[str, Any]) -> None:
    """Raises ValueError for what is no reply of a job."""
    if "usage_error" not in reply and not ({"result", "environment"} <= reply.keys() and isinstance(reply["result"], dict)):
        raise ValueError("it holds no result")


def _check_warm(reply: dict[str, Any]) -> None:
    """Raises ValueError for what is no reply of the training ahead."""
    _check_job(reply)
    if reply.get("result", {}).get("status") == "ok" and not isinstance(reply["result"].get("measured"), dict):
        raise ValueError("it holds no figures")


def _error(outcome: Outcome) -> Exception:
    reply = outcome.reply or {}
    if "usage_error" in reply:
        return UsageError(reply["usage_error"])
    reason = reply["result"]["reason"] if "result" in reply else outcome.reason
    return MeasurementError(f"the shared front end could not be trained: {reason}")

"""Runs of a study as child processes, several side by side: what has a record is not made again, and what was stopped goes on.

Every run has its own folder; a record says what came of it. Runs that share the weights before the transformer begin with one file of them,
which is trained ahead once.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from humar_bench.devices.environment import usable_cores
from humar_bench.errors import MeasurementError, UsageError
from humar_bench.records.audit import audited
from humar_bench.records.record import AGAIN, TRAINING, Record, Run, failed_result
from humar_bench.running.children import Child, Outcome, run_children
from humar_bench.running.costs import Progress
from humar_bench.studies.accuracy.kept import (
    FRONT_END,
    RENDERED,
    RUNS,
    WEIGHTS,
    front_end_there,
    hold_runs,
    keep_front_end,
    refuse_link,
    refuse_strange,
)
from humar_bench.studies.accuracy.plan import FLOOR, RATE, Job
from humar_bench.subjects.sources import child_command
from humar_bench.training.train_args import TrainArgs

PROGRAM = child_command("humar_bench.studies.accuracy.worker")
SILENCE_S = 1800.0  # a child that says nothing for so long is stopped
WARM = "warm"
EVALUATION_SHARE = 1.25  # of the time a run trains, with its evaluations and its start
Children = Callable[..., Iterator[tuple[Any, Outcome]]]


class Front(NamedTuple):
    """The weights that a run begins with before the transformer: the folder they are kept in, and what they are trained with there; None
    where runs begin with their own."""

    folder: Path
    options: TrainArgs | None


class Pool:
    """Runs jobs that have no record yet, and keeps the records of all that were asked for. Runs and drawn people are kept in `folder`.

    `front` says what a job begins with, `share` from each job's share how much of everything is done.
    """

    def __init__(
        self, folder: str | os.PathLike, *, front: Callable[[Job], Front], share: Callable[[Mapping[str, float]], float], at_once: int = 0,
        done: Run | None = None, sink: Any = None, progress: Progress = lambda share, text: None, command: str = "",
        time_limit_s: float | None = None, children: Children = run_children, now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder, self.front, self.share, self.sink, self.progress, self.command = Path(folder), front, share, sink, progress, command
        self.at_once = at_once or usable_cores()
        self.have = {record.key: record for record in done or () if record.measure == TRAINING and _stands(record)}
        self.earlier = frozenset(self.have)
        self.children, self.now, self.start_s, self.limit_s = children, now, now(), time_limit_s
        self.kept: list[Record] = []
        self.ended: set[str] = set()  # folders of runs that ended well
        self.begun: dict[str, float] = {}  # job -> when it began
        self.pace: dict[str, float] = {}  # architecture -> seconds a picture of the slowest run, earlier ones too
        self.shares: dict[str, float] = {}
        for record in self.have.values():
            if record.ok and record.measured["curve"]:
                last = record.measured["curve"][-1]
                self._ran(record.architecture.removesuffix(AGAIN), last["wall_s"] / last["pictures"])
        refuse_strange(self.folder)

    def run(self, jobs: Sequence[Job], again: Collection[str] = ()) -> list[Record]:
        """All of these, the longest first, and the records there are then. Runs that ended well and whose folder is named in `again` are
        made again, and the new record stands for the old one: another machine computes otherwise in the last digits, and training makes
        them large. Raises UsageError where a child says that it cannot work, and InvalidMeasurement where earlier runs began with other
        weights than those there."""
        missing = [job for job in jobs if job.key not in self.have or job.folder in again and self.have[job.key].ok]
        for job in missing:
            refuse_link(self.folder / RUNS / job.folder)
        self.shares |= {job.folder: float(job not in missing) for job in jobs}
        self._warm_up([job for job in missing if job.role != FLOOR], jobs)
        missing.sort(key=lambda job: -self._pace(job) * job.weight)
        for job, outcome in self.children(self._started(missing), at_once=self.at_once):
            self._finish(job, outcome)
        found = [self.have[job.key] for job in jobs if job.key in self.have]
        self.ended |= {job.folder for job in jobs if job.key in self.have and self.have[job.key].ok}
        self.kept += found
        return found

    def teachers_gone(self, students: Sequence[Job]) -> set[str]:
        """Folders of runs that are to teach one of these that has no record yet, and that did not end well or have left no weights."""
        wanted = {job.options.teacher for job in students if job.key not in self.have}
        return {name for name in wanted if name not in self.ended or not any((self.folder / RUNS / name).glob(WEIGHTS))}

    def _warm_up(self, missing: Sequence[Job], jobs: Sequence[Job]) -> None:
        """Train what stands before the transformers of these, where that is not there yet."""
        fronts = dict.fromkeys(front for job in missing if (front := self.front(job)).options is not None)
        for front in fronts:
            if front.folder != self.folder:
                refuse_link(front.folder)
            refuse_strange(front.folder)
            if not front_end_there(front.folder, front.options):
                self._train_front(front)
            known = (*self.kept, *(self.have[job.key] for job in jobs if job.key in self.have and self.front(job) == front))
            hold_runs(front.folder, [record for record in known if record.key in self.earlier and self._is_of(record, front)])

    def _is_of(self, record: Record, front: Front) -> bool:
        """Whether a run began with the weights of `front`: its model has their width."""
        return record.asked.get("hidden_dim") == front.options.model.hidden_dim

    def _train_front(self, front: Front) -> None:
        front.folder.mkdir(parents=True, exist_ok=True)
        name, path = "the shared front end", front.folder / FRONT_END
        drawing = dataclasses.replace(front.options, rendered=self._rendered(front.options))
        request = {"role": WARM, "name": name, "options": drawing.to_json(), "front_end": str(path.resolve())}
        child = self._child(request, name, _check_warm)
        [(_, outcome)] = self.children(iter([(None, child)]), at_once=1)
        if outcome.reply is None or "result" not in outcome.reply or outcome.reply["result"]["status"] != "ok":
            raise _error(outcome)
        keep_front_end(front.folder, front.options)

    def _rendered(self, options: TrainArgs) -> str:
        """Where procedural pictures are kept that several runs see."""
        return str((self.folder / RENDERED).resolve()) if options.is_procedural else ""

    def _started(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Child]]:
        """The jobs' children; a job is passed over when it would end after the limit."""
        for job in jobs:
            if self._fits(job):
                options = dataclasses.replace(job.options, rendered=self._rendered(job.options))
                front = self.front(job)
                if job.role != FLOOR and front.options is not None:
                    options = dataclasses.replace(options, front_end=str((front.folder / FRONT_END).resolve()))
                if job.options.teacher:
                    options = dataclasses.replace(options, teacher=str((self.folder / RUNS / job.options.teacher).resolve()))
                request = {
                    "role": job.role, "name": job.name, "options": options.to_json(), "folder": str(self.folder / RUNS / job.folder),
                    "teaches": job.teaches, "teacher_arch": job.teacher_arch or None,
                }
                self.begun[job.folder] = self.now()
                yield job, self._child(request, job.name, _check_job, job)

    def _fits(self, job: Job) -> bool:
        if self.limit_s is None:
            return True
        expected_s = EVALUATION_SHARE * self._pace(job) * job.options.pictures
        return self.now() - self.start_s + expected_s <= self.limit_s

    def _pace(self, job: Job) -> float:
        """Seconds a picture, as far as they are known."""
        return self.pace.get(job.architecture.name) or sum(self.pace.get(name, 0.0) for name in job.paced_by)

    def _child(self, request: dict[str, Any], name: str, check: Callable[[dict], None], job: Job | None = None) -> Child:
        def hear(event: Mapping[str, Any]) -> None:
            child.renew()
            self._tell(job, name, event.get("share", 0.0))

        child = Child(request, timeout_s=SILENCE_S, hear=hear, names=(name,), command=PROGRAM, check=check)
        return child

    def _tell(self, job: Job | None, name: str, share: float) -> None:
        if job is None:
            self.progress(self.share(self.shares), f"{name}, {100 * share:.0f} %")
            return
        self.shares[job.folder] = share
        doing = "choosing the learning rate of" if job.role == RATE else "training" if job.role != FLOOR else "scoring"
        self.progress(self.share(self.shares), f"{doing} {name}, seed {job.options.seed}, {100 * share:.0f} %")

    def _finish(self, job: Job, outcome: Outcome) -> None:
        if outcome.reply is not None and "usage_error" in outcome.reply:
            raise UsageError(outcome.reply["usage_error"])
        reply = outcome.reply or {"environment": {}, "result": failed_result(outcome.kind, outcome.reason)}
        result = audited(job.name, TRAINING, reply["result"], job.work, reply["environment"])
        record = job.record(result, reply["environment"], self.command)
        if self.sink is not None:
            self.sink.write(record)
        self.have[job.key] = record
        self.shares[job.folder] = 1.0
        if record.ok and job.options.pictures:
            self._ran(job.architecture.name, (self.now() - self.begun[job.folder]) / job.options.pictures / EVALUATION_SHARE)

    def _ran(self, architecture: str, pace: float) -> None:
        self.pace[architecture] = max(pace, self.pace.get(architecture, 0.0))


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

"""`humar-bench accuracy`: architectures trained side by side on the same pictures, and what each keeps of the reference's accuracy.

Every run is a child process with its own folder; a record says what came of it. What has a record is not trained again, and a run that was
stopped goes on from its last checkpoint.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from humar_bench.judging.retention import chosen_rate
from humar_bench.records.record import Run
from humar_bench.running.children import run_children
from humar_bench.running.costs import Progress
from humar_bench.studies.accuracy.kept import remove_rendered
from humar_bench.studies.accuracy.plan import FLOOR, RATE, WIDER, AccuracyPlan
from humar_bench.studies.accuracy.pool import Children, Front, Pool
from humar_bench.studies.accuracy.rates import chosen_of, rate_accuracy, rate_scores
from humar_bench.studies.accuracy.tables import Accuracy


def measure_accuracy(
    plan: AccuracyPlan, folder: str | os.PathLike, *, done: Run | None = None, sink: Any = None,
    progress: Progress = lambda share, text: None, command: str = "", time_limit_s: float | None = None,
    children: Children = run_children, now: Callable[[], float] = time.monotonic,
) -> Accuracy:
    """Train everything that `done` does not hold. Runs are kept in `folder`; records go to `sink` as they come.

    With `time_limit_s` no run is started that would not end in time; what is then missing can be resumed. Raises UsageError, and
    InvalidMeasurement where `folder` holds other weights than the runs in `done` began with.
    """
    front = Front(Path(folder), plan.warm_options)
    pool = Pool(
        folder, front=lambda job: front, share=lambda shares: _share(plan, shares), done=done, sink=sink,
        at_once=plan.preset.at_once, progress=progress, command=command, time_limit_s=time_limit_s, children=children, now=now,
    )
    pool.run([plan.floor_job])
    rates = list(plan.rates)
    pool.run(plan.rate_jobs(rates))
    plan = _settled(plan, pool)
    while len(rates) < len(plan.rates) + WIDER and (beyond := _beyond(plan, pool, rates)) is not None:
        rates.append(beyond)
        pool.run(plan.rate_jobs([beyond]))
        plan = _settled(plan, pool)
    chosen = plan.chosen({arm.name: chosen_of(scores)[0] for arm in plan.arms if (scores := rate_scores(pool.kept, arm.name))})
    if len(chosen) == len(plan.arms):
        jobs = plan.run_jobs(chosen)
        students = [job for job in jobs if job.options.teacher]
        pool.run([job for job in jobs if not job.options.teacher], again=pool.teachers_gone(students))
        gone = pool.teachers_gone(students)
        pool.run([job for job in students if job.options.teacher not in gone])
    found = Accuracy(Run(tuple(pool.kept)), plan.settings)
    if found.complete:
        remove_rendered(Path(folder))
    return found


def _beyond(plan: AccuracyPlan, pool: Pool, rates: Sequence[float]) -> float | None:
    """A learning rate to widen the grid by: beyond the edge at which the reference does best; None where it does not, or runs are
    missing."""
    found = _rates_of(pool, plan.reference.name)
    if len(found) < len(rates) or not max(found.values()) > 0:
        return None
    best, at_edge = chosen_rate(found)  # the best itself: beyond it something better may lie
    return plan.wider(rates, lower=best == min(rates)) if at_edge else None


def _rates_of(pool: Pool, arm: str) -> dict[float, float]:
    """Learning rate -> accuracy of an arm's runs on the seed for learning rates."""
    return rate_accuracy(rate_scores(pool.kept, arm))


def _settled(plan: AccuracyPlan, pool: Pool) -> AccuracyPlan:
    """The plan with the better of rivals, by the runs for learning rates."""
    return plan.settled({arm.name: max(_rates_of(pool, arm.name).values(), default=0.0) for arm in (*plan.arms, *plan.beaten)})


def _share(plan: AccuracyPlan, shares: Mapping[str, float]) -> float:
    """About how much of everything is done, in pictures."""
    whole = len(plan.tried) * len(plan.rates) * plan.preset.rate_share + (len(plan.arms) + 1) * plan.seeds
    done = sum(share * (plan.preset.rate_share if name.startswith(RATE) else not name.startswith(FLOOR)) for name, share in shares.items())
    return min(1.0, done / whole)

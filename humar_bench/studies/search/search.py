"""`humar-bench search`: designs that no other one beats in cost and accuracy together, found in three stages.

1. Exact costs of thousands of designs, none of them run (`explore.py`); processes share a journal, so that a search goes on where it was.
2. Of those on the front a few that stand for all: counted exactly, as every other command counts, and timed in turn (`in_turn.py`).
3. Of those that are left, short trainings by successive halving (`halving.py`), the default beside them in every rung.

No torch here; children do the work.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from humar_bench.args import ModelArgs
from humar_bench.devices.environment import usable_cores
from humar_bench.errors import MeasurementError, UsageError
from humar_bench.records.record import Record, Run
from humar_bench.running.children import Child, Outcome, run_children
from humar_bench.running.costs import Point, Progress, exact_records
from humar_bench.running.in_turn import time_in_turn, timing_run
from humar_bench.running.plan import Plan
from humar_bench.studies.accuracy.kept import refuse_link, remove_rendered
from humar_bench.studies.accuracy.pool import Children, Pool
from humar_bench.studies.accuracy.scores import DRAWS
from humar_bench.studies.search.front import better_half, on_front, spread
from humar_bench.studies.search.halving import Trainings
from humar_bench.studies.search.space import SHARED, Space, name_of
from humar_bench.studies.search.storage import (
    COSTS,
    DIRECTIONS,
    JOURNAL,
    OBJECTIVES,
    Seen,
    complete,
    keep_pace,
    open_shared,
    pace_of,
    seen_in,
)
from humar_bench.studies.search.tables import Search, accuracy_of, costs_of
from humar_bench.studies.switches import DEFAULT, DESIGN, builder_name
from humar_bench.subjects.registry import Architecture
from humar_bench.subjects.sources import child_command

PROGRAM = child_command("humar_bench.studies.search.worker")
FITTED = "humar_bench.studies.search.fitted:fitted__"
TRAININGS = "trainings"
PLACES = (JOURNAL, TRAININGS)  # what a search keeps in its folder beside records and tables
SILENCE_S = 600.0  # a child that looks at designs and says nothing for so long is stopped
SIGNS = np.array([1.0 if each == "minimize" else -1.0 for each in DIRECTIONS])
SHARES = {"look": 0.15, "count": 0.05, "time": 0.3, "train": 0.5}  # of the progress bar
Look = Callable[..., Iterator[tuple[Any, Outcome]]]


@dataclass(frozen=True)
class SearchPlan:
    """What is searched and how far: `designs` are looked at, `timed` of them counted and timed beside the default, `trainings` of these."""

    plan: Plan
    space: Space
    designs: int
    bounds: Mapping[str, float]
    timed: int
    at_once: int = 0  # processes that look at designs; 0: one a core
    trainings: Trainings | None = None
    journal: str | None = None  # where designs are kept; None: in the folder


def measure_search(
    asked: SearchPlan, folder: str | os.PathLike, *, timed: bool = True, budget_s: float = 120.0, done: Run | None = None, sink: Any = None,
    progress: Progress = lambda share, text: None, command: str = "", exact: Callable[..., list[Record]] = exact_records,
    bench: Callable[..., Run] | None = None, now: Callable[[], float] = time.monotonic, look: Look = run_children,
    children: Children = run_children, time_limit_s: float | None = None,
) -> Search:
    """Look, count, time, train; what `folder`'s journal and `done` hold is not done again. Raises UsageError, MeasurementError."""
    told, done, folder = _Stages(progress, timed, asked.trainings is not None), done or Run(), Path(folder)
    refuse_link(folder / TRAININGS)
    seen, pace = look_at(asked, Path(asked.journal or folder / JOURNAL), told.of("look"), look)
    picked = pick(seen, asked.space, asked.timed)
    names = {name_of(asked.space.changes(each.design)): each for each in picked}
    points = [Point(Architecture(name, DESIGN, foreign=False), each.design, asked.plan.workload) for name, each in names.items()]
    records = exact(
        points, asked.plan.run, done=done, keep=lambda *made: sink.write(*made) if sink is not None else None, progress=told.of("count"),
        command=command,
    )
    if timed:
        records += time_in_turn(
            fitted_points(points), timing_run(asked.plan.run, budget_s, len(points)), budget_s, reference=DEFAULT, done=done,
            sink=sink, command=command, bench=bench, now=now, progress=told.of("time"),
        )
    settings = {
        "designs": [{"name": name, **dict(zip(OBJECTIVES, each.values, strict=True))} for name, each in names.items()],
        "fields": {name: list(values) for name, values in asked.space.values.items()}, "bounds": dict(asked.bounds),
        "looked": len(seen), "front": int(_front_of(seen).sum()), "a_minute": pace,
        "rungs": [], "missing": 0, "draws": DRAWS, "title": "", "minutes": 0.0, "machine": "", "warm_pictures": 0, "rate": None,
    }
    if asked.trainings is not None:
        pool_given = {"done": done, "sink": sink, "command": command, "children": children, "now": now, "time_limit_s": time_limit_s}
        trained, own = train(asked, names, records, folder / TRAININGS, progress=told.of("train"), **pool_given)
        records, settings = [*records, *trained], {**settings, **own}
    return Search(Run(tuple(records)), settings)


class _Stages:
    """Turns the progress of a stage into that of all; stages that are left out take no room."""

    def __init__(self, progress: Progress, timed: bool, trained: bool) -> None:
        here = {name: share for name, share in SHARES.items() if (name != "time" or timed) and (name != "train" or trained)}
        whole, begin = sum(here.values()), 0.0
        self.progress, self.place = progress, {}
        for name, share in here.items():
            self.place[name] = (begin / whole, share / whole)
            begin += share

    def of(self, stage: str) -> Progress:
        begin, size = self.place[stage]
        return lambda share, text: self.progress(min(1.0, begin + size * share), text)


# Looking --------------------------------------------------------------------------------------------------------------------------


def look_at(asked: SearchPlan, journal: Path, progress: Progress, look: Look = run_children) -> tuple[list[Seen], float | None]:
    """Every design that was looked at, once there are as many as asked for, and how many a minute were sketched when it was last done."""
    try:
        journal.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{journal} cannot be written: {error.strerror or error}; name another file.") from error
    work = asked.plan.workload
    shared = open_shared(journal, asked.space, work, asked.bounds)
    if len(complete(shared, journal)) < asked.designs:
        request = {
            "journal": str(journal.resolve()), "args": dataclasses.asdict(asked.space.args), "workload": dataclasses.asdict(work),
            "values": {name: list(values) for name, values in asked.space.values.items()}, "designs": asked.designs,
            "bounds": dict(asked.bounds), "seed": asked.plan.run.seed,
        }
        number = asked.at_once or usable_cores()
        begun = len(complete(shared, journal))
        pace = sum(each["sketched"] / max(each["seconds"], 1e-9) for each in _ask(request, number, begun, progress, look)) * 60
        shared = open_shared(journal, asked.space, work, asked.bounds)
        keep_pace(shared, journal, pace)
    return seen_in(shared, asked.space, journal), pace_of(shared)


def _ask(request: dict[str, Any], number: int, begun: int, progress: Progress, look: Look) -> list[dict[str, Any]]:
    """What so many processes did; `begun` makes their seeds others than those of a command before. Raises UsageError, MeasurementError."""

    def child(process: int) -> Child:
        def hear(event: Mapping[str, Any]) -> None:
            made.renew()
            progress(event.get("share", 0.0), f"looking at designs, {100 * event.get('share', 0.0):.0f} % of {request['designs']:,}")

        made = Child(
            {**request, "process": begun + process}, timeout_s=SILENCE_S, hear=hear, names=("search",), command=PROGRAM, check=_check,
        )
        return made

    found = []
    for _, outcome in look(((at, child(at)) for at in range(number)), at_once=number):
        reply = outcome.reply
        if reply is not None and "usage_error" in reply:
            raise UsageError(reply["usage_error"])
        if reply is None or "error" in reply:
            reason = (outcome.reason if reply is None else reply["error"]).rstrip(".")
            raise MeasurementError(f"designs could not be looked at: {reason}. What was is kept; --resume goes on with the rest.")
        found.append(reply["explored"])
    return found


def _check(reply: dict[str, Any]) -> None:
    """Raises ValueError for what is no reply of a child that looks at designs."""
    if "usage_error" in reply or "error" in reply:
        return
    told = reply.get("explored")
    kinds = {"trials": int, "sketched": int, "seconds": (int, float)}
    if not isinstance(told, dict) or any(not isinstance(told.get(name), kind) or told[name] < 0 for name, kind in kinds.items()):
        raise ValueError("it does not say what was looked at")


# Choosing -------------------------------------------------------------------------------------------------------------------------


def pick(seen: Sequence[Seen], space: Space, number: int) -> list[Seen]:
    """The default, and so many designs of the front that lie far from each other. Raises MeasurementError where no design is allowed."""
    front = [each for each, on in zip(seen, _front_of(seen), strict=True) if on]
    if not front:
        raise MeasurementError("no design that was looked at keeps within the bounds; allow more, or look at more with --designs.")
    default = next((each for each in seen if each.design == space.args), Seen(space.args, (0.0,) * len(OBJECTIVES), True))
    others = [each for each in front if each.design != space.args]
    chosen = spread(np.array([each.values for each in others]), number) if others else []
    return [default, *(others[at] for at in chosen)]


def _front_of(seen: Sequence[Seen]) -> np.ndarray:
    """Which designs no allowed one beats; those beyond a bound are on no front."""
    allowed = np.array([each.allowed for each in seen], bool)
    if not allowed.any():
        return allowed
    front = allowed.copy()
    front[allowed] = on_front(SIGNS * np.array([each.values for each in seen])[allowed])
    return front


def fitted_points(points: Sequence[Point]) -> list[Point]:
    """The same designs behind one call, of the greatest width and depth among them (`fitted.py`)."""
    widest = max((each.args for each in points), key=lambda design: design.hidden_dim)
    frame = dataclasses.replace(widest, dec_layers=max(each.args.dec_layers for each in points))
    fields = [each.name for each in dataclasses.fields(ModelArgs)
              if each.name in SHARED or len({getattr(point.args, each.name) for point in points}) > 1]

    def spec(design: ModelArgs) -> str:
        return FITTED + builder_name({name: getattr(design, name) for name in fields})

    return [Point(Architecture(each.architecture.name, spec(each.args), foreign=False), frame, each.workload) for each in points]


# Training -------------------------------------------------------------------------------------------------------------------------


def train(
    asked: SearchPlan, names: Mapping[str, Seen], records: Sequence[Record], folder: Path, *, progress: Progress, **given: Any
) -> tuple[list[Record], dict[str, Any]]:
    """Successive halving of the designs that costs and time leave; the records, and what of it the tables need."""
    trainings = asked.trainings
    costs = costs_of(Run(tuple(records)), names)
    before = [each for each in given.get("done") or () if trainings.made(each) and each.architecture in names]
    first = trained_before(before, names)
    others = as_many(left(costs, names, trainings.designs, first=first), len(first), before, trainings.rungs_of)
    rungs = trainings.rungs_of(len(others))
    small = {name: trainings.small(names[name].design, asked.space.args) for name in (DEFAULT, *others)}
    whole = sum((count + 1) * pictures * len(trainings.seeds_of(at, len(rungs) - 1)) for at, (count, pictures) in enumerate(rungs))
    weights: dict[str, float] = {}

    def share(shares: Mapping[str, float]) -> float:
        return min(1.0, sum(weights.get(name, 0.0) * each for name, each in shares.items()) / whole) if whole else 1.0

    pool = Pool(
        folder, front=lambda job: trainings.front(folder, job), share=share, progress=progress, at_once=trainings.preset.at_once, **given,
    )
    pool.run([trainings.floor_job])
    told, missing = [], 0
    for at, (count, pictures) in enumerate(rungs):
        others = others[:count]
        seeds = trainings.seeds_of(at, len(rungs) - 1)
        jobs = [job for name in (DEFAULT, *others) for job in trainings.jobs(name, small[name], at, pictures, seeds)]
        weights |= {job.folder: float(pictures) for job in jobs}
        found = pool.run(jobs)
        told.append({"pictures": pictures, "designs": [DEFAULT, *others], "seeds": list(seeds)})
        missing = len(jobs) - len(found)
        if missing:
            break
        if at + 1 < len(rungs):
            accuracy = np.array([accuracy_of(found, name) for name in others])
            kept = better_half(np.array([costs[name]["cost"] for name in others]), accuracy, len(others))
            ahead = (rungs[at + 1][1], trainings.seeds_of(at + 1, len(rungs) - 1))
            further = trained_before(before, others, *ahead) if ahead != (pictures, seeds) else []
            others = [*further, *(others[each] for each in kept if others[each] not in further)]
    if not missing:
        remove_rendered(folder)
    preset = trainings.preset
    return pool.kept, {
        "rungs": told, "missing": missing, "title": f"{preset.title}, {trainings.base.data}", "minutes": preset.minutes,
        "machine": preset.machine, "warm_pictures": preset.warm_pictures, "rate": trainings.base.optim.lr,
    }


def trained_before(before: Iterable[Record], names: Iterable[str], pictures: int | None = None, seeds: Sequence[int] = ()) -> list[str]:
    """Of these those that an earlier command trained, for so many pictures with one of these seeds where that is given. They stay chosen
    whatever was timed since: a resumed search trains nothing anew because a time came out otherwise."""
    found = {each.architecture for each in before if pictures is None or each.workload["pictures"] == pictures and each.process in seeds}
    return [name for name in names if name in found and name != DEFAULT]


def as_many(others: Sequence[str], first: int, before: Sequence[Record], rungs_of: Callable[[int], list[tuple[int, int]]]) -> list[str]:
    """So many of these, the `first` at least, that the first rung is as long as it was: with more of them there may be one rung more, and
    every run would be another."""
    begun = min((each.workload["pictures"] for each in before), default=0)
    fitting = [number for number in range(first, len(others) + 1) if first and rungs_of(number)[0][1] == begun]
    return list(others[:max(fitting, default=len(others))])


def left(
    costs: Mapping[str, Mapping[str, float]], names: Mapping[str, Seen], number: int, first: Sequence[str] = ()
) -> list[str]:
    """Of the designs that were counted, and timed, those that no other one beats now, as many as are trained, `first` before all; not the
    default."""
    others = [name for name in names if name != DEFAULT and name in costs]
    if not others:
        return []
    begun = [others.index(name) for name in first if name in others]
    gains = {name: names[name].values[len(COSTS):] for name in others}
    points = np.array([(costs[name]["cost"], costs[name]["peak_bytes"], costs[name]["parameters"], *gains[name]) for name in others])
    front = np.flatnonzero(on_front(points * np.array([1, 1, 1, -1, -1])))
    stands = [*begun, *(at for at in front if at not in begun)]
    return [others[stands[at]] for at in spread(points[stands], number, range(len(begun)))]

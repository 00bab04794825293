"""`humar-bench scaling`: every cost over a geometric range of tokens, queries, images or keypoints, and the exponent it grows with.

Exact costs come from one child (`costs.py`); times from the bench, one fresh process a point, as long as the budget lasts.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from humar_bench.args import EXACT_INT, FreeWorkload, ModelArgs, Size, WholeWorkload, Workload, pyramid, shown
from humar_bench.errors import UsageError
from humar_bench.options import read_number
from humar_bench.records.record import Record, Run
from humar_bench.running.costs import Point, Progress, exact_records
from humar_bench.running.plan import Plan
from humar_bench.studies.scaling.tables import AXES, Axis, Scaling, place, where
from humar_bench.subjects.registry import Architecture

__all__ = ["AXES", "Scaling", "measure_scaling", "parse_count", "square_pyramid", "values_of", "work_at"]

MOST_POINTS = 1_000
SIDE_STEP = 32  # pixels; a multiple of 16 is padded nowhere, and EfficientFormerV2 takes multiples of 32
START_S = 6.0  # about what a child needs before its first forward
FORWARDS = 10  # forwards of a process that times as little as it can: first call, checks, warm-up, timed
STATIC_S = 3.0  # about what counting one point takes; only the progress bar depends on it
TIMED_SHARE = 0.25  # of the budget: timed forwards; the rest is starts, checks and warm-up


# The plan -------------------------------------------------------------------------------------------------------------------------


def parse_count(text: str, option: str) -> int:
    """'1024', '1k' (1,024 here: a size, as in 1k to 32k tokens) or '32k' -> a whole number of at least 1, read as every other number that
    is typed. Raises UsageError."""
    number, scale = (text[:-1], 1024) if text[-1:] in ("k", "K") else (text, 1)
    try:
        value = read_number(number, int) * scale
    except ValueError:
        raise UsageError(f"{option} is {shown(text)}; it must be a whole number, such as 300 or 32k.") from None
    if not 1 <= value <= EXACT_INT:
        raise UsageError(f"{option} is {shown(text)}; it must be from 1 to {EXACT_INT:,}.")
    return value


def values_of(axis: Axis, first: int | None = None, last: int | None = None, points: int | None = None) -> tuple[int, ...]:
    """The geometric range, whole numbers, both ends in it. Raises UsageError."""
    first, last, points = (given if given is not None else own for given, own in
                           ((first, axis.first), (last, axis.last), (points, axis.points)))
    if first >= last:
        raise UsageError(f"--from is {first} and --to is {last}; --to must be the larger one.")
    if points < 3:
        raise UsageError(f"--points is {points}; an exponent with an interval needs at least 3.")
    if points > MOST_POINTS:
        raise UsageError(f"--points is {points}; it must be at most {MOST_POINTS}.")
    return tuple(dict.fromkeys(round(first * (last / first) ** (index / (points - 1))) for index in range(points)))


def square_pyramid(tokens: int, levels: int) -> tuple[Size, ...]:
    """Square maps, each level half the one before, with as near to so many tokens as there are."""
    side = round(math.sqrt(tokens / sum(0.25**level for level in range(levels))))
    near = [pyramid((8 * each, 8 * each), levels) for each in range(max(1, side - 2), side + 3)]
    return min(near, key=lambda sizes: abs(sum(height * width for height, width in sizes) - tokens))


def image_of(pixels: int) -> Size:
    """The image of 3:4 with as near to so many pixels as there are, its sides multiples of 32, which every backbone takes."""
    side = round(math.sqrt(pixels / 12) / SIDE_STEP)
    near = [(3 * SIDE_STEP * each, 4 * SIDE_STEP * each) for each in range(max(1, side - 1), side + 2)]
    return min(near, key=lambda size: abs(math.prod(size) - pixels))


def work_at(axis: Axis, value: int, args: ModelArgs, workload: Workload) -> tuple[ModelArgs, Workload]:
    """The plan's arguments and workload with the axis at a value. Raises UsageError when that cannot be."""
    changes: dict[str, Any] = {"name": f"scaling over {axis.name}"}
    if isinstance(workload, FreeWorkload) and axis.name != "batch":
        raise UsageError(f"over is {axis.name!r} and what --inputs makes grows with the batch alone; take --over batch.")
    if axis.whole not in (None, isinstance(workload, WholeWorkload)):
        of, way_out = ("the whole model", "add --whole") if axis.whole else ("a transformer alone", "leave out --whole, or take pixels")
        raise UsageError(f"over is {axis.name!r} and that is of {of}; {way_out}.")
    if axis.name == "pixels":
        changes["image_size"] = image_of(value)
    elif axis.name == "caption":
        changes["caption_tokens"] = value
    elif axis.name == "tokens":
        changes["feature_sizes"] = square_pyramid(value, args.num_feature_levels)
    elif axis.name == "queries":
        changes["num_queries"] = value
        args = dataclasses.replace(args, num_queries=value)
    elif axis.name == "batch":
        changes["batch"] = value
    else:
        args = dataclasses.replace(args, num_body_points=value)
    return args, dataclasses.replace(workload, **changes)


# Measuring ------------------------------------------------------------------------------------------------------------------------


def measure_scaling(
    plan: Plan, axis: Axis, values: Sequence[int], *, timed: bool = True, budget_s: float = 120.0, done: Run | None = None,
    sink: Any = None, progress: Progress = lambda share, text: None, command: str = "", exact: Callable[..., list[Record]] = exact_records,
    bench: Callable[..., Run] | None = None, now: Callable[[], float] = time.monotonic,
) -> Scaling:
    """Count every point, then time as many as the budget holds, from the smallest on. `exact`, `bench` and `now` stand in for tests."""
    done = done or Run()
    works = [work_at(axis, value, plan.args, plan.workload) for value in values]
    points = [Point(each, *work) for work in works for each in plan.architectures]
    static_share = len(points) * STATIC_S / (len(points) * STATIC_S + (budget_s if timed else 0))
    records = exact(
        points, plan.run, done=done, keep=lambda *made: sink.write(*made) if sink is not None else None,
        progress=lambda share, text: progress(static_share * share, text), command=command,
    )
    if timed:
        timer = _Timer(plan, budget_s, len(points), done, sink, command, bench or _benchmark, now)
        timer.progress = lambda share, text: progress(static_share + (1 - static_share) * share, text)
        records += timer.time_all(works, {
            (each.architecture, where(axis.name, each)): each.measured["matmul_flops"]
            for each in records if each.measure == "flops" and each.ok
        }, axis)
    return Scaling(Run(tuple(records)), axis.name, timed)


def _benchmark(*given: Any, **named: Any) -> Run:
    from humar_bench.running.bench import benchmark

    return benchmark(*given, **named)


class _Timer:
    """Times points from the smallest on, each in a process of its own, as long as the next one is thought to end within the budget.

    Architectures take turns by cost, the cheapest first: each has an equal part of what is left, and leaves what it does not need.
    """

    def __init__(
        self, plan: Plan, budget_s: float, points: int, done: Run, sink: Any, command: str, bench: Callable[..., Run],
        now: Callable[[], float],
    ) -> None:
        self.plan, self.budget_s, self.sink, self.command, self.bench, self.now = plan, budget_s, sink, command, bench, now
        self.start_s = now()
        self.have = {record.key: record for record in done if record.ok and record.measure == "fps"}
        self.progress: Progress = lambda share, text: None
        share_s = max(0.1, round(TIMED_SHARE * budget_s / points, 2))
        self.run = dataclasses.replace(plan.run, processes=1, control=False, min_runs=1, budget=share_s)

    @property
    def left_s(self) -> float:
        return self.budget_s - (self.now() - self.start_s)

    def time_all(
        self, works: Sequence[tuple[ModelArgs, Workload]], flops: Mapping[tuple[str, int], int], axis: Axis
    ) -> list[Record]:
        """The fps records of every point that was reached; `flops` are those of one forward, by architecture and place on the axis."""
        def total(architecture: Architecture) -> int:
            return sum(amount for (name, _), amount in flops.items() if name == architecture.name)

        records: list[Record] = []
        order = sorted(self.plan.architectures, key=total)
        for index, each in enumerate(order):
            ends_s = self.left_s * (1 - 1 / (len(order) - index))  # what has to be left for the others
            curve = [(Point(each, *work), flops.get((each.name, place(axis, *work)), 0)) for work in works]
            records += self._time_curve(curve, ends_s)
        return records

    def _time_curve(self, curve: Sequence[tuple[Point, int]], ends_s: float) -> list[Record]:
        """One architecture from its smallest point on, until one fails or would not end in time. The first is always timed."""
        records: list[Record] = []
        s_per_flop, overhead_s = 0.0, START_S
        for point, amount in curve:
            record = self.have.get(point.key("fps", self.run))
            begun_s = self.now()
            if record is None:
                takes_s = overhead_s + max(2 * self.run.budget, FORWARDS * s_per_flop * amount)
                if records and self.left_s - takes_s < ends_s:
                    break
                self.progress(min(1.0, 1 - self.left_s / self.budget_s), f"timing {point.architecture.name}")
                run = dataclasses.replace(self.run, timeout=min(self.run.timeout, max(self.left_s, 0.0) + 60.0))
                record = self.bench(
                    (point.architecture,), point.args, point.workload, ["fps"], run, sink=self.sink, command=self.command
                )[0]
            records.append(record)
            if not record.ok:
                break
            forward_s = float(np.median(record.measured["wall_s"]))
            s_per_flop = forward_s / max(1, amount)
            if (took_s := self.now() - begun_s) > 1:
                overhead_s = max(1.0, took_s - max(2 * self.run.budget, FORWARDS * forward_s))
        return records

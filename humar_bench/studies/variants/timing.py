"""Times of whole models: comparisons of a few variants beside the same reference, timed in turn, those with the fewest FLOPs first.

A comparison holds few models because all of them are alive at once. The reference, the variant with the fewest FLOPs, is in each, so that
every ratio is against it and comes with an interval of its own comparison. What a comparison will take is predicted from the slowest rate
(seconds a FLOP) of the one before; the first that would not end within the budget ends it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from humar_bench.args import RunArgs
from humar_bench.records.record import Record, Run
from humar_bench.running.costs import Point, Progress
from humar_bench.running.in_turn import FEWEST, time_in_turn, timing_run
from humar_bench.running.plan import Plan
from humar_bench.subjects.registry import Architecture

TOGETHER = 4  # variants beside the reference
ROW_S = 12.0  # of the budget, at least, for each of them
FORWARDS = 6  # that an arm makes in a process at least: the first one, those that check it, the warm-up, a timed one
BUILD_S, START_S = 2.0, 8.0  # about what an arm's weights and a process take before anything is timed


def name_of(backbone: str, text_encoder: str, transformer: str) -> str:
    """How a variant is called where it is timed."""
    return f"{backbone} + {text_encoder} + {transformer}"


def arm_of(point: Point) -> Architecture:
    """A variant as an architecture with parts of its own."""
    work, each = point.workload, point.architecture
    spec = f"{each.spec}[backbone={work.backbone},text_encoder={work.text_encoder}]"
    return Architecture(name_of(work.backbone, work.text_encoder, each.name), spec, each.foreign)


def time_variants(
    plan: Plan, points: Sequence[Point], flops: Mapping[str, int], budget_s: float, *, done: Run, sink: Any = None,
    progress: Progress = lambda share, text: None, command: str = "", bench: Callable[..., Run] | None = None,
    now: Callable[[], float] = time.monotonic,
) -> list[Record]:
    """The fps records of as many variants as the budget reaches; `flops` by `name_of`, variants without are left out.

    Each comparison has a seed of its own, the run's plus its number, which tells their records apart.
    """
    arms = sorted((arm_of(each) for each in points), key=lambda arm: flops.get(arm.name, 0))
    arms = [arm for arm in arms if arm.name in flops]
    if not arms:
        return []
    reference, others = arms[0], arms[1:]
    found: list[Record] = []
    start_s, rate = now(), 0.0
    for number in range(max(1, -(-len(others) // TOGETHER))):
        group = [reference, *others[number * TOGETHER : (number + 1) * TOGETHER]]
        needs_s = _needed_s([flops[arm.name] for arm in group], rate)
        spent_s = now() - start_s
        if number and spent_s + needs_s > budget_s:
            break
        run = timing_run(dataclasses.replace(plan.run, seed=plan.run.seed + number), needs_s, len(group))
        share = min(1.0, spent_s / budget_s)
        earlier = Run(tuple(each for each in done if each.measure == "fps" and each.asked_run("seed") == run.seed))
        found += time_in_turn(
            [Point(arm, plan.args, plan.workload) for arm in group], run, needs_s, reference=reference.name, done=earlier, sink=sink,
            command=command, bench=bench, now=now, progress=lambda _, text, share=share: progress(share, text),
        )
        rate = _rate(found, run, flops) or rate
    return found


def _needed_s(flops: Sequence[int], rate: float) -> float:
    """Budget of one comparison; the reference is built and timed twice, the second time as a control."""
    forwards_s = rate * (sum(flops) + flops[0])
    process_s = START_S + BUILD_S * (len(flops) + 1) + FORWARDS * forwards_s
    return round(max(ROW_S * len(flops), FEWEST * process_s if rate else 0.0), 1)


def _rate(records: Sequence[Record], run: RunArgs, flops: Mapping[str, int]) -> float:
    """The most seconds a FLOP of one comparison's forwards: what was measured decides alone, so that a resumed run asks the same."""
    timed = [record for record in records if record.ok and record.asked_run("seed") == run.seed and record.architecture in flops]
    return max((median(record.measured["wall_s"]) / flops[record.architecture] for record in timed), default=0.0)

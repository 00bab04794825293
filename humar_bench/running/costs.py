"""Exact costs of many models in one child process, as the records the bench would write. Nothing is run, so nothing has to be alone.

The records of a point (an architecture, arguments, a workload) are params, flops and memory; of memory only the prediction.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from humar_bench.args import ModelArgs, RunArgs, Workload
from humar_bench.errors import UsageError
from humar_bench.records.record import Record, Run
from humar_bench.running.children import Child, Outcome, run_children
from humar_bench.subjects.registry import Architecture

EXACT = ("params", "flops", "memory")
COMMAND = (sys.executable, "-m", "humar_bench.running.cost_worker")
Progress = Callable[[float, str], None]  # share of the work from 0 to 1, what is being done
Children = Callable[[list[tuple[Any, Child]]], Iterable[tuple[Any, Outcome]]]


@dataclass(frozen=True)
class Point:
    """One architecture on one piece of work."""

    architecture: Architecture
    args: ModelArgs
    workload: Workload

    def record(self, measure: str, run: RunArgs, result: dict[str, Any], environment: dict[str, Any], command: str = "") -> Record:
        return Record(
            measure=measure, architecture=self.architecture.name, spec=self.architecture.spec, foreign=self.architecture.foreign,
            asked=dataclasses.asdict(self.args), workload=dataclasses.asdict(self.workload), run=dataclasses.asdict(run),
            environment=environment, command=command, **result,
        )

    def key(self, measure: str, run: RunArgs) -> str:
        """The key of its record, whether it exists or not."""
        return self.record(measure, run, {"measured": {}}, {}).key


def exact_records(
    points: Sequence[Point], run: RunArgs, *, done: Run | None = None, keep: Callable[..., None] = lambda *records: None,
    progress: Progress = lambda share, text: None, command: str = "", children: Children | None = None,
) -> list[Record]:
    """The exact records of every point, in order; those that `done` holds with status ok are not made again, new ones go to `keep`.

    The built-in architectures share one child, so that torch is loaded once; each foreign one has its own, so that it takes nobody down.
    Raises UsageError when a builder cannot be loaded.
    """
    have = {record.key: record for record in done or () if record.ok}
    missing = [each for each in points if any(each.key(measure, run) not in have for measure in EXACT)]
    groups: dict[str, list[Point]] = {}
    for each in missing:
        groups.setdefault(each.architecture.spec if each.architecture.foreign else "", []).append(each)
    counted = 0

    def child_of(group: list[Point]) -> Child:
        def hear(event: dict[str, Any]) -> None:
            nonlocal counted
            progress(counted / len(missing), f"counting {event.get('architecture', '')}")
            counted += 1

        request = {"items": [_item(each) for each in group], "run": dataclasses.asdict(run)}
        names = tuple(dict.fromkeys(each.architecture.name for each in group))
        return Child(request, timeout_s=run.timeout, hear=hear, names=names, command=COMMAND)

    waiting = [(group, child_of(group)) for group in groups.values()]
    for group, outcome in (children or _one_at_a_time)(waiting) if waiting else ():
        if outcome.reply is not None and "usage_error" in outcome.reply:
            raise UsageError(outcome.reply["usage_error"])
        for point, results in zip(group, _results(group, outcome), strict=True):
            environment = (outcome.reply or {}).get("environment", {})
            made = [point.record(measure, run, results[measure], environment, command) for measure in EXACT]
            keep(*made)
            have |= {record.key: record for record in made}
    return [have[each.key(measure, run)] for each in points for measure in EXACT]


def _item(point: Point) -> dict[str, Any]:
    return {
        "architecture": dataclasses.asdict(point.architecture), "asked": dataclasses.asdict(point.args),
        "workload": dataclasses.asdict(point.workload),
    }


def _results(group: Sequence[Point], outcome: Outcome) -> Sequence[dict[str, Any]]:
    if outcome.reply is not None:
        return outcome.reply["results"]
    lost = {"status": "failed", "kind": outcome.kind, "reason": outcome.reason, "built": {}, "measured": None}
    return [dict.fromkeys(EXACT, lost) for _ in group]


def _one_at_a_time(children: list[tuple[Any, Child]]) -> Iterator[tuple[Any, Outcome]]:
    return run_children(children, at_once=1)

"""Exact costs of any number of models in one child process, so that torch is loaded once. Nothing is run, so nothing has to be alone.

A model that crashes or hangs the child costs only its own count: another child goes on with those that are left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from humar_bench.args import ModelArgs, RunArgs, Workload
from humar_bench.errors import UsageError
from humar_bench.records.audit import audited
from humar_bench.records.record import Record, Run, failed_result
from humar_bench.running.children import Child, Outcome, run_children
from humar_bench.subjects.registry import Architecture

EXACT = ("params", "flops", "memory")  # of memory only the prediction
PEAK = "peak"  # the prediction by itself, for the child that measures memory
NOTHING = "its process sent back no result for it."
Progress = Callable[[float, str], None]  # share of the work from 0 to 1, what is being done


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


@dataclass(frozen=True)
class Count:
    """One thing to count: a measure of `EXACT`, or `PEAK`."""

    point: Point
    measure: str

    @property
    def name(self) -> str:
        return self.point.architecture.name


Keep = Callable[[Count, dict[str, Any], dict[str, Any]], None]  # a count, its result, the environment of its child


def count_all(
    counts: Sequence[Count], run: RunArgs, keep: Keep, *, begin: Callable[[Count], None] = lambda count: None,
    counters: Sequence[str] = (), limit_bytes: int | None = None, program: Sequence[str] = (),
) -> None:
    """Count all of it in as few children as it takes; each result goes to `keep` as soon as it is there.

    What runs somebody else's code comes last, in the order given. A count may take `run.timeout` seconds. `program` is what a
    child runs, where it is not the usual one. Raises UsageError when nothing can be counted.
    """
    left = sorted(counts, key=lambda each: each.point.architecture.foreign)
    alone = False
    while left:
        batch = left[:1] if alone else left
        child = _Counting(batch, run, keep, begin, {"counters": list(counters), "limit_bytes": limit_bytes}, program)
        outcome = child.listen_to_the_end()
        left = left[child.done :]
        if outcome.reply is not None and "usage_error" in outcome.reply:
            raise UsageError(outcome.reply["usage_error"])
        lost = []
        if outcome.reply is None and (len(batch) > child.done + 1 or child.done and outcome.kind != "timeout"):
            alone = True  # what a child said of its work blames nobody: the next one is counted in a child of its own
            continue
        if outcome.reply is None:
            lost = left[:1] if child.begun > child.done else left  # it does not even begin: it would not go better a second time
        elif not child.done:
            outcome, lost = Outcome(None, "error", NOTHING), left[:1] if child.begun else left
        for each in lost:
            keep(each, failed_result(outcome.kind, outcome.reason), {})
        left, alone = left[len(lost) :], False


class _Counting:
    """One child that counts, and how far it came: `begun` and `done` of its counts, in order."""

    def __init__(
        self, counts: Sequence[Count], run: RunArgs, keep: Keep, begin: Callable[[Count], None], more: Mapping[str, Any],
        program: Sequence[str],
    ) -> None:
        self.counts, self.keep, self.begin, self.begun, self.done = counts, keep, begin, 0, 0
        works = list(dict.fromkeys((each.point.args, each.point.workload) for each in counts))
        items = [
            {"measure": each.measure, "architecture": dataclasses.asdict(each.point.architecture),
             "work": works.index((each.point.args, each.point.workload))} for each in counts
        ]
        request = {
            "measure": "count", "items": items, "run": dataclasses.asdict(run), **more,
            "works": [{"asked": dataclasses.asdict(args), "workload": dataclasses.asdict(work)} for args, work in works],
        }
        names = tuple(dict.fromkeys(each.name for each in counts))
        own = {"command": tuple(program)} if program else {}
        self.child = Child(request, timeout_s=run.timeout, hear=self.hear, names=names, check_event=self.check, **own)

    def listen_to_the_end(self) -> Outcome:
        [(_, outcome)] = run_children([(None, self.child)], at_once=1)
        return outcome

    def check(self, event: dict[str, Any]) -> None:
        """Raises ValueError for an event that is not the next: an item begun, or the result of the one that was begun."""
        begins = event["stage"] == "count" and self.begun == self.done
        ends = event["stage"] == "counted" and self.begun == self.done + 1 and "result" in event and "environment" in event
        if not (begins or ends) or event.get("item") != self.done or self.done >= len(self.counts):
            raise ValueError(f"{event['stage']!r} of item {str(event.get('item'))[:20]} is not what comes next")
        if event.get("architecture") != self.counts[self.done].name:
            raise ValueError(f"item {self.done} is of {self.counts[self.done].name}")

    def hear(self, event: dict[str, Any]) -> None:
        count = self.counts[event["item"]]
        self.child.renew()
        if event["stage"] == "count":
            self.begun += 1
            self.begin(count)
        else:
            self.done += 1
            self.keep(count, event["result"], event["environment"])


def exact_records(
    points: Sequence[Point], run: RunArgs, *, done: Run | None = None, keep: Callable[..., None] = lambda *records: None,
    progress: Progress = lambda share, text: None, command: str = "", program: Sequence[str] = (),
) -> list[Record]:
    """The exact records of every point, in order; those that `done` holds with status ok are not made again, new ones go to `keep`.

    `program` is what a child runs, where it is not the usual one. Raises UsageError when nothing can be counted.
    """
    have = {record.key: record for record in done or () if record.ok}
    missing = [Count(each, measure) for each in points for measure in EXACT if each.key(measure, run) not in have]
    begun = 0

    def begin(count: Count) -> None:
        nonlocal begun
        progress(begun / len(missing), f"counting {count.name}")
        begun += 1

    def made(count: Count, result: dict[str, Any], environment: dict[str, Any]) -> None:
        result = audited(count.name, count.measure, result, dataclasses.asdict(count.point.workload), environment)
        record = count.point.record(count.measure, run, result, environment, command)
        keep(record)
        have[record.key] = record

    count_all(missing, run, made, begin=begin, program=program)
    return [have[each.key(measure, run)] for each in points for measure in EXACT]

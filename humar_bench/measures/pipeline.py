"""A pipeline of stages around a forward: how long each takes one after another, and how many items pass when the stages overlap.

One after another, an item goes through all stages before the next one starts: the sum is its latency. Overlapped, three lines work at the
same time, each in a thread of its own: what comes before the model prepares the next items, the model runs, what comes after finishes the
ones before. Nothing is repeated within a stage, so a pipeline is timed as its user runs it. No verdict is made here.
"""

from __future__ import annotations

import gc
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from humar_bench.devices.device import Device
from humar_bench.measures.speed import garbage_held

BEFORE, MODEL, AFTER = "before", "model", "after"  # the three lines
AHEAD = 2  # items that are prepared, or wait to be finished, at most
BURST = 4  # items of the first overlapped run
MIN_ROUNDS, MAX_ROUNDS, MAX_BURSTS = 3, 200, 50


@dataclass(frozen=True)
class Stage:
    """What turns the value of the stage before into the value for the next one; `line` says beside what it may run."""

    name: str
    work: Callable[[Any], Any]
    line: str


@dataclass
class PipelineTimes:
    """Raw seconds of one pipeline: `stages` and `latency_s` hold one value a round, `overlapped_s` one a burst, per item once the line is
    full. `error` is what a stage raised; then the other times are of no use."""

    stages: dict[str, list[float]] = field(default_factory=dict)
    lines: dict[str, str] = field(default_factory=dict)  # stage -> the line it is in
    latency_s: list[float] = field(default_factory=list)
    overlapped_s: list[float] = field(default_factory=list)
    burst: int = BURST
    error: Exception | None = None

    def measured(self) -> dict[str, Any]:
        """As plain values for a record."""
        return {
            "stages": self.stages, "lines": self.lines, "latency_s": self.latency_s, "overlapped_s": self.overlapped_s, "burst": self.burst
        }


def time_pipelines(
    pipelines: Mapping[str, Sequence[Stage]], items: Sequence[Any], device: Device, *, budget_s: float = 10.0, seed: int = 0,
    min_rounds: int = MIN_ROUNDS, max_rounds: int = MAX_ROUNDS, tell: Callable[[str, str], None] = lambda stage, name: None,
) -> dict[str, PipelineTimes]:
    """Time every pipeline (name -> its stages, in order) on the same items, in turn, in an order shuffled anew each round.

    Every item passes once untimed, as far as a tenth of the budget reaches. Then half of `budget_s` seconds a pipeline goes to rounds of
    one item, at least `min_rounds`, and half to overlapped bursts of items, at least one. One that raises ends with an error, the rest go
    on.
    """
    found = {name: PipelineTimes(lines={stage.name: stage.line for stage in stages}) for name, stages in pipelines.items()}
    order = random.Random(seed)
    with garbage_held():
        for name, stages in pipelines.items():
            tell("warm-up", name)
            _guarded(found[name], lambda stages=stages: _warm_up(stages, items, device, budget_s / 10))
        _in_turn(
            found, order, budget_s / 2, min_rounds, max_rounds, tell, "one after another",
            lambda name, index: _pass(found[name], pipelines[name], items[index % len(items)], device),
        )
        for each in found.values():
            each.burst = max(BURST, min(len(items), MAX_BURSTS))
        _in_turn(
            found, order, budget_s / 2, 1, MAX_BURSTS, tell, "overlapped",
            lambda name, index: _burst(found[name], pipelines[name], items, index, device),
        )
    return found


def _in_turn(
    found: Mapping[str, PipelineTimes], order: random.Random, budget_s: float, fewest: int, most: int,
    tell: Callable[[str, str], None], stage: str, work: Callable[[str, int], float],
) -> None:
    """Rounds of one call of `work` a pipeline, which returns its seconds, until one has used the budget."""
    spent_s, index = dict.fromkeys(found, 0.0), 0
    while alive := [name for name, each in found.items() if each.error is None]:
        if index >= fewest and (index >= most or max(spent_s[name] for name in alive) >= budget_s):
            return
        for name in order.sample(alive, len(alive)):
            tell(stage, name)
            gc.collect()
            spent_s[name] += _guarded(found[name], lambda name=name, index=index: work(name, index)) or 0.0
        index += 1


def _guarded(times: PipelineTimes, work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:
        error.__traceback__ = None  # it holds the frames, and with them the tensors
        times.error = error
        return None


def _run(stages: Iterable[Stage], value: Any) -> Any:
    for stage in stages:
        value = stage.work(value)
    return value


def _warm_up(stages: Sequence[Stage], items: Sequence[Any], device: Device, budget_s: float) -> None:
    start_s = device.now_s()
    for index, item in enumerate(items):
        if index >= 2 and device.now_s() - start_s >= budget_s:
            break
        _run(stages, item)
    device.synchronize()


def _pass(times: PipelineTimes, stages: Sequence[Stage], item: Any, device: Device) -> float:
    """One item through all stages, each waited for."""
    value, spans = item, {}
    start_s = before_s = device.now_s()
    for stage in stages:
        value = stage.work(value)
        device.synchronize()
        now_s = device.now_s()
        spans[stage.name], before_s = now_s - before_s, now_s
    for name, seconds in spans.items():
        times.stages.setdefault(name, []).append(seconds)
    times.latency_s.append(before_s - start_s)
    return before_s - start_s


def _burst(times: PipelineTimes, stages: Sequence[Stage], items: Sequence[Any], index: int, device: Device) -> float:
    """`burst` items through the three lines at once; what filling the lines takes does not count."""
    lines = {line: [stage for stage in stages if stage.line == line] for line in (BEFORE, MODEL, AFTER)}
    given = [items[(index * times.burst + each) % len(items)] for each in range(times.burst)]
    ends: list[float] = []

    def finish(value: Any) -> None:
        _run(lines[AFTER], value)
        device.synchronize()
        ends.append(device.now_s())

    start_s = device.now_s()
    with ThreadPoolExecutor(1) as preparing, ThreadPoolExecutor(1) as finishing:
        prepared = deque(preparing.submit(_run, lines[BEFORE], each) for each in given[:AHEAD])
        left: deque[Future] = deque()
        for number in range(times.burst):
            value = prepared.popleft().result()
            if number + AHEAD < times.burst:
                prepared.append(preparing.submit(_run, lines[BEFORE], given[number + AHEAD]))
            left.append(finishing.submit(finish, _run(lines[MODEL], value)))
            if len(left) > AHEAD:
                left.popleft().result()
        for each in left:
            each.result()
    times.overlapped_s.append((ends[-1] - ends[0]) / (times.burst - 1))
    return device.now_s() - start_s

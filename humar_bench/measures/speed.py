"""Speed: several architectures timed in turn inside one process, every raw time kept.

Rounds: every architecture once a round, in an order shuffled anew, so that drift and neighbours hit all alike. A round's value is the
time of one block of forwards divided by its forwards; values of the same index belong to the same round. No verdict is made here:
one process cannot say how much the next start differs (`statistics.py` compares processes).
"""

from __future__ import annotations

import contextlib
import functools
import gc
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from humar_bench.devices.device import Device
from humar_bench.errors import is_out_of_memory
from humar_bench.judging.steadiness import windows_agree
from humar_bench.measures.speed_sample import SpeedSample, TimingPlan

Call = Callable[[], Any]
BLOCKS_PER_WINDOW = 5  # a warm-up window is up to this many blocks; a forward longer than the whole window is one block of one call
MAX_CALLS_PER_BLOCK = 100_000
SLOW_S = 1.0  # a forward this long warms up in rounds, not in windows of its own
BESIDE_SLOW = 0.25  # of a slow forward: what a block of a faster one lasts beside it, for rounds are few there


@dataclass(frozen=True)
class Progress:
    """Where the timing stands: `stage` is warm-up or timing, `share` runs from 0 to 1 within the timing."""

    stage: str
    architecture: str
    rounds: int
    share: float


class Block(NamedTuple):
    """What one architecture's block is: how many calls, of about how many seconds each."""

    calls: int
    call_s: float


class Varied(NamedTuple):
    """Forwards on new inputs, by name; `renew` makes inputs that none of them has seen, before a round and not timed. It is told of each
    architecture's blocks and says how many different inputs each may take: as many calls has a block on new inputs, where more than one."""

    calls: Mapping[str, Call]
    renew: Callable[[Mapping[str, Block]], Mapping[str, int]]


def time_architectures(
    calls: dict[str, Call], device: Device, plan: TimingPlan | None = None, *, progress: Callable[[Progress], None] | None = None,
    varied: Varied | None = None, payers: Mapping[str, str] | None = None, observe: Callable[[str], dict[str, Any]] | None = None,
    first_done: Callable[[str], None] | None = None,
) -> dict[str, SpeedSample]:
    """Time every call of `calls` (name -> one forward, no arguments) on `device`; a name that raises ends with an error, the rest go on.

    The caller puts models into eval and inference mode inside the call. Python's garbage is collected before every block and left alone
    within it. `payers` says in whose budget an architecture is timed where that is not its own; `observe(name)` tells what state the
    process is in for an architecture, and is asked around everything that is called, never inside. `first_done(name)` is called after the
    first call and not timed; it may raise.
    """
    plan = plan or TimingPlan()
    tell = progress or (lambda _: None)
    look = observe or (lambda _: {})
    order = random.Random(plan.seed)
    samples = {name: SpeedSample(order_seed=plan.seed) for name in calls}
    with garbage_held():
        rounds = _Rounds(calls, device, plan, samples, order, varied or Varied({}, lambda blocks: {}), payers or {}, look, tell)
        for name in _shuffled(list(calls), order):
            with _caught(samples[name], name, device), _watched(samples[name], name, look, keep=False):
                first_s = _first_call(calls[name], device, samples[name])
                if first_done:
                    first_done(name)
                rounds.warm_up(name, first_s)
        rounds.run()
    return samples


@dataclass
class _Rounds:
    """Warm-up and the timed part of one process. `call_s` is about what a forward takes, `waits` what the next round has to agree with and
    `warming_s` what calls took until then, all by name."""

    calls: dict[str, Call]
    device: Device
    plan: TimingPlan
    samples: dict[str, SpeedSample]
    order: random.Random
    varied: Varied
    payers: Mapping[str, str]
    look: Callable[[str], dict[str, Any]]
    tell: Callable[[Progress], None]

    def __post_init__(self) -> None:
        self.clock_cost_s = self.device.clock_cost_s()
        self.call_s: dict[str, float] = {}
        self.waits: dict[str, float] = {}
        self.warming_s: dict[str, float] = {}
        self.different: Mapping[str, int] = {}

    def warm_up(self, name: str, first_s: float) -> None:
        """After the first call of `name`: windows, or rounds where one call is long."""
        sample = self.samples[name]
        if sample.first_call_s >= SLOW_S:
            sample.warmup_runs, self.waits[name] = 1, first_s
            self.call_s[name] = self.warming_s[name] = sample.first_call_s
        else:
            self._windows(name)

    def _windows(self, name: str) -> None:
        tell = functools.partial(self.tell, Progress("warm-up", name, 0, 0.0))
        self.call_s[name] = _warm_up(self.calls[name], self.device, self.plan, self.samples[name], tell)

    def run(self) -> None:
        """Rounds of one block per architecture that has not failed, until the plan says enough."""
        plan, rounds = self.plan, 0
        _set_block_lengths(self.samples, self.call_s, self.clock_cost_s, plan.clock_share)
        while alive := [name for name in self.calls if not self.samples[name].error]:
            if rounds >= plan.min_runs and (rounds >= plan.max_runs or self._most_spent_s(alive) >= plan.budget_s):
                return
            self._round(rounds, alive)
            if not self._settled():
                continue
            rounds += 1
            of_budget = self._most_spent_s(self.calls) / plan.budget_s if plan.budget_s else 1.0
            share = min(1.0, rounds / plan.min_runs, max(of_budget, rounds / plan.max_runs))
            self.tell(Progress("timing", "", rounds, share))

    def _settled(self) -> bool:
        """Whether all that waited for a round were as fast in it as before, or have warmed up long enough; where not, it is forgotten."""
        waits, self.waits, fast = self.waits, {}, []
        for name, before_s in waits.items():
            sample = self.samples[name]
            if sample.error:
                continue
            value_s = (sample.cpu_s if self.device.kind == "cpu" else sample.wall_s)[0]
            self.warming_s[name] += sample.wall_s[0] * sample.calls_per_block
            sample.steady = windows_agree([before_s], [value_s])
            if not sample.steady and sample.wall_s[0] < SLOW_S:
                fast.append(name)
            elif not sample.steady and self.warming_s[name] < self.plan.warmup_max_s:
                self.waits[name], self.call_s[name] = value_s, sample.wall_s[0]
                sample.warmup_runs += sample.calls_per_block
        if not self.waits and not fast:
            return True
        for sample in self.samples.values():
            sample.forget_rounds()
        for name in fast:
            self.samples[name].warmup_runs += self.samples[name].calls_per_block
            with _caught(self.samples[name], name, self.device), _watched(self.samples[name], name, self.look, keep=False):
                self._windows(name)
        _set_block_lengths(self.samples, self.call_s, self.clock_cost_s, self.plan.clock_share)
        return False

    def _round(self, index: int, alive: list[str]) -> None:
        blocks = [(name, False) for name in alive]
        if self.plan.varied_every and (self.plan.first_round + index) % self.plan.varied_every == 0:
            varied = [name for name in alive if name in self.varied.calls]
            blocks += [(name, True) for name in varied]
            self.different = self.varied.renew({name: Block(self.samples[name].calls_per_block, self.call_s[name]) for name in varied})
        for name, new in self.order.sample(blocks, len(blocks)):
            if not self.samples[name].error:
                with _caught(self.samples[name], name, self.device):
                    self._block(name, index, new)

    def _block(self, name: str, index: int, new: bool) -> None:
        sample, device = self.samples[name], self.device
        gc.collect()
        with _watched(sample, name, self.look):
            start_s, collections = device.now_s(), _collections()
            call = self.varied.calls[name] if new else self.calls[name]
            different = self.different.get(name, 1) if new else 1
            calls = min(different, sample.calls_per_block) if different > 1 else sample.calls_per_block
            timing = device.time_call(call, calls, telemetry=self.plan.telemetry and not new)
            sample.spent_s += device.now_s() - start_s
            sample.collections += _collections() - collections
        if not new:
            return _keep(sample, timing)
        sample.varied_rounds.append(index)
        sample.varied_calls.append(calls)
        sample.varied_wall_s.append(timing.wall_s / calls)
        sample.varied_cpu_s.append(timing.cpu_s / calls)

    def _most_spent_s(self, names: Any) -> float:
        return max(spent_by_payer({name: self.samples[name].spent_s for name in names}, self.payers).values())


def spent_by_payer(spent_s: Mapping[str, float], payers: Mapping[str, str]) -> dict[str, float]:
    """Seconds of the budget used, an architecture's control added to its own."""
    total: dict[str, float] = {}
    for name, seconds in spent_s.items():
        payer = payers.get(name, name)
        total[payer] = total.get(payer, 0.0) + seconds
    return total


def _keep(sample: SpeedSample, timing: Any) -> None:
    """Append one block's values, per forward."""
    calls = sample.calls_per_block
    sample.wall_s.append(timing.wall_s / calls)
    sample.cpu_s.append(timing.cpu_s / calls)
    sample.preempted.append(timing.preempted)
    if timing.device_s is not None:
        sample.device_s = [*(sample.device_s or []), timing.device_s / calls]
        sample.gate_held = [*(sample.gate_held or []), bool(timing.gate_held)]
        sample.stray_s = [*(sample.stray_s or []), (timing.stray_s or 0.0) / calls]
        sample.telemetry = [*(sample.telemetry or []), timing.telemetry]
        sample.enqueue_s = [*(sample.enqueue_s or []), (timing.enqueue_s or 0.0) / calls]


def _first_call(call: Call, device: Device, sample: SpeedSample) -> float:
    """The first call, apart. Returns its time as windows are compared by."""
    gc.collect()
    first = device.time_call(call, device_time=False)
    sample.first_call_s = first.wall_s
    return first.cpu_s if device.kind == "cpu" else first.wall_s


def _warm_up(call: Call, device: Device, plan: TimingPlan, sample: SpeedSample, tell: Callable[[], None]) -> float:
    """Windows until two in a row agree or a cap is reached. Returns the last window's seconds per forward.

    Windows are compared on wall time where the device works behind the host's back and on CPU time where it does not, which a busy
    neighbour disturbs less.
    """
    start_s = device.now_s() - sample.first_call_s
    wall_s, before = sample.first_call_s, None
    for window in range(1, plan.warmup_max_windows + 1):
        timings, calls = _window(call, device, plan.warmup_window_s, wall_s)
        sample.warmup_runs += len(timings) * calls
        wall_s = median(timing.wall_s for timing in timings) / calls
        values = [(timing.cpu_s if device.kind == "cpu" else timing.wall_s) / calls for timing in timings]
        tell()
        if before is not None and windows_agree(before, values):
            sample.steady = True
            break
        if window >= 2 and device.now_s() - start_s >= plan.warmup_max_s:
            break
        before = values
    return wall_s


def _window(call: Call, device: Device, window_s: float, call_s: float) -> tuple[list[Any], int]:
    """One warm-up window: its blocks' timings and the calls in each."""
    call_s = max(call_s, 1e-9)
    calls = min(max(1, int(window_s / BLOCKS_PER_WINDOW / call_s)), MAX_CALLS_PER_BLOCK)
    blocks = min(BLOCKS_PER_WINDOW, max(1, int(window_s / (calls * call_s))))
    gc.collect()
    return [device.time_call(call, calls, device_time=False) for _ in range(blocks)], calls


def _calls_per_block(call_s: float, clock_cost_s: float, clock_share: float) -> int:
    """Forwards per block so that the clocks cost at most `clock_share` of it."""
    return min(max(1, math.ceil(clock_cost_s / clock_share / max(call_s, 1e-9))), MAX_CALLS_PER_BLOCK)


def _set_block_lengths(samples: Mapping[str, SpeedSample], call_s: Mapping[str, float], clock_cost_s: float, clock_share: float) -> None:
    """Forwards per block: what the clocks ask for, and beside a slow architecture more, for one short forward a round says little.

    Blocks of like length for like architectures: from the shortest block on, each that is at most twice its neighbour takes the longest of
    its kind. Otherwise noise in the warm-up would give two equal architectures blocks of different length, and a block's median depends on
    its length. One slow forward is a block.
    """
    slowest_s = max(call_s.values(), default=0.0)
    beside_s = BESIDE_SLOW * slowest_s if slowest_s >= SLOW_S else 0.0
    for name, seconds in call_s.items():
        calls = 1 if seconds >= SLOW_S else min(max(1, round(beside_s / max(seconds, 1e-9))), MAX_CALLS_PER_BLOCK)
        samples[name].calls_per_block = max(calls, _calls_per_block(seconds, clock_cost_s, clock_share))
    alike: list[SpeedSample] = []
    for sample in sorted((samples[name] for name in call_s if call_s[name] < SLOW_S), key=lambda each: each.calls_per_block):
        if alike and sample.calls_per_block > 2 * alike[-1].calls_per_block:
            alike = []
        alike = [*alike, sample]
        longest = sample.calls_per_block
        for each in alike:
            each.calls_per_block = longest


def _collections() -> int:
    """How often Python has collected garbage in this process."""
    return sum(generation["collections"] for generation in gc.get_stats())


def _shuffled(names: list[str], order: random.Random) -> list[str]:
    return order.sample(names, len(names))


@contextlib.contextmanager
def garbage_held() -> Iterator[None]:
    """No garbage collection but the ones asked for; what is alive now is set aside, so that each of those is quick."""
    was_enabled, freeze = gc.isenabled(), gc.get_freeze_count() == 0
    gc.collect()
    if freeze:
        gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        if freeze:
            gc.unfreeze()
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def _watched(sample: SpeedSample, name: str, look: Callable[[str], dict[str, Any]], *, keep: bool = True) -> Iterator[None]:
    """Hold the state of the process after what is done inside against the one before; keep both in the sample's conditions."""
    before = look(name)
    yield
    after = look(name)
    for key in before:
        if before[key] != after[key]:
            sample.changed.setdefault(key, [before[key], after[key]])
    for state in (before, after):
        if keep and state and state not in sample.conditions:
            sample.conditions.append(state)


@contextlib.contextmanager
def _caught(sample: SpeedSample, name: str, device: Device) -> Iterator[None]:
    """Turn an exception of an architecture's own into its sample's error, and free what it left in the device's cache."""
    try:
        yield
    except Exception as error:
        first_line = (str(error).strip().splitlines() or ["no message"])[0]
        sample.error = f"{name} raised {type(error).__name__} while it was timed: {first_line}"
        sample.error_kind = "out of memory" if is_out_of_memory(error) else "error"
        error.__traceback__ = None  # it holds the frames, and with them the tensors
        with contextlib.suppress(Exception):
            device.release_cache()

"""Speed: several architectures timed in turn inside one process, every raw time kept.

Rounds: every architecture once a round, in an order shuffled anew, so that drift and neighbours hit all alike. A round's value is the
time of one block of forwards divided by its forwards; values of the same index belong to the same round. No verdict is made here:
one process cannot say how much the next start differs (`statistics.py` compares processes).
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from humar_bench.device import Device
from humar_bench.errors import UsageError
from humar_bench.statistics import windows_agree

Call = Callable[[], Any]
BLOCKS_PER_WINDOW = 5  # a warm-up window is up to this many blocks; a forward longer than the whole window is one block of one call
MAX_CALLS_PER_BLOCK = 100_000


@dataclass(frozen=True)
class TimingPlan:
    """How long and how carefully to time. Raises UsageError when a value cannot work.

    Rounds go on until one architecture has used `budget_s` seconds of timed forwards or `max_runs` rounds are done, and always to
    `min_runs` rounds. Warm-up goes on until two windows in a row agree (`statistics.windows_agree`), at least two windows, at most
    `warmup_max_windows`, and none is begun after `warmup_max_s`. A block holds as many forwards as it takes for reading the clocks to
    cost at most `clock_share` of it; on a CPU that is one forward as soon as it lasts a few milliseconds.
    """

    min_runs: int = 10
    max_runs: int = 1000
    budget_s: float = 60.0
    seed: int = 0
    warmup_window_s: float = 0.25
    warmup_max_s: float = 10.0
    warmup_max_windows: int = 20
    clock_share: float = 1e-4
    telemetry: bool = True

    def __post_init__(self) -> None:
        if self.min_runs < 1:
            raise UsageError(f"min_runs is {self.min_runs}; it must be at least 1.")
        if self.max_runs < self.min_runs:
            raise UsageError(f"max_runs {self.max_runs} is below min_runs {self.min_runs}; raise one or lower the other.")
        if self.warmup_max_windows < 2:
            raise UsageError(f"warmup_max_windows is {self.warmup_max_windows}; it must be at least 2, one cannot agree with itself.")
        for name in ("budget_s", "warmup_window_s", "warmup_max_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be a finite number of seconds, not below 0.")
        if not 0 < self.clock_share <= 1:
            raise UsageError(f"clock_share is {self.clock_share}; it must be above 0 and at most 1.")


@dataclass
class SpeedSample:
    """One architecture's raw times in one process: seconds per forward, one value a round.

    `device_s`, `gate_held`, `stray_s` and `telemetry` are None on a device without events. `error` is one sentence when a call raised;
    what was timed before it is kept. `steady` says whether the warm-up ended because two windows agreed.
    """

    order_seed: int
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    device_s: list[float] | None = None
    preempted: list[bool] = field(default_factory=list)
    first_call_s: float | None = None
    warmup_runs: int = 0
    steady: bool = False
    calls_per_block: int = 1
    gate_held: list[bool] | None = None
    stray_s: list[float] | None = None
    telemetry: list[dict[str, Any] | None] | None = None
    error: str = ""
    error_kind: str = ""

    @property
    def rounds(self) -> int:
        return len(self.wall_s)

    def measured(self) -> dict[str, Any]:
        """The sample as plain values for a record, its error left out; the per-round telemetry is named `round_telemetry`."""
        plain = dataclasses.asdict(self)
        for name in ("error", "error_kind"):
            del plain[name]
        plain["round_telemetry"] = plain.pop("telemetry")
        return plain


@dataclass(frozen=True)
class Progress:
    """Where the timing stands: `stage` is warm-up or timing, `share` runs from 0 to 1 within the timing."""

    stage: str
    architecture: str
    rounds: int
    share: float


def time_architectures(
    calls: dict[str, Call], device: Device, plan: TimingPlan | None = None, *, progress: Callable[[Progress], None] | None = None,
) -> dict[str, SpeedSample]:
    """Time every call of `calls` (name -> one forward, no arguments) on `device`; a name that raises ends with an error, the rest go on.

    The caller puts models into eval and inference mode inside the call. Python's garbage is collected before every block and left alone
    within it.
    """
    plan = plan or TimingPlan()
    tell = progress or (lambda _: None)
    order = random.Random(plan.seed)
    samples = {name: SpeedSample(order_seed=plan.seed) for name in calls}
    with _garbage_held():
        clock_cost_s = device.clock_cost_s()
        for name in _shuffled(list(calls), order):
            with _caught(samples[name], name, device):
                call_s = _warm_up(calls[name], device, plan, samples[name], lambda name=name: tell(Progress("warm-up", name, 0, 0.0)))
                samples[name].calls_per_block = _calls_per_block(call_s, clock_cost_s, plan.clock_share)
        _run_rounds(calls, device, plan, samples, order, tell)
    return samples


def _run_rounds(
    calls: dict[str, Call], device: Device, plan: TimingPlan, samples: dict[str, SpeedSample], order: random.Random,
    tell: Callable[[Progress], None],
) -> None:
    """Rounds of one block per architecture that has not failed, until the plan says enough."""
    spent_s = dict.fromkeys(calls, 0.0)
    rounds = 0
    while alive := [name for name in calls if not samples[name].error]:
        most_s = max(spent_s[name] for name in alive)
        if rounds >= plan.min_runs and (rounds >= plan.max_runs or most_s >= plan.budget_s):
            return
        for name in _shuffled(alive, order):
            with _caught(samples[name], name, device):
                gc.collect()
                start_s = device.now_s()
                timing = device.time_call(calls[name], samples[name].calls_per_block, telemetry=plan.telemetry)
                spent_s[name] += device.now_s() - start_s
                _keep(samples[name], timing)
        rounds += 1
        of_budget = max(spent_s.values()) / plan.budget_s if plan.budget_s else 1.0
        share = min(1.0, rounds / plan.min_runs, max(of_budget, rounds / plan.max_runs))
        tell(Progress("timing", "", rounds, share))


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


def _warm_up(call: Call, device: Device, plan: TimingPlan, sample: SpeedSample, tell: Callable[[], None]) -> float:
    """First call apart, then windows until two in a row agree or a cap is reached. Returns the last window's seconds per forward.

    Windows are compared on wall time where the device works behind the host's back and on CPU time where it does not, which a busy
    neighbour disturbs less.
    """
    gc.collect()
    start_s = device.now_s()
    first = device.time_call(call, device_time=False)
    sample.first_call_s = first.wall_s
    wall_s, before = first.wall_s, None
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


def _shuffled(names: list[str], order: random.Random) -> list[str]:
    return order.sample(names, len(names))


@contextlib.contextmanager
def _garbage_held() -> Iterator[None]:
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
def _caught(sample: SpeedSample, name: str, device: Device) -> Iterator[None]:
    """Turn an exception of an architecture's own into its sample's error, and free what it left in the device's cache."""
    try:
        yield
    except Exception as error:
        first_line = (str(error).strip().splitlines() or ["no message"])[0]
        sample.error = f"{name} raised {type(error).__name__} while it was timed: {first_line}"
        sample.error_kind = "out of memory" if _is_out_of_memory(error) else "error"
        error.__traceback__ = None  # it holds the frames, and with them the tensors
        with contextlib.suppress(Exception):
            device.release_cache()


def _is_out_of_memory(error: Exception) -> bool:
    """MemoryError, torch's OutOfMemoryError, or the plain RuntimeError of torch's CPU allocator."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)

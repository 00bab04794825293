"""What a timing is asked for, its plan, and what it gives, the raw times of one architecture in one process."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from humar_bench.errors import UsageError


@dataclass(frozen=True)
class TimingPlan:
    """How long and how carefully to time. Raises UsageError when a value cannot work.

    Rounds go on until one architecture has used `budget_s` seconds of timed forwards or `max_runs` rounds are done, and always to
    `min_runs` rounds. Warm-up goes on until two windows in a row agree (`steadiness.windows_agree`), at least two windows, at most
    `warmup_max_windows`, and none is begun after `warmup_max_s`. Where a first call takes `speed.SLOW_S` it counts as one window and
    each round as the next: until two agree, a round is forgotten for all; what turns out to be faster goes on with windows. A block
    holds as many forwards as it takes for reading the clocks to cost at most `clock_share` of it, and as many as those of architectures
    of about its speed; on a CPU that is one forward as soon as it lasts a few milliseconds, and beside a slow one as many as last
    `speed.BESIDE_SLOW` of that. One round in `varied_every` (0: none) also
    times every architecture on inputs it has not seen; `first_round` is this process's first, counted over all processes, so that few
    rounds in each still make one in `varied_every`.
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
    varied_every: int = 4
    first_round: int = 0

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
    what was timed before it is kept. `steady` says whether the warm-up ended because two windows agreed. `varied_*` are the times on new
    inputs, the rounds they were taken in and the calls of each such block. `conditions` are the different states of the process its timed
    blocks began or ended in, `changed` what its own calls changed of it: name -> [before, after]. `spent_s` is what its blocks took of
    the budget, `enqueue_s` what the host took to launch a forward, `collections` how often Python collected garbage inside a block.
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
    enqueue_s: list[float] | None = None
    collections: int = 0
    varied_rounds: list[int] = field(default_factory=list)
    varied_wall_s: list[float] = field(default_factory=list)
    varied_cpu_s: list[float] = field(default_factory=list)
    varied_calls: list[int] = field(default_factory=list)
    conditions: list[dict[str, Any]] = field(default_factory=list)
    changed: dict[str, list[Any]] = field(default_factory=dict)
    spent_s: float = 0.0
    error: str = ""
    error_kind: str = ""

    @property
    def rounds(self) -> int:
        return len(self.wall_s)

    def forget_rounds(self) -> None:
        """As before the first round."""
        self.wall_s, self.cpu_s, self.preempted = [], [], []
        self.device_s = self.gate_held = self.stray_s = self.telemetry = self.enqueue_s = None
        self.varied_rounds, self.varied_wall_s, self.varied_cpu_s, self.varied_calls = [], [], [], []
        self.collections, self.spent_s = 0, 0.0

    def measured(self) -> dict[str, Any]:
        """The sample as plain values for a record, its error left out; the per-round telemetry is named `round_telemetry`."""
        plain = dataclasses.asdict(self)
        for name in ("error", "error_kind"):
            del plain[name]
        plain["round_telemetry"] = plain.pop("telemetry")
        return plain

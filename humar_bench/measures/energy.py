"""Energy: joules per image from a device's total energy counter, over a window of forwards called back to back.

What is known of such counters (NVML's nvmlDeviceGetTotalEnergyConsumption, millijoules since the driver was loaded, Volta or newer):
they advance in steps, every 10 ms on one card (gpuopenanalytics/pynvml pull request 18) and every 20 to 100 ms on newer ones (PETSc's
manual, PetscLogGpuEnergyMeter), so a window shorter than a step reads 0 J (ml-energy/zeus, release notes of v0.6.1). Behind the counter
is a sensor that looks at an A100 or H100 only a quarter of the time (Yang, Adamek and Armour, "Part-time power measurements",
arXiv 2312.02741), which only a window much longer than a forward averages out. And counter and power reading of one card may differ by
1.7x (ml-energy/zeus issue 181). So the step is measured here, a window holds `WINDOW_STEPS` of them, both its ends are a change of the
counter, and the driver's own power reading is kept beside the result.

The energy is the whole board's: memory, idle power and whatever else runs on it included.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

from humar_bench.devices.device import StreamDevice
from humar_bench.errors import MeasurementError

Call = Callable[[], Any]
ENERGY_PROCESSES = 3  # the first processes of a comparison measure energy; its spread is small and a window is seconds
WINDOW_S = 1.0  # at least, so that the driver's power reading, an average over about a second, lies within
WINDOW_STEPS = 50  # one step is at most 2 % of a window
WINDOW_MAX_S = 10.0  # a window goes on for no longer, whatever its forwards and its counter take; its error says so
SETTLE_S = 0.5  # of the same work, or of idleness, ahead of a window: power follows load with a delay
IDLE_S, IDLE_CHANGES = 0.5, 5
STUCK_S = 2.0  # a counter that has not advanced for so long, or for 20 of its steps, is taken to stand still
STUCK_STEPS = 20
QUEUED = 2  # batches of forwards that are enqueued at once: the device never runs dry and the queue never fills
CHANGES_SEEN = 20  # readings per step, so that a change is dated within a twentieth of a step
MAX_CALLS_PER_BATCH = 1000


@dataclass(frozen=True)
class Energy:
    """One window. `joules` is what the counter advanced by while `images` images were made in `seconds`.

    `step_s` is the time between two changes of the counter, `error_share` a bound on the relative error from steps and readings (that of
    the sensor itself is not in it). `idle_w` is the power of the idle device before it, `power_w` the driver's reading at its end, None
    where it gave none.
    """

    joules: float
    images: int
    seconds: float
    step_s: float
    error_share: float
    idle_w: float
    power_w: float | None = None

    @property
    def per_image_j(self) -> float:
        return self.joules / self.images

    @property
    def above_idle_j(self) -> float:
        """Joules per image beyond what the idle device would have drawn in the same time."""
        return (self.joules - self.idle_w * self.seconds) / self.images

    def measured(self) -> dict[str, Any]:
        """Plain values for a record."""
        return {**dataclasses.asdict(self), "per_image_j": self.per_image_j, "above_idle_j": self.above_idle_j, "reason": ""}


class Idle(NamedTuple):
    """The counter's step and the power of the device while nothing runs."""

    step_s: float
    power_w: float


class _Reading(NamedTuple):
    at_s: float
    energy_j: float
    calls: int


def measure_energies(
    calls: Mapping[str, Call], device: StreamDevice, call_s: Mapping[str, float], batch: int,
    tell: Callable[[str], None] = lambda name: None,
) -> dict[str, dict[str, Any]]:
    """Every call's window, one after the other, as plain values; where one could not be measured, its `reason` alone.

    `call_s` is about how long each call takes. Empty where the device counts no energy.
    """
    if not calls or device.energy_j() is None:
        return {}
    try:
        idle = measure_idle(device)
    except MeasurementError as error:
        return {name: {"reason": str(error)} for name in calls}
    found = {}
    for name, call in calls.items():
        tell(name)
        try:
            found[name] = measure_energy(call, device, idle, call_s[name], batch).measured()
        except Exception as error:  # the times are good without it
            first_line = (str(error).strip().splitlines() or ["no message"])[0]
            said = first_line if isinstance(error, MeasurementError) else f"{name} raised {type(error).__name__}: {first_line}"
            found[name] = {"reason": said}
    return found


def measure_idle(device: StreamDevice) -> Idle:
    """Watch the counter while nothing runs. Raises MeasurementError when it does not advance, or runs backwards."""
    device.synchronize()
    readings = _Changes(_idle_readings(device), STUCK_S)
    first = readings.next_after(device.now_s() + SETTLE_S)
    changes = [first]
    while len(changes) <= IDLE_CHANGES or changes[-1].at_s - first.at_s < IDLE_S:
        changes.append(readings.next_after(0.0))
    steps = [later.at_s - earlier.at_s for earlier, later in zip(changes, changes[1:], strict=False)]
    return Idle(median(steps), (changes[-1].energy_j - first.energy_j) / (changes[-1].at_s - first.at_s))


def measure_energy(call: Call, device: StreamDevice, idle: Idle, call_s: float, batch: int) -> Energy:
    """Call back to back from before a change of the counter to after a later one. Raises MeasurementError when it does not advance."""
    calls = min(max(1, int(idle.step_s / CHANGES_SEEN / max(call_s, 1e-9))), MAX_CALLS_PER_BATCH)
    apart_s = max(idle.step_s, calls * call_s)  # two changes are seen no closer than this
    window_s = min(max(WINDOW_S, WINDOW_STEPS * apart_s), WINDOW_MAX_S)
    changes = _Changes(_busy_readings(call, device, calls), max(STUCK_S, STUCK_STEPS * apart_s))
    try:
        start = changes.next_after(device.now_s() + SETTLE_S)
        late_s = changes.late_s
        end = changes.next_after(start.at_s + window_s)
        late_s += changes.late_s
        power_w = (device.telemetry() or {}).get("power_w")
    finally:
        device.synchronize()
    seconds = end.at_s - start.at_s
    return Energy(
        joules=end.energy_j - start.energy_j, images=batch * (end.calls - start.calls), seconds=seconds, step_s=idle.step_s,
        error_share=(idle.step_s + late_s) / seconds, idle_w=idle.power_w, power_w=power_w,
    )


class _Changes:
    """The changes of a counter among readings. `late_s` is how long before the last change found the reading before it was made."""

    def __init__(self, readings: Iterator[_Reading], stuck_s: float) -> None:
        self.readings, self.stuck_s = readings, stuck_s
        self.last = self.changed = next(readings)
        self.late_s = 0.0

    def next_after(self, at_s: float) -> _Reading:
        """The first reading from `at_s` on that differs from the one before it."""
        while True:
            reading = next(self.readings)
            if reading.energy_j < self.last.energy_j:
                raise MeasurementError(
                    f"the energy counter ran backwards, from {self.last.energy_j:.3f} J to {reading.energy_j:.3f} J; no energy is reported."
                )
            before, self.last = self.last, reading
            if reading.energy_j != before.energy_j:
                self.changed = reading
                if reading.at_s >= at_s:
                    self.late_s = reading.at_s - before.at_s
                    return reading
            elif reading.at_s - self.changed.at_s > self.stuck_s:
                raise MeasurementError(f"the energy counter did not advance within {self.stuck_s:.3g} s; no energy is reported.")


def _idle_readings(device: StreamDevice) -> Iterator[_Reading]:
    while True:
        yield _read(device, 0)


def _busy_readings(call: Call, device: StreamDevice, calls: int) -> Iterator[_Reading]:
    """A reading after every `calls` calls have been done, while as many again are enqueued behind them."""
    queue: deque[Any] = deque()
    done = 0
    while True:
        while len(queue) < QUEUED:
            for _ in range(calls):
                call()
            queue.append(device.record_event())
        device.wait_event(queue.popleft())
        done += calls
        yield _read(device, done)


def _read(device: StreamDevice, calls: int) -> _Reading:
    at_s, energy_j = device.now_s(), device.energy_j()
    if energy_j is None:
        raise MeasurementError("the driver stopped answering for the energy counter; no energy is reported.")
    return _Reading(at_s, energy_j, calls)

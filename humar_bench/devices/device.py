"""Devices: synchronise, read the clocks, time a call, ask the allocator and the driver. The interface, the CPU, the protocol of streams.

On the CPU a call is timed by wall clock and process CPU time. On an asynchronous device it is run twice: once between two
synchronisations for the wall time a user waits, once queued behind a gate for the time between two device events. The gate (a kernel
that only spins) holds the stream until everything is enqueued, so the host's launch cost cannot enter the device time; `gate_held`
says whether it held long enough. The habit is nvbench's (NVIDIA/nvbench, `nvbench/detail/measure_cold.cu`); nothing is copied.
"""

from __future__ import annotations

import contextlib
import itertools
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from humar_bench.errors import MeasurementError

EVENT_RESOLUTION_S = 0.5e-6  # CUDA's own figure: "a resolution of around 0.5 microseconds" (runtime API, cudaEventElapsedTime)
GATE_MARGIN_S = 0.5e-3  # the gate lasts three times what the host needed to enqueue the same work, and this
GATE_MAX_S = 2.0
GATE_FACTOR = 3.0
COARSEST_CLOCK_S = 1e-4  # a clock that moves in larger steps cannot time a forward
CLOCK_READS = 20_000  # after so many readings a clock that has not moved is taken to be a test's
CLOCK_STEPS = 9  # steps looked at: whoever waits on a loaded machine has one of them to himself


@dataclass(frozen=True)
class Timing:
    """One timed block of calls; every time is of the whole block.

    `device_s`, `gate_held`, `stray_s`, `telemetry` and `enqueue_s` are None where the device has no events. `stray_s` is how long other
    streams went on after the timed one had ended: work that device time would miss. `enqueue_s` is what the host took to launch it all.
    """

    wall_s: float
    cpu_s: float
    device_s: float | None
    preempted: bool
    gate_held: bool | None = None
    stray_s: float | None = None
    telemetry: dict[str, Any] | None = None
    enqueue_s: float | None = None


@dataclass(frozen=True)
class DeviceMemory:
    """The allocator's bytes now and at their peak since `reset_peak_memory`. `requested` is before rounding, `reserved` with its cache."""

    allocated_bytes: int
    requested_bytes: int
    reserved_bytes: int
    peak_allocated_bytes: int
    peak_requested_bytes: int
    peak_reserved_bytes: int


class Device:
    """What every device answers. `name` is what `--device` and torch take, `kind` is cpu, cuda or virtual, `label` is for readers."""

    name: str
    kind: str
    label: str
    clocks: tuple[str, ...] = ("wall_s", "cpu_s")  # what `time_stamps` tells of the time between two stamps

    def synchronize(self) -> None:
        """Wait until the device has done everything it was given."""

    def idle(self) -> bool:
        """Whether the device has nothing left to do, without waiting for it."""
        return True

    def now_s(self) -> float:
        """Wall clock in seconds from an arbitrary start."""
        return time.perf_counter()

    def cpu_now_s(self) -> float:
        """CPU time of this process, all its threads."""
        return time.process_time()

    def preemptions(self) -> int:
        """How often the scheduler took the CPU away from this process so far (involuntary context switches)."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw

    def clock_cost_s(self) -> float:
        """What reading the clocks adds to one timed block: the median of 51 tries. Raises MeasurementError for a clock too coarse."""
        if (step_s := self.clock_step_s()) > COARSEST_CLOCK_S:
            raise MeasurementError(
                f"the wall clock moves in steps of {1e3 * step_s:.3g} ms; timing a forward needs {1e3 * COARSEST_CLOCK_S:g} ms or less."
            )
        costs = []
        for _ in range(51):
            start_s = self.now_s()
            self.cpu_now_s()
            costs.append(self.now_s() - start_s)
        return statistics.median(costs)

    def clock_step_s(self) -> float:
        """The smallest step of the wall clock that can be seen: from one reading to the first that differs, the least of several, since
        the process may be taken off its core between two readings. 0.0 when it never moves."""
        step_s = self._one_step_s()
        return min(step_s, *(self._one_step_s() for _ in range(CLOCK_STEPS - 1))) if step_s else 0.0

    def _one_step_s(self) -> float:
        start_s = self.now_s()
        return next((now_s - start_s for _ in range(CLOCK_READS) if (now_s := self.now_s()) != start_s), 0.0)

    def time_call(self, call: Callable[[], Any], calls: int = 1, *, device_time: bool = True, telemetry: bool = False) -> Timing:
        """Time `calls` calls in a row as one block. `device_time` and `telemetry` change nothing on a device without events."""
        self.synchronize()
        preempted_before = self.preemptions()
        cpu_start_s = self.cpu_now_s()
        start_s = self.now_s()
        for _ in range(calls):
            call()
        end_s = self.now_s()
        cpu_end_s = self.cpu_now_s()
        return Timing(end_s - start_s, cpu_end_s - cpu_start_s, None, self.preemptions() > preempted_before)

    def stamp(self) -> Any:
        """A moment in the middle of a forward: what the clocks say now."""
        return self.now_s(), self.cpu_now_s()

    def time_stamps(self, run: Callable[[], list[Any]], launch_s: float = 0.0) -> tuple[list[tuple[float, ...]], bool | None]:
        """Seconds by each of `clocks` from each stamp that `run` takes and returns to the next, and whether the gate held (None: no gate).

        `launch_s` is about what the host needs to launch the same work; it changes nothing on a device without events.
        """
        self.synchronize()
        stamps = run()
        return [tuple(end - start for start, end in zip(*pair, strict=True)) for pair in itertools.pairwise(stamps)], None

    def reset_peak_memory(self) -> None:
        """Start the allocator's peaks anew from what is alive now."""

    def memory(self) -> DeviceMemory | None:
        """What the device's allocator holds; None where there is none to ask (CPU)."""
        return None

    def release_cache(self) -> None:
        """Give memory that the allocator keeps for reuse back to the driver."""

    def process_memory_bytes(self) -> int | None:
        """Device memory of this whole process as the driver sees it (context and libraries too); None where it cannot say."""
        return None

    def telemetry(self) -> dict[str, Any] | None:
        """Name, driver, SM clock, temperature, power and throttle reasons now; None where there is no NVML."""
        return None

    def energy_j(self) -> float | None:
        """Joules the whole device has drawn since an arbitrary start; None where nothing counts them (CPU, no NVML, before Volta)."""
        return None


class CpuDevice(Device):
    """The host's CPU."""

    name = kind = "cpu"

    def __init__(self) -> None:
        self.label = _cpu_label()


class StreamDevice(Device):
    """A device that works behind the host's back. Subclasses bring events, a gate and the clocks; the protocol is here."""

    clocks = ("device_s",)

    def record_event(self) -> Any:
        """Put a time stamp into the current stream."""
        raise NotImplementedError

    def wait_event(self, event: Any) -> None:
        """Let the host wait until the stream has passed `event`."""
        raise NotImplementedError

    def event_done(self, event: Any) -> bool:
        """Whether the stream has passed `event`, without waiting."""
        raise NotImplementedError

    def elapsed_s(self, start: Any, end: Any) -> float:
        """Device time between two events that have been passed."""
        raise NotImplementedError

    def hold(self, seconds: float) -> None:
        """Keep the current stream busy for about `seconds`; the host goes on at once."""
        raise NotImplementedError

    def clock_cost_s(self) -> float:
        return max(super().clock_cost_s(), EVENT_RESOLUTION_S)

    def time_call(self, call: Callable[[], Any], calls: int = 1, *, device_time: bool = True, telemetry: bool = False) -> Timing:
        """Time `calls` calls in a row by wall clock, then once more by events behind a gate: every call is made twice.

        Without `device_time` the second pass is left out. With `telemetry` the driver is read while the gated work runs, so that
        neither time pays for it. Raises MeasurementError when the device is not idle before the first clock is read or after the last.
        """
        self._finish("before it was timed")
        preempted_before = self.preemptions()
        cpu_start_s = self.cpu_now_s()
        start_s = self.now_s()
        for _ in range(calls):
            call()
        enqueued_s = self.now_s()
        last = self.record_event()
        self.wait_event(last)
        stream_end_s = self.now_s()
        self.synchronize()
        end_s = self.now_s()
        cpu_s = self.cpu_now_s() - cpu_start_s
        preempted = self.preemptions() > preempted_before
        self._must_be_idle("after it was timed")
        wall_s, stray_s, enqueue_s = end_s - start_s, end_s - stream_end_s, enqueued_s - start_s
        if not device_time:
            return Timing(wall_s, cpu_s, None, preempted, None, stray_s, None, enqueue_s)
        device_s, gate_held, read = self._gated(call, calls, enqueue_s, telemetry)
        return Timing(wall_s, cpu_s, device_s, preempted, gate_held, stray_s, read, enqueue_s)

    def stamp(self) -> Any:
        """An event in the current stream; the device is not waited for."""
        return self.record_event()

    def time_stamps(self, run: Callable[[], list[Any]], launch_s: float = 0.0) -> tuple[list[tuple[float, ...]], bool | None]:
        """As on every device, behind the gate that `time_call` has, so that launch cost does not enter.

        Raises MeasurementError when the device is not idle before.
        """
        self._finish("before it was timed by events")
        self._shut_gate(launch_s)
        stamps = run()
        held = not self.event_done(stamps[0])
        self.wait_event(stamps[-1])
        self.synchronize()
        return [(self.elapsed_s(start, end),) for start, end in itertools.pairwise(stamps)], held

    def _finish(self, when: str) -> None:
        self.synchronize()
        self._must_be_idle(when)

    def _must_be_idle(self, when: str) -> None:
        if not self.idle():
            raise MeasurementError(f"the device was still busy {when}, though it had been waited for: synchronize() does not wait.")

    def _gated(self, call: Callable[[], Any], calls: int, enqueue_s: float, telemetry: bool) -> tuple[float, bool, dict | None]:
        """Device seconds of the block, whether the gate was still shut when all of it was enqueued, and the driver's reading."""
        self._finish("before it was timed by events")
        self._shut_gate(enqueue_s)
        start = self.record_event()
        for _ in range(calls):
            call()
        end = self.record_event()
        held = not self.event_done(start)
        read = self.telemetry() if telemetry else None
        self.wait_event(end)
        self.synchronize()
        return self.elapsed_s(start, end), held, read

    def _shut_gate(self, launch_s: float) -> None:
        self.hold(min(GATE_FACTOR * launch_s + GATE_MARGIN_S, GATE_MAX_S))


def _cpu_label() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    import platform

    return platform.processor() or platform.machine() or "CPU"

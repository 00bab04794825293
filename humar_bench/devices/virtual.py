"""A CUDA-like device made of arithmetic: a clock, streams, an allocator and an NVML feed that do exactly what a test tells them.

Nothing here sleeps or measures. The protocol that is tested with it is the one real devices run (`device.StreamDevice`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from humar_bench.devices.device import DeviceMemory, StreamDevice

BLOCK_BYTES = 512  # torch's CUDA allocator: c10/core/AllocatorConfig.h, kMinBlockSize, kSmallSize, kSmallBuffer, kRoundLarge
SMALL_BYTES = 2**20
SEGMENT_BYTES = 2**21


@dataclass
class _Event:
    at_s: float


class VirtualDevice(StreamDevice):
    """A device on a virtual clock.

    `launch(kernel_s)` enqueues work: the host pays `launch_s`, the stream gets busy later. `host(seconds)` is host work, `preempt`
    the scheduler taking the CPU away. With `queue_depth` the host waits once that many launches are pending, as a real driver does.
    With `tick_s` its wall clock moves in steps. `speed` divides every kernel's time (a clock drift); `feed` answers `telemetry()`,
    a dict or a function of the time. `meter` answers `energy_j()` and each of its readings costs the host `meter_read_s`.
    """

    name = kind = "virtual"
    label = "virtual device"

    def __init__(
        self, *, launch_s: float = 5e-6, clock_read_s: float = 0.0, tick_s: float = 0.0, queue_depth: int | None = None,
        feed: dict[str, Any] | Callable[[float], dict[str, Any] | None] | None = None, meter: EnergyMeter | None = None,
        meter_read_s: float = 2e-5,
    ) -> None:
        self.launch_s, self.clock_read_s, self.tick_s = launch_s, clock_read_s, tick_s
        self.queue_depth, self.feed, self.meter, self.meter_read_s = queue_depth, feed, meter, meter_read_s
        self.speed = 1.0
        self.launches = 0
        self.allocator = VirtualAllocator()
        self._now_s = self._cpu_s = 0.0
        self._preemptions = 0
        self._free_at_s: dict[str, float] = {"main": 0.0}
        self._pending: list[float] = []

    # What a test does to it ---------------------------------------------------------------------------------------------------

    def launch(self, kernel_s: float, *, stream: str = "main", launch_s: float | None = None) -> None:
        """Enqueue a kernel; the host goes on after the launch cost."""
        self.host(self.launch_s if launch_s is None else launch_s)
        self._pending = [end_s for end_s in self._pending if end_s > self._now_s]
        if self.queue_depth is not None and len(self._pending) >= self.queue_depth:
            self._now_s = sorted(self._pending)[len(self._pending) - self.queue_depth]
        self.launches += 1
        start_s = max(self._now_s, self._free_at_s.get(stream, 0.0))
        self._free_at_s[stream] = start_s + kernel_s / self.speed
        self._pending.append(self._free_at_s[stream])
        if self.meter is not None:
            self.meter.busy(start_s, self._free_at_s[stream])

    def join(self, stream: str) -> None:
        """Let the main stream wait for another one, as `wait_stream` does."""
        self._free_at_s["main"] = max(self._free_at_s["main"], self._free_at_s.get(stream, 0.0))

    def host(self, seconds: float, *, cpu_s: float | None = None) -> None:
        """Host work of `seconds`, all of it on the CPU unless said otherwise."""
        self._now_s += seconds
        self._cpu_s += seconds if cpu_s is None else cpu_s

    def preempt(self, seconds: float) -> None:
        """The scheduler takes the CPU away for `seconds`."""
        self._preemptions += 1
        self._now_s += seconds

    # The device's side --------------------------------------------------------------------------------------------------------

    def now_s(self) -> float:
        self._now_s += self.clock_read_s
        return self._now_s // self.tick_s * self.tick_s if self.tick_s else self._now_s

    def cpu_now_s(self) -> float:
        return self._cpu_s

    def preemptions(self) -> int:
        return self._preemptions

    def idle(self) -> bool:
        return self._now_s >= max(self._free_at_s.values())

    def synchronize(self) -> None:
        self._now_s = max(self._now_s, *self._free_at_s.values())

    def record_event(self) -> _Event:
        return _Event(max(self._now_s, self._free_at_s["main"]))

    def wait_event(self, event: _Event) -> None:
        self._now_s = max(self._now_s, event.at_s)

    def event_done(self, event: _Event) -> bool:
        return event.at_s <= self._now_s

    def elapsed_s(self, start: _Event, end: _Event) -> float:
        if not (self.event_done(start) and self.event_done(end)):
            raise RuntimeError("an event was read before the device had passed it.")
        return end.at_s - start.at_s

    def hold(self, seconds: float) -> None:
        self.launch(seconds * self.speed)

    def reset_peak_memory(self) -> None:
        self.allocator.reset_peak()

    def memory(self) -> DeviceMemory:
        return self.allocator.memory()

    def release_cache(self) -> None:
        self.allocator.release_cache()

    def process_memory_bytes(self) -> int:
        return self.allocator.memory().reserved_bytes

    def telemetry(self) -> dict[str, Any] | None:
        return self.feed(self._now_s) if callable(self.feed) else self.feed

    def energy_j(self) -> float | None:
        if self.meter is None:
            return None
        self.host(self.meter_read_s)
        return self.meter.read_j(self._now_s)


class EnergyMeter:
    """A total energy counter that advances every `update_s` and stands still in between; never, where `update_s` is None.

    It counts `idle_w` at all times and `busy_w` while a kernel runs. At `wraps_at_j` it starts again from 0, as after a driver's reload.
    """

    def __init__(
        self, update_s: float | None = 0.1, *, idle_w: float = 100.0, busy_w: float = 500.0, wraps_at_j: float = math.inf,
        start_j: float = 1e6,
    ) -> None:
        self.update_s, self.idle_w, self.busy_w, self.wraps_at_j, self.start_j = update_s, idle_w, busy_w, wraps_at_j, start_j
        self._intervals: list[list[float]] = []  # [start, end] in which kernels run, in order, not overlapping
        self._passed_s = 0.0  # busy seconds of intervals that are over and dropped

    def busy(self, start_s: float, end_s: float) -> None:
        """Kernels run from `start_s` to `end_s`; what overlaps with another stream's is counted once."""
        if self._intervals and start_s <= self._intervals[-1][1]:
            self._intervals[-1][1] = max(self._intervals[-1][1], end_s)
        else:
            self._intervals.append([start_s, end_s])

    def read_j(self, now_s: float) -> float:
        """The counter at `now_s`: exact at its last update. Readings come in the order of time."""
        if self.update_s is None:
            return self.start_j
        updated_s = math.floor(now_s / self.update_s + 1e-9) * self.update_s
        while self._intervals and self._intervals[0][1] <= updated_s and len(self._intervals) > 1:
            start_s, end_s = self._intervals.pop(0)
            self._passed_s += end_s - start_s
        busy_s = self._passed_s + sum(max(0.0, min(end_s, updated_s) - start_s) for start_s, end_s in self._intervals)
        return (self.start_j + self.idle_w * updated_s + (self.busy_w - self.idle_w) * busy_s) % self.wraps_at_j


class VirtualAllocator:
    """Torch's caching allocator in outline: 512-byte blocks, small ones out of shared 2 MiB segments, large ones in segments of
    their own that are a multiple of 2 MiB; freed blocks stay reserved until `release_cache`."""

    def __init__(self) -> None:
        self._segments: dict[int, list[list]] = {}  # segment -> [offset, bytes, handle or None] in address order
        self._sizes: dict[int, int] = {}
        self._small: set[int] = set()  # segments that small blocks share
        self._requested: dict[int, int] = {}
        self._next = 0
        self._now = {"allocated": 0, "requested": 0, "reserved": 0}
        self._peak = dict(self._now)

    def allocate(self, nbytes: int) -> int:
        """Allocate and return a handle. Zero bytes take nothing, as in torch."""
        handle = self._next = self._next + 1
        rounded = -(-nbytes // BLOCK_BYTES) * BLOCK_BYTES
        self._requested[handle] = nbytes
        if rounded:
            self._place(handle, rounded)
        self._move("allocated", rounded)
        self._move("requested", nbytes)
        return handle

    def free(self, handle: int) -> None:
        """Give a handle's memory back to the cache. A second time is a KeyError."""
        self._move("requested", -self._requested.pop(handle))
        for blocks in self._segments.values():
            for at, (_, size, owner) in enumerate(blocks):
                if owner == handle:
                    blocks[at][2] = None
                    self._merge(blocks)
                    self._move("allocated", -size)
                    return

    def release_cache(self) -> None:
        """Drop every segment in which nothing is alive."""
        for segment, blocks in list(self._segments.items()):
            if all(owner is None for *_, owner in blocks):
                self._move("reserved", -self._sizes.pop(segment))
                del self._segments[segment]

    def reset_peak(self) -> None:
        self._peak = dict(self._now)

    def memory(self) -> DeviceMemory:
        return DeviceMemory(*self._now.values(), *self._peak.values())

    def _place(self, handle: int, rounded: int) -> None:
        small = rounded <= SMALL_BYTES
        fits = [
            (block[1], segment, at)
            for segment, blocks in self._segments.items()
            if (segment in self._small) == small
            for at, block in enumerate(blocks)
            if block[2] is None and block[1] >= rounded
        ]
        if not fits:
            size = -(-rounded // SEGMENT_BYTES) * SEGMENT_BYTES
            segment = self._next
            self._segments[segment], self._sizes[segment] = [[0, size, None]], size
            if small:
                self._small.add(segment)
            self._move("reserved", size)
            fits = [(size, segment, 0)]
        size, segment, at = min(fits)
        offset = self._segments[segment][at][0]
        rest = [[offset + rounded, size - rounded, None]] if size > rounded else []
        self._segments[segment][at : at + 1] = [[offset, rounded, handle], *rest]

    @staticmethod
    def _merge(blocks: list[list]) -> None:
        merged: list[list] = []
        for block in blocks:
            if merged and merged[-1][2] is None and block[2] is None:
                merged[-1][1] += block[1]
            else:
                merged.append(block)
        blocks[:] = merged

    def _move(self, what: str, nbytes: int) -> None:
        self._now[what] += nbytes
        self._peak[what] = max(self._peak[what], self._now[what])

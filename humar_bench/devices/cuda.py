"""One CUDA device behind the interface: events, a spinning kernel as gate, the caching allocator, NVML."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from typing import Any

from humar_bench.devices.device import DeviceMemory, StreamDevice
from humar_bench.devices.telemetry import Nvml


class CudaDevice(StreamDevice):
    """One CUDA device, made the current one."""

    kind = "cuda"

    def __init__(self, index: int) -> None:
        import torch

        self._cuda = torch.cuda
        self._index = index
        self._cycles_per_s: float | None = None
        self.name = f"cuda:{index}"
        torch.cuda.set_device(index)
        self.label = torch.cuda.get_device_name(index)
        uuid = getattr(torch.cuda.get_device_properties(index), "uuid", None)
        self._nvml = Nvml.open(index, None if uuid is None else f"GPU-{uuid}")

    def synchronize(self) -> None:
        self._cuda.synchronize(self._index)

    def idle(self) -> bool:
        return self._cuda.current_stream(self._index).query()

    def record_event(self) -> Any:
        event = self._cuda.Event(enable_timing=True)
        event.record(self._cuda.current_stream(self._index))
        return event

    def wait_event(self, event: Any) -> None:
        event.synchronize()

    def event_done(self, event: Any) -> bool:
        return event.query()

    def elapsed_s(self, start: Any, end: Any) -> float:
        return start.elapsed_time(end) / 1e3  # elapsed_time is in milliseconds

    def hold(self, seconds: float) -> None:
        spin = getattr(self._cuda, "_sleep", None)  # torch's own tests use it for the same purpose; without it no gate holds
        if spin is None:
            return
        if self._cycles_per_s is None:
            self._cycles_per_s = self._calibrate(spin)
        spin(int(seconds * self._cycles_per_s))

    def _calibrate(self, spin: Callable[[int], None], cycles: int = 1_000_000) -> float:
        """Cycles per second of the spinning kernel: the median of nine tries after one that warms up."""
        rates = []
        for _ in range(10):
            start = self.record_event()
            spin(cycles)
            end = self.record_event()
            self.wait_event(end)
            rates.append(cycles / self.elapsed_s(start, end))
        return statistics.median(rates[1:])

    def reset_peak_memory(self) -> None:
        self._cuda.reset_peak_memory_stats(self._index)

    def memory(self) -> DeviceMemory:
        stats = self._cuda.memory_stats(self._index)
        now = (stats.get(f"{what}_bytes.all.current", 0) for what in ("allocated", "requested", "reserved"))
        peak = (stats.get(f"{what}_bytes.all.peak", 0) for what in ("allocated", "requested", "reserved"))
        return DeviceMemory(*now, *peak)

    def release_cache(self) -> None:
        self._cuda.empty_cache()

    def process_memory_bytes(self) -> int | None:
        return self._nvml.process_memory_bytes(os.getpid()) if self._nvml else None

    def telemetry(self) -> dict[str, Any] | None:
        return self._nvml.read() if self._nvml else None

    def energy_j(self) -> float | None:
        return self._nvml.energy_j() if self._nvml else None

"""One yardstick of memory for every backend: the peak of a process that holds one architecture, above what was there before its model.

A runtime outside torch has an allocator of its own, so on a CPU the resident set of the whole process is read, from the kernel; on a
device the peak of torch's allocator. It is coarser than `memory.py`: libraries that load something late and memory that an allocator
keeps count too.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humar_bench.measures.outside import resident_bytes

if TYPE_CHECKING:
    from humar_bench.devices.device import Device

CLEAR_PEAK = "5"  # written to clear_refs it resets VmHWM (proc_pid_clear_refs(5), since Linux 4.0)


class Footprint:
    """Made before the model is; then `prepared` once the forward is ready, and `read` after it was called. Bytes above the start."""

    def __init__(self, device: Device) -> None:
        self.device = device
        _give_back()  # else what others left would be given back later, and count as memory won
        self.start_bytes = self._now_bytes()
        self.prepared_bytes: int | None = None
        self.peak_bytes: int | None = None

    def prepared(self) -> None:
        """Give back what preparing left behind, and start the peak anew from what is still there."""
        _give_back()
        self.device.release_cache()
        self.prepared_bytes = self._above(self._now_bytes())
        if self.device.kind == "cpu":
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text(CLEAR_PEAK)
        else:
            self.device.reset_peak_memory()

    def read(self) -> None:
        """The peak since `prepared`."""
        if self.device.kind == "cpu":
            self.peak_bytes = self._above(resident_bytes())
        elif (held := self.device.memory()) is not None:
            self.peak_bytes = self._above(held.peak_allocated_bytes)

    def measured(self) -> dict[str, Any]:
        """For a record; None where this system does not say."""
        of = "resident set of the process" if self.device.kind == "cpu" else "torch's allocator on the device"
        return {
            "of": of, "start_bytes": self.start_bytes, "prepared_bytes": self.prepared_bytes, "peak_bytes": self.peak_bytes,
            "device_process_bytes": self.device.process_memory_bytes(),
        }

    def _above(self, value: int | None) -> int | None:
        return None if value is None or self.start_bytes is None else value - self.start_bytes

    def _now_bytes(self) -> int | None:
        if self.device.kind != "cpu":
            held = self.device.memory()
            return None if held is None else held.allocated_bytes
        with contextlib.suppress(OSError, ValueError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1024
        return None


def _give_back() -> None:
    """Collect garbage, and ask the C allocator to give free pages back to the system, where it can (glibc)."""
    gc.collect()
    with contextlib.suppress(Exception):
        ctypes.CDLL(None).malloc_trim(0)

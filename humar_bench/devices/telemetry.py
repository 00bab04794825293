"""What the driver says of a GPU: clocks, temperature, power, energy, throttling (NVML, through nvidia-ml-py)."""

from __future__ import annotations

import contextlib
from typing import Any

# What NVML's clock-event bits mean, and which of them say that the clock was held below what the chip would run at
# (nvml.h, nvmlClocksEventReasons). Idle, user-set clocks and display clocks are no throttling.
CLOCK_REASONS = {
    0x1: "idle", 0x2: "clocks set by a user", 0x4: "software power cap", 0x8: "hardware slowdown", 0x10: "sync boost",
    0x20: "software thermal slowdown", 0x40: "hardware thermal slowdown", 0x80: "hardware power brake", 0x100: "display clocks",
}
THROTTLE_BITS = 0x4 | 0x8 | 0x20 | 0x40 | 0x80


class Nvml:
    """The driver's own readings of one GPU. A reading the driver does not support is None; nothing here ever raises."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._library, self._handle = library, handle

    @classmethod
    def open(cls, index: int, uuid: str | None) -> Nvml | None:
        """The GPU by its UUID (CUDA_VISIBLE_DEVICES renumbers), else by its index; None without NVML."""
        try:
            import pynvml

            pynvml.nvmlInit()
        except Exception:  # no package, no library, no driver: a machine without telemetry is no error
            return None
        for find, key in ((pynvml.nvmlDeviceGetHandleByUUID, uuid), (pynvml.nvmlDeviceGetHandleByIndex, index)):
            with contextlib.suppress(Exception):
                if key is not None:
                    return cls(pynvml, find(key))
        return None

    def _ask(self, question: str, *arguments: Any) -> Any:
        with contextlib.suppress(Exception):
            answer = getattr(self._library, question)(*arguments)
            return answer.decode() if isinstance(answer, bytes) else answer
        return None

    def read(self) -> dict[str, Any]:
        library, handle = self._library, self._handle
        power_mw = self._ask("nvmlDeviceGetPowerUsage", handle)
        bits = self._ask("nvmlDeviceGetCurrentClocksEventReasons", handle)
        if bits is None:  # the name before driver 535
            bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
        return {
            "name": self._ask("nvmlDeviceGetName", handle),
            "driver": self._ask("nvmlSystemGetDriverVersion"),
            "sm_clock_mhz": self._ask("nvmlDeviceGetClockInfo", handle, library.NVML_CLOCK_SM),
            "temperature_c": self._ask("nvmlDeviceGetTemperature", handle, library.NVML_TEMPERATURE_GPU),
            "power_w": None if power_mw is None else power_mw / 1e3,
            "throttle_reasons": None if bits is None else clock_reasons(bits),
            "throttled": None if bits is None else bool(bits & THROTTLE_BITS),
        }

    def energy_j(self) -> float | None:
        """The board's total energy counter (NVML: millijoules since the driver was loaded; Volta or newer)."""
        energy_mj = self._ask("nvmlDeviceGetTotalEnergyConsumption", self._handle)
        return None if energy_mj is None else energy_mj / 1e3

    def process_memory_bytes(self, pid: int) -> int | None:
        for process in self._ask("nvmlDeviceGetComputeRunningProcesses", self._handle) or []:
            if process.pid == pid and process.usedGpuMemory is not None:
                return int(process.usedGpuMemory)
        return None  # a container may hide the process's id from the driver


def clock_reasons(bits: int) -> list[str]:
    """NVML's clock-event bits in words; an unknown bit keeps its number."""
    words = [word for bit, word in CLOCK_REASONS.items() if bits & bit]
    unknown = bits & ~sum(CLOCK_REASONS)
    return [*words, *([f"unknown {unknown:#x}"] if unknown else [])]

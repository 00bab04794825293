"""Where a number was measured: machine, device, versions, commit. No host name, no user name, no path."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from humar_bench.devices.device import Device

PACKAGES = ("humar-bench", "torch", "numpy", "scipy", "pandas", "typer", "rich", "fvcore", "thop", "nvidia-ml-py")
_SOURCES = ("humar_bench", "baselines", "efficient", "pyproject.toml")


def environment(device: Device | None = None) -> dict[str, Any]:
    """Facts about this machine and this process; None stands for what cannot be known here.

    `threads` is what torch uses now, `load_1min` the runnable processes of the last minute, `dirty` whether the commit's own sources
    were changed since (results do not count).
    """
    import torch

    cpu = cpu_model()
    commit, dirty = source_state()
    on_gpu = device is not None and device.kind == "cuda"
    telemetry = (device.telemetry() if on_gpu else None) or {}
    return {
        "device": device.name if device is not None else "cpu",
        "device_label": device.label if device is not None else cpu,
        "driver": telemetry.get("driver"),
        "cuda": torch.version.cuda if on_gpu else None,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "cpu": cpu,
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "load_1min": load_1min(),
        "memory_bytes": total_memory_bytes(),
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "packages": package_versions(),
        "commit": commit,
        "dirty": dirty,
    }


def package_versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def cpu_model() -> str:
    """The processor's name as the system gives it, or its kind when it gives none."""
    if sys.platform.startswith("linux"):
        try:
            lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        for line in lines:
            key, _, value = line.partition(":")
            if key.strip().lower() in ("model name", "cpu model", "hardware") and value.strip():
                return " ".join(value.split())
    if sys.platform == "darwin":
        name = _said("sysctl", "-n", "machdep.cpu.brand_string")
        if name:
            return name
    return platform.processor() or platform.machine() or "unknown"


def usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_1min() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def cores_busy_s(stat: Path = Path("/proc/stat")) -> float | None:
    """Seconds in which the cores this process may run on did something, for whomever, since the machine started; None where the system
    does not tell (only Linux does)."""
    try:
        lines = stat.read_text().splitlines()
        mine = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        ticks = [line.split()[1:9] for line in lines if line.split(" ", 1)[0] in mine]
        hertz = os.sysconf("SC_CLK_TCK")
        # user nice system idle iowait irq softirq steal (proc(5)): all but the two in which nothing ran
        return sum(int(tick) for each in ticks for at, tick in enumerate(each) if at not in (3, 4)) / hertz if ticks else None
    except (AttributeError, OSError, ValueError):
        return None


class OthersWatch:
    """How much of this process's cores other work takes, from now on."""

    def __init__(self) -> None:
        self._start = self._now()

    def share(self) -> float | None:
        """Of the cores' time, from 0 to 1; None where the system does not tell."""
        (busy_s, own_s, now_s), (busy_0_s, own_0_s, start_s) = self._now(), self._start
        if busy_s is None or busy_0_s is None or now_s <= start_s:
            return None
        others_s = busy_s - busy_0_s - (own_s - own_0_s)
        return min(max(0.0, others_s / ((now_s - start_s) * usable_cores())), 1.0)

    @staticmethod
    def _now() -> tuple[float | None, float, float]:
        return cores_busy_s(), time.process_time(), time.monotonic()


def total_memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def source_state(folder: Path | None = None) -> tuple[str | None, bool | None]:
    """Commit of the checkout this package runs from, and whether its sources differ from it; (None, None) when it is no checkout."""
    folder = folder or Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():  # an installed copy that happens to lie below somebody else's checkout is not ours
        return None, None
    commit = _said("git", "-C", str(folder), "rev-parse", "HEAD")
    if not commit:
        return None, None
    present = [name for name in _SOURCES if (folder / name).exists()]
    changed = _said("git", "-C", str(folder), "status", "--porcelain", "--", *(present or ["."]))
    return commit, None if changed is None else bool(changed)


def _said(*command: str) -> str | None:
    """What a command printed, or None when it is absent, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None

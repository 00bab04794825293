"""Memory that torch's allocator does not give out: what numpy and Python hold during a forward, and what the process grows by in all.

Neither is exact: Python's own objects are some kilobytes of the first, and memory that the process had freed and kept is missing from the
second. Units: bytes.
"""

from __future__ import annotations

import contextlib
import gc
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Outside:
    """`python_bytes`: the most that numpy arrays, buffers and objects of Python held at once, above what they held before;
    `resident_growth_bytes`: by how much the resident set was highest above that before, None where the system does not say."""

    python_bytes: int
    resident_growth_bytes: int | None


def look_outside(step: Callable[[], Any]) -> Outside:
    """Run `step` once. It is slower than usual: every allocation of Python's is followed."""
    gc.collect()
    was_tracing = tracemalloc.is_tracing()
    if not was_tracing:
        tracemalloc.start(1)
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        resident = _reset_resident()
        outputs = step()
        highest = resident_bytes("VmHWM")
        python = max(0, tracemalloc.get_traced_memory()[1] - before)
        del outputs
    finally:
        if not was_tracing:
            tracemalloc.stop()
    return Outside(python, None if None in (resident, highest) else max(0, highest - resident))


def resident_bytes(which: str = "VmHWM") -> int | None:
    """The resident set of this process: the highest so far, or with VmRSS now."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{which}:"):
                return int(line.split()[1]) * 1024
    return None


def _reset_resident() -> int | None:
    """Let the highest resident set begin anew; what it is now, None where the system lets nobody do so."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return resident_bytes("VmRSS")

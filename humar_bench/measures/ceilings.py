"""Ceilings: what this machine really does at most, timed with the habits that forwards are timed with (`device.time_call`).

Matmul rate: square matrices of several sizes, 2 n^3 FLOP each, the largest rate counts. Copy rate: one buffer into another, both far larger
than any cache, every byte counted once as read and once as written. Overhead: one operator on a tiny tensor, and on a device that works
behind the host's back an empty kernel, both called back to back, so that neither arithmetic nor memory takes part.

A ceiling is the fastest of many blocks, since nothing but a neighbour makes a block of the same work slower; the median stands beside it.
The roofline itself is Williams, Waterman and Patterson's (Communications of the ACM 52(4), 2009).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch

from humar_bench.devices.device import Device
from humar_bench.errors import MeasurementError, UsageError

PRECISIONS = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MIN_BLOCKS, MAX_BLOCKS = 5, 200
MIN_BLOCK_S = 5e-3
CLOCK_SHARE = 1e-4  # of a block: reading the clocks
MAX_CALLS = 400  # of a block; a CUDA stream takes about a thousand launches before it makes the host wait
LONGEST_CALL_S = 2.0  # a larger matrix that would take longer is left out
TINY = 16  # numbers in the tiny tensor

Call = Callable[[], Any]
Hear = Callable[[str], None]


@dataclass(frozen=True)
class CeilingPlan:
    """Sizes of matrices, bytes of the copied buffer, and seconds for each of the things timed."""

    sizes: tuple[int, ...]
    copy_bytes: int
    seconds: float

    @classmethod
    def of(cls, device: Device) -> CeilingPlan:
        """What is enough for this kind of device."""
        return cls((256, 512, 1024, 2048), 2**28, 0.6) if device.kind == "cpu" else cls((1024, 2048, 4096, 8192), 2**30, 0.3)


@dataclass(frozen=True)
class Pace:
    """Seconds per call: the fastest block and the median one."""

    fastest_s: float
    median_s: float
    blocks: int
    calls_per_block: int
    by: str  # wall time or device time


@dataclass(frozen=True)
class MatmulPace:
    precision: str
    size: int
    pace: Pace

    @property
    def flops(self) -> int:
        return 2 * self.size**3


@dataclass(frozen=True)
class Ceilings:
    """`launch` is None on a device that works in step with the host."""

    matmul: tuple[MatmulPace, ...]
    copy_bytes: int  # of one buffer
    copy: Pace
    operator: Pace
    launch: Pace | None
    threads: int

    def measured(self) -> dict[str, Any]:
        """The plain values a record holds; rates are per second, a copy's bytes are read and written."""
        rates = [
            {"precision": each.precision, "size": each.size, "flops_per_s": each.flops / each.pace.fastest_s,
             "median_flops_per_s": each.flops / each.pace.median_s, **asdict(each.pace)}
            for each in self.matmul
        ]
        moved = 2 * self.copy_bytes
        copied = {"buffer_bytes": self.copy_bytes, "bytes_per_s": moved / self.copy.fastest_s,
                  "median_bytes_per_s": moved / self.copy.median_s, **asdict(self.copy)}
        launch = None if self.launch is None else asdict(self.launch)
        return {"matmul": rates, "copy": copied, "operator": asdict(self.operator), "launch": launch, "threads": self.threads}


class Work:
    """What is timed. Each method makes a call; a test's own stands in for torch."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def matmul(self, precision: str, size: int) -> Call:
        """C = A B of [size, size] matrices, into memory that exists."""
        one, other = (torch.randn(size, size, device=self.device.name).to(PRECISIONS[precision]) for _ in range(2))
        out = torch.empty_like(one)
        return lambda: torch.mm(one, other, out=out)

    def copy(self, nbytes: int) -> Call:
        source = torch.ones(nbytes, dtype=torch.uint8, device=self.device.name)
        target = torch.zeros_like(source)  # written once, so that its pages exist
        return lambda: target.copy_(source)

    def operator(self) -> Call:
        """One operator as a forward calls it, its result allocated anew, on so little that only the call itself takes time."""
        one, other = (torch.ones(TINY, device=self.device.name) for _ in range(2))
        return lambda: one.add(other)

    def launch(self) -> Call | None:
        """An empty kernel; None where the host does the work itself."""
        return None if self.device.kind == "cpu" else lambda: self.device.hold(0.0)


def precisions_of(device: Device, dtype: str) -> tuple[str, ...]:
    """What is measured for a run of this dtype: float32 and itself; on CUDA all of them. Raises UsageError for a dtype without a rate."""
    if dtype not in PRECISIONS:
        raise UsageError(f"dtype is {dtype!r}; a matmul rate is measured for {', '.join(PRECISIONS)}.")
    return tuple(PRECISIONS) if device.kind == "cuda" else tuple(dict.fromkeys(("float32", dtype)))


def measure_ceilings(
    device: Device, dtype: str = "float32", plan: CeilingPlan | None = None, *, work: Work | None = None, hear: Hear = lambda said: None
) -> Ceilings:
    """Measure everything on `device`. Raises UsageError for a dtype without a rate, MeasurementError for a clock too coarse."""
    plan, work, precisions = plan or CeilingPlan.of(device), work or Work(device), precisions_of(device, dtype)
    block_s = max(MIN_BLOCK_S, device.clock_cost_s() / CLOCK_SHARE)
    with torch.inference_mode():
        hear("operators")
        operator = _pace(work.operator(), device, plan.seconds, block_s, host=True)
        launch = work.launch()
        launched = None if launch is None else _pace(launch, device, plan.seconds, block_s, host=True)
        hear("copies")
        copied = _pace(work.copy(plan.copy_bytes), device, plan.seconds, block_s)
        matmuls: list[MatmulPace] = []
        for precision in precisions:
            hear(f"matmuls in {precision}")
            with _matmul_precision(device, precision):
                matmuls += _matmuls(work, device, precision, plan, block_s)
    return Ceilings(tuple(matmuls), plan.copy_bytes, copied, operator, launched, torch.get_num_threads())


def _matmuls(work: Work, device: Device, precision: str, plan: CeilingPlan, block_s: float) -> Iterator[MatmulPace]:
    """From the smallest matrices on; sizes that would take too long are left out."""
    before: MatmulPace | None = None
    for size in sorted(plan.sizes):
        if before is not None and before.pace.fastest_s * (size / before.size) ** 3 > LONGEST_CALL_S:
            return
        before = MatmulPace(precision, size, _pace(work.matmul(precision, size), device, plan.seconds, block_s))
        yield before


def _pace(call: Call, device: Device, seconds: float, block_s: float, *, host: bool = False) -> Pace:
    """Blocks of calls for about `seconds`, after calls that warm up.

    By device time where there is one and the gate held, so that launching is no part of it; with `host` by wall time, which is what
    launching costs.
    """
    calls = _calls(call, device, block_s)
    end_s = device.now_s() + seconds
    wall_s, device_s = [], []
    while len(wall_s) < MIN_BLOCKS or (device.now_s() < end_s and len(wall_s) < MAX_BLOCKS):
        timing = device.time_call(call, calls, device_time=not host)
        wall_s.append(timing.wall_s / calls)
        if timing.device_s is not None and timing.gate_held:
            device_s.append(timing.device_s / calls)
    times = device_s or wall_s
    if min(times) <= 0:
        raise MeasurementError(f"the device took {min(times):g} s for {calls} calls; its clock cannot time them.")
    return Pace(min(times), median(times), len(times), calls, "device time" if device_s else "wall time")


def _calls(call: Call, device: Device, block_s: float) -> int:
    """Calls per block, from warm blocks that grow until they can be timed."""
    device.time_call(call, device_time=False)
    calls = 1
    while True:
        took_s = min(device.time_call(call, calls, device_time=False).wall_s for _ in range(2))
        if took_s >= block_s or calls >= MAX_CALLS:
            return calls
        calls = min(MAX_CALLS, max(2 * calls, math.ceil(calls * block_s / max(took_s, 1e-9))))


@contextlib.contextmanager
def _matmul_precision(device: Device, precision: str) -> Iterator[None]:
    """On CUDA, float32 matmuls in strict float32 or in TF32; elsewhere as torch has it."""
    if device.kind != "cuda" or precision not in ("float32", "tf32"):
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)

"""Faults of memory: a peak of something else, a number under another number's name, bytes of another process."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from humar_bench import cli
from humar_bench.measures import live_memory, memory
from humar_bench.records.record import RECORDS_NAME
from humar_bench.records.writer import RecordWriter
from humar_bench.report import memory_table, write_report
from tests.faults.fault import Fault
from tests.faults.harness import Patch, VirtualCpu, VirtualGpu, flags, measured

AUDIT = "the record is held against itself (`contradictions.py`)"
MIB = 2**20


class NoReset(VirtualGpu):
    """Its peak stays where a first call, or an earlier model, left it."""

    def reset_peak_memory(self) -> None:
        pass


class SomethingAlive(VirtualGpu):
    """The model before this one was never let go."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.allocator.allocate(64 * MIB)


class WholeDevice(VirtualGpu):
    """The driver is asked for what is used on the device, by anybody."""

    def process_memory_bytes(self) -> int:
        return super().process_memory_bytes() + 8 * 2**30


@functools.cache
def said(builder: str, make: Callable[[], VirtualGpu] = VirtualGpu, patch: Patch | None = None) -> list[str]:
    return flags(measured([builder], ["memory"], make=make, patch=patch))


def fault(
    name: str, seeded: str, effect: str, caught: str, says: str, *, builder: str = "tied", make: Callable[[], VirtualGpu] = VirtualGpu,
    clean: Callable[[], VirtualGpu] = VirtualGpu, patch: Patch | None = None,
) -> Fault:
    return Fault(name, "memory", seeded, effect, caught, says, lambda: said(builder, make, patch), lambda: said(builder, clean))


def _at_load(patches: Any) -> None:
    """The peak is read before the forward: it is that of loading the weights."""
    device_peak = memory._device_peak

    def early(step: Any, model: Any, device: Any) -> Any:
        before = device.memory()
        peak = device_peak(step, model, device)
        loaded = {"peak_allocated_bytes": 0, "peak_requested_bytes": 0, "peak_reserved_bytes": before.peak_reserved_bytes}
        return dataclasses.replace(peak, allocator_bytes=0, cuda=dataclasses.replace(peak.cuda, **loaded))

    patches.setattr(memory, "_device_peak", early)


def _reserved(patches: Any) -> None:
    """What the allocator keeps for reuse is shown as what is allocated."""
    peak = memory.DevicePeak
    patches.setattr(
        memory, "DevicePeak",
        lambda **values: peak(**{**values, "peak_allocated_bytes": values["peak_reserved_bytes"]}),
    )


def _inherited(patches: Any) -> None:
    """The footprint is that of the largest ancestor."""
    patches.setattr(memory, "resident_bytes", lambda: 40 * 2**30)


def _twice(patches: Any) -> None:
    """A tensor that is alive at the peak is listed under two components."""
    tracked = memory.tracked

    def doubled(*given: Any, **more: Any) -> Any:
        peak, live = tracked(*given, **more)
        return dataclasses.replace(peak, by_component={**peak.by_component, "again": sum(peak.by_component.values())}), live

    for module in (live_memory, memory):
        patches.setattr(module, "tracked", doubled)


def _report(patch: Callable[[Any], None]) -> list[str]:
    """A report written by a harness with `patch`, then proved by one without it: the exit code and what it printed."""
    run = measured(["tied"], ["memory"])
    with TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()):
        with RecordWriter(Path(folder) / RECORDS_NAME) as writer:
            writer.write(*run)
        with pytest.MonkeyPatch.context() as patches:
            patch(patches)
            write_report(run, folder)
        code = cli.main(["verify", folder])
    return [f"exit code {code}: {out.getvalue()}"] if code else []


def _megabytes(patches: Any) -> None:
    patches.setattr(memory_table, "MIB", 1e6)


FAULTS = (
    fault("peak not reset", "the allocator's peak still is that of an earlier call",
          "126 for 66 GiB from run order alone (NVIDIA/Fuser PR#4449)",
          "a peak must be what is allocated right after its reset", r"after it was reset", make=NoReset),
    fault("peak taken at load", "the peak is read before the forward runs", "all of the forward", AUDIT,
          r"it was not read around the forward",
          patch=_at_load),
    fault("reserved shown as allocated", "the caching allocator's reserve stands in the column of what is allocated", "1.7x to 1.9x", AUDIT,
          r"the peak was not read above what was there", patch=_reserved),
    fault("the model before still alive", "64 MiB of another model are on the device", "64 MiB of the process, less room for this one",
          AUDIT,
          r"bytes were allocated on the device before its model was built", make=SomethingAlive),
    fault("foreign process counted", "the driver's number is of the whole device", "8 GiB of somebody else", AUDIT,
          r"another process is counted with it", make=WholeDevice),
    Fault("MB for MiB", "memory", "the Markdown divides by 10^6 under a heading of MiB", "4.9 % too much",
          "`verify` makes every cell again from the records", r"exit code 5: .*report\.md", lambda: _report(_megabytes),
          lambda: _report(lambda patches: None)),
    fault("inherited footprint", "the resident set is that of a large ancestor", "728 for 33 MB in the field (bun #43328)", AUDIT,
          r"the process's footprint grew by 0", builder="wide", make=VirtualCpu, clean=VirtualCpu, patch=_inherited),
    fault("a tensor listed twice", "what is alive at the peak is attributed to two components", "2x of the breakdown, the total right",
          AUDIT,
          r"what is alive at the peak and the workspace are", make=VirtualCpu, clean=VirtualCpu, patch=_twice),
)

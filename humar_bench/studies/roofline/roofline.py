"""`humar-bench roofline`: how far a forward is from what this machine could do, and what holds it back. No torch.

The floor of a forward is the larger of two times: its matmul and convolution FLOPs at the machine's own matmul rate, and the bytes that no
implementation can avoid (weights and inputs read once, outputs written once) at its own copy rate. The model is Williams, Waterman and
Patterson's roofline (Communications of the ACM 52(4), 2009); the rates are measured here (`measures/ceilings.py`), none is a data sheet's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from humar_bench.judging.speeds import LAUNCH_BOUND, Speed, Speeds, read_speeds
from humar_bench.records.record import CEILINGS, Run
from humar_bench.report.comparison import asked_lines, environment_text, failures_of, made_by
from humar_bench.report.flops_table import flop_unit
from humar_bench.report.work_text import work_text
from humar_bench.table import MIB, Column, Table, percent, ratio

FORMAT = 1  # of the JSON document. 1: rows, ceilings, environment, conditions, failures
OVERHEAD_BOUND = 0.5  # on a device in step with the host: share of a forward that calling its operators takes
MOVED = 0.1  # ceilings of two processes that differ by more than this are said to


@dataclass(frozen=True)
class Ceiling:
    """The machine's own rates over all processes that measured them: each the largest."""

    flops_per_s: Mapping[str, float]  # by precision
    bytes_per_s: float
    operator_s: float  # the host's time for one operator on a tiny tensor
    launch_s: float | None  # the host's time for one empty kernel; None where the host does the work itself
    rows: tuple[Mapping[str, Any], ...]  # what the table of ceilings shows
    moved: float  # the largest rate of two processes over the smaller, minus 1

    @property
    def overhead_s(self) -> float:
        """What calling one operator costs at least."""
        return self.operator_s if self.launch_s is None else self.launch_s


@dataclass(frozen=True)
class Floor:
    """What one forward takes at least. Seconds."""

    compute_s: float
    memory_s: float

    @property
    def seconds(self) -> float:
        return max(self.compute_s, self.memory_s)

    @property
    def bound(self) -> str:
        return "compute" if self.compute_s >= self.memory_s else "memory"


def read_ceilings(measured: Sequence[Mapping[str, Any]]) -> Ceiling | None:
    """The largest rates of one or several ceilings records; None where there is none."""
    if not measured:
        return None
    best = _best_rates(measured)
    copied = max((one["copy"] for one in measured), key=lambda each: each["bytes_per_s"])
    operator = min((one["operator"] for one in measured), key=lambda each: each["fastest_s"])
    launches = [one["launch"] for one in measured if one["launch"] is not None]
    launch = min(launches, key=lambda each: each["fastest_s"]) if launches else None
    rows = [
        {"ceiling": f"matmul, {name}", "kind": "matmul", "fastest": each["flops_per_s"], "median": each["median_flops_per_s"],
         "unit": "FLOP/s", "at": f"{each['size']}x{each['size']}", **_blocks(each)}
        for name, each in best.items()
    ]
    rows.append({"ceiling": "copy, read and write", "kind": "copy", "fastest": copied["bytes_per_s"],
                 "median": copied["median_bytes_per_s"], "unit": "bytes/s", "at": f"{copied['buffer_bytes'] >> 20} MiB", **_blocks(copied)})
    rows += [
        {"ceiling": said, "kind": kind, "fastest": each["fastest_s"], "median": each["median_s"], "unit": "s", "at": "", **_blocks(each)}
        for said, kind, each in (("one operator", "operator", operator), ("one empty kernel", "launch", launch)) if each is not None
    ]
    return Ceiling(
        {name: each["flops_per_s"] for name, each in best.items()}, copied["bytes_per_s"], operator["fastest_s"],
        None if launch is None else launch["fastest_s"], tuple(rows), _moved(measured),
    )


def _blocks(pace: Mapping[str, Any]) -> dict[str, Any]:
    return {"blocks": pace["blocks"], "by": pace["by"]}


def _best_rates(measured: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Precision -> the matmul with the largest rate."""
    best: dict[str, Mapping[str, Any]] = {}
    for each in (rate for one in measured for rate in one["matmul"]):
        if each["precision"] not in best or each["flops_per_s"] > best[each["precision"]]["flops_per_s"]:
            best[each["precision"]] = each
    return best


def _moved(measured: Sequence[Mapping[str, Any]]) -> float:
    """How far processes differ in the same rate, as a share of the smaller; 0 for one process."""
    rates = [
        {**{name: each["flops_per_s"] for name, each in _best_rates([one]).items()}, "copy": one["copy"]["bytes_per_s"]}
        for one in measured
    ]
    shared = set.intersection(*(set(each) for each in rates))
    return max(max(each[key] for each in rates) / min(each[key] for each in rates) - 1 for key in shared)


def floor_of(matmul_flops: int, unavoidable_bytes: int, ceiling: Ceiling, precision: str) -> Floor | None:
    """None where this precision has no rate."""
    rate = ceiling.flops_per_s.get(precision)
    return None if not rate else Floor(matmul_flops / rate, unavoidable_bytes / ceiling.bytes_per_s)


def precision_of(dtype: str, fps: Sequence[Mapping[str, Any]], device: str) -> str:
    """What a forward's matmuls are made in: on CUDA float32 is TF32 where torch was allowed to."""
    allowed = any((one.get("tf32") or {}).get("matmul") for one in fps)
    return "tf32" if dtype == "float32" and allowed and device.startswith("cuda") else dtype


# Reading --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Roofline:
    """The records of one roofline, and what follows from them."""

    run: Run
    reference: str
    name: ClassVar[str] = "roofline"

    @property
    def settings(self) -> dict[str, Any]:
        return {"reference": self.reference}

    @cached_property
    def names(self) -> tuple[str, ...]:
        return self.run.architectures

    @cached_property
    def speeds(self) -> Speeds:
        timed = self.run.select(measure="fps")
        return read_speeds(timed, self.reference, self.names) if len(timed) else Speeds({})

    @cached_property
    def ceiling(self) -> Ceiling | None:
        return read_ceilings([each.measured for each in self.run.select(measure=CEILINGS) if each.ok])

    @cached_property
    def rows(self) -> tuple[dict[str, Any], ...]:
        """One row an architecture, values unscaled."""
        return tuple(self._row(name) for name in self.names)

    def _row(self, name: str) -> dict[str, Any]:
        flops, memory = self._measured("flops", name), self._measured("memory", name)
        row: dict[str, Any] = {"architecture": name, "precision": self._precision(name)}
        if flops is not None:
            row["matmul_flops"] = flops["matmul_flops"]
            row["operators"] = flops["kernels"] if self._eager else None
        if memory is not None:
            parts = {part: memory[f"{part}_bytes"] for part in ("weights", "buffers", "inputs", "outputs")}
            row |= {f"{part}_bytes": nbytes for part, nbytes in parts.items()}
            row["unavoidable_bytes"] = sum(parts.values())
        if flops is not None and memory is not None:
            row["flop_per_byte"] = ratio(row["matmul_flops"], row["unavoidable_bytes"])
            row |= self._floor(row)
        speed = self.speeds.get(name)
        if speed is not None and not speed.median_s:
            row["why_not"] = speed.reason
        return row | (self._time(row, speed) if speed is not None and speed.median_s else {})

    def _measured(self, measure: str, name: str) -> Mapping[str, Any] | None:
        found = [each.measured for each in self.run.select(measure=measure, architecture=name) if each.ok]
        return found[-1] if found else None

    def _precision(self, name: str) -> str:
        timed = [each.measured for each in self.run.select(measure="fps", architecture=name) if each.ok]
        return precision_of(self.run[0].run["dtype"], timed, self._device)

    @property
    def _device(self) -> str:
        """Where the ceilings were measured, and with that the forwards."""
        return next((each.environment.get("device") or "" for each in self.run if each.measure == CEILINGS and each.ok), "")

    @property
    def _eager(self) -> bool:
        """A backend that fuses operators launches fewer than were counted."""
        return self.run[0].run.get("backend", "eager") == "eager"

    def _floor(self, row: Mapping[str, Any]) -> dict[str, Any]:
        floor = self.ceiling and floor_of(row["matmul_flops"], row["unavoidable_bytes"], self.ceiling, row["precision"])
        if not floor:
            return {}
        return {"compute_floor_s": floor.compute_s, "memory_floor_s": floor.memory_s, "floor_s": floor.seconds, "bound": floor.bound}

    def _time(self, row: Mapping[str, Any], speed: Speed) -> dict[str, Any]:
        """What the measured forward says beside the floor."""
        found: dict[str, Any] = {"median_s": speed.median_s, "min_s": speed.min_s, "device_median_s": speed.device_median_s,
                                 "wall_per_device": speed.wall_per_device, "processes": speed.processes}
        if row.get("floor_s"):
            found |= {"achieved": row["floor_s"] / speed.median_s, "times_floor": speed.median_s / row["floor_s"]}
            found["achieved_flops_per_s"] = row["matmul_flops"] / speed.median_s
        if self.ceiling is not None and row.get("operators"):
            found["overhead_s"] = row["operators"] * self.ceiling.overhead_s
            found["overhead_share"] = found["overhead_s"] / speed.median_s
        found["launch_bound"] = _launch_bound(speed.wall_per_device, found.get("overhead_share"))
        return found

    @property
    def failures(self) -> tuple[str, ...]:
        return failures_of(self.run)

    @property
    def conditions(self) -> tuple[str, ...]:
        """What the numbers hold for."""
        first = self.run[0]
        said = [work_text(first.workload), *asked_lines(first.workload, first.asked)]
        if self.ceiling is not None and self.ceiling.moved > MOVED:
            said.append(f"Ceilings differ by {percent(self.ceiling.moved)} between two processes: neighbours on this machine. The larger "
                        "counts, so shares are too small rather than too large.")
        here = next((each for each in self.run if each.measure in (CEILINGS, "fps") and each.environment), None)
        said += [environment_text(here)] if here else []
        return (*said, *made_by(self.run), *self.run.notes)

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        return tuple(each for each in (roofline_table(self), ceilings_table(self)) if each.rows)

    @cached_property
    def data(self) -> dict[str, Table]:
        return {"roofline": roofline_data(self), "ceilings": ceilings_data(self)}

    @property
    def document(self) -> dict[str, Any]:
        """Everything, for JSON."""
        here = next((each for each in self.run if each.measure == CEILINGS and each.environment), self.run[0])
        return {
            "format": FORMAT, "rows": [dict(row) for row in self.rows], "ceilings": [dict(row) for row in self.data["ceilings"].rows],
            "environment": here.environment, "conditions": list(self.conditions), "failures": list(self.failures),
        }


def restore(run: Run, settings: Mapping[str, Any]) -> Roofline:
    """The roofline that a folder holds."""
    return Roofline(run, settings["reference"])


def _launch_bound(wall_per_device: float | None, overhead_share: float | None) -> str:
    """yes or no: by wall time over device time where there is device time, else by the share that calling operators takes."""
    if wall_per_device is not None:
        return "yes" if wall_per_device > LAUNCH_BOUND else "no"
    return "" if overhead_share is None else "yes" if overhead_share > OVERHEAD_BOUND else "no"


# Tables ------------------------------------------------------------------------------------------------------------------------------

_DATA = (
    "architecture", "precision", "matmul_flops", "weights_bytes", "buffers_bytes", "inputs_bytes", "outputs_bytes", "unavoidable_bytes",
    "flop_per_byte", "compute_floor_s", "memory_floor_s", "floor_s", "bound",
)
_TIMED = (
    "median_s", "min_s", "device_median_s", "wall_per_device", "processes", "achieved", "times_floor", "achieved_flops_per_s", "overhead_s",
    "overhead_share", "launch_bound",
)
_RATES = (("TFLOP/s", 1e12), ("GFLOP/s", 1e9))


def roofline_data(found: Roofline) -> Table:
    keys = (*_DATA, "operators", *(_TIMED if found.speeds else ()))
    return Table("roofline", "roofline", tuple(Column(key) for key in keys), found.rows)


def ceilings_data(found: Roofline) -> Table:
    keys = ("ceiling", "kind", "fastest", "median", "unit", "at", "blocks", "by")
    return Table("ceilings", "ceilings", tuple(Column(key) for key in keys), found.ceiling.rows if found.ceiling else ())


def roofline_table(found: Roofline) -> Table:
    """For people: the floor, what was measured, and what stands in between."""
    scale, unit = flop_unit([row.get("matmul_flops") for row in found.rows])
    columns = [
        Column("architecture", text=True), Column("precision", text=True),
        Column("matmul_flops", "matmul and conv", unit, "less", 2 if scale > 1 else 0, scale),
        Column("unavoidable_bytes", "unavoidable", "MiB", "less", 1, MIB), Column("flop_per_byte", "FLOP/byte"),
        Column("floor_s", "floor", "ms", "less", 2, 1e-3), Column("bound", "bound by", text=True),
        Column("median_s", "forward", "ms", "less", 2, 1e-3), Column("device_median_s", "on the device", "ms", "less", 2, 1e-3),
        Column("achieved", "of the ceiling", "%", "more", 1, 0.01), Column("times_floor", "x floor", "", "less", 1),
        Column("operators", "operators", better="less"), Column("overhead_share", "calling them", "%", "less", 1, 0.01),
        Column("launch_bound", "launch-bound", text=True), Column("why_not", "not timed", text=True),
    ]
    used = tuple(each for each in columns if any(row.get(each.key) not in (None, "") for row in found.rows))
    return Table("roofline", "Roofline: the least time on this machine, and the time it took", used, found.rows, tuple(_feet(found)))


def _feet(found: Roofline) -> list[str]:
    feet = ["Floor: the larger of FLOPs at the matmul rate and unavoidable bytes at the copy rate. Unavoidable: weights, buffers and "
            "inputs read once, outputs written once."]
    if found.speeds:
        processes = max((row.get("processes") or 0 for row in found.rows), default=0)
        feet.append(f"Forward: median wall time from {processes} fresh process{'es' * (processes != 1)}. Of the ceiling: floor / forward, "
                    "the share that is reached of the rate that binds.")
    if any(row.get("overhead_share") is not None for row in found.rows):
        device = found.ceiling.launch_s is not None
        feet.append(
            "Calling them: operators x an empty kernel's launch; launch-bound: wall time is 1.1 x device time or more." if device else
            "Calling them: operators x one operator on a tiny tensor; launch-bound: that is more than half of the forward."
        )
    return [*feet, *found.failures]


def ceilings_table(found: Roofline) -> Table:
    """For people: what the machine itself was seen to do at most."""
    measured = found.ceiling.rows if found.ceiling else ()
    rows = [{**row, "fastest": _said(row, row["fastest"]), "median": _said(row, row["median"])} for row in measured]
    columns = (
        Column("ceiling", text=True), Column("fastest", "fastest block", text=True), Column("median", "median block", text=True),
        Column("at", text=True), Column("blocks"), Column("by", "timed by", text=True),
    )
    feet = ("Measured here, in processes of their own; the fastest block of all counts. Copied bytes are counted as "
            "read and as written.",)
    return Table("ceilings", "This machine's own ceilings", columns, tuple(rows), feet)


def _said(row: dict[str, Any], value: float) -> str:
    """5.3e10 FLOP/s -> '53.0 GFLOP/s'."""
    if row["unit"] == "s":
        return f"{1e6 * value:.2f} us"
    if row["unit"] == "bytes/s":
        return f"{value / 2**30:.1f} GiB/s"
    unit, scale = next((each for each in _RATES if value >= each[1]), _RATES[-1])
    return f"{value / scale:.1f} {unit}"

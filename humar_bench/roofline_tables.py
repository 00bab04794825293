"""Tables of a roofline, for people and for programs. No arithmetic but a choice of units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from humar_bench.report.breakdown import flop_unit
from humar_bench.table import MIB, Column, Table

if TYPE_CHECKING:
    from humar_bench.roofline import Roofline

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

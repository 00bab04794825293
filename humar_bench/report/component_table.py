"""Time by component -> tables: where the time of a forward goes. A breakdown; which architecture is faster the speed table says.

`sides` as in `breakdown.py`: architecture -> what its record measured, or None where that failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from humar_bench.report.breakdown import Reasons, Sides
from humar_bench.table import Column, Table, percent

CLOCKS = {"wall_s": "Wall time", "cpu_s": "CPU time", "device_s": "Device time"}
SUM, PLAIN, COST = "sum of components", "uninstrumented forward", "cost of instrumentation"
_CSV_NAMES = {SUM: "sum", PLAIN: "uninstrumented", COST: "instrumentation"}


def component_time_tables(sides: Sides, reasons: Reasons, reference: str) -> list[Table]:
    """One table a clock: a row a component, the time of its own and its share of all components' sum."""
    clocks = [clock for clock in CLOCKS if any(measured and clock in measured["clocks"] for measured in sides.values())]
    tables = [_clock_table(clock, sides) for clock in clocks]
    if not tables:
        tables = [Table("component_time", "Time by component", (Column("part", "component", text=True),), ())]
    *others, last = tables
    return [*others, Table(last.name, last.title, last.columns, last.rows, tuple(_feet(sides, reasons)))]


def _clock_table(clock: str, sides: Sides) -> Table:
    columns = [Column("part", "component", text=True)]
    for side in sides:
        columns += [Column(f"={side}", side, "ms", "", 2, 1e-3), Column(f"%{side}", f"{side} share", "%", "", 1, 0.01)]
    by_side = {side: _rows(measured, clock) for side, measured in sides.items() if measured and clock in measured["clocks"]}
    parts = list(dict.fromkeys(part for rows in by_side.values() for part in rows if part not in _CSV_NAMES))
    rows = []
    for part in (*parts, *_CSV_NAMES):
        row: dict[str, Any] = {"part": part}
        for side, own in by_side.items():
            if part in own:
                row |= {f"={side}": own[part], f"%{side}": own[part] / own[SUM] if own[SUM] else None}
        rows.append(row)
    return Table("component_time", f"{CLOCKS[clock]} by component: a breakdown, no verdict", tuple(columns), tuple(rows))


def _rows(measured: Mapping[str, Any], clock: str) -> dict[str, float]:
    """Component -> median time of its own, then their sum, the forward without stamps, and what the stamps cost."""
    rows = {component: median(times[clock]) for component, times in measured["components"].items()}
    total, plain = sum(rows.values()), median(measured["plain"][clock])
    return {**rows, SUM: total, PLAIN: plain, COST: total - plain}


def _feet(sides: Sides, reasons: Reasons) -> list[str]:
    done = {side: measured for side, measured in sides.items() if measured}
    feet = [f"{side}: failed: {reason}" for side, reason in reasons.items()]
    if not done:
        return feet
    rounds = ", ".join(f"{side} {measured['rounds']}" for side, measured in done.items())
    stamps = ", ".join(f"{side} {measured['stamps']}" for side, measured in done.items())
    feet = [
        "A component's time is its own, without what it calls in other components; shares are of their sum.",
        f"Medians over rounds of one forward with and one without instrumentation ({rounds} rounds); clock readings or events in an "
        f"instrumented one: {stamps}.",
        *feet,
    ]
    for side, measured in done.items():
        if any(_rows(measured, clock)[COST] < 0 for clock in measured["clocks"]):
            feet.append(f"{side}: a cost below 0 is less than its forwards differ by themselves.")
        held = measured.get("gate_held") or []
        if open_share := (held.count(False) / len(held) if held else 0.0):
            feet.append(f"{side}: in {percent(open_share)} of its rounds launch cost may have entered the device time.")
    return feet


def component_time_data(sides: Sides, reasons: Reasons, reference: str) -> Table:
    """One row an architecture and component, seconds; the last three of each are the sum, the forward left alone and the difference."""
    rows: list[dict[str, Any]] = []
    for side, measured in sides.items():
        if not measured:
            rows.append({"architecture": side, "status": "failed", "reason": reasons.get(side, "")})
            continue
        by_clock = {clock: _rows(measured, clock) for clock in measured["clocks"]}
        first = by_clock[measured["clocks"][0]]
        for part, seconds in first.items():
            share = seconds / first[SUM] if first[SUM] else None
            rows.append({
                "architecture": side, "status": "ok", "component": _CSV_NAMES.get(part, part), "entered": measured["entered"].get(part),
                **{clock: own[part] for clock, own in by_clock.items()}, "share": share, "rounds": measured["rounds"],
            })
    keys = ("architecture", "status", "component", "entered", *CLOCKS, "share", "rounds", "reason")
    return Table("component_time", "component_time", tuple(Column(key) for key in keys), tuple(rows))

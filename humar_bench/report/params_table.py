"""Parameters -> tables: how many, by component, and which of them are odd. `sides` as in `breakdown.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from humar_bench.report.breakdown import Reasons, Sides, data_side_by_side, number_type_feet, per_architecture, side_by_side, total_last
from humar_bench.table import MIB, Column, Table, fewer, joined


def parameter_unit(sides: Sides) -> tuple[str, str, float, int]:
    """Heading, field, scale and digits of a count of parameters: in millions where the largest has 100,000."""
    largest = max((measured["total"] for measured in sides.values() if measured), default=0)
    return ("parameters", "total", 1, 0) if 0 < largest < 100_000 else ("parameters [M]", "total", 1e6, 2)


def params_tables(sides: Sides, reasons: Reasons, reference: str) -> list[Table]:
    totals = {side: measured and measured["total"] for side, measured in sides.items()}

    def row(side: str, measured: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **{key: measured[key] for key in ("total", "trainable", "frozen", "buffers", "param_bytes")},
            "against": "" if side == reference else fewer(totals.get(reference), measured["total"]),
        }

    columns = [
        Column("total", "parameters", better="less"), Column("trainable"), Column("frozen"), Column("buffers", "buffer elements"),
        Column("param_bytes", "weights", "MiB", "less", 2, MIB), Column("against", f"against {reference}", text=True),
    ]
    parts = {side: measured["components"] if measured else {} for side, measured in sides.items()}
    return [
        per_architecture("params", "Parameters", columns, sides, reasons, row, _params_feet(sides)),
        side_by_side("params_components", "Parameters by component", "component", parts, totals, reference),
    ]


def _params_feet(sides: Sides) -> tuple[str, ...]:
    feet = []
    for side, measured in sides.items():
        if not measured:
            continue
        if shared := measured.get("shared"):
            tensors = "1 tensor has several names and is" if len(shared) == 1 else f"{len(shared)} tensors have several names and are"
            feet.append(f"{side}: {tensors} counted once ({joined([' = '.join(names) for names in shared], 3)}).")
        if dead := measured.get("never_read"):
            amount = sum(each["parameters"] for each in dead)
            feet.append(f"{side}: {amount:,} parameters are read by no operator: {joined([each['name'] for each in dead])}.")
        feet += _unregistered_feet(side, measured.get("unregistered") or [])
        feet += number_type_feet(side, measured)
    return tuple(feet)


def _unregistered_feet(side: str, rows: list[Mapping[str, Any]]) -> list[str]:
    """What a forward reads and no count of parameters has, packed weights by what they are packed as."""
    feet = []
    for kind in dict.fromkeys(each.get("kind", "") for each in rows):
        own = [each for each in rows if each.get("kind", "") == kind]
        named = joined([f"{each['name']} ({each['elements']:,})" for each in own])
        amount, size = (sum(each[key] for each in own) for key in ("elements", "bytes"))
        what = f"weights packed as {kind}" if kind else "numbers that are neither parameter, buffer nor input"
        feet.append(f"{side}: its forward reads {amount:,} {what}, {size:,} bytes, which are not counted as parameters: {named}.")
    return feet


def params_data(sides: Sides, reasons: Reasons, reference: str) -> Table:
    parts = {side: {**measured["components"], "total": measured["total"]} if measured else {} for side, measured in sides.items()}
    return data_side_by_side("params", "component", [("", total_last(parts))], reference, reasons)

"""Memory -> tables: the peak of one forward, what is alive then, and what is beside it. `sides` as in `breakdown.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from humar_bench.report.breakdown import Reasons, Sides, number_type_feet, per_architecture, side_by_side
from humar_bench.table import MIB, Column, Table, less, ratio

MOST_ALIVE = 5
MOST_OF_PYTHON, MOST_OF_SYSTEM = 2**20, 32 * 2**20  # bytes that any forward may take beside its tensors, and nobody asks about
_MEMORY_KEYS = (
    "weights_bytes", "buffers_bytes", "inputs_bytes", "outputs_bytes", "peak_bytes", "predicted_bytes", "allocator_bytes",
    "difference_bytes", "workspace_bytes", "resident_bytes",
)
_CUDA_KEYS = ("peak_allocated_bytes", "peak_requested_bytes", "peak_reserved_bytes", "nvml_process_bytes")


def memory_tables(sides: Sides, reasons: Reasons, reference: str) -> list[Table]:
    peaks = {side: measured and measured["peak_bytes"] for side, measured in sides.items()}

    def row(side: str, measured: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **{key: measured.get(key) for key in _MEMORY_KEYS}, **(measured.get("cuda") or {}),
            "peak_operator": measured.get("peak_operator"), "peak_component": measured.get("peak_component"),
            "against": "" if side == reference else less(peaks.get(reference), measured["peak_bytes"]),
        }

    def mib(key: str, title: str, better: str = "") -> Column:
        return Column(key, title, "MiB", better, 2, MIB)

    columns = [
        mib("weights_bytes", "weights", "less"), mib("inputs_bytes", "inputs"), mib("peak_bytes", "peak of one forward", "less"),
        mib("workspace_bytes", "of it workspace"), mib("peak_allocated_bytes", "allocated", "less"), mib("peak_reserved_bytes", "reserved"),
        mib("nvml_process_bytes", "process on the device"), mib("resident_bytes", "process footprint"),
        Column("against", f"against {reference}", text=True), Column("peak_component", "peak in", text=True),
        Column("peak_operator", "at operator", text=True),
    ]
    parts = {side: measured["by_component"] if measured else {} for side, measured in sides.items()}
    tables = [
        per_architecture("memory", "Memory of one forward", columns, sides, reasons, row, _memory_feet(sides)),
        side_by_side(
            "memory_components", "Alive at the peak, by component", "component", parts, _alive_totals(sides), reference,
            unit="MiB", scale=MIB, digits=2, words=less,
        ),
        _alive_table(sides),
    ]
    return [table for table in tables if table]


def _alive_totals(sides: Sides) -> dict[str, int | None]:
    return {side: measured and sum(measured["by_component"].values()) for side, measured in sides.items()}


def _memory_feet(sides: Sides) -> tuple[str, ...]:
    feet = ["The peak is the most bytes alive at once during one forward, above weights, buffers and inputs; MiB is 2^20 bytes."]
    for side, measured in sides.items():
        if measured and (method := measured.get("method")):
            proved = ""
            if measured.get("predicted_bytes") is not None and measured.get("difference_bytes") is not None:
                proved = f"; predicted {measured['predicted_bytes']:,} bytes, the allocator differs by {measured['difference_bytes']:,}"
            feet.append(f"{side}: {method}{proved}.")
            feet += number_type_feet(side, measured)
            feet += _outside_feet(side, measured)
    return tuple(feet)


def _outside_feet(side: str, measured: Mapping[str, Any]) -> list[str]:
    """What a forward holds beside the peak, where it is more than what Python and the system take for themselves."""
    peak, python, growth = (measured.get(key) or 0 for key in ("peak_bytes", "python_bytes", "resident_growth_bytes"))
    feet = []
    reported = measured.get("allocator_bytes")
    if reported is not None and not measured.get("cuda") and peak > reported:
        feet.append(f"{side}: torch's allocator reported {peak - reported:,} bytes less than is alive; the larger stands.")
    if python >= MOST_OF_PYTHON:
        feet.append(f"{side}: NOT IN THE PEAK, numpy and Python held up to {python:,} bytes at once.")
    if growth > peak + python + MOST_OF_SYSTEM:
        feet.append(
            f"{side}: NOT IN THE PEAK, during a forward its process grew by {growth:,} bytes, {growth - peak:,} more than the peak: memory "
            "that torch's allocator did not report, such as that of another thread or library."
        )
    return feet


def _alive_table(sides: Sides) -> Table | None:
    rows = [
        {"architecture": side, "shape": "x".join(map(str, each["shape"])), **{key: each.get(key) for key in _ALIVE_KEYS}}
        for side, measured in sides.items() if measured
        for each in sorted(measured.get("alive") or [], key=lambda each: -each["bytes"])[:MOST_ALIVE]
    ]
    if not rows:
        return None
    columns = (
        Column("architecture", text=True), Column("bytes", "size", "MiB", "", 2, MIB), Column("shape", text=True),
        Column("dtype", text=True), Column("operator", "made by", text=True), Column("component", text=True),
    )
    return Table("memory_alive", f"Largest tensors alive at the peak, {MOST_ALIVE} each at most", columns, tuple(rows))


_ALIVE_KEYS = ("bytes", "dtype", "operator", "component")


def memory_data(sides: Sides, reasons: Reasons, reference: str) -> Table:
    """One row an architecture, bytes as integers; `ratio` is the reference's peak over this one's."""
    base = (sides.get(reference) or {}).get("peak_bytes")
    rows = []
    for side, measured in sides.items():
        row: dict[str, Any] = {"architecture": side, "status": "ok" if measured else "failed", "reason": reasons.get(side, "")}
        if measured:
            row |= {key: measured.get(key) for key in (*_MEMORY_KEYS, "method", "peak_operator", "peak_component")}
            row |= {key: (measured.get("cuda") or {}).get(key) for key in _CUDA_KEYS}
            row["ratio"] = ratio(base, measured["peak_bytes"])
        rows.append(row)
    keys = ("architecture", "status", *_MEMORY_KEYS, *_CUDA_KEYS, "ratio", "method", "peak_operator", "peak_component", "reason")
    return Table("memory", "memory", tuple(Column(key) for key in keys), tuple(rows))

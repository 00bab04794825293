"""What the tables of counts and bytes share: a row an architecture, a row a part, and what data tables hold of them.

Each function takes `sides`: architecture name -> what its record measured, or None where the measurement failed, in the order they
were asked for. One table a question; the data tables hold the same numbers unscaled for CSV.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from humar_bench.table import Column, Table, fewer, ratio

Sides = Mapping[str, Mapping[str, Any] | None]
Reasons = Mapping[str, str]  # architecture -> why it failed
Parts = Mapping[str, Mapping[str, int]]  # architecture -> component or operator -> amount

COMPONENT, OPERATOR = "component: ", "operator: "


def per_architecture(
    name: str, title: str, columns: list[Column], sides: Sides, reasons: Reasons, row: Callable[[str, Mapping[str, Any]], dict],
    feet: tuple[str, ...] = (),
) -> Table:
    """One row an architecture; a failed one is a row with its reason."""
    rows = [
        {"architecture": side, **({"note": f"failed: {reasons.get(side, '')}"} if measured is None else row(side, measured))}
        for side, measured in sides.items()
    ]
    columns = [Column("architecture", text=True), *columns, Column("note", "note", text=True)]
    used = tuple(column for column in columns if any(each.get(column.key) not in (None, "") for each in rows))
    return Table(name, title, used, tuple(rows), feet)


def side_by_side(
    name: str, title: str, label: str, parts: Parts, totals: Mapping[str, int | None], reference: str, *,
    unit: str = "", scale: float = 1, digits: int = 0, words: Callable[..., str] = fewer, feet: tuple[str, ...] = (),
    first: tuple[Column, ...] = (), extra: Mapping[str, Mapping[str, Any]] | None = None,
) -> Table:
    """One row a part, one column an architecture, and how each compares with the reference. The last row is the total."""
    names = list(totals)
    columns = [Column("part", label, text=True), *first]
    columns += [Column(f"={side}", side, unit, "", digits, scale) for side in names]
    columns += [Column(f"~{side}", f"{side} against {reference}", text=True) for side in names if side != reference]
    rows = []
    for part in dict.fromkeys(part for side in names for part in parts.get(side, {})):
        amounts = {side: parts.get(side, {}).get(part) for side in names}
        rows.append({"part": part, **(extra or {}).get(part, {}), **_compared(amounts, reference, words)})
    rows.append({"part": "total", **_compared(totals, reference, words)})
    note = f"Less is better. Ratios are against {reference}." if len(names) > 1 else ""
    return Table(name, title, tuple(columns), tuple(rows), tuple(each for each in (note, *feet) if each))


def _compared(amounts: Mapping[str, int | None], reference: str, words: Callable[..., str]) -> dict[str, Any]:
    row = {f"={side}": amount for side, amount in amounts.items()}
    row.update({f"~{side}": words(amounts.get(reference), amount) for side, amount in amounts.items() if side != reference})
    return row


def data_side_by_side(name: str, label: str, groups: list[tuple[str, Parts]], reference: str, failed: Reasons) -> Table:
    """The numbers of side-by-side tables for CSV: one column an architecture (and group suffix), then reference / architecture.

    `groups` are (suffix, parts); the ratio columns are of the first group. Failed architectures are named in a row of their own.
    """
    names = list(groups[0][1])
    columns = [Column(label, text=True)]
    for index, (suffix, _) in enumerate(groups):
        columns += [Column(f"{side}{suffix}") for side in names]
        if not index:
            columns += [Column(f"{reference}/{side}") for side in names if side != reference]
    rows = []
    for part in dict.fromkeys(part for _, parts in groups for side in names for part in parts[side]):
        row: dict[str, Any] = {label: part}
        for index, (suffix, parts) in enumerate(groups):
            row.update({f"{side}{suffix}": parts[side].get(part) for side in names})
            if not index:
                base = parts.get(reference, {}).get(part)
                row.update({f"{reference}/{side}": ratio(base, parts[side].get(part)) for side in names if side != reference})
        rows.append(row)
    if failed:
        rows.append({label: "failed", **{f"{side}{groups[0][0]}": reason for side, reason in failed.items()}})
    return Table(name, name, tuple(columns), tuple(rows))


def number_type_feet(side: str, measured: Mapping[str, Any]) -> list[str]:
    """Which number types the weights are of, where that is not float32 alone; what was converted and what not."""
    types: Mapping[str, int] = measured.get("as_built") or {}
    wanted = measured.get("converted_to")
    stay = {name: count for name, count in types.items() if not wanted or name.startswith("complex")}
    changed = {name: count for name, count in types.items() if name not in stay and name != wanted}
    feet = []
    if changed:
        feet.append(f"{side}: converted to {wanted}, as asked: {_elements(changed)}.")
    if stay:
        feet.append(f"{side}: weights and buffers measured in the number types they were built in: {_elements(stay)}.")
    return feet


def _elements(types: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} numbers of {name}" for name, count in types.items())


def total_last(parts: Parts) -> dict[str, dict[str, int]]:
    """The same parts in one order for all sides: every component first, then the total."""
    order = [part for part in dict.fromkeys(part for side in parts.values() for part in side) if part != "total"]
    order.sort(key=lambda part: part.startswith(OPERATOR))  # components first; otherwise as they came
    first = next(iter(parts), None)
    ordered = {side: {part: amounts[part] for part in (*order, "total") if part in amounts} for side, amounts in parts.items()}
    if first is not None:  # the first side fixes the row order, so it names every part
        ordered[first] = {part: ordered[first].get(part) for part in (*order, "total")}
    return ordered

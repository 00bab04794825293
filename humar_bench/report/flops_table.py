"""FLOPs -> tables: by architecture, component and operator, and what other counters say. `sides` as in `breakdown.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from humar_bench.report.breakdown import COMPONENT, OPERATOR, Reasons, Sides, data_side_by_side, per_architecture, side_by_side, total_last
from humar_bench.table import Column, Table, fewer, joined

UNEXPLAINED = "(total)"  # measures.counters.REST
FLOP_UNITS = ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP"), (1, "FLOP"))


def flop_unit(values: Mapping[str, int | None] | list[int | None]) -> tuple[float, str]:
    """Scale and unit that fit the largest value: 2.9e11 -> (1e9, 'GFLOP')."""
    amounts = [value for value in (values.values() if isinstance(values, Mapping) else values) if value]
    largest = max(amounts, default=0)
    return next(((scale, unit) for scale, unit in FLOP_UNITS if largest >= 2 * scale), FLOP_UNITS[-1])


def flops_tables(sides: Sides, reasons: Reasons, reference: str, *, all_operators: bool = False) -> list[Table]:
    totals = {side: measured and measured["matmul_flops"] for side, measured in sides.items()}
    scale, unit = flop_unit(totals)
    shown = {"unit": unit, "scale": scale, "digits": 3 if scale > 1 else 0}

    def row(side: str, measured: Mapping[str, Any]) -> dict[str, Any]:
        keys = ("matmul_flops", "macs", "second_tier_flops", "kernels")
        return {
            **{key: measured.get(key) for key in keys}, "waits": _calls(measured.get("synchronisations")),
            "image": measured["matmul_flops"] / measured["batch"],
            "against": "" if side == reference
            else fewer(totals.get(reference), measured["matmul_flops"]) + incomplete(sides, reference, side),
        }

    columns = [
        Column("matmul_flops", "matmul and conv", unit, "less", shown["digits"], scale),
        Column("image", "per image", unit, "", shown["digits"], scale),
        Column("macs", "multiply-adds", unit.replace("FLOP", "MAC"), "", shown["digits"], scale),
        Column("second_tier_flops", "all other operators", unit, "", shown["digits"], scale), Column("kernels", "operator calls"),
        Column("waits", "host waits"), Column("against", f"against {reference}", text=True),
    ]
    by_component = {
        side: {part: each["matmul_flops"] for part, each in measured["components"].items()} if measured else {}
        for side, measured in sides.items()
    }
    tables = [
        per_architecture("flops", "FLOPs of one forward", columns, sides, reasons, row, _flops_feet(sides)),
        side_by_side("flops_components", "Matmul and conv FLOPs by component", "component", by_component, totals, reference, **shown),
        _operators_table(sides, totals, reference, shown, all_operators), _second_tier_table(sides, reference),
        _cross_checks_table(sides, shown), _explained_table(sides),
    ]
    return [table for table in tables if table]


def incomplete(sides: Sides, *compared: str) -> str:
    """What a ratio of totals must carry where one of them is a lower bound."""
    found = [sides.get(side) or {} for side in compared]
    return " (not all counted)" if any(each.get("uncounted") or each.get("outside") for each in found) else ""


def _calls(operators: Any) -> int | None:
    """How often the operators of a list were called; a bare number stands for itself."""
    return sum(each.get("calls", 1) for each in operators) if isinstance(operators, list) else operators


def _flops_feet(sides: Sides) -> tuple[str, ...]:
    feet = ["One multiply or one add is 1 FLOP; one multiply-add (MAC) is 2."]
    measured_sides = {side: measured for side, measured in sides.items() if measured}
    for side, measured in measured_sides.items():
        if uncounted := measured.get("uncounted"):
            calls = [f"{each['operator']} ({each['calls']} calls)" for each in uncounted]
            feet.append(f"{side}: NOT COUNTED, no formula is known: {joined(calls, 10)}. Its total is a lower bound.")
        if outside := measured.get("outside"):
            times = "once" if outside == 1 else f"{outside} times"
            feet.append(f"{side}: NOT COUNTED, numbers came {times} from where no operator is seen: numpy, Python or another thread made "
                        "them. Its total is a lower bound.")
    counted = [side for side, measured in measured_sides.items() if not (measured.get("uncounted") or measured.get("outside"))]
    if counted:
        feet.append(f"Every operator was counted: {joined(counted)}.")
    feet += [
        f"{side}: counted during a real run, since it reads values on the host." for side, measured in measured_sides.items()
        if measured.get("method", "meta") != "meta"
    ]
    for side, measured in measured_sides.items():
        if discarded := measured.get("discarded"):
            wasted = sum(each["matmul_flops"] or 0 for each in discarded)
            named = joined(list(dict.fromkeys(f"{each['operator']} in {each['component']}" for each in discarded)))
            feet.append(f"{side}: nothing reads the results of {named}; they take {wasted:,} matmul and conv FLOPs.")
    return tuple(feet)


def _operators_table(sides: Sides, totals: Mapping[str, int | None], reference: str, shown: dict, everything: bool) -> Table:
    parts: dict[str, dict[str, int]] = {}
    extra: dict[str, dict[str, Any]] = {}
    for side, measured in sides.items():
        operators = measured["operators"] if measured else []
        for each in operators:
            if everything or each["matmul_flops"]:
                parts.setdefault(side, {})[each["operator"]] = each["matmul_flops"]
                extra.setdefault(each["operator"], {}).update({"category": each["category"], f"calls {side}": each["calls"]})
    first = tuple(Column(f"calls {side}") for side in totals)
    first = (Column("category", text=True), *first) if everything else first
    title = "Every operator" if everything else "Matmul and conv FLOPs by operator"
    return side_by_side("flops_operators", title, "operator", parts, totals, reference, first=first, extra=extra, **shown)


def _second_tier_table(sides: Sides, reference: str) -> Table | None:
    parts = {side: measured["second_tier"] if measured else {} for side, measured in sides.items()}
    if not any(parts.values()):
        return None
    totals = {side: measured and measured["second_tier_flops"] for side, measured in sides.items()}
    scale, unit = flop_unit(totals)
    rules: dict[str, dict[str, Any]] = {}
    for measured in sides.values():
        for category, rule in (measured["coefficients"] if measured else {}).items():
            rules[category] = {"rule": rule}
    return side_by_side(
        "flops_second_tier", "FLOPs of all other operators, not in the headline", "category", parts, totals, reference, unit=unit,
        scale=scale, digits=3 if scale > 1 else 0, first=(Column("rule", "counted as", text=True),), extra=rules,
    )


def _cross_checks_table(sides: Sides, shown: dict) -> Table | None:
    checks = [(side, check) for side, measured in sides.items() if measured for check in measured.get("cross_checks") or []]
    if not checks:
        return None
    keys = ("counter", "version", "as_flops", "ratio", "unit")
    rows = [{"architecture": side, **{key: check.get(key) for key in keys}} for side, check in checks]
    columns = (
        Column("architecture", text=True), Column("counter", text=True), Column("version", text=True),
        Column("unit", "it counts", text=True), Column("as_flops", "as FLOPs", shown["unit"], "", shown["digits"], shown["scale"]),
        Column("ratio", "of ours", digits=4),
    )
    feet = [_check_sentence(side, check) for side, check in checks]
    return Table("flops_cross_checks", "What other counters say", columns, tuple(rows), tuple(filter(None, feet)))


def _explained_table(sides: Sides) -> Table | None:
    """From our total to each counter's, difference by difference; `rest` is what none of them explains."""
    rows = []
    for side, measured in sides.items():
        for check in (measured or {}).get("cross_checks") or []:
            if check.get("as_flops") is None or "differences" not in check:
                continue
            explained = [each for each in check["differences"] if each["where"] != UNEXPLAINED]
            rest = check["as_flops"] - measured["matmul_flops"] - sum(each["flops"] for each in explained)
            path = [("ours", measured["matmul_flops"], "")] + [(each["where"], each["flops"], each["why"]) for each in explained]
            path += [("rest", rest, ""), (f"{check['counter']} says", check["as_flops"], "")]
            about = {"architecture": side, "counter": check["counter"]}
            rows += [{**about, "where": where, "flops": flops, "why": why} for where, flops, why in path]
    if not rows:
        return None
    columns = (
        Column("architecture", text=True), Column("counter", text=True), Column("where", "operator or module type", text=True),
        Column("flops", "FLOP"), Column("why", text=True),
    )
    return Table("flops_explained", "From our FLOPs to what other counters say", columns, tuple(rows))


def _check_sentence(side: str, check: Mapping[str, Any]) -> str:
    """'fvcore on original: missed aten::bmm; it has no formula for it.'; nothing where there is nothing to explain."""
    missed = f"missed {joined(check['missed'], 10)}" if check.get("missed") else ""
    said = check.get("why") if not check.get("differences") else ""  # else they have a table of their own
    said = "; ".join(filter(None, (missed, said)))
    return f"{check['counter']} on {side}: {said}" if said else ""


def flops_data(sides: Sides, reasons: Reasons, reference: str) -> Table:
    """Rows 'component: encoder', 'operator: aten.mm', 'total'; matmul FLOPs with ratios, then second-tier FLOPs."""
    groups = []
    for suffix, key in (("", "matmul_flops"), ("_second_tier", "second_tier_flops")):
        parts: dict[str, dict[str, int]] = {}
        for side, measured in sides.items():
            parts[side] = {}
            if measured:
                parts[side].update({f"{COMPONENT}{part}": each[key] for part, each in measured["components"].items()})
                parts[side].update({f"{OPERATOR}{each['operator']}": each[key] for each in measured["operators"]})
                parts[side]["total"] = measured[key]
        groups.append((suffix, total_last(parts)))
    return data_side_by_side("flops", "part", groups, reference, reasons)

"""The tables of the exact measures: parameters, FLOPs and memory, by architecture, by component and by operator.

Each function takes `sides`: architecture name -> what its record measured, or None where the measurement failed, in the order they
were asked for. One table a question; the data tables hold the same numbers unscaled for CSV.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from humar_bench.table import MIB, Column, Table, fewer, joined, less, ratio

Sides = Mapping[str, Mapping[str, Any] | None]
Reasons = Mapping[str, str]  # architecture -> why it failed
Parts = Mapping[str, Mapping[str, int]]  # architecture -> component or operator -> amount

MOST_ALIVE = 5
MOST_OF_PYTHON, MOST_OF_SYSTEM = 2**20, 32 * 2**20  # bytes that any forward may take beside its tensors, and nobody asks about
UNEXPLAINED = "(total)"  # measures.counters.REST
COMPONENT, OPERATOR = "component: ", "operator: "
FLOP_UNITS = ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1e3, "kFLOP"), (1, "FLOP"))


def flop_unit(values: Mapping[str, int | None] | list[int | None]) -> tuple[float, str]:
    """Scale and unit that fit the largest value: 2.9e11 -> (1e9, 'GFLOP')."""
    amounts = [value for value in (values.values() if isinstance(values, Mapping) else values) if value]
    largest = max(amounts, default=0)
    return next(((scale, unit) for scale, unit in FLOP_UNITS if largest >= 2 * scale), FLOP_UNITS[-1])


def parameter_unit(sides: Sides) -> tuple[str, str, float, int]:
    """Heading, field, scale and digits of a count of parameters: in millions where the largest has 100,000."""
    largest = max((measured["total"] for measured in sides.values() if measured), default=0)
    return ("parameters", "total", 1, 0) if 0 < largest < 100_000 else ("parameters [M]", "total", 1e6, 2)


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


# Parameters


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
    return data_side_by_side("params", "component", [("", _total_last(parts))], reference, reasons)


def _total_last(parts: Parts) -> dict[str, dict[str, int]]:
    """The same parts in one order for all sides: every component first, then the total."""
    order = [part for part in dict.fromkeys(part for side in parts.values() for part in side) if part != "total"]
    order.sort(key=lambda part: part.startswith(OPERATOR))  # components first; otherwise as they came
    first = next(iter(parts), None)
    ordered = {side: {part: amounts[part] for part in (*order, "total") if part in amounts} for side, amounts in parts.items()}
    if first is not None:  # the first side fixes the row order, so it names every part
        ordered[first] = {part: ordered[first].get(part) for part in (*order, "total")}
    return ordered


# FLOPs


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
        groups.append((suffix, _total_last(parts)))
    return data_side_by_side("flops", "part", groups, reference, reasons)


# Memory

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

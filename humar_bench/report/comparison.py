"""Records -> tables against a named reference: what the candidate buys, in words, with how sure we are. No torch, no printing.

Everything here is a function of the records alone, so that every table can be made again from the file, byte for byte.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING, Any

from humar_bench.args import BEST_FORMS, BUILT_IN, EFFICIENT_PREFIX, FREE, WORKLOADS
from humar_bench.errors import UsageError
from humar_bench.judging.oddities import busy_share
from humar_bench.judging.speeds import Speeds, read_speeds, reason_of
from humar_bench.records.record import (
    ALL_MEASURES,
    COMPONENT_TIME,
    END_TO_END,
    TRAINING,
    Record,
    Run,
    defaults_then,
    other_machine,
)
from humar_bench.report.breakdown import Reasons, Sides
from humar_bench.report.component_table import component_time_data, component_time_tables
from humar_bench.report.flops_table import flop_unit, flops_data, flops_tables, incomplete
from humar_bench.report.memory_table import memory_data, memory_tables
from humar_bench.report.params_table import parameter_unit, params_data, params_tables
from humar_bench.report.pipeline_table import end_to_end_data, end_to_end_tables
from humar_bench.report.share_table import Shares, read_shares
from humar_bench.report.speed_table import fps_data, fps_table
from humar_bench.report.work_text import work_text
from humar_bench.table import MIB, SUMMARY, Column, Table, fewer, joined, less, percent, ratio

if TYPE_CHECKING:
    import pandas

DEFAULTS = "default arguments"
# How conditions begin that no figure may stand without.
ESSENTIAL = ("Workload", "Scaled down", "Measured on", "Busy machine", "These records")


@dataclass(frozen=True)
class Comparison:
    """One run held against one of its architectures. `sides` holds, per measure, what each architecture's record measured; `best` is the
    reference's best form where that was measured too, and '' where not: the summary holds every other architecture against both."""

    run: Run
    reference: str
    architectures: tuple[str, ...]
    sides: Mapping[str, Sides]
    reasons: Mapping[str, Reasons]
    speeds: Speeds
    all_operators: bool = False
    best: str = ""

    @property
    def measures(self) -> tuple[str, ...]:
        return tuple(measure for measure in ALL_MEASURES if measure in self.sides)

    @property
    def summarised(self) -> bool:
        """Whether there is more to sum up than one table says."""
        return len(set(self.measures) - {COMPONENT_TIME, END_TO_END}) > 1

    @property
    def failures(self) -> tuple[str, ...]:
        """One sentence for each measurement that failed."""
        return tuple(
            f"{measure} of {side} failed: {reason}" for measure in self.measures for side, reason in self.reasons[measure].items()
        )

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """For people: the summary where there is more than one measure, then each measure's tables."""
        make = {
            "params": params_tables,
            "flops": lambda *given: flops_tables(*given, all_operators=self.all_operators),
            "memory": memory_tables,
            "fps": lambda sides, reasons, reference: [fps_table(self.speeds, reference)],
            COMPONENT_TIME: lambda *given: [*component_time_tables(*given), *self.shares.tables], END_TO_END: end_to_end_tables,
        }
        tables = [table for name in self.measures for table in make[name](self.sides[name], self.reasons[name], self.reference)]
        tables = in_items(tables, self.run[0].workload)
        return (summary_table(self), *tables) if self.summarised else tuple(tables)

    @cached_property
    def data(self) -> dict[str, Table]:
        """For programs: one table a measure, values unscaled."""
        make = {
            "params": params_data, "flops": flops_data, "memory": memory_data,
            "fps": lambda sides, reasons, reference: fps_data(self.speeds, reference), COMPONENT_TIME: component_time_data,
            END_TO_END: end_to_end_data,
        }
        return {name: make[name](self.sides[name], self.reasons[name], self.reference) for name in self.measures}

    @cached_property
    def best_speeds(self) -> Speeds:
        """Verdicts against the reference's best form; empty where that was not timed."""
        if not self.best or self.best not in self.speeds:
            return Speeds({})
        return read_speeds(self.run.select(measure="fps"), self.best, self.architectures)

    @cached_property
    def shares(self) -> Shares:
        """What the transformer is of the whole model; without rows for a transformer alone."""
        whole = COMPONENT_TIME in self.sides and self.run[0].workload.get("subject") == "uniphd"
        return read_shares(self.sides[COMPONENT_TIME] if whole else {}, self.speeds, self.reference)

    @property
    def essentials(self) -> tuple[str, ...]:
        """The lines of `conditions` that no figure may stand without: the work and the machine."""
        return tuple(line for line in self.conditions if line.startswith(ESSENTIAL))

    @cached_property
    def conditions(self) -> tuple[str, ...]:
        """What the numbers hold for: work, arguments, what each architecture made of them, machine, command."""
        return tuple(_conditions(self.run))

    def to_pandas(self) -> pandas.DataFrame:
        """One row an architecture: its headline numbers and, against the reference, their ratios (reference / architecture)."""
        import pandas

        rows = {side: self._headline(side) for side in self.architectures}
        frame = pandas.DataFrame.from_dict(rows, orient="index")
        frame.index.name = "architecture"
        return frame

    def _headline(self, side: str) -> dict[str, Any]:
        row: dict[str, Any] = {}
        for measure, key, name in _HEADLINES:
            if measure in self.sides:
                values = {each: (measured or {}).get(key) for each, measured in self.sides[measure].items()}
                row[name] = values.get(side)
                row[f"{name}_ratio"] = ratio(values.get(self.reference), values.get(side))
        if "fps" in self.sides:
            speed = self.speeds[side]
            row |= {key: getattr(speed, key) for key in ("fps", "median_s", "ratio", "ratio_low", "ratio_high", "verdict")}
        row["failed"] = "; ".join(self.reasons[measure][side] for measure in self.measures if side in self.reasons[measure])
        return row


_HEADLINES = (
    ("params", "total", "parameters"), ("flops", "matmul_flops", "matmul_flops"), ("memory", "weights_bytes", "weights_bytes"),
    ("memory", "peak_bytes", "peak_bytes"),
)


def compare(run: Run | Iterable[Record], reference: str | None = None, *, all_operators: bool = False) -> Comparison:
    """Hold every architecture of a run against `reference` (the first by default: original where it was measured).

    Raises UsageError when the run is empty, lacks the reference, or mixes workloads or arguments, which one table cannot show.
    """
    run = run if isinstance(run, Run) else Run(tuple(run))
    if not len(run):
        raise UsageError("the run holds no record; measure something first.")
    names = _in_order(run)
    reference = names[0] if reference is None else reference
    if reference not in names:
        raise UsageError(f"reference is {reference!r}; the run measured {', '.join(names)}.")
    names = tuple(sorted(names, key=lambda name: name != reference))
    _refuse_mixture(run)
    sides: dict[str, dict[str, Any]] = {}
    reasons: dict[str, dict[str, str]] = {}
    for measure in ALL_MEASURES:
        chosen = run.select(measure=measure)
        if not len(chosen):
            continue
        latest = {name: list(chosen.select(architecture=name))[-1:] for name in chosen.architectures}
        sides[measure] = {name: latest[name][0].measured for name in names if latest.get(name)}
        reasons[measure] = {name: reason_of(records[0]) for name, records in latest.items() if not records[0].ok}
    speeds = read_speeds(run.select(measure="fps"), reference, names) if "fps" in sides else Speeds({})
    if "fps" in sides:
        reasons["fps"] = {name: speed.reason for name, speed in speeds.items() if speed.failed}
    specs = {record.architecture: record.spec for record in run}
    best = next((name for name in names if specs[name] == BEST_FORMS.get(specs[reference])), "")
    return Comparison(run, reference, names, sides, reasons, speeds, all_operators, best)


def _in_order(run: Run) -> tuple[str, ...]:
    """The built-in architectures first, then as they came: two that were measured side by side come in either order."""
    specs = {record.architecture: record.spec for record in run}
    known = list(BUILT_IN)
    base = {name: spec.partition("[")[0] for name, spec in specs.items()}
    return tuple(sorted(run.architectures, key=lambda name: known.index(base[name]) if base[name] in known else len(known)))


def _refuse_mixture(run: Run) -> None:
    """One table shows one workload and one set of arguments, and each measure one device, number type and backend."""
    for record in run:
        first = run.select(measure=record.measure)[0]
        held = (
            (run[0].workload, record.workload), (run[0].asked, record.asked),
            *(({name: first.asked_run(name)}, {name: record.asked_run(name)}) for name in ("device", "dtype", "backend")),
        )
        for one, other in held:
            for key in {**one, **other}:
                if one.get(key) != other.get(key):
                    raise UsageError(
                        f"the run mixes measurements with {key} {one.get(key)} and {other.get(key)}; keep them in files of their own."
                    )


def summary_table(comparison: Comparison) -> Table:
    """The first screen: one row a quantity, one column an architecture, and what the candidate buys against the reference and, where it was
    measured, its best form."""
    names, best = comparison.architectures, comparison.best
    pairs = [(side, comparison.reference) for side in names if side != comparison.reference]
    pairs += [(side, best) for side in names if best and side not in (comparison.reference, best)]
    rows = []
    for measure, heading, key, scale, digits, words in _summary_rows(comparison):
        if measure not in comparison.sides:
            continue
        values = _summary_values(comparison, measure, key)
        column = Column(key, digits=digits, scale=scale)
        row = {"quantity": heading}
        for side in names:
            failed = side in comparison.reasons[measure]
            row[f"={side}"] = "failed" if failed and values.get(side) is None else column.show(values.get(side))
        for side, reference in pairs:
            row[_pair_key(side, reference, best)] = _said(comparison, measure, key, words, values, side, reference)
        rows.append(row)
    columns = [Column("quantity", "", text=True)] + [Column(f"={side}", side) for side in names]
    columns += [Column(_pair_key(side, other, best), f"{side} against {other}", text=True) for side, other in pairs]
    return Table(SUMMARY, "Summary", tuple(columns), tuple(rows), comparison.failures)


def _summary_values(comparison: Comparison, measure: str, key: str) -> dict[str, Any]:
    if measure == "fps":
        return {side: getattr(speed, key) for side, speed in comparison.speeds.items()}
    return {side: (measured or {}).get(key) for side, measured in comparison.sides[measure].items()}


def _pair_key(side: str, reference: str, best: str) -> str:
    return f"~{side}" if reference != best else f"~{side} against its best form"


def _said(
    comparison: Comparison, measure: str, key: str, words: Callable[..., str] | None, values: Mapping[str, Any], side: str, reference: str
) -> str:
    """How one architecture compares with a reference, in words."""
    if measure == "fps":
        speeds = comparison.best_speeds if reference == comparison.best else comparison.speeds
        return speeds[side].words if key == "fps" and side in speeds else ""
    if side not in values:
        return ""
    counted = incomplete(comparison.sides["flops"], reference, side) if measure == "flops" else ""
    return words(values.get(reference), values[side]) + counted


def _summary_rows(comparison: Comparison) -> list[tuple]:
    flops = comparison.sides.get("flops", {})
    scale, unit = flop_unit([(measured or {}).get("matmul_flops") for measured in flops.values()])
    work = comparison.run[0].workload
    what = "item" if work.get("subject") == FREE else "image"
    images = f"{work['batch']} {what}{'s' if work['batch'] > 1 else ''}"
    return [
        ("params", *parameter_unit(comparison.sides.get("params", {})), fewer),
        ("flops", f"matmul and conv, {images} [{unit}]", "matmul_flops", scale, 2, fewer),
        ("fps", f"speed [{what}s/s]", "fps", 1, 2, None),
        ("fps", f"median of one forward, {images} [ms]", "median_s", 1e-3, 2, None),
        ("memory", "weights [MiB]", "weights_bytes", MIB, 2, less),
        ("memory", "peak above weights and inputs [MiB]", "peak_bytes", MIB, 2, less),
    ]


_OF_ITEMS = {"images/s": "items/s", "J/image": "J/item", "per image": "per item"}


def in_items(tables: Iterable[Table], work: Mapping[str, Any]) -> list[Table]:
    """The tables, those of models that may be given anything without a word of images."""
    if work.get("subject") != FREE:
        return list(tables)
    return [
        dataclasses.replace(table, columns=tuple(
            dataclasses.replace(each, title=_OF_ITEMS.get(each.title, each.title), unit=_OF_ITEMS.get(each.unit, each.unit))
            for each in table.columns
        )) for table in tables
    ]


def records_table(run: Run) -> Table:
    """One row a record, whatever work they are of: what is known of a run that could not go on."""
    units = {"params": ("total", "parameters"), "flops": ("matmul_flops", "FLOPs"), "memory": ("peak_bytes", "bytes at the peak")}
    rows = []
    for record in run:
        measured = record.measured or {}
        key, unit = units.get(record.measure, ("", ""))
        found = f"{measured[key]:,} {unit}" if key in measured else ""
        if record.measure == "fps" and measured.get("wall_s"):
            found = f"{1e3 * median(measured['wall_s']):.3f} ms, median of {len(measured['wall_s'])}"
        if record.measure == TRAINING and measured.get("curve"):
            found = f"AP {measured['curve'][-1]['ap']:.3f} after {measured['pictures']:,} pictures"
        rows.append({
            "measure": record.measure, "architecture": record.architecture, "process": record.process,
            "found": found if record.ok else f"failed: {reason_of(record)}", "work": work_text(record.workload) if record.workload else "",
        })
    columns = tuple(Column(key, text=key != "process") for key in ("measure", "architecture", "process", "found", "work"))
    return Table("records", "What was measured", columns, tuple(rows))


# What the numbers hold for


def _conditions(run: Run) -> Iterable[str]:
    first = run[0]
    work = first.workload
    yield work_text(work)
    if work["name"] in WORKLOADS and work["batch"] < (own := WORKLOADS[work["name"]]().batch):
        yield f"Scaled down: batch {work['batch']} instead of the workload's own {own}; --batch {own} measures it whole."
    yield from asked_lines(work, first.asked)
    for side in _in_order(run):
        built = next((record.built for record in run.select(architecture=side) if record.built), {})
        if built or work.get("subject") != FREE:
            yield f"{side}: {_own_parts(run, side)}{built_text(first.asked, built)}."
    for line in dict.fromkeys(environment_text(record) for record in run):
        yield line
    if share := busy_share([record.measured for record in run.select(measure="fps") if record.ok]):
        yield (
            f"Busy machine: other work took {percent(share)} of its cores while speed was measured; threads that wait for each other then "
            "cost more, small models most. Measure again when it is quiet."
        )
    known = [record for record in run if record.environment]
    if mixed := dict.fromkeys(found[0] for record in known[1:] if (found := other_machine(known[0], record))):
        yield f"These records are of different machines or versions: they differ in {', '.join(mixed)}."
    yield from made_by(run)
    yield from run.notes


def _own_parts(run: Run, side: str) -> str:
    """'parts of its own: masks best; ' for an architecture that was asked for with some."""
    spec = run.select(architecture=side)[0].spec
    inside = spec.removesuffix("]").rpartition("[")[2] if spec.endswith("]") else ""
    return f"parts of its own: {inside.replace('=', ' ').replace(',', ', ').replace('_encoder', ' encoder')}; " if inside else ""


def failures_of(run: Run) -> tuple[str, ...]:
    """One sentence for each measurement that failed."""
    return tuple(dict.fromkeys(f"{each.measure} of {each.architecture} failed: {reason_of(each)}" for each in run if not each.ok))


def made_by(records: Iterable[Record]) -> list[str]:
    """The commands that made records, each once."""
    return [f"Made by: {command}" for command in dict.fromkeys(record.command for record in records if record.command)]


def asked_lines(work: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """What was asked of architectures on this work; nothing where arguments are only for who asks for them and are as always."""
    said = asked_text(asked)
    return [] if work.get("subject") == FREE and said == DEFAULTS else [f"Asked: {said}."]


def asked_text(asked: Mapping[str, Any]) -> str:
    """The arguments that are not defaults, or were none when they were asked."""
    defaults = defaults_then(asked)
    changed = [f"{name}={value}" for name, value in asked.items() if defaults.get(name) != value]
    return f"{', '.join(changed)}, all else default" if changed else DEFAULTS


def built_text(asked: Mapping[str, Any], built: Mapping[str, Any]) -> str:
    """What an architecture made of the shared arguments: which it fixed, which it does not use, what it adds."""
    if not built:
        return "does not say what it made of the arguments"
    fixed = [f"{name} {built[name]} (asked {asked[name]})" for name in built if name in asked and built[name] != asked[name]]
    shared = [name for name in asked if not name.startswith(EFFICIENT_PREFIX)]
    ignored = list(dict.fromkeys([*built.get("ignored", ()), *(name for name in shared if name not in built)]))
    own = [f"{name} {value}" for name, value in built.items() if name.startswith(EFFICIENT_PREFIX) or name not in (*asked, "ignored")]
    said = [
        f"{word} {joined(names, 30)}"
        for word, names in (("fixes", fixed), ("does not use", ignored), ("has of its own", own)) if names
    ]
    return "; ".join(said) or "built as asked"


def environment_text(record: Record) -> str:
    """The machine in one sentence, from the record alone."""
    facts, run = record.environment, record.run
    commit = facts.get("commit")
    source = f"commit {commit[:12]}{' with local changes' if facts.get('dirty') else ''}" if commit else ""
    backend = f"backend {run['backend']}" if record.measure == "fps" and record.asked_run("backend") != "eager" else ""
    said = [
        facts.get("device_label") or facts.get("cpu"),
        f"driver {facts['driver']}" if facts.get("driver") else "",
        f"{facts['threads']} of {facts['cores']} cores" if facts.get("threads") and facts.get("cores") else "",
        run.get("dtype", ""), backend, f"torch {facts['torch']}" if facts.get("torch") else "",
        f"Python {facts['python']}" if facts.get("python") else "", source,
    ]
    return f"Measured on: {', '.join(filter(None, said)) or 'a machine that was not recorded'}."

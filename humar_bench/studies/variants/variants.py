"""`humar-bench variants`: every backbone with every text encoder around every transformer, counted exactly and, as far as a budget
reaches, timed.

A row is a whole model. The parts are counted once, in one child process (`parts.py`); the records are those that `--whole` would give.
Times are of comparisons in turn (`timing.py`).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from humar_bench.args import BACKBONES, TEXT_ENCODERS, WholeWorkload
from humar_bench.errors import UsageError
from humar_bench.judging.speeds import Speed, Speeds, read_speeds
from humar_bench.records.record import Record, Run
from humar_bench.report.comparison import asked_text, environment_text, failures_of, made_by
from humar_bench.report.flops_table import flop_unit
from humar_bench.report.plot import Panel, Plot, Series
from humar_bench.running.costs import Point, Progress, exact_records
from humar_bench.running.plan import Plan
from humar_bench.studies.variants.timing import arm_of, name_of, time_variants
from humar_bench.subjects.sources import child_command
from humar_bench.table import MIB, Column, Table, ratio, times

FORMAT = 1  # of the JSON document. 1: rows, parts, conditions, failures
PROGRAM = child_command("humar_bench.studies.variants.worker")
COSTS = ("parameters", "matmul_flops", "peak_bytes")  # what the Pareto front is of: less is better in each
OFF = 0.05  # a published number that is further than this from the counted one is named
COUNTING_SHARE = 0.3  # of the progress bar, where times follow
INSIDE = "transformer"  # components of the transformer are called "transformer: ..."
# What the published tables say a part has, in parameters: of HuMAR, its table of backbones and text encoders, and its description.
PUBLISHED = {"segformer_mit_b0": 3.7e6, "segformer_mit_b1": 13.7e6, "tite": 1e6, "original": 27e6, "efficient": 5e6}


def points_of(plan: Plan, backbones: Sequence[str], text_encoders: Sequence[str]) -> list[Point]:
    """One point a variant. An empty list of names means all. Raises UsageError for a name that does not exist, or stands twice."""
    if not isinstance(plan.workload, WholeWorkload):
        raise UsageError(f"the workload {plan.workload.name} is of a transformer alone; variants are of the whole model.")
    if own := next((each for each in plan.architectures if each.settings), None):
        raise UsageError(f"{own.name} has parts of its own, and variants go through all of them; leave out its brackets.")
    for flag, names, known in (("--backbone", backbones, BACKBONES), ("--text-encoder", text_encoders, TEXT_ENCODERS)):
        for name in names:
            if name not in known:
                raise UsageError(f"{flag} is {name!r}; choose from {', '.join(known)}.")
            if list(names).count(name) > 1:
                raise UsageError(f"{flag} names {name} twice; name it once.")
    return [
        Point(each, plan.args, dataclasses.replace(plan.workload, backbone=backbone, text_encoder=text))
        for each in plan.architectures for backbone in backbones or BACKBONES for text in text_encoders or TEXT_ENCODERS
    ]


def measure_variants(
    plan: Plan, backbones: Sequence[str] = (), text_encoders: Sequence[str] = (), *, most: float | None = None, timed: bool = False,
    budget_s: float = 120.0, done: Run | None = None, sink: Any = None, progress: Progress = lambda share, text: None, command: str = "",
    exact: Callable[..., list[Record]] = exact_records, bench: Callable[..., Run] | None = None,
    now: Callable[[], float] = time.monotonic,
) -> Variants:
    """Count every variant, then time those that `budget_s` reaches; `most` is the most million parameters that a row may have.

    Raises UsageError.
    """
    points, counting = points_of(plan, backbones, text_encoders), COUNTING_SHARE if timed else 1.0
    records = exact(
        points, plan.run, done=done, keep=sink.write if sink is not None else lambda *made: None,
        progress=lambda share, text: progress(counting * share, text), command=command, program=PROGRAM,
    )
    counted = Variants(Run(tuple(records)), most)
    if not timed:
        return counted
    flops = {_row_name(row): row["matmul_flops"] for row in counted.rows if "matmul_flops" in row}
    speeds = time_variants(
        plan, [each for each in points if arm_of(each).name in flops], flops, budget_s, done=done or Run(), sink=sink, command=command,
        bench=bench, now=now, progress=lambda share, text: progress(counting + (1 - counting) * share, text),
    )
    return Variants(Run((*records, *speeds)), most, min(flops, key=flops.get) if speeds else "")


def _row_name(row: Mapping[str, Any]) -> str:
    return name_of(row["backbone"], row["text_encoder"], row["transformer"])


@dataclass(frozen=True)
class Variants:
    """The records of all variants, and what follows from them."""

    run: Run
    most: float | None = None
    reference: str = ""  # the variant that ratios of time are against
    name: ClassVar[str] = "variants"

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"most": self.most, "reference": self.reference}

    @cached_property
    def comparisons(self) -> tuple[Speeds, ...]:
        """One for each seed that variants were timed with."""
        timed = self.run.select(measure="fps")
        seeds = dict.fromkeys(record.asked_run("seed") for record in timed)
        groups = [Run(tuple(record for record in timed if record.asked_run("seed") == seed)) for seed in seeds]
        return tuple(read_speeds(group, self.reference, group.architectures) for group in groups if self.reference in group.architectures)

    @cached_property
    def speeds(self) -> Mapping[str, Speed]:
        """Every timed variant's; the reference's is of its first comparison."""
        found: dict[str, Speed] = {}
        for group in self.comparisons:
            for name, speed in group.items():
                found.setdefault(name, speed)
        return found

    @cached_property
    def _all(self) -> tuple[dict[str, Any], ...]:
        found: dict[tuple[str, str, str], dict[str, Any]] = {}
        for record in self.run:
            if record.measure == "fps":  # of a variant as an architecture with parts of its own
                continue
            names = (record.workload["backbone"], record.workload["text_encoder"], record.architecture)
            row = found.setdefault(names, dict(zip(("backbone", "text_encoder", "transformer"), names, strict=True)))
            if not record.ok:
                row["reason"] = record.reason
            elif record.measure == "params":
                row |= {"parameters": record.measured["total"]}
            elif record.measure == "flops":
                row |= {"matmul_flops": record.measured["matmul_flops"]}
            elif record.measure == "memory":
                row |= {key: record.measured[key] for key in ("weights_bytes", "peak_bytes", "peak_component")}
        return tuple(found.values())

    @cached_property
    def rows(self) -> tuple[dict[str, Any], ...]:
        """One row a variant, the one with the fewest parameters first; `pareto` marks those that no other one beats."""
        fit = [row for row in self._all if self.most is None or row.get("parameters", 0) <= 1e6 * self.most]
        counted = [row for row in fit if all(key in row for key in COSTS)]
        front = pareto_front([tuple(row[key] for key in COSTS) for row in counted])
        rows = [{**row, **self._time(row), "pareto": "front" if best else ""} for row, best in zip(counted, front, strict=True)]
        timed = [row for row in rows if "median_s" in row]
        for row, best in zip(timed, pareto_front([tuple(row[key] for key in TIMED_COSTS) for row in timed]), strict=True):
            row["pareto_timed"] = "front" if best else ""
        rows.sort(key=lambda row: tuple(row[key] for key in COSTS))
        return (*rows, *({**row, "pareto": ""} for row in fit if row not in counted))

    def _time(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What timing said of a variant; nothing where it was not timed."""
        speed = self.speeds.get(_row_name(row))
        if speed is None or speed.median_s is None:
            return {}
        found = {key: getattr(speed, key) for key in ("median_s", "fps", "processes")}
        if speed.architecture == self.reference or speed.ratio is None:
            return {**found, "time_ratio": 1.0 if speed.architecture == self.reference else None}
        ends = (None, None) if speed.ratio_low is None else (1 / speed.ratio_high, 1 / speed.ratio_low)
        return {**found, "time_ratio": 1 / speed.ratio, "time_low": ends[0], "time_high": ends[1], "verdict": speed.verdict}

    @cached_property
    def parts(self) -> tuple[dict[str, Any], ...]:
        """One row a part: what it costs in the whole model, and what was published about it."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for record in self.run:
            if record.measure not in ("params", "flops") or not record.ok:
                continue
            kinds = {"backbone": record.workload["backbone"], "text encoder": record.workload["text_encoder"], INSIDE: record.architecture}
            for kind, name in kinds.items():
                row = found.setdefault((kind, name), {"kind": kind, "part": name, "published": PUBLISHED.get(name)})
                amounts = record.measured["components"]
                inside = [each for part, each in amounts.items() if part.startswith(INSIDE)] if kind == INSIDE else [amounts.get(kind)]
                inside += [amounts["heads"]] if kind == INSIDE else []
                if record.measure == "params":
                    row["parameters"] = sum(filter(None, inside))
                else:
                    row["matmul_flops"] = sum(each["matmul_flops"] for each in inside if each)
        for row in found.values():
            row["counted_to_published"] = ratio(row.get("parameters"), row["published"])
        order = ["backbone", "text encoder", INSIDE]
        return tuple(sorted(found.values(), key=lambda row: (order.index(row["kind"]), row.get("parameters", 0))))

    @property
    def failures(self) -> tuple[str, ...]:
        return failures_of(self.run)

    @cached_property
    def conditions(self) -> tuple[str, ...]:
        """What the numbers hold for."""
        first = self.run[0]
        work, said = first.workload, []
        tokens = f" of {work['caption_tokens']} tokens" if work["prompt"] == "text" else ""
        height, width = work["image_size"]
        said.append(
            f"Images {height}x{width}, batch {work['batch']}, {work['num_queries']} queries, prompt {work['prompt']}{tokens}, "
            f"masks {work['masks']}; EfficientFormerV2's parameters depend on the image size."
        )
        said.append(f"Asked: {asked_text(first.asked)}.")
        ran = "nothing was run" if not self.speeds else "times are of forwards that were run"
        said.append(f"Counted with torch {first.environment.get('torch', '')}; {ran}.")
        said += dict.fromkeys(environment_text(record) for record in self.run.select(measure="fps", status="ok"))
        return (*said, *made_by(self.run), *self.run.notes)

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        return (_variants_table(self), _parts_table(self))

    @cached_property
    def data(self) -> dict[str, Table]:
        timed = ("median_s", "fps", "time_ratio", "time_low", "time_high", "verdict", "processes", "pareto_timed") if self.speeds else ()
        keys = ("backbone", "text_encoder", "transformer", *COSTS, "weights_bytes", "peak_component", *timed, "pareto", "reason")
        parts = ("kind", "part", "parameters", "matmul_flops", "published", "counted_to_published")
        return {
            "variants": Table("variants", "variants", tuple(Column(key) for key in keys), self.rows),
            "parts": Table("parts", "parts", tuple(Column(key) for key in parts), self.parts),
        }

    @cached_property
    def plot(self) -> Plot:
        """Each variant as a point: time against parameters and against FLOPs or, where nothing was timed, FLOPs against parameters."""
        kinds = dict.fromkeys(row["transformer"] for row in self.rows)
        across = [("parameters", "parameters")] + ([("matmul_flops", "matmul and conv FLOPs")] if self.speeds else [])
        up, y_label = ("median_s", "seconds of one forward") if self.speeds else ("matmul_flops", "matmul and conv FLOPs")
        panels = []
        for key, label in across:
            points = {kind: sorted((row[key], row[up]) for row in self.rows if row["transformer"] == kind and key in row and up in row)
                      for kind in kinds}
            series = [Series(kind, kind, *map(tuple, zip(*own, strict=True))) for kind, own in points.items() if own]
            panels += [Panel(f"by {label}", y_label, tuple(series), x_label=label)] if series else []
        return Plot("Whole models", "", tuple(panels), scatter=True)

    @property
    def document(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "format": FORMAT, "rows": [dict(row) for row in self.rows], "parts": [dict(row) for row in self.parts],
            "environment": self.run[0].environment, "conditions": list(self.conditions), "failures": list(self.failures),
        }


def restore(run: Run, settings: Mapping[str, Any]) -> Variants:
    """The variants that a folder holds."""
    return Variants(run, settings["most"], settings.get("reference", ""))


def pareto_front(costs: Sequence[tuple[float, ...]]) -> list[bool]:
    """Which of some costs no other one beats: no more in all of them and less in one."""
    return [
        not any(other != own and all(a <= b for a, b in zip(other, own, strict=True)) for other in costs) for own in costs
    ]


def _variants_table(variants: Variants) -> Table:
    scale, unit = flop_unit([row.get("matmul_flops") for row in variants.rows])
    columns = (
        Column("backbone", text=True), Column("text_encoder", "text encoder", text=True), Column("transformer", text=True),
        Column("parameters", "parameters", "M", "less", 2, 1e6), Column("matmul_flops", "matmul and conv", unit, "less", 2, scale),
        Column("peak_bytes", "peak memory", "MiB", "less", 1, MIB), Column("peak_component", "peak in", text=True),
        Column("pareto", "Pareto", text=True), *(_TIMES if variants.speeds else ()),
    )
    rows = [{**row, "time_text": _ratio_text(row)} for row in variants.rows]
    feet = [
        "Parameters and FLOPs are counted and the peak is predicted, above weights and inputs. Pareto front: no other variant has at most "
        "as much of all three. Accuracy is no part of it."
    ]
    if variants.speeds:
        feet += _time_feet(variants)
    if hidden := len(variants._all) - len(variants.rows):
        feet.append(f"{hidden} of {len(variants._all)} variants have more than {variants.most:g} M parameters and are left out.")
    return Table("variants", "Whole models", columns, tuple(rows), (*feet, *variants.failures))


TIMED_COSTS = ("parameters", "peak_bytes", "median_s")
_TIMES = (
    Column("median_s", "one forward", "ms", "less", 1, 1e-3), Column("fps", "speed", "images/s", "more", 2),
    Column("time_text", "time, of the reference's", text=True), Column("pareto_timed", "Pareto, timed", text=True),
)


def _ratio_text(row: Mapping[str, Any]) -> str:
    """'2.10x (2.05x to 2.16x)'; nothing where it was not timed."""
    if row.get("time_ratio") is None:
        return ""
    span = "" if row.get("time_low") is None else f" ({times(row['time_low'])} to {times(row['time_high'])})"
    return f"{times(row['time_ratio'])}{span}"


def _time_feet(variants: Variants) -> list[str]:
    timed = [row for row in variants.rows if "median_s" in row]
    controls = [f"{times(group.control.detected.ratio)}" for group in variants.comparisons if group.control]
    feet = [
        f"{len(timed)} of {len(variants.rows)} variants were timed, those with the fewest FLOPs first, a few in turn beside "
        f"{variants.reference}; ratios have 95 % intervals over processes. Pareto, timed: among them, of parameters, peak memory and time."
    ]
    if controls:
        feet.append(f"Control: the reference against itself in each comparison: {', '.join(controls)}.")
    return feet


def _parts_table(variants: Variants) -> Table:
    scale, unit = flop_unit([row.get("matmul_flops") for row in variants.parts])
    columns = (
        Column("kind", text=True), Column("part", text=True), Column("parameters", "parameters", "M", "", 2, 1e6),
        Column("matmul_flops", "matmul and conv", unit, "", 2, scale), Column("published", "published", "M", "", 1, 1e6),
        Column("counted_to_published", "counted / published", digits=2),
    )
    feet = ["Transformers are counted with the heads they share with the whole model."]
    wrong = [row for row in variants.parts if row["counted_to_published"] and abs(row["counted_to_published"] - 1) > OFF]
    if wrong:
        said = (f"{row['part']} {row['published'] / 1e6:g} M for {row['parameters'] / 1e6:.3g} M" for row in wrong)
        feet.append(f"Published and counted differ by more than {100 * OFF:g} %: {', '.join(said)}.")
    return Table("parts", "Their parts, and what was published about them", columns, variants.parts, tuple(feet))

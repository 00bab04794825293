"""Records over a range of work -> exponents, tables and curves. Made from the records alone; no torch, nothing measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from humar_bench.args import FREE, ModelArgs, Workload
from humar_bench.judging.growth import CLAIMED, SOFTMAX_ATTENTION, THEORY, Order, PowerLaw, claim_holds, fit_power_law
from humar_bench.judging.speeds import reason_of
from humar_bench.records.record import Record, Run
from humar_bench.report.comparison import asked_lines, environment_text, made_by
from humar_bench.report.flops_table import flop_unit
from humar_bench.report.plot import Panel, Plot, Series
from humar_bench.report.work_text import sizes_text
from humar_bench.table import MIB, Column, Table

FORMAT = 1  # of the JSON document. 1: over, exponents, points, environment, conditions, failures


@dataclass(frozen=True)
class Axis:
    """What grows: its range when nothing is asked, and what it sets."""

    name: str
    letter: str
    title: str
    first: int
    last: int
    points: int
    whole: bool | None = None  # whether it is of the whole model alone (True), of a transformer alone (False) or of both


AXES = {
    each.name: each for each in (
        Axis("tokens", "N", "memory tokens N of one image", 1024, 32768, 6, whole=False),
        Axis("pixels", "P", "pixels P of one image, 3:4", 19_200, 307_200, 5, whole=True),
        Axis("caption", "T", "tokens T of a caption", 4, 128, 6, whole=True),
        Axis("queries", "Q", "instance queries Q", 20, 640, 6),
        Axis("batch", "B", "images B in one forward", 1, 16, 5),
        Axis("keypoints", "K", "keypoints K of an instance", 8, 128, 5),
    )
}


@dataclass(frozen=True)
class Cost:
    """One quantity: where a record holds it is `_VALUES`' business; `theory` names its order in `growth.THEORY`."""

    key: str
    title: str
    unit: str
    theory: str


COSTS = (
    Cost("parameters", "parameters", "", "parameters"), Cost("matmul_flops", "matmul and conv", "FLOP", "matmul_flops"),
    Cost("operators", "operator calls", "", "operators"), Cost("peak_bytes", "peak memory", "bytes", "peak_bytes"),
    Cost("cpu_s", "CPU time", "s", "time"), Cost("device_s", "device time", "s", "time"), Cost("wall_s", "wall time", "s", "time"),
)
TIMES = ("cpu_s", "device_s", "wall_s")
_VALUES: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "params": lambda measured: {"parameters": measured["total"]},
    "flops": lambda measured: {"matmul_flops": measured["matmul_flops"], "operators": measured["kernels"]},
    "memory": lambda measured: {"peak_bytes": measured["predicted_bytes"] or measured["peak_bytes"]},
    "fps": lambda measured: {key: float(np.median(measured[key])) for key in TIMES if measured.get(key)},
}


def where(axis: str, record: Record) -> int:
    """Where on the axis a record stands."""
    if axis == "tokens":
        return sum(height * width for height, width in record.workload["feature_sizes"])
    if axis == "keypoints":
        return record.asked["num_body_points"]
    if axis == "pixels":
        return math.prod(record.workload["image_size"])
    if axis == "caption":
        return record.workload["caption_tokens"]
    return record.workload["num_queries" if axis == "queries" else "batch"]


def place(axis: Axis, args: ModelArgs, workload: Workload) -> int:
    """Where on the axis a piece of work stands."""
    if axis.name == "tokens":
        return workload.tokens
    if axis.name == "pixels":
        return math.prod(workload.image_size)
    if axis.name == "caption":
        return workload.caption_tokens
    return args.num_body_points if axis.name == "keypoints" else getattr(workload, "num_queries" if axis.name == "queries" else "batch")


@dataclass(frozen=True)
class Fit:
    """How one cost of one architecture grows; `law` is None where too few points have it."""

    architecture: str
    spec: str
    cost: Cost
    law: PowerLaw | None


@dataclass(frozen=True)
class Scaling:
    """The records of one range, and what follows from them."""

    run: Run
    over: str
    timed: bool = True
    name: ClassVar[str] = "scaling"

    @property
    def settings(self) -> dict[str, Any]:
        return {"over": self.over, "timed": self.timed}

    @property
    def axis(self) -> Axis:
        return AXES[self.over]

    @property
    def theory(self) -> Mapping[str, Mapping[str, Order]]:
        """Orders by spec; they are of a transformer, and in the whole model it is one part of several."""
        return {} if self.run[0].workload.get("subject") else THEORY.get(self.over, {})

    @cached_property
    def specs(self) -> dict[str, str]:
        return {record.architecture: record.spec for record in self.run}

    @cached_property
    def points(self) -> dict[str, dict[int, dict[str, Any]]]:
        """Architecture -> place on the axis -> cost -> value, in ascending order."""
        points: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in self.specs}
        for record in sorted(self.run, key=lambda each: where(self.over, each)):
            costs = points[record.architecture].setdefault(where(self.over, record), {})
            if record.ok:
                costs |= _VALUES[record.measure](record.measured)
        return points

    @cached_property
    def costs(self) -> tuple[Cost, ...]:
        """Those that any point has."""
        known = {key for points in self.points.values() for costs in points.values() for key in costs}
        return tuple(cost for cost in COSTS if cost.key in known)

    @cached_property
    def fits(self) -> tuple[Fit, ...]:
        return tuple(
            Fit(name, self.specs[name], cost, fit_power_law(*self.curve(name, cost.key))) for cost in self.costs for name in self.points
        )

    def curve(self, name: str, key: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """x and y of the points that have a cost above 0."""
        known = [(x, costs[key]) for x, costs in self.points[name].items() if costs.get(key)]
        return tuple(x for x, _ in known), tuple(y for _, y in known)

    def law(self, architecture: str, key: str) -> PowerLaw | None:
        return next((each.law for each in self.fits if each.architecture == architecture and each.cost.key == key), None)

    @property
    def failures(self) -> tuple[str, ...]:
        """One sentence for each measurement that failed."""
        return tuple(
            f"{each.measure} of {each.architecture} at {where(self.over, each):,} {self.over} failed: {reason_of(each)}"
            for each in self.run if not each.ok
        )

    @property
    def untimed(self) -> dict[str, list[int]]:
        """Architecture -> points that the budget did not reach."""
        tried = {(each.architecture, where(self.over, each)) for each in self.run if each.measure == "fps"}
        left = {name: [x for x in points if (name, x) not in tried] for name, points in self.points.items()} if self.timed else {}
        return {name: points for name, points in left.items() if points}

    @property
    def conditions(self) -> tuple[str, ...]:
        """What the numbers hold for."""
        first = self.run[0]
        work, fixed = first.workload, []
        if self.over != "batch":
            fixed.append(f"batch {work['batch']}")
        free, levels = work.get("subject") == FREE, len(work["feature_sizes"])
        if self.over != "queries" and not free:
            fixed.append(f"{work['num_queries']} queries")
        if free:
            fixed.append(f"inputs of {work['inputs']}")
        elif work.get("subject") == "uniphd":
            fixed.append(_whole_fixed(work, self.over))
        elif self.over == "tokens":
            fixed.append(f"square pyramids of {levels} levels" if levels > 1 else "one square map")
        else:
            fixed.append(f"feature maps {sizes_text(work)}")
        asked = {**first.asked, "num_queries": ModelArgs().num_queries, "num_body_points": ModelArgs().num_body_points}
        timed = next((each for each in self.run if each.measure == "fps" and each.environment), None)
        said = [f"Held fixed: {', '.join(fixed)}.", *asked_lines(work, asked)]
        said += [environment_text(timed)] if timed else [f"Counted with torch {first.environment.get('torch', '')}; nothing was run."]
        return (*said, *made_by(self.run), *self.run.notes)

    # For people and programs ------------------------------------------------------------------------------------------------------

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        return exponents_table(self), points_table(self)

    @cached_property
    def data(self) -> dict[str, Table]:
        return {"exponents": exponents_data(self), "points": points_data(self)}

    @property
    def document(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "format": FORMAT, "over": self.over, "exponents": [dict(row) for row in self.data["exponents"].rows],
            "points": [dict(row) for row in self.data["points"].rows], "environment": self.run[0].environment,
            "conditions": list(self.conditions), "failures": list(self.failures),
        }

    @property
    def plot(self) -> Plot:
        return plot_of(self)


def _whole_fixed(work: Mapping[str, Any], over: str) -> str:
    """What of the whole model does not grow."""
    height, width = work["image_size"]
    image = "" if over == "pixels" else f"images {height}x{width}, "
    tokens = "" if over == "caption" or work["prompt"] != "text" else f" of {work['caption_tokens']} tokens"
    parts = f"backbone {work['backbone']}, text encoder {work['text_encoder']}"
    return f"{image}{parts}, prompt {work['prompt']}{tokens}, masks {work['masks']}"


def restore(run: Run, settings: Mapping[str, Any]) -> Scaling:
    """The scaling that a folder holds."""
    return Scaling(run, settings["over"], settings["timed"])


def exponents_table(scaling: Scaling) -> Table:
    letter = scaling.axis.letter
    rows = []
    for row in exponents_data(scaling).rows:
        interval = f"{_calm(row['low']):.3f} to {_calm(row['high']):.3f}" if row["low"] is not None else ""
        rows.append({**row, "interval": interval, **{key: _calm(row[key]) for key in ("exponent", "last")}})
    columns = (
        Column("cost", text=True), Column("architecture", text=True), Column("exponent", f"grows as {letter}^", digits=3),
        Column("interval", "95 % interval", text=True), Column("last", "at the largest pair", digits=3), Column("points"),
        Column("theory", "in theory", text=True), Column("published", text=True),
    )
    used = tuple(column for column in columns if any(row.get(column.key) not in (None, "") for row in rows))
    title = f"How each cost grows with {scaling.axis.title}"
    return Table("exponents", title, used, tuple(rows), (*_feet(scaling), *scaling.failures))


def _calm(value: float | None) -> float | None:
    """Without the sign of a zero that only rounding made negative."""
    return None if value is None else round(value, 3) + 0.0


def _feet(scaling: Scaling) -> tuple[str, ...]:
    letter, feet = scaling.axis.letter, []
    feet.append(
        f"cost = a * {letter}^b, least squares on logarithms; the interval is Student's t over the points. Counts have no noise: theirs "
        "shows how far they are from one power law, since a constant part hides the order they tend to; the largest pair comes nearer."
    )
    whys = {}
    for name, spec in scaling.specs.items():
        if order := scaling.theory.get(spec, {}).get("matmul_flops"):
            whys[name] = f"{name} {order.text(letter)} ({order.why})"
    if whys:
        feet.append(f"In theory, without bound: {'; '.join(whys.values())}. A lower exponent means that this part is not the largest yet.")
    if scaling.over == "tokens":
        feet.append(f"For comparison, softmax self-attention over all tokens is {SOFTMAX_ATTENTION.text(letter)}: {SOFTMAX_ATTENTION.why}.")
    for name in scaling.specs:
        if said := claim_sentence(scaling, name):
            feet.append(said)
    for name, points in scaling.untimed.items():
        feet.append(f"Not timed within the budget: {name} at {', '.join(f'{x:,}' for x in points)}; --budget gives more.")
    return tuple(feet)


def claim_sentence(scaling: Scaling, architecture: str) -> str:
    """What the published description says of an architecture's growth, held against its FLOPs at the largest pair."""
    law = scaling.law(architecture, "matmul_flops")
    order, verdict = _claim(scaling.over, scaling.specs[architecture], law)
    grows = f"{scaling.axis.letter}^{law.last:.2f}" if law else ""
    return f"Published: {architecture} is {order}. Its FLOPs grow as {grows} at the largest pair: that {verdict}." if verdict else ""


def _claim(over: str, spec: str, law: PowerLaw | None) -> tuple[str, str]:
    """The published order and whether it holds; both empty where there is none."""
    claimed = CLAIMED.get(over, {}).get(spec)
    if claimed is None or law is None:
        return "", ""
    return Order(claimed, "published").text(AXES[over].letter), "holds" if claim_holds(claimed, law) else "does not hold"


def exponents_data(scaling: Scaling) -> Table:
    rows = []
    for fit in scaling.fits:
        theory = scaling.theory.get(fit.spec, {}).get(fit.cost.theory)
        order, verdict = _claim(scaling.over, fit.spec, fit.law if fit.cost.key == "matmul_flops" else None)
        law = fit.law
        row: dict[str, Any] = {
            "cost": fit.cost.title, "unit": fit.cost.unit, "architecture": fit.architecture,
            "theory": theory.text(scaling.axis.letter) if theory else "", "theory_exponent": theory.exponent if theory else None,
            "points": law.points if law else len(scaling.curve(fit.architecture, fit.cost.key)[0]),
            **{key: getattr(law, key) if law else None for key in ("exponent", "low", "high", "last", "coefficient")},
            "published": f"{order}: {verdict}" if verdict else "",
        }
        rows.append(row)
    keys = ("cost", "unit", "architecture", "exponent", "low", "high", "last", "coefficient", "points", "theory", "theory_exponent")
    keys = (*keys, "published")
    return Table("exponents", "exponents", tuple(Column(key) for key in keys), tuple(rows))


def points_data(scaling: Scaling) -> Table:
    rows = [
        {"architecture": name, scaling.over: x, **{cost.key: costs.get(cost.key) for cost in scaling.costs}}
        for name, points in scaling.points.items() for x, costs in points.items()
    ]
    columns = (Column("architecture", text=True), Column(scaling.over), *(Column(cost.key) for cost in scaling.costs))
    return Table("points", "points", columns, tuple(rows))


def points_table(scaling: Scaling) -> Table:
    data = points_data(scaling)
    scale, unit = flop_unit([row.get("matmul_flops") for row in data.rows])
    shown = {
        "parameters": Column("parameters", better="less"),
        "matmul_flops": Column("matmul_flops", "matmul and conv", unit, "less", 3 if scale > 1 else 0, scale),
        "operators": Column("operators", "operator calls", better="less"),
        "peak_bytes": Column("peak_bytes", "peak memory", "MiB", "less", 2, MIB),
        **{cost.key: Column(cost.key, cost.title, "ms", "less", 2, 1e-3) for cost in COSTS if cost.key in TIMES},
    }
    columns = (Column("architecture", text=True), Column(scaling.over), *(shown[cost.key] for cost in scaling.costs))
    feet = ("Parameters, FLOPs and operator calls are counted and the peak is predicted, above weights and inputs; only time is measured.",)
    return Table("points", f"Every point over {scaling.axis.title}", columns, data.rows, feet)


def plot_of(scaling: Scaling) -> Plot:
    """FLOPs, peak memory and times; where FLOPs say nothing (one architecture failed) they are left out."""
    scales = {"matmul_flops": (1e9, "GFLOP"), "peak_bytes": (MIB, "MiB")} | dict.fromkeys(TIMES, (1e-3, "ms"))
    orders = {order.exponent for each in scaling.theory.values() for order in each.values() if order.exponent}
    guides = tuple(sorted(orders | ({SOFTMAX_ATTENTION.exponent} if scaling.over == "tokens" else set())))
    panels = []
    for cost in scaling.costs:
        if cost.key not in scales:
            continue
        scale, unit = scales[cost.key]
        series = []
        for name in scaling.points:
            x, y = scaling.curve(name, cost.key)
            law = scaling.law(name, cost.key)
            if x:
                label = f"{name}: {scaling.axis.letter}^{law.exponent:.2f}" if law else name
                series.append(Series(name, label, x, tuple(each / scale for each in y)))
        panels.append(Panel(cost.title, f"{cost.title} [{unit}]", tuple(series), guides))
    first = scaling.run[0].workload
    fixed = f"batch {first['batch']}, {first['num_queries']} queries" if scaling.over == "tokens" else scaling.conditions[0].rstrip(".")
    return Plot(
        f"How each cost grows with {scaling.over}", scaling.axis.title, tuple(each for each in panels if each.series),
        f"{fixed}; exponents fitted over all points; dashed: slopes for comparison",
    )

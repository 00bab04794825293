"""Records of a search -> its designs with cost, time and accuracy, and which of them no other one beats. No torch, nothing is printed.

Everything is a function of the records and the settings, so that `verify` can make every table again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from humar_bench.args import ModelArgs
from humar_bench.judging.early import Early, judge_early
from humar_bench.judging.retention import Arm
from humar_bench.judging.speeds import Speed, Speeds, read_speeds
from humar_bench.judging.statistics import INVALID
from humar_bench.records.record import TRAINING, Record, Run
from humar_bench.report.comparison import asked_text, environment_text, failures_of, made_by
from humar_bench.report.flops_table import flop_unit
from humar_bench.report.plot import Panel, Plot, Series
from humar_bench.report.work_text import work_text
from humar_bench.studies.accuracy.plan import FLOOR
from humar_bench.studies.accuracy.scores import Scores
from humar_bench.studies.search.front import on_front
from humar_bench.studies.search.space import Space, typed
from humar_bench.studies.switches import DEFAULT
from humar_bench.table import MIB, Column, Table

FORMAT = 1  # of the JSON document. 1: rows, runs, rungs, looked, conditions, failures
_EXACT = (("parameters", "params", "total"), ("matmul_flops", "flops", "matmul_flops"), ("peak_bytes", "memory", "predicted_bytes"))
YES = "yes"


def costs_of(run: Run, names: Iterable[str]) -> dict[str, dict[str, float]]:
    """Design -> its parameters, FLOPs and peak, and `cost`: the time of a forward or, where none was timed, the FLOPs. Designs of which a
    count is missing are left out, and those without a time where others have one."""
    timed = run.select(measure="fps")
    speeds = read_speeds(timed, DEFAULT, timed.architectures) if len(timed) else Speeds({})
    found = {}
    for name in names:
        counted = {key: _latest(run.select(measure=measure, architecture=name), field) for key, measure, field in _EXACT}
        time_s = seconds_of(speeds.get(name)) if len(speeds) else counted["matmul_flops"]
        if None not in (*counted.values(), time_s):
            found[name] = {**counted, "cost": time_s}
    return found


def seconds_of(speed: Speed | None) -> float | None:
    """What one forward takes by the clock that the ratio is of."""
    if speed is None:
        return None
    return {"CPU time": speed.cpu_median_s, "device time": speed.device_median_s}.get(speed.metric) or speed.cpu_median_s or speed.median_s


def accuracy_of(records: Iterable[Record], name: str) -> float:
    """Mean accuracy of a design's runs among these; 0 for one that has none."""
    found = [Scores(each.measured).accuracy() for each in records if each.architecture == name and each.ok]
    return float(np.mean(found)) if found else 0.0


def _latest(run: Run, field: str) -> Any:
    found = [each for each in run if each.ok]
    return found[-1].measured[field] if found else None


@dataclass(frozen=True)
class Search:
    """The records of one search, and what follows from them."""

    run: Run
    settings: Mapping[str, Any]
    name: ClassVar[str] = "search"

    # Reading ----------------------------------------------------------------------------------------------------------------------

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Every design that was counted, the default first."""
        return tuple(each["name"] for each in self.settings["designs"])

    @cached_property
    def costs(self) -> Run:
        return Run(tuple(each for each in self.run if each.measure != TRAINING), self.run.notes)

    @cached_property
    def trained(self) -> tuple[Record, ...]:
        return tuple(self.run.select(measure=TRAINING))

    @cached_property
    def speeds(self) -> Speeds:
        timed = self.costs.select(measure="fps")
        return read_speeds(timed, DEFAULT, [name for name in self.names if name in timed.architectures]) if len(timed) else Speeds({})

    @cached_property
    def changes(self) -> dict[str, dict[str, Any]]:
        """Design -> what it sets otherwise than the default, from what its records were asked."""
        asked = {name: dict(found[0].asked) for name in self.names if len(found := self.costs.select(measure="params", architecture=name))}
        space = Space(ModelArgs(**asked[DEFAULT]), {})
        return {name: space.changes(ModelArgs(**own)) for name, own in asked.items()}

    def runs_of(self, rung: int) -> dict[str, list[Record]]:
        """Design -> its finished runs in one rung, by seed."""
        told = self.settings["rungs"][rung]
        found: dict[str, list[Record]] = {name: [] for name in told["designs"]}
        for record in sorted(self.trained, key=lambda each: each.process):
            here = record.workload["pictures"] == told["pictures"] and record.process in told["seeds"]
            if record.ok and here and record.architecture in found and record.workload["role"] != FLOOR:
                found[record.architecture].append(record)
        return found

    @cached_property
    def last(self) -> dict[str, list[Record]]:
        """The runs of the last rung, where all of it was made."""
        return self.runs_of(len(self.settings["rungs"]) - 1) if self.settings["rungs"] and not self.settings["missing"] else {}

    @cached_property
    def early(self) -> dict[str, Early]:
        """Designs of the last rung against the default."""
        arms = {name: self._arm(name, own) for name, own in self.last.items() if own}
        default = arms.pop(DEFAULT, None)
        return {} if default is None else judge_early(default, list(arms.values()))

    def _arm(self, name: str, own: Sequence[Record]) -> Arm:
        scores = [Scores(each.measured) for each in own]
        accuracy = np.array([each.accuracy() for each in scores])
        return Arm(name, accuracy, np.full(len(own), math.nan), np.stack([each.drawn(self.settings["draws"]) for each in scores], axis=1))

    @cached_property
    def floor(self) -> float | None:
        found = [each for each in self.trained if each.workload["role"] == FLOOR and each.ok]
        return Scores(found[-1].measured).accuracy() if found else None

    # For people and programs ------------------------------------------------------------------------------------------------------

    @cached_property
    def rows(self) -> tuple[dict[str, Any], ...]:
        """One row a design, values unscaled; `pareto` where no other one has at most its cost and at least what it has for it."""
        sketched = {each["name"]: each for each in self.settings["designs"]}
        rows = [self._row(name, sketched[name]) for name in self.names if name in self.changes]
        for row, best in zip(rows, self._on_front(rows), strict=True):
            row["pareto"] = YES if best else ""
        return tuple(rows)

    def _row(self, name: str, sketched: Mapping[str, Any]) -> dict[str, Any]:
        row: dict[str, Any] = {"design": name, "settings": typed(self.changes[name])}
        row |= {key: _latest(self.costs.select(measure=measure, architecture=name), field) for key, measure, field in _EXACT}
        row |= {"capacity": sketched["capacity"] or None, "mixing_flops": sketched["mixing_flops"] or None}
        speed = self.speeds.get(name)
        if speed is not None:
            row |= {"median_s": speed.median_s, "cpu_median_s": speed.cpu_median_s, "seconds": seconds_of(speed)}
            row |= {"time_ratio": _inverse(speed.ratio), "time_low": _inverse(speed.ratio_high), "time_high": _inverse(speed.ratio_low)}
            row |= {"metric": speed.metric, "processes": speed.processes, "time_verdict": speed.verdict}
            if name == DEFAULT:
                row |= {"time_ratio": 1.0, "time_verdict": ""}
        for at, told in enumerate(self.settings["rungs"]):
            if (own := self.runs_of(at).get(name)):
                row |= {"pictures": told["pictures"], "ap": accuracy_of(own, name), "ap_runs": len(own)}
        if name in self.early:
            found = self.early[name]
            row |= {"ap_low": found.low, "ap_high": found.high, "ap_ratio": found.ratio, "ap_ratio_low": found.ratio_low,
                    "ap_ratio_high": found.ratio_high, "ap_verdict": found.verdict}
        return row

    def _on_front(self, rows: Sequence[Mapping[str, Any]]) -> list[bool]:
        """By cost, peak, parameters and accuracy among those trained longest or, where nothing was, by cost, peak, parameters and what a
        design has for them."""
        cost = "seconds" if len(self.speeds) else "matmul_flops"
        trained = bool(self.early)
        gains = ("ap",) if trained else ("capacity", "mixing_flops")
        keys = (cost, "peak_bytes", "parameters", *gains)
        judged = {name for name, each in self.early.items() if each.verdict != INVALID}
        known = [all(row.get(key) is not None for key in keys) and (not trained or row["design"] in judged) for row in rows]
        held = [at for at, each in enumerate(known) if each]
        found = [False] * len(rows)
        if held:
            signs = np.array([1.0] * 3 + [-1.0] * len(gains))
            front = on_front(signs * np.array([[rows[at][key] for key in keys] for at in held], float))
            for at, best in zip(held, front, strict=True):
                found[at] = bool(best)
        return found

    @cached_property
    def run_rows(self) -> tuple[dict[str, Any], ...]:
        """One row a training."""
        return tuple(
            {
                "design": each.architecture, "role": each.workload["role"], "seed": each.workload["seed"],
                "pictures": each.workload["pictures"], "width": each.asked["hidden_dim"],
                "ap": Scores(each.measured).accuracy() if each.ok else None,
                "cpu_s": each.measured["curve"][-1]["cpu_s"] if each.ok and each.measured["curve"] else None,
                "failed": "" if each.ok else each.reason,
            } for each in self.trained
        )

    @property
    def failures(self) -> tuple[str, ...]:
        """One sentence for each measurement that failed; a training that diverged is a result."""
        return failures_of(Run(tuple(each for each in self.run if each.ok or each.kind != "not finite" or each.measure != TRAINING)))

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        return (_designs_table(self), _lines_table(self))

    @cached_property
    def data(self) -> dict[str, Table]:
        keys = ["design", "settings", "pareto", *(key for key, _, _ in _EXACT), "capacity", "mixing_flops"]
        if len(self.speeds):
            keys += ["median_s", "cpu_median_s", "time_ratio", "time_low", "time_high", "metric", "processes", "time_verdict"]
        if self.settings["rungs"]:
            keys += ["pictures", "ap_runs", "ap", "ap_low", "ap_high", "ap_ratio", "ap_ratio_low", "ap_ratio_high", "ap_verdict"]
        made = {"designs": Table("designs", "designs", tuple(map(Column, keys)), self.rows)}
        if self.run_rows:
            made["runs"] = Table("runs", "runs", tuple(map(Column, self.run_rows[0])), self.run_rows)
        return made

    @property
    def document(self) -> dict[str, Any]:
        """Everything, for JSON."""
        told = {name: self.settings[name] for name in ("rungs", "looked", "front", "a_minute", "fields", "bounds", "missing")}
        return {
            "format": FORMAT, "rows": [dict(row) for row in self.rows], "runs": [dict(row) for row in self.run_rows], **told,
            "floor": self.floor, "environment": self.costs[0].environment, "conditions": list(self.conditions),
            "failures": list(self.failures),
        }

    @cached_property
    def conditions(self) -> tuple[str, ...]:
        """What the numbers hold for."""
        return tuple(_conditions(self))

    @cached_property
    def plot(self) -> Plot:
        """Each design as a point: accuracy or capacity over what a forward takes, and over parameters."""
        trained = bool(self.early)
        up, title = ("ap", "AP") if trained else ("capacity", "capacity, weights")
        across = [("parameters", "parameters")]
        across.insert(0, ("seconds", "seconds of a forward") if len(self.speeds) else ("matmul_flops", "matmul and conv FLOPs"))
        rows = [row for row in self.rows if row.get(up) and (not trained or row["design"] in self.early)]
        panels = []
        for key, label in across:
            kinds = {"Pareto": [], "others": [], DEFAULT: []}
            for row in rows:
                if row.get(key):
                    kinds[DEFAULT if row["design"] == DEFAULT else "Pareto" if row["pareto"] else "others"].append((row[key], row[up]))
            series = [Series(kind, kind, *map(tuple, zip(*sorted(own), strict=True))) for kind, own in kinds.items() if own]
            panels += [Panel(f"by {label}", title, tuple(series), x_label=label)] if series else []
        return Plot("Designs of the search", "", tuple(panels), scatter=True)


def restore(run: Run, settings: Mapping[str, Any]) -> Search:
    """The search that a folder holds."""
    return Search(run, settings)


def _inverse(value: float | None) -> float | None:
    return None if not value else 1 / value


def _span(row: Mapping[str, Any], key: str, digits: int) -> str:
    low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
    return f"{low:.{digits}f} to {high:.{digits}f}" if low is not None and high is not None else ""


def _designs_table(search: Search) -> Table:
    scale, unit = flop_unit([row["matmul_flops"] for row in search.rows])
    rows = []
    for row in search.rows:
        time_text = f"{row['time_low']:.2f} to {row['time_high']:.2f}" if row.get("time_low") and row.get("time_high") else ""
        rows.append({**row, "time_text": time_text, "ap_text": _span(row, "ap", 3), "ratio_text": _span(row, "ap_ratio", 2)})
    columns = (
        Column("design", text=True), Column("pareto", "Pareto", text=True), Column("parameters", "parameters", "M", "less", 2, 1e6),
        Column("matmul_flops", "matmul and conv", unit, "less", 2 if scale > 1 else 0, scale),
        Column("peak_bytes", "peak memory", "MiB", "less", 1, MIB), Column("capacity", "capacity", "M", "more", 2, 1e6),
        Column("mixing_flops", "mixing", unit, "more", 2 if scale > 1 else 0, scale),
        Column("seconds", "one forward", "ms", "less", 2, 1e-3), Column("time_ratio", "time, x default", digits=2),
        Column("time_text", "95 % interval", text=True), Column("pictures", "pictures"), Column("ap", "AP", "", "more", 3),
        Column("ap_text", "95 % interval", text=True), Column("ap_ratio", "AP, x default", digits=2),
        Column("ratio_text", "95 % interval", text=True), Column("ap_verdict", "verdict", text=True),
    )
    used = tuple(each for each in columns if any(row.get(each.key) not in (None, "") for row in rows))
    return Table("designs", "Designs that stand for the front", used, tuple(rows), (*_feet(search), *search.failures))


def _lines_table(search: Search) -> Table:
    columns = (Column("design", text=True), Column("settings", "as options", text=True))
    rows = tuple({"design": row["design"], "settings": row["settings"] or "as asked"} for row in search.rows)
    return Table("options", "The same as options of any command, behind those that were typed here", columns, rows)


def _feet(search: Search) -> Iterable[str]:
    settings = search.settings
    pace = f", {settings['a_minute']:,.0f} a minute" if settings["a_minute"] else ""
    yield (
        f"{settings['looked']:,} designs were looked at{pace}, none of them run; {settings['front']:,} of them no other one beats, and "
        "these stand for all."
    )
    yield (
        "Capacity: weights, each counted with the square root of how often a forward uses it. Mixing: FLOPs between tokens. Both say what "
        "costs are paid for, not how accurate a design is."
    )
    if len(search.speeds):
        metric = next((row["metric"] for row in search.rows if row.get("metric")), "time")
        processes = max((row.get("processes") or 0 for row in search.rows), default=0)
        in_turn = f"in {processes} process{'es' * (processes != 1)}"
        yield f"One forward: median {metric}, designs in turn {in_turn}, each cut to its width and filled up."
    if settings["rungs"]:
        told = ", then ".join(f"{len(each['designs']) - 1} for {each['pictures']:,} pictures" for each in settings["rungs"])
        width = next((row["width"] for row in search.run_rows if row["design"] == DEFAULT), 0)
        yield (
            f"Trained beside the default, which is {width} wide there: {told}. AP is of the longest; intervals and verdicts are of the "
            "last rung, and curves still climb."
        )
    if search.floor is not None:
        yield f"The mean pose at the right place and scale scores {search.floor:.3f}."
    what = "accuracy among those trained longest" if search.early else "capacity and mixing"
    cost = "time" if len(search.speeds) else "FLOPs"
    yield f"Pareto: no other design has at most its {cost}, peak and parameters and at least its {what}."
    if settings["missing"]:
        yield f"{settings['missing']} runs are missing; go on with --resume."


def _conditions(search: Search) -> Iterable[str]:
    settings, first = search.settings, search.costs[0]
    default = next(each for each in search.costs if each.architecture == DEFAULT)
    yield work_text(first.workload)
    yield f"Asked: {asked_text(default.asked)}."
    fields = "; ".join(f"{name} {', '.join(map(_said, values))}" for name, values in settings["fields"].items())
    yield f"Searched: {fields}."
    if settings["bounds"]:
        yield f"At most: {', '.join(f'{name} {most:,.0f}' for name, most in settings['bounds'].items())}."
    if settings["title"]:
        warm = f", what stands before the transformer trained ahead on {settings['warm_pictures']:,}" if settings["warm_pictures"] else ""
        yield f"Trainings: {settings['title']}, learning rate {settings['rate']:g}{warm}."
    timed = next((each for each in search.costs if each.measure == "fps" and each.environment), None)
    yield environment_text(timed) if timed else f"Counted with torch {first.environment.get('torch', '')}; nothing was run."
    yield from made_by(search.run)
    yield from search.run.notes


def _said(value: Any) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)

"""`humar-bench ablate`: what each design switch of the replacement costs or saves, one row a switch (`switches.py`), against the design as
it is asked; with `--accuracy` also how accurate each is after an early budget of training (`early_accuracy.py`).

Rows are built from the same arguments and timed in turn in the same processes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from humar_bench.judging.early import Early
from humar_bench.judging.speeds import Speeds, read_speeds
from humar_bench.records.record import TRAINING, Record, Run
from humar_bench.report.comparison import asked_text, environment_text, failures_of, made_by
from humar_bench.report.flops_table import flop_unit
from humar_bench.report.work_text import work_text
from humar_bench.running.costs import Point, Progress, exact_records
from humar_bench.running.in_turn import time_in_turn, timing_run
from humar_bench.running.plan import Plan
from humar_bench.studies.accuracy.accuracy import measure_accuracy
from humar_bench.studies.accuracy.plan import AccuracyPlan
from humar_bench.studies.accuracy.tables import Accuracy
from humar_bench.studies.early_accuracy import ROW_KEYS, early_of, early_table, row_of
from humar_bench.studies.switches import DEFAULT, builder_of, settings_of, switches_of
from humar_bench.table import MIB, Column, Table, ratio

STATIC_S = 2.0  # about what counting one row takes; only the progress bar depends on it
ACCURACY, RUNS_TABLE = "accuracy", "runs.csv"  # the settings of the trainings' study, and the file that only they have
TRAINED_SHARE = 0.9  # of the progress bar, where rows are trained too
FORMAT = 1  # of the JSON document. 1: rows, conditions, failures


def __getattr__(name: str) -> Callable[[Any], Any]:
    """The rows' builders (`switches.py`)."""
    return builder_of(name)


# Measuring ------------------------------------------------------------------------------------------------------------------------


def measure_ablation(
    plan: Plan, *, timed: bool = True, budget_s: float = 120.0, done: Run | None = None, sink: Any = None,
    progress: Progress = lambda share, text: None, command: str = "", exact: Callable[..., list[Record]] = exact_records,
    bench: Callable[..., Run] | None = None, now: Callable[[], float] = time.monotonic, accuracy: AccuracyPlan | None = None,
    folder: str | os.PathLike = "", train: Callable[..., Accuracy] = measure_accuracy, time_limit_s: float | None = None,
) -> Ablation:
    """Count every row, then time all of them in turn, within the budget as `time_in_turn` keeps it, then train what `accuracy` says, in
    `folder`."""
    rows, whole = switches_of(plan.args), progress
    if accuracy is not None:
        progress = lambda share, text: whole((1 - TRAINED_SHARE) * share, text)  # noqa: E731
    architectures = tuple(each.architecture for each in rows)
    done = done or Run()
    static_share = len(rows) * STATIC_S / (len(rows) * STATIC_S + (budget_s if timed else 0))
    records = exact(
        [Point(each, plan.args, plan.workload) for each in architectures], plan.run, done=done,
        keep=lambda *made: sink.write(*made) if sink is not None else None,
        progress=lambda share, text: progress(static_share * share, text), command=command,
    )
    if timed:
        records += time_in_turn(
            [Point(each, plan.args, plan.workload) for each in architectures], timing_run(plan.run, budget_s, len(rows)), budget_s,
            reference=DEFAULT, done=done, sink=sink, command=command, bench=bench, now=now,
            progress=lambda share, text: progress(static_share + (1 - static_share) * share, text),
        )
    if accuracy is None:
        return Ablation(Run(tuple(records)), {})
    trained = train(
        accuracy, folder, done=done, sink=sink, command=command, time_limit_s=time_limit_s,
        progress=lambda share, text: whole(1 - TRAINED_SHARE + TRAINED_SHARE * share, text),
    )
    return Ablation(Run((*records, *trained.run)), {ACCURACY: trained.settings})


# Reading --------------------------------------------------------------------------------------------------------------------------

_EXACT = (("parameters", "params", "total"), ("matmul_flops", "flops", "matmul_flops"), ("operators", "flops", "kernels"),
          ("peak_bytes", "memory", "predicted_bytes"))


@dataclass(frozen=True)
class Ablation:
    """The records of one ablation, and what follows from them."""

    run: Run
    settings: Mapping[str, Any] = field(default_factory=dict)
    name: ClassVar[str] = "ablate"

    @cached_property
    def costs(self) -> Run:
        """The records that are not of a training."""
        return Run(tuple(each for each in self.run if each.measure != TRAINING), self.run.notes)

    @cached_property
    def trained(self) -> Accuracy | None:
        """The study that the rows' trainings are."""
        return Accuracy(self.run.select(measure=TRAINING), self.settings[ACCURACY]) if ACCURACY in self.settings else None

    @cached_property
    def early(self) -> dict[str, Early]:
        return {} if self.trained is None else early_of(self.trained)

    @cached_property
    def names(self) -> tuple[str, ...]:
        return self.costs.architectures

    @cached_property
    def speeds(self) -> Speeds:
        timed = self.costs.select(measure="fps")
        return read_speeds(timed, DEFAULT, self.names) if len(timed) else Speeds({})

    @cached_property
    def rows(self) -> tuple[dict[str, Any], ...]:
        """One row a switch, values unscaled; each ratio is this row's cost over the default's, above 1 is more."""
        rows = [self._row(name) for name in self.names]
        base = next((row for row in rows if row["switch"] == DEFAULT), {})
        for row in rows:
            row |= {f"{key}_ratio": ratio(row[key], base.get(key)) for key, _, _ in _EXACT}
        return tuple(rows)

    def _row(self, name: str) -> dict[str, Any]:
        row: dict[str, Any] = {"switch": name, "sets": ", ".join(settings_of(self.costs.select(architecture=name)[0].spec))}
        for key, measure, counted in _EXACT:
            found = [each for each in self.costs.select(measure=measure, architecture=name) if each.ok]
            row[key] = found[-1].measured[counted] if found else None
        if name in self.early:
            arm = next(each for each in self.trained.settings["arms"] if each["name"] == name)
            row |= row_of(self.early[name], settings_of(arm["spec"]))
        speed = self.speeds.get(name)
        if speed is not None:
            row |= {"median_s": speed.median_s, "cpu_median_s": speed.cpu_median_s, "processes": speed.processes, "verdict": speed.verdict}
            row |= {"time_ratio": _inverse(speed.ratio), "time_low": _inverse(speed.ratio_high), "time_high": _inverse(speed.ratio_low)}
            row |= {"wall_ratio": _inverse(speed.wall_ratio), "metric": speed.metric}
            if name == DEFAULT:
                row |= {"time_ratio": 1.0, "wall_ratio": 1.0, "verdict": ""}
        return row

    @property
    def failures(self) -> tuple[str, ...]:
        return (*failures_of(self.costs), *(() if self.trained is None else self.trained.failures))

    @property
    def conditions(self) -> tuple[str, ...]:
        """What the numbers hold for."""
        first = self.costs[0]
        said = [work_text(first.workload), f"Asked: {asked_text(first.asked)}."]
        timed = next((each for each in self.costs if each.measure == "fps" and each.environment), None)
        said += [environment_text(timed)] if timed else [f"Counted with torch {first.environment.get('torch', '')}; nothing was run."]
        if self.trained is not None and len(self.trained.run):
            said += [f"Accuracy: {each}" for each in self.trained.own_conditions]
        return (*said, *made_by(self.run), *self.run.notes)

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        found = [ablation_table(self)]
        if self.early:
            found.append(early_table(self.rows, self.trained))
        return tuple(found)

    @cached_property
    def data(self) -> dict[str, Table]:
        made = {"ablation": ablation_data(self)}
        return made if self.trained is None else {**made, "runs": self.trained.data["runs"]}

    @property
    def document(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "format": FORMAT, "rows": [dict(row) for row in self.data["ablation"].rows], "environment": self.run[0].environment,
            "conditions": list(self.conditions), "failures": list(self.failures),
        }


def restore(run: Run, settings: Mapping[str, Any]) -> Ablation:
    """The ablation that a folder holds."""
    return Ablation(run, settings)


def _inverse(value: float | None) -> float | None:
    return None if not value else 1 / value


def ablation_data(ablation: Ablation) -> Table:
    keys = ["switch", "sets"]
    for key, _, _ in _EXACT:
        keys += [key, f"{key}_ratio"]
    if ablation.speeds:
        keys += ["time_ratio", "time_low", "time_high", "metric", "wall_ratio", "median_s", "cpu_median_s", "processes", "verdict"]
    keys += ROW_KEYS if ablation.early else ()
    return Table("ablation", "ablation", tuple(Column(key) for key in keys), ablation.rows)


def ablation_table(ablation: Ablation) -> Table:
    """For people: each cost with how many times the default's it is."""
    scale, unit = flop_unit([row["matmul_flops"] for row in ablation.rows])
    columns = [
        Column("switch", text=True), Column("parameters", better="less"), Column("parameters_ratio", "x", digits=2),
        Column("matmul_flops", "matmul and conv", unit, "less", 2 if scale > 1 else 0, scale),
        Column("matmul_flops_ratio", "x", digits=2), Column("operators", "operator calls", better="less"),
        Column("peak_bytes", "peak memory", "MiB", "less", 1, MIB), Column("peak_bytes_ratio", "x", digits=2),
    ]
    feet = ["Parameters, FLOPs and operator calls are counted and the peak is predicted, above weights and inputs."]
    rows = [dict(row) for row in ablation.rows]
    if ablation.speeds:
        for row in rows:
            low, high = row.get("time_low"), row.get("time_high")
            row["interval"] = f"{low:.2f} to {high:.2f}" if low and high else ""
        metric = next((row["metric"] for row in rows if row.get("metric")), "time")
        columns += [
            Column("time_ratio", metric, "", "less", 2), Column("interval", "95 % interval", text=True),
            Column("wall_ratio", "wall time", "", "less", 2), Column("verdict", text=True),
        ]
        processes = max((row.get("processes") or 0 for row in rows), default=0)
        enough = "the interval is over processes" if processes > 1 else "one gives no interval, a longer --budget gives more"
        feet.append(f"Times are in multiples of the default's, from {processes} fresh process{'es' * (processes > 1)} in which all rows "
                    f"take turns; {enough}.")
        if ablation.speeds.control is not None:
            control = ablation.speeds.control.detected
            feet.append(f"Control, the default a second time: {control.ratio:.3f} of itself, {control.verdict}.")
    literal = next((row["sets"] for row in rows if row["switch"] == "literal description"), "")
    if literal:
        feet.append(f"The literal description sets {literal}.")
    used = tuple(each for each in columns if any(row.get(each.key) not in (None, "") for row in rows))
    return Table("ablation", "Each design switch alone; x is multiples of the default", used, tuple(rows), (*feet, *ablation.failures))

"""`humar-bench ablate`: what each design switch of the replacement costs or saves, one row a switch, against the design as it is asked.

The switches are every `efficient_` field of ModelArgs, so a new one cannot be forgotten: a flag is turned over, a choice takes its other
values, a number those of `OTHER_VALUES`, or twice its value where none are named. `COMBINED` adds rows that turn several at once.

A row is an architecture of its own, the builder `humar_bench.studies.ablate:FIELD__VALUE` (joined by `__and__`), so that all rows are built
from the same arguments and timed in turn in the same processes.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from humar_bench.args import EFFICIENT_PREFIX, ModelArgs
from humar_bench.errors import HumarBenchError, UsageError
from humar_bench.judging.speeds import Speeds, read_speeds
from humar_bench.records.record import Record, Run
from humar_bench.report.breakdown import flop_unit
from humar_bench.report.comparison import asked_text, environment_text, failures_of, made_by, work_text
from humar_bench.running.costs import Point, Progress, exact_records
from humar_bench.running.in_turn import time_in_turn, timing_run
from humar_bench.running.plan import Plan, parse_settings
from humar_bench.subjects.registry import Architecture, load_builder
from humar_bench.table import MIB, Column, Table, ratio

DEFAULT, DESIGN = "default", "efficient"
STATIC_S = 2.0  # about what counting one row takes; only the progress bar depends on it
FORMAT = 1  # of the JSON document. 1: rows, conditions, failures
AND, IS = "__and__", "__"

# Numbers that a switch is set to; what equals the value asked is left out. A function where it depends on the other arguments.
OTHER_VALUES: dict[str, Callable[[ModelArgs], tuple[int, ...]]] = {
    "efficient_encoder_sets": lambda args: (args.efficient_enc_layers,),
    "efficient_decoder_sets": lambda args: (args.dec_layers,),
    "efficient_encoder_stride": lambda args: (1,),
    "efficient_memory_stride": lambda args: (1, 4),
    "efficient_nheads": lambda args: (8,),
    "efficient_sample_heads": lambda args: (8,),
    "efficient_enc_layers": lambda args: (6,),
    "efficient_mlp_ratio": lambda args: (4,),
}
COMBINED: dict[str, Callable[[ModelArgs], dict[str, Any]]] = {
    "untied": lambda args: {"efficient_encoder_sets": args.efficient_enc_layers, "efficient_decoder_sets": args.dec_layers},
    # The published description word for word: own weights in every block, every token at full resolution, every token attends.
    "literal description": lambda args: {
        **COMBINED["untied"](args), "efficient_encoder_stride": 1, "efficient_memory_stride": 1, "efficient_cross_tokens": "all",
        "efficient_point_samples": False,
    },
}


# The rows -------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Switch:
    """One row: the fields it sets; none for the design as it is asked."""

    name: str
    changes: Mapping[str, Any]

    @property
    def architecture(self) -> Architecture:
        """The row as something to measure."""
        if not self.changes:
            return Architecture(self.name, DESIGN, foreign=False)
        builder = AND.join(f"{field}{IS}{str(value).lower()}" for field, value in self.changes.items())
        return Architecture(self.name, f"{__name__}:{builder}", foreign=False)


def switches_of(args: ModelArgs) -> tuple[Switch, ...]:
    """Every row: the design as it is asked, each switch alone, then those together that belong together."""
    rows = [Switch(DEFAULT, {})]
    for each in dataclasses.fields(ModelArgs):
        if each.name.startswith(EFFICIENT_PREFIX):
            rows += [Switch(_said(each.name, value), {each.name: value}) for value in other_values(each, args)]
    for name, changes in COMBINED.items():
        left = {field: value for field, value in changes(args).items() if value != getattr(args, field)}
        if len(left) > 1:
            rows.append(Switch(name, left))
    return tuple(rows)


def other_values(option: dataclasses.Field, args: ModelArgs) -> tuple[Any, ...]:
    """What a switch is set to instead of what is asked, as far as the other arguments allow it."""
    asked = getattr(args, option.name)
    if isinstance(option.default, bool):
        values: Sequence[Any] = (not asked,)
    elif option.metadata.get("choices"):
        values = option.metadata["choices"]
    else:
        values = OTHER_VALUES.get(option.name, lambda args: (2 * asked,))(args)
    return tuple(value for value in values if value != asked and _possible(args, option.name, value))


def _possible(args: ModelArgs, name: str, value: Any) -> bool:
    try:
        dataclasses.replace(args, **{name: value})
    except UsageError:
        return False
    return True


def _said(name: str, value: Any) -> str:
    """'encoder_stride 1', 'graph_bias off'."""
    shown = {True: "on", False: "off"}[value] if isinstance(value, bool) else value
    return f"{name.removeprefix(EFFICIENT_PREFIX)} {shown}"


def __getattr__(name: str) -> Callable[[Any], Any]:
    """`efficient_graph_bias__false`, `efficient_memory_stride__1__and__efficient_cross_tokens__all`: the design with these set."""
    if not name.startswith(EFFICIENT_PREFIX):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        changes = parse_settings("=".join(each.rsplit(IS, 1)) for each in name.split(AND))
    except HumarBenchError as error:
        raise AttributeError(str(error)) from None

    def build(args: Any) -> Any:
        return load_builder(DESIGN)(dataclasses.replace(ModelArgs.of(args), **changes))

    return build


# Measuring ------------------------------------------------------------------------------------------------------------------------


def measure_ablation(
    plan: Plan, *, timed: bool = True, budget_s: float = 120.0, done: Run | None = None, sink: Any = None,
    progress: Progress = lambda share, text: None, command: str = "", exact: Callable[..., list[Record]] = exact_records,
    bench: Callable[..., Run] | None = None, now: Callable[[], float] = time.monotonic,
) -> Ablation:
    """Count every row, then time all of them in turn, within the budget as `time_in_turn` keeps it."""
    rows = switches_of(plan.args)
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
    return Ablation(Run(tuple(records)))


# Reading --------------------------------------------------------------------------------------------------------------------------

_EXACT = (("parameters", "params", "total"), ("matmul_flops", "flops", "matmul_flops"), ("operators", "flops", "kernels"),
          ("peak_bytes", "memory", "predicted_bytes"))


@dataclass(frozen=True)
class Ablation:
    """The records of one ablation, and what follows from them."""

    run: Run
    name: ClassVar[str] = "ablate"
    settings: ClassVar[Mapping[str, Any]] = {}

    @cached_property
    def names(self) -> tuple[str, ...]:
        return self.run.architectures

    @cached_property
    def speeds(self) -> Speeds:
        timed = self.run.select(measure="fps")
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
        row: dict[str, Any] = {"switch": name, "sets": ", ".join(settings_of(self.run.select(architecture=name)[0].spec))}
        for key, measure, field in _EXACT:
            found = [each for each in self.run.select(measure=measure, architecture=name) if each.ok]
            row[key] = found[-1].measured[field] if found else None
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
        return failures_of(self.run)

    @property
    def conditions(self) -> tuple[str, ...]:
        """What the numbers hold for."""
        first = self.run[0]
        said = [work_text(first.workload), f"Asked: {asked_text(first.asked)}."]
        timed = next((each for each in self.run if each.measure == "fps" and each.environment), None)
        said += [environment_text(timed)] if timed else [f"Counted with torch {first.environment.get('torch', '')}; nothing was run."]
        return (*said, *made_by(self.run), *self.run.notes)

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        return (ablation_table(self),)

    @cached_property
    def data(self) -> dict[str, Table]:
        return {"ablation": ablation_data(self)}

    @property
    def document(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "format": FORMAT, "rows": [dict(row) for row in self.data["ablation"].rows], "environment": self.run[0].environment,
            "conditions": list(self.conditions), "failures": list(self.failures),
        }


def restore(run: Run, settings: Mapping[str, Any]) -> Ablation:
    """The ablation that a folder holds."""
    return Ablation(run)


def settings_of(spec: str) -> list[str]:
    """'humar_bench.studies.ablate:efficient_graph_bias__false' -> ['efficient_graph_bias=false']."""
    name = spec.partition(":")[2]
    return ["=".join(each.rsplit(IS, 1)) for each in name.split(AND)] if name else []


def _inverse(value: float | None) -> float | None:
    return None if not value else 1 / value


def ablation_data(ablation: Ablation) -> Table:
    keys = ["switch", "sets"]
    for key, _, _ in _EXACT:
        keys += [key, f"{key}_ratio"]
    if ablation.speeds:
        keys += ["time_ratio", "time_low", "time_high", "metric", "wall_ratio", "median_s", "cpu_median_s", "processes", "verdict"]
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

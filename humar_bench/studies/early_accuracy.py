"""Early accuracy of an ablation's rows: every row trained alike by the study of accuracy, and held against the default after one budget.

Rows are turned over in the preset's small model, whose numbers of layers are others: what unties six iterations there unties three. One
learning rate is chosen, on the default, and is everybody's: the rows are one design with one switch turned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from humar_bench.args import EFFICIENT_PREFIX, ModelArgs
from humar_bench.errors import UsageError
from humar_bench.judging.early import Early, judge_early
from humar_bench.studies.accuracy.plan import AccuracyPlan, Asked, plan_of
from humar_bench.studies.accuracy.presets import Preset
from humar_bench.studies.accuracy.tables import Accuracy
from humar_bench.studies.switches import COMBINED, DEFAULT, DESIGN, Switch, other_values
from humar_bench.table import Column, Table


def plan_of_rows(rows: Sequence[Switch], args: ModelArgs, preset: Preset, asked: Asked) -> AccuracyPlan:
    """What is trained: every row that the preset's model can have, the default first. `args` are the rows' own. Raises UsageError."""
    small = in_small(args, preset.base.model)
    arms = []
    for row in rows:
        changes = changes_in(row, args, small)
        if changes is not None:
            sets = ",".join(f"{field}={str(value).lower()}" for field, value in changes.items())
            arms.append(f"{row.name}={DESIGN}[{sets}]" if sets else f"{row.name}={DESIGN}")
    preset = dataclasses.replace(preset, base=dataclasses.replace(preset.base, model=small))
    plan = plan_of(preset, dataclasses.replace(asked, arch=tuple(arms), reference=DEFAULT, ring="published"))
    return dataclasses.replace(plan, shared_rate=True)


def in_small(args: ModelArgs, small: ModelArgs) -> ModelArgs:
    """The small model with every design switch that `args` asks otherwise than usual. Raises UsageError where it cannot have one."""
    asked = {each.name: getattr(args, each.name) for each in dataclasses.fields(ModelArgs)
             if each.name.startswith(EFFICIENT_PREFIX) and getattr(args, each.name) != each.default}
    try:
        return dataclasses.replace(small, **asked)
    except UsageError as error:
        raise UsageError(f"--accuracy trains a small model of width {small.hidden_dim}, and there {error}") from None


def changes_in(row: Switch, args: ModelArgs, small: ModelArgs) -> dict[str, Any] | None:
    """What a row of `args` sets in the small model: the same value, or the value in the same place of those the switch is turned to. None
    for a row that it does not have."""
    if row.name in COMBINED:
        left = {field: value for field, value in COMBINED[row.name](small).items() if value != getattr(small, field)}
        return left or None
    changes = {}
    for field, value in row.changes.items():
        option = next(each for each in dataclasses.fields(ModelArgs) if each.name == field)
        there, place = other_values(option, small), other_values(option, args).index(value)
        if value not in there and place >= len(there):
            return None
        changes[field] = value if value in there else there[place]
    return changes


def early_of(study: Accuracy) -> dict[str, Early]:
    """Every row that was trained, by name. Runs of the control are the default's."""
    study.check()
    arms = {name: study.arm_of(name) for name, own in study.runs.items() if own}
    default, again = arms.pop(study.reference, None), arms.pop(study.again, None)
    if default is None:
        return {}
    return judge_early(default if again is None else default.plus(again), list(arms.values()))


ROW_KEYS = ("trained_as", "ap_runs", "ap", "ap_low", "ap_high", "ap_ratio", "ap_ratio_low", "ap_ratio_high", "ap_verdict")


def row_of(found: Early, sets: Sequence[str]) -> dict[str, Any]:
    """The cells of one row, by `ROW_KEYS`."""
    return {
        "trained_as": ", ".join(sets), "ap_runs": found.runs, "ap": found.accuracy, "ap_low": found.low, "ap_high": found.high,
        "ap_ratio": found.ratio, "ap_ratio_low": found.ratio_low, "ap_ratio_high": found.ratio_high, "ap_verdict": found.verdict,
    }


def early_table(rows: Sequence[dict[str, Any]], study: Accuracy) -> Table:
    """For people: accuracy, and what it costs beside it, both against the default."""
    shown = []
    for row in rows:
        if row.get("ap") is not None:
            shown.append({**row, "interval": _interval(row, "ap", 3), "ratio_interval": _interval(row, "ap_ratio", 2)})
    columns = (
        Column("switch", text=True), Column("ap", "AP", "", "more", 3), Column("interval", "95 % interval", text=True),
        Column("ap_ratio", "AP, x default", digits=2), Column("ratio_interval", "95 % interval", text=True),
        Column("ap_verdict", "verdict", text=True), Column("parameters_ratio", "parameters, x", digits=2),
        Column("matmul_flops_ratio", "FLOPs, x", digits=2), Column("peak_bytes_ratio", "peak, x", digits=2),
        Column("time_ratio", "time, x", digits=2),
    )
    used = tuple(each for each in columns if any(row.get(each.key) not in (None, "") for row in shown))
    return Table("accuracy", f"Each design switch alone: {study.title}", used, tuple(shown), tuple(_feet(study, shown)))


def _interval(row: dict[str, Any], key: str, digits: int) -> str:
    low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
    return f"{low:.{digits}f} to {high:.{digits}f}" if low is not None else ""


def _feet(study: Accuracy, shown: Sequence[dict[str, Any]]) -> list[str]:
    rate = study.chosen.get(study.reference, (None,))[0]
    feet = [
        "AP: average precision over OKS .5 to .95 of the best-scored pose, geometric mean over runs, at the end of this budget. Curves "
        "still climb, so that a longer training may give another order.",
        "Intervals are over seeds, whose spread is pooled over all rows, and pictures, each row by itself; verdicts hold for all rows "
        "together at 95 %.",
    ]
    if rate is not None:
        feet.append(f"Learning rate {rate:g}, chosen for the default and used for all. Costs are of the model asked, AP of a small one.")
    if differing := [f"{row['switch']} as {row['trained_as']}" for row in shown if row["trained_as"] and row["trained_as"] != row["sets"]]:
        feet.append(f"In the small model {'; '.join(differing)}.")
    if study.floor is not None:
        feet.append(f"The mean pose at the right place and scale scores {study.floor:.3f}.")
    if study.missing:
        feet.append(f"{study.missing} runs are missing; go on with --resume.")
    return feet

"""What replacing the transformer can buy in the whole model: its share of a forward, the ratio which that share allows, the measured one.

Source: Amdahl 1967: where a part takes the share p of the time, no replacement of it makes the whole more than 1 / (1 - p) times as fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from humar_bench.judging.speeds import Speed, Speeds
from humar_bench.judging.verdicts import METRICS
from humar_bench.report.breakdown import Sides
from humar_bench.table import Column, Table, percent, ratio, times

TRANSFORMER = "transformer"  # its own components are called "transformer: ..."


@dataclass(frozen=True)
class Share:
    """One architecture's forward by the sum of its components' times, and the transformer's part of it, in seconds."""

    architecture: str
    forward_s: float
    transformer_s: float
    replaced: float | None = None  # reference / reference with this transformer in place of its own; None for the reference
    measured: Speed | None = None

    @property
    def share(self) -> float:
        return self.transformer_s / self.forward_s

    @property
    def allowed(self) -> float | None:
        """How much faster the whole would be if the transformer took no time."""
        return ratio(self.forward_s, self.forward_s - self.transformer_s)


@dataclass(frozen=True)
class Shares:
    """The shares of every architecture that was timed by component, by one clock."""

    rows: Mapping[str, Share]
    reference: str
    clock: str = ""

    @property
    def tables(self) -> list[Table]:
        if not self.rows:
            return []
        rows = [{
            "architecture": name, "forward_s": row.forward_s, "transformer_s": row.transformer_s, "share": row.share,
            "allowed": "" if row.allowed is None else times(row.allowed), "replaced": "" if row.replaced is None else times(row.replaced),
            "measured": _measured(row.measured),
        } for name, row in self.rows.items()]
        columns = (
            Column("architecture", text=True), Column("forward_s", "forward", "ms", "", 2, 1e-3),
            Column("transformer_s", "transformer", "ms", "", 2, 1e-3), Column("share", "its share", "%", "", 1, 0.01),
            Column("allowed", "without it at most", text=True), Column("replaced", "it alone replaced", text=True),
            Column("measured", "measured", text=True),
        )
        used = tuple(column for column in columns if any(row[column.key] != "" for row in rows))
        feet = [f"By {METRICS[self.clock]}, sums of the components' medians. Without it at most: if its transformer took no time."]
        if len(self.rows) > 1:
            feet.append(f"It alone replaced: {self.reference} with this transformer, all else as it was; measured is of all that differs.")
        return [Table("transformer_share", "The transformer in the whole model", used, tuple(rows), tuple(feet))]

    @property
    def lines(self) -> list[str]:
        """One sentence about the reference, one for each other architecture."""
        base = self.rows.get(self.reference)
        if base is None or base.allowed is None:
            return []
        said = [
            f"{self.reference}: its transformer takes {percent(base.share)} of a forward, so replacing it alone makes the whole model at "
            f"most {times(base.allowed)} faster."
        ]
        for name, row in self.rows.items():
            if row.replaced is not None and (found := _measured(row.measured)):
                said.append(f"{name}: its transformer alone would make that {times(row.replaced)}; measured {found}.")
        return said


def read_shares(sides: Sides, speeds: Speeds, reference: str) -> Shares:
    """Shares by the clock that decides about speed, where components were timed by it, else by the first they have."""
    done = {name: measured for name, measured in sides.items() if measured}
    clocks = [set(measured["clocks"]) for measured in done.values()]
    decides = next((clock for speed in speeds.values() for clock, words in METRICS.items() if words == speed.metric), "")
    if not done:
        return Shares({}, reference)
    clock = decides if all(decides in each for each in clocks) else next(iter(done.values()))["clocks"][0]
    times_s = {name: _times(measured, clock) for name, measured in done.items() if clock in measured["clocks"]}
    base = times_s.get(reference)
    rows = {}
    for name, (forward_s, transformer_s) in times_s.items():
        if not forward_s:
            continue
        replaced = ratio(base[0], base[0] - base[1] + transformer_s) if base and name != reference else None
        rows[name] = Share(name, forward_s, transformer_s, replaced, speeds.get(name) if name != reference else None)
    return Shares(rows, reference, clock)


def _times(measured: Mapping[str, Any], clock: str) -> tuple[float, float]:
    """(all components, those of the transformer)."""
    each = {name: median(clocks[clock]) for name, clocks in measured["components"].items()}
    inside = sum(seconds for name, seconds in each.items() if name.split(":")[0] == TRANSFORMER)
    return sum(each.values()), inside


def _measured(speed: Speed | None) -> str:
    """'3.38x (2.96x to 3.88x)'; nothing where it was not timed."""
    if speed is None or speed.ratio is None:
        return ""
    span = "" if speed.ratio_low is None else f" ({times(speed.ratio_low)} to {times(speed.ratio_high)})"
    return f"{times(speed.ratio)}{span}"

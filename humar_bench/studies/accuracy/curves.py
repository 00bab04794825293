"""Learning curves: means over the runs of each architecture, as a table and as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from humar_bench.records.record import Record
from humar_bench.report.plot import Panel, Plot, Series
from humar_bench.table import Column, Table

CLOCKS = {  # what the curves are drawn over beside pictures: its unit in a table, its name in a plot, and what is said of it
    "cpu_s": ("cpu", "CPU seconds", "CPU time of one thread"),
    "wall_s": ("wall", "seconds", "wall time, runs side by side on one device slow each other"),
}


@dataclass(frozen=True)
class Curves:
    """Architecture -> the mean over its runs of each evaluation, where all runs have it; `clock` is a key of `CLOCKS`."""

    means: Mapping[str, Sequence[Mapping[str, float]]]
    clock: str

    @classmethod
    def of(cls, runs: Mapping[str, Sequence[Record]], device: str) -> Curves:
        """A device's work shows in wall time alone."""
        means = {}
        for name, own in runs.items():
            curves = [record.measured["curve"] for record in own]
            if curves and len(set(map(len, curves))) == 1:
                means[name] = [{key: float(np.mean([each[key] for each in at])) for key in at[0]} for at in zip(*curves, strict=True)]
        return cls(means, "wall_s" if device.startswith("cuda") else "cpu_s")

    @property
    def table(self) -> Table:
        unit, _, words = CLOCKS[self.clock]
        rows = []
        for at, point in enumerate(next(iter(self.means.values()), [])):
            row: dict[str, Any] = {"pictures": round(point["pictures"])}
            for name, own in self.means.items():
                if at < len(own):
                    row |= {f"ap {name}": own[at]["ap"], f"s {name}": own[at][self.clock]}
            rows.append(row)
        columns = [Column("pictures", "pictures seen")]
        for name in self.means:
            columns += [Column(f"ap {name}", f"AP, {name}", digits=3), Column(f"s {name}", unit, "s", digits=0)]
        feet = (f"Means over runs. Seconds are of training, without evaluations; {words}.",)
        return Table("curves", "Learning curves", tuple(columns), tuple(rows), feet)

    def plot(self, title: str) -> Plot:
        """AP over pictures seen and over seconds."""
        panels = []
        for key, over in (("pictures", "pictures seen"), (self.clock, CLOCKS[self.clock][1])):
            series = tuple(
                Series(name, f"{name} {points[-1]['ap']:.3f}", tuple(each[key] for each in points), tuple(each["ap"] for each in points))
                for name, points in self.means.items()
            )
            panels.append(Panel(f"over {over}", "AP", series, x_label=over))
        return Plot(title, "", tuple(each for each in panels if each.series), "means over seeds", linear=True)

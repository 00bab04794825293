"""What is known already, a line on standard error as soon as it is: exact counts, the first process's speed, every verdict made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from humar_bench.args import FREE
from humar_bench.judging.speeds import read_speeds
from humar_bench.judging.statistics import FASTER, SAME, SLOWER
from humar_bench.records.record import AGAIN, Record, Run
from humar_bench.table import MIB

# Measure -> what is said of it, the field, its scale, its unit.
COUNTS = {
    "params": ("parameters", "total", 1e6, "M"), "flops": ("matmul and conv, one forward", "matmul_flops", 1e9, "GFLOP"),
    "memory": ("peak above weights and inputs", "peak_bytes", MIB, "MiB"),
}


class Early:
    """A sink that passes records on and says what they settle. The work of a record file or of nothing (`sink` None) stays as it is."""

    def __init__(self, sink: Any, names: Sequence[str], reference: str, say: Callable[[str], None]) -> None:
        self.sink, self.names, self.reference, self.say = sink, tuple(names), reference, say
        self.run: tuple[Record, ...] = ()
        self.decided: set[str] = set()

    def write(self, *records: Record) -> None:
        if self.sink is not None:
            self.sink.write(*records)
        self.run += records
        for measure in dict.fromkeys(record.measure for record in records):
            if measure in COUNTS:
                self._count(measure)
            elif measure == "fps":
                self._speeds()

    def _count(self, measure: str) -> None:
        found = {record.architecture: record for record in self.run if record.measure == measure}
        if set(found) != set(self.names):
            return
        what, field, scale, unit = COUNTS[measure]
        amounts = {name: _amount(each.measured[field], scale, unit) if each.ok else "failed" for name, each in found.items()}
        told = [f"{name} {amounts[name]}" for name in self.names]
        self.say(f"{what}: {', '.join(told)}.")

    def _speeds(self) -> None:
        timed = Run(tuple(record for record in self.run if record.measure == "fps" and record.ok)).latest()
        if self.reference not in timed.architectures:
            return
        speeds = read_speeds(timed, self.reference, [name for name in self.names if name in timed.architectures])
        processes = len({record.process for record in timed if not record.architecture.endswith(AGAIN)})
        if processes == 1 and not self.decided:
            self.decided.add("")
            unit = "items/s" if timed[0].workload.get("subject") == FREE else "images/s"
            self.say(f"speed, the first process: {', '.join(f'{name} {speed.fps:.3g}' for name, speed in speeds.items())} {unit}.")
        for name, speed in speeds.items():
            if name not in self.decided and speed.verdict in (FASTER, SLOWER, SAME):
                self.decided.add(name)
                self.say(f"speed after {processes} processes: {name} is {_said(speed)} {self.reference}.")


def _amount(value: float, scale: float, unit: str) -> str:
    """'5.02 M'; a small one as it is where its unit would leave nothing of it."""
    return f"{value / scale:,.2f} {unit}" if value >= 0.1 * scale or not value else f"{value / scale:.3g} {unit}"


def _said(speed: Any) -> str:
    if speed.verdict == SAME:
        return "the same as"
    ratio = speed.wall_ratio if speed.verdict == FASTER else 1 / speed.wall_ratio
    return f"{ratio:.3g}x {speed.verdict} than"

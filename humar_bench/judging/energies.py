"""Energy records -> joules per image and ratios against the reference, an interval over processes. No torch, no clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from humar_bench.judging import statistics
from humar_bench.records.record import Run
from humar_bench.table import percent

MARGIN = 0.02  # what one step of the counter is of a window; no verdict hangs on it


@dataclass(frozen=True)
class Drawn:
    """One architecture's energy, the median over processes; `low_j` and `high_j` are the least and the most of them.

    `ratio` is reference / this: above 1 draws less; its 95 % interval is over processes that measured both. `reason` says why there is
    no energy, or not of every process.
    """

    per_image_j: float | None = None
    low_j: float | None = None
    high_j: float | None = None
    above_idle_j: float | None = None
    idle_w: float | None = None
    processes: int = 0
    seconds: float | None = None
    step_s: float | None = None
    error_share: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    reason: str = ""


def read_energies(run: Run, reference: str) -> dict[str, Drawn]:
    """Every architecture whose records say something about energy; empty for runs without."""
    arms: dict[str, dict[int, Mapping[str, Any]]] = {}
    for record in run:
        if record.ok and record.measured.get("energy") and not record.control_of:
            arms.setdefault(record.architecture, {})[record.process] = {**record.measured["energy"], "child": record.measured.get("child")}
    return {name: _drawn(own, arms.get(reference, {}) if name != reference else {}) for name, own in arms.items()}


def _drawn(own: Mapping[int, Mapping[str, Any]], base: Mapping[int, Mapping[str, Any]]) -> Drawn:
    reasons = "; ".join(dict.fromkeys(each["reason"] for each in own.values() if each["reason"]))
    done = {process: each for process, each in own.items() if not each["reason"]}
    if not done:
        return Drawn(reason=reasons)
    found = [each["per_image_j"] for each in done.values()]
    both = [at for at in done if at in base and not base[at]["reason"] and base[at]["child"] == done[at]["child"]]
    ratio = low = high = None
    if both:
        compared = statistics.compare_processes(
            *([statistics.ProcessSample([arm[at]["per_image_j"]]) for at in sorted(both)] for arm in (base, done)), margin=MARGIN
        )
        ratio, low, high = compared.ratio, compared.low, compared.high
    return Drawn(
        median(found), min(found), max(found), median(each["above_idle_j"] for each in done.values()),
        median(each["idle_w"] for each in done.values()), len(done), min(each["seconds"] for each in done.values()),
        max(each["step_s"] for each in done.values()), max(each["error_share"] for each in done.values()), ratio, low, high, reasons,
    )


def feet(energies: Mapping[str, Drawn]) -> Iterator[str]:
    """What the energy column holds for, and why a cell of it is empty."""
    done = [each for each in energies.values() if each.per_image_j is not None]
    if done:
        yield (
            f"Energy is the whole board's, by its own counter, over windows of at least {min(each.seconds for each in done):.2g} s of "
            f"forwards back to back after the timing; a step of the counter lasts {1e3 * max(each.step_s for each in done):.3g} ms, and "
            f"steps and readings bound the error at {percent(max(each.error_share for each in done))}. Idle, the board drew "
            f"{median(each.idle_w for each in done):.0f} W; energy above idle is what it drew beyond that."
        )
    for name, each in energies.items():
        if each.reason:
            some = "in some processes " if each.per_image_j is not None else ""
            yield f"{name}: {some}no energy: {each.reason.rstrip('.')}."

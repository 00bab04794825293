"""Pictures to people -> tables: frames per second with pre- and post-processing, and where their time goes. A breakdown, no verdict.

`sides` as in `breakdown.py`: architecture -> what its record measured, or None where that failed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from humar_bench.report.breakdown import Reasons, Sides
from humar_bench.table import Column, Table, joined, percent, ratio

MODEL_STAGES = ("text encoder", "forward")  # what `fps` calls a forward
WHOLE = "all stages"


@dataclass(frozen=True)
class EndToEnd:
    """One architecture's medians, in seconds of one batch."""

    stages: Mapping[str, float]
    latency_s: float
    overlapped_s: float
    batch: int

    @property
    def model_s(self) -> float:
        return sum(self.stages.get(name, 0.0) for name in MODEL_STAGES)

    @property
    def around_s(self) -> float:
        """What is not the model."""
        return sum(self.stages.values()) - self.model_s

    @property
    def hidden(self) -> float | None:
        """Share of what is not the model that no picture waits for when the stages overlap."""
        return None if not self.around_s else min(1.0, max(0.0, (self.latency_s - self.overlapped_s) / self.around_s))


def read_end_to_end(measured: Mapping[str, Any]) -> EndToEnd:
    stages = {name: median(times) for name, times in measured["stages"].items()}
    return EndToEnd(stages, median(measured["latency_s"]), median(measured["overlapped_s"]), measured["batch"])


def end_to_end_tables(sides: Sides, reasons: Reasons, reference: str) -> list[Table]:
    """Frames per second, then each stage's time and its share."""
    done = {side: measured for side, measured in sides.items() if measured}
    return [_speed_table(sides, reasons, reference, done), _stage_table(done)] if done else [_speed_table(sides, reasons, reference, done)]


def _speed_table(sides: Sides, reasons: Reasons, reference: str, done: Sides) -> Table:
    batch = next((measured["batch"] for measured in done.values()), None)
    title = "Frames per second, pre- and post-processing included" + (f", batch {batch}" if batch else "")
    rows, base = [], read_end_to_end(done[reference]) if reference in done else None
    for side in sides:
        if side not in done:
            rows.append({"architecture": side, "note": f"failed: {reasons.get(side, '')}"})
            continue
        own = read_end_to_end(done[side])
        rows.append({
            "architecture": side, "latency_s": own.latency_s, "fps": own.batch / own.latency_s, "overlapped": own.batch / own.overlapped_s,
            "forward_fps": own.batch / own.model_s if own.model_s else None, "around": own.around_s / sum(own.stages.values()),
            "hidden": own.hidden, "rounds": len(done[side]["latency_s"]),
            "ratio": None if base is None or side == reference else base.latency_s / own.latency_s,
            "overlapped_ratio": None if base is None or side == reference else base.overlapped_s / own.overlapped_s,
        })
    columns = (
        Column("architecture", text=True), Column("latency_s", "picture to people", "ms", "less", 2, 1e-3),
        Column("fps", "one after another", "images/s", "more", 2), Column("overlapped", "stages overlapped", "images/s", "more", 2),
        Column("forward_fps", "forward alone", "images/s", "", 2), Column("around", "not the forward", "%", "", 1, 0.01),
        Column("hidden", "of it hidden by overlap", "%", "", 1, 0.01), Column("ratio", f"{reference} / it", digits=2),
        Column("overlapped_ratio", f"{reference} / it, overlapped", digits=2), Column("rounds"), Column("note", text=True),
    )
    used = tuple(column for column in columns if any(row.get(column.key) not in (None, "") for row in rows))
    return Table("end_to_end", title, used, tuple(rows), tuple(_speed_feet(done)))


def _speed_feet(done: Sides) -> list[str]:
    if not done:
        return []
    first = next(iter(done.values()))
    lines = {line: [name for name, own in first["lines"].items() if own == line] for line in dict.fromkeys(first["lines"].values())}
    beside = "; ".join(", ".join(names) for names in lines.values())
    feet = [
        f"Included: {', '.join(first['stages'])}. The forward alone is what fps times without --end-to-end"
        f"{', text encoder and all' if 'text encoder' in first['stages'] else ''}.",
        f"Overlapped, these lines work at the same time, each on another picture: {beside}.",
        _pictures_text(first),
    ]
    if "tokenizer" in first:
        how = "looked up for a caption that was met before" if first.get("cached_text") else "computed anew for every picture"
        tokens = first.get("tokens") or []
        span = f" of {min(tokens)} to {max(tokens)} tokens" if tokens else ""
        feet.append(f"Captions{span} by {first['tokenizer']}; text features are {how}.")
    return [*feet, "Medians of one process, a breakdown; which architecture is faster fps says."]


def _pictures_text(measured: Mapping[str, Any]) -> str:
    where = "of the folder" if measured.get("source") == "folder" else "made up, as JPEG files in memory"
    unread = measured.get("unreadable") or []
    left = f"; {len(unread)} could not be used: {joined([each['name'] for each in unread], 3)}" if unread else ""
    longest = f", resized to at most {measured['longest']} pixels" if "longest" in measured else ""
    sizes = [f"{height}x{width}" for height, width in measured.get("original_sizes") or []]
    shown = f" ({joined(sizes, 4)})" if sizes else ""
    return f"{measured['pictures']} pictures{shown} {where}{longest}{left}."


def _stage_table(done: Sides) -> Table:
    columns = [Column("part", "stage", text=True)]
    found = {side: read_end_to_end(measured) for side, measured in done.items()}
    for side in done:
        columns += [Column(f"={side}", side, "ms", "", 2, 1e-3), Column(f"%{side}", f"{side} share", "%", "", 1, 0.01)]
    names = list(dict.fromkeys(name for own in found.values() for name in own.stages))
    rows = []
    for name in (*names, WHOLE):
        row: dict[str, Any] = {"part": name}
        for side, own in found.items():
            total = sum(own.stages.values())
            seconds = total if name == WHOLE else own.stages.get(name)
            row |= {f"={side}": seconds, f"%{side}": None if seconds is None or not total else seconds / total}
        rows.append(row)
    most = {side: max((seconds, name) for name, seconds in own.stages.items()) for side, own in found.items()}
    feet = [f"{side}: most time goes to {name}, {percent(seconds / sum(found[side].stages.values()))}." for side, (seconds, name) in
            most.items() if sum(found[side].stages.values())]
    return Table("end_to_end_stages", "From picture to people, stage by stage", tuple(columns), tuple(rows), tuple(feet))


def end_to_end_data(sides: Sides, reasons: Reasons, reference: str) -> Table:
    """One row an architecture and stage, seconds of a batch; the last three of each are the latency, a batch's time when stages overlap,
    and the forward with its text encoder."""
    rows: list[dict[str, Any]] = []
    for side, measured in sides.items():
        if not measured:
            rows.append({"architecture": side, "status": "failed", "reason": reasons.get(side, "")})
            continue
        own = read_end_to_end(measured)
        total = sum(own.stages.values())
        ends = {"latency": own.latency_s, "overlapped": own.overlapped_s, "forward alone": own.model_s}
        for name, seconds in {**own.stages, **ends}.items():
            rows.append({
                "architecture": side, "status": "ok", "stage": name, "line": measured["lines"].get(name, ""), "seconds": seconds,
                "share": ratio(seconds, total) if name in own.stages else None, "images_per_s": ratio(own.batch, seconds),
                "batch": own.batch, "pictures": measured["pictures"], "cached_text": measured.get("cached_text"),
            })
    keys = ("architecture", "status", "stage", "line", "seconds", "share", "images_per_s", "batch", "pictures", "cached_text", "reason")
    return Table("end_to_end", "end_to_end", tuple(Column(key) for key in keys), tuple(rows))

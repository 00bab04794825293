"""Tables and curves of training: what an evaluation found, and how it came to that. Rows come in, no torch, no arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from humar_bench.report.plot import Panel, Plot, Series
from humar_bench.table import Column, Table

BEST, COCO = "best", {"keypoints": "keypoints", "bbox": "boxes", "segm": "masks"}
OF_KEYPOINT = " of keypoint "
CURVES = {"ap": "AP", "oks": "mean OKS"}  # of the log's evaluations
DIGITS = 3


class Interval(NamedTuple):
    """A metric and its bounds; None where there is nothing to measure."""

    value: float | None
    low: float | None
    high: float | None


def evaluation_tables(found: Mapping[str, Interval], keypoints: Sequence[str], feet: Sequence[str]) -> tuple[Table, ...]:
    """Of the best-scored query, COCO's own over all queries, and by keypoint; metrics are named as in `PictureStatistics`."""
    best = [(name.partition("/")[2], value) for name, value in found.items() if name.startswith(f"{BEST}/") and OF_KEYPOINT not in name]
    coco = [
        {"of": words, "metric": name.partition("/")[2], **_cells(value)}
        for kind, words in COCO.items() for name, value in found.items() if name.startswith(f"{kind}/")
    ]
    by_keypoint = [_by_keypoint(found, number, name) for number, name in enumerate(keypoints, 1)]
    numbers = _columns(("value", "low", "high"))
    return (
        Table("best", "The best-scored query: what a user gets", (Column("metric", text=True), *numbers),
              tuple({"metric": name, **_cells(value)} for name, value in best)),
        Table("coco", "All queries: COCO's own table", (Column("of", text=True), Column("metric", text=True), *numbers), tuple(coco)),
        Table("keypoints", "The best-scored query, by keypoint",
              (Column("keypoint", text=True), *_columns(("OKS", "OKS low", "OKS high", "PCKh", "PCKh low", "PCKh high"))),
              tuple(row for row in by_keypoint if len(row) > 1), tuple(feet)),
    )


def _columns(keys: Sequence[str]) -> tuple[Column, ...]:
    return tuple(Column(key, digits=DIGITS) for key in keys)


def _cells(found: Interval, prefix: str = "") -> dict[str, float | None]:
    if not prefix:
        return found._asdict()
    return {prefix: found.value, f"{prefix} low": found.low, f"{prefix} high": found.high}


def _by_keypoint(found: Mapping[str, Interval], number: int, name: str) -> dict[str, Any]:
    row: dict[str, Any] = {"keypoint": name}
    for metric in ("OKS", "PCKh"):
        if (value := found.get(f"{BEST}/{metric}{OF_KEYPOINT}{number}")) is not None:
            row |= _cells(value, metric)
    return row


def curve_table(lines: Sequence[Mapping[str, Any]]) -> Table:
    """Every evaluation in a run's log."""
    columns = (
        Column("step"), Column("pictures"), Column("cpu_s", "training", "CPU s"), *_columns(("ap", "ap50", "ap75", "oks", "pckh")),
    )
    titles = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "oks": "mean OKS", "pckh": "PCKh"}
    columns = tuple(Column(each.key, titles.get(each.key, each.title), each.unit, digits=each.digits) for each in columns)
    rows = tuple(line for line in lines if line["kind"] == "evaluation")
    return Table("curve", "Evaluations, of the best-scored query", columns, rows)


def curve_plot(title: str, lines: Sequence[Mapping[str, Any]]) -> Plot:
    """What a run's evaluations say, and its loss, against pictures."""
    evaluations = [line for line in lines if line["kind"] == "evaluation"]
    steps = [line for line in lines if line["kind"] == "step"]
    curves = {words: _points(evaluations, lambda line, name=name: line.get(name)) for name, words in CURVES.items()}
    panels = [Panel(words, words, (_series(title, found),)) for words, found in curves.items() if any(value for _, value in found)]
    if losses := _points(steps, lambda line: line["losses"].get("total")):
        panels.append(Panel("Loss", "total loss of a batch", (_series(title, losses),)))
    return Plot(title, "pictures", tuple(panels), linear=True)


def _points(lines: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], float | None]) -> list[tuple[float, float]]:
    """(pictures, value) of the lines that have one."""
    return [(float(line["pictures"]), found) for line in lines if (found := value(line)) is not None]


def _series(name: str, points: Sequence[tuple[float, float]]) -> Series:
    return Series(name, name, *map(tuple, zip(*points, strict=True)))

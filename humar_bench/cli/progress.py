"""Progress on standard error, with the time left; only on a terminal, and gone when it is done."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from humar_bench.args import RunArgs
from humar_bench.cli.app import say
from humar_bench.table import joined, visible

MINUTE_S = 60.0
JOB_S, COUNT_S = 8.0, 1.0  # about what a measurement in a child of its own takes, and a count; only the bar's length depends on it


class Tracker:
    """Turns the bench's events into how much of the work is done (0 to 1) and what is being done."""

    def __init__(self, measures: Sequence[str], architectures: int, run: RunArgs) -> None:
        self.processes = run.most_processes
        self.weight_s = {measure: COUNT_S if measure in ("params", "flops") else JOB_S for measure in measures}
        if "fps" in measures:
            self.weight_s["fps"] = JOB_S + run.budget / self.processes
        self.total_s = sum(weight * architectures * (self.processes if each == "fps" else 1) for each, weight in self.weight_s.items())
        self.architectures = architectures
        self.finished_s = 0.0

    def read(self, event: Mapping[str, Any]) -> tuple[float, str]:
        """(share, text) after one event."""
        measure, under_way_s = event["measure"], 0.0
        if event["status"] in ("done", "failed"):
            self.finished_s += self.weight_s[measure]
        elif event.get("share"):
            under_way_s = event["share"] * self.weight_s[measure] * self.architectures
        stage = event.get("stage") if event.get("stage") != measure else ""
        process = f"process {event['process'] + 1} of {self.processes}" if measure == "fps" else ""
        text = ", ".join(filter(None, (measure, process, event.get("architecture"), stage)))
        return min(1.0, (self.finished_s + under_way_s) / self.total_s), text


@contextlib.contextmanager
def said_when_slow(doing: str, after_s: float = 15.0) -> Iterator[None]:
    """What takes longer than `after_s` inside says what it is doing, in one line on standard error, and again after twice as long each
    time. Nothing runs meanwhile: a thread sleeps until then."""
    over = threading.Event()

    def wait() -> None:
        wait_s = after_s
        while not over.wait(wait_s):
            say(f"still {doing}.")
            wait_s *= 2

    threading.Thread(target=wait, daemon=True).start()
    try:
        yield
    finally:
        over.set()


@contextlib.contextmanager
def shown_bar(stream: TextIO, *, quiet: bool, doing: str = "measuring") -> Iterator[Callable[[float, str], None] | None]:
    """A function that takes a share (0 to 1) and a text, or None where nobody would see them; there, a line says what takes minutes."""
    if quiet or not (hasattr(stream, "isatty") and stream.isatty()):
        with contextlib.nullcontext() if quiet else said_when_slow(doing, MINUTE_S):
            yield None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from humar_bench.report import make_console

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    # No thread that redraws by itself: it would run on the cores that are being measured.
    with Progress(*columns, console=make_console(stream), transient=True, auto_refresh=False) as bars:
        bar = bars.add_task("starting", total=1.0)
        yield lambda share, text: bars.update(bar, completed=share, description=visible(text), refresh=True)


@contextlib.contextmanager
def shown_progress(
    stream: TextIO, measures: Sequence[str], architectures: int, run: RunArgs, *, quiet: bool
) -> Iterator[Callable[[Mapping[str, Any]], None] | None]:
    """A function that takes the bench's events, or None where nobody would see them."""
    tracker = Tracker(measures, architectures, run)
    with shown_bar(stream, quiet=quiet, doing=f"measuring {joined(measures)}") as show:
        yield None if show is None else lambda event: show(*tracker.read(event))

"""Studies: the same measurements over a range of work, or over the switches of the design."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from humar_bench.args import WEEK_S, RunArgs
from humar_bench.cli.app import command, command_text
from humar_bench.cli.shared import TIMING, check_paths, check_whole, keeping_records, records_place, say_whose_code, show_study, small_batch
from humar_bench.errors import EXIT_DONE, EXIT_FAILED, UsageError
from humar_bench.options import Output, Selection, Whole, option
from humar_bench.running.plan import Plan, resolve
from humar_bench.studies import files_of
from humar_bench.subjects.registry import check_architecture


@dataclass(frozen=True)
class StudyOptions:
    """How a study is timed, and where it goes."""

    time: bool = option("Also time, as far as the budget reaches.", default=True, flags=("--time/--no-time",))
    seconds: float = option("Seconds for all times together, process starts included.", default=120.0, flags=("--budget",))
    out: str | None = option("Folder for records, CSV, Markdown and curves; made where missing.", metavar="DIR", flags=("--out", "-o"))

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= WEEK_S:
            raise UsageError(f"--budget is {self.seconds:g}; it must be a number of seconds above 0 and at most {WEEK_S:,.0f}, a week.")


@dataclass(frozen=True)
class ScalingOptions:
    """What only `scaling` asks."""

    over: str | None = option(
        "What grows: tokens, queries, batch, keypoints; with --whole pixels (by default) or caption instead of tokens.", metavar="NAME"
    )
    first: str | None = option("Smallest value; by default 1k tokens, 20 queries, 1 image, 8 keypoints.", metavar="N", flags=("--from",))
    last: str | None = option("Largest value; by default 32k tokens, 640 queries, 16 images, 128 keypoints.", metavar="N", flags=("--to",))
    points: int | None = option("Points of the geometric range; by default 5 or 6.", metavar="N")
    plot: str | None = option("Draw the curves into a .png or .svg file (needs matplotlib).", metavar="PATH")


@command("scaling", Selection, Whole, ScalingOptions, StudyOptions, RunArgs, Output, leave_out=(*TIMING, "reference"))
def scaling(selection: Selection, whole: Whole, options: ScalingOptions, study: StudyOptions, run: RunArgs, output: Output) -> int:
    """Measure how each cost grows with the work, and fit the exponent.

    Over tokens, feature maps are square pyramids. Costs are counted exactly at every point; times are taken from the smallest point on.

    \b
    Example:
      humar-bench scaling --over tokens --csv -
      humar-bench scaling --over queries --no-time --plot queries.png
      humar-bench scaling --whole --over pixels --no-time
    """
    from humar_bench.report.plot import check_plot
    from humar_bench.studies.scaling import scaling as rooms

    over = options.over or ("pixels" if whole.whole else "tokens")
    if over not in rooms.AXES:
        raise UsageError(f"over is {over!r}; choose one of {', '.join(rooms.AXES)}.")
    if options.plot is not None:
        check_plot(options.plot)
    ends = [None if text is None else rooms.parse_count(text, flag) for flag, text in (("--from", options.first), ("--to", options.last))]
    axis = rooms.AXES[over]
    values = rooms.values_of(axis, *ends, options.points)
    plan = resolve(small_batch(selection, run), run, whole)
    for value in values:
        rooms.work_at(axis, value, plan.args, plan.workload)  # refuses before anything is measured

    return run_study(
        "scaling", plan, study, output, lambda **given: rooms.measure_scaling(plan, axis, values, **given), args_file=selection.args,
        plot=options.plot,
    )


@command("ablate", Selection, StudyOptions, RunArgs, Output, leave_out=(*TIMING, "arch", "reference"))
def ablate(selection: Selection, study: StudyOptions, run: RunArgs, output: Output) -> int:
    """Turn each design switch of the replacement, one at a time, and compare.

    \b
    Example:
      humar-bench ablate --no-time
      humar-bench ablate --budget 300 -o ablation
    """
    from humar_bench.studies import ablate as rooms

    plan = resolve(small_batch(selection, run), run)
    return run_study("ablate", plan, study, output, lambda **given: rooms.measure_ablation(plan, **given), args_file=selection.args)


def run_study(
    name: str, plan: Plan, options: StudyOptions, output: Output, measure: Callable[..., Any], *, args_file: str | None,
    plot: str | None = None,
) -> int:
    """Check every path, measure, write what was asked for. Returns the exit code."""
    for each in plan.architectures:
        check_architecture(each)
    check_whole(plan)
    check_paths(output, out=options.out, own=files_of(name), plot=plot, reads={"--args": args_file}, architectures=plan.architectures)
    say_whose_code(plan.architectures)
    done, records = records_place(options.out, output)  # records of other work do no harm: nobody asks for them
    found, lost = keeping_records(records, output, lambda sink, show: measure(
        timed=options.time, budget_s=options.seconds, done=done, sink=sink, command=command_text(),
        progress=show or (lambda share, text: None),
    ))
    folder = options.out or (output.resume if output.resume is not None and os.path.isdir(output.resume) else None)
    show_study(found, output, folder, lost, plot)
    return EXIT_FAILED if found.failures else EXIT_DONE

"""Studies: the same measurements over a range of work, or over the switches of the design."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from humar_bench.args import WEEK_S, RunArgs
from humar_bench.cli.accuracy_options import alike, check_small, parse_rates
from humar_bench.cli.app import command, command_text
from humar_bench.cli.shared import (
    TIMING,
    check_device,
    check_paths,
    check_whole,
    files_read,
    keeping_records,
    records_place,
    runs_folder,
    say_whose_code,
    show_study,
    small_batch,
    study_folder,
)
from humar_bench.errors import EXIT_DONE, EXIT_FAILED, UsageError
from humar_bench.options import Call, Output, Selection, Whole, option
from humar_bench.running.plan import Plan, resolve
from humar_bench.studies import files_of
from humar_bench.subjects.registry import check_architecture
from humar_bench.training.extra import check_extra

FEWEST_SEEDS = 2  # of a row that is trained


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
        "What grows: tokens, queries, batch or keypoints; with --whole pixels (by default) or caption instead of tokens, --inputs batch.",
        metavar="NAME",
    )
    first: str | None = option("Smallest value; by default 1k tokens, 20 queries, 1 image, 8 keypoints.", metavar="N", flags=("--from",))
    last: str | None = option("Largest value; by default 32k tokens, 640 queries, 16 images, 128 keypoints.", metavar="N", flags=("--to",))
    points: int | None = option("Points of the geometric range; by default 5 or 6.", metavar="N")
    plot: str | None = option("Draw the curves into a .png or .svg file (needs matplotlib).", metavar="PATH")


@command("scaling", Selection, Whole, Call, ScalingOptions, StudyOptions, RunArgs, Output, leave_out=(*TIMING, "reference"))
def scaling(
    selection: Selection, whole: Whole, call: Call, options: ScalingOptions, study: StudyOptions, run: RunArgs, output: Output
) -> int:
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

    usual = "batch" if call.inputs is not None else "pixels" if whole.whole else "tokens"
    over = usual if options.over is None else options.over
    if over not in rooms.AXES:
        raise UsageError(f"over is {over!r}; choose one of {', '.join(rooms.AXES)}.")
    if options.plot is not None:
        check_plot(options.plot)
    ends = [None if text is None else rooms.parse_count(text, flag) for flag, text in (("--from", options.first), ("--to", options.last))]
    axis = rooms.AXES[over]
    values = rooms.values_of(axis, *ends, options.points)
    plan = resolve(small_batch(selection, run, call), run, whole, call)
    for value in values:
        rooms.work_at(axis, value, plan.args, plan.workload)  # refuses before anything is measured

    return run_study(
        "scaling", plan, study, output, lambda **given: rooms.measure_scaling(plan, axis, values, **given), plot=options.plot,
        reads=files_read(selection, call),
    )


@dataclass(frozen=True)
class EarlyOptions:
    """How rows are trained. `None` means: as the preset has it."""

    accuracy: bool = option("Also train every row in a small model, alike, and show its accuracy after that budget.", default=False)
    preset: str | None = alike("preset", "What is trained: cpu by default, or gpu (see accuracy).", metavar="NAME", words=("cpu", "gpu"))
    level: int | None = alike("level", metavar="N")
    size: int | None = alike("size", metavar="N")
    pictures: int | None = alike("pictures", metavar="N")
    val: int | None = alike("val", metavar="N")
    seeds: int | None = alike("seeds", "Runs of each row; the default has as many again. 2 by default.", metavar="N")
    warm: int | None = alike("warm", metavar="N")
    rates: str | None = alike("rates", "Learning rates to choose from, on the default, for all rows: at least three.", metavar="X,X,X")
    at_once: int | None = alike("at_once", metavar="N")
    time_limit: float | None = alike("time_limit", metavar="S")

    def __post_init__(self) -> None:
        given = [each.name for each in dataclasses.fields(self) if getattr(self, each.name) is not None and each.name != "accuracy"]
        if given and not self.accuracy:
            raise UsageError(f"--{given[0].replace('_', '-')} is {getattr(self, given[0])} and nothing is trained; add --accuracy.")
        check_small(self.preset, self.time_limit)


@command("ablate", Selection, StudyOptions, EarlyOptions, RunArgs, Output, leave_out=(*TIMING, "arch", "reference"))
def ablate(selection: Selection, study: StudyOptions, early: EarlyOptions, run: RunArgs, output: Output) -> int:
    """Turn each design switch of the replacement, one at a time, and compare.

    With --accuracy every row is also trained on procedural people, two seeds each, and its average precision after that budget is shown
    with its interval beside what it costs. The preset's own budget takes hours for all rows; --pictures shortens it.

    \b
    Example:
      humar-bench ablate --no-time
      humar-bench ablate --budget 300 -o ablation
      humar-bench ablate --accuracy --pictures 4800 -o ablation
    """
    from humar_bench.studies import ablate as rooms

    plan, reads = resolve(small_batch(selection, run, Call()), run), files_read(selection, Call())
    if not early.accuracy:
        return run_study("ablate", plan, study, output, lambda **given: rooms.measure_ablation(plan, **given), reads=reads)
    from humar_bench.studies.accuracy.kept import PLACES

    trained = _early_plan(early, plan)
    check_extra()
    check_device(trained.base.device)
    return run_training("ablate", plan, study, output, lambda folder, **given: rooms.measure_ablation(
        plan, accuracy=trained, folder=folder, time_limit_s=early.time_limit, **given
    ), reads=reads, places=(*PLACES, rooms.RUNS_TABLE))


def _early_plan(early: EarlyOptions, plan: Plan) -> Any:
    """What the rows' trainings are. Raises UsageError."""
    from humar_bench.studies.accuracy.plan import Asked
    from humar_bench.studies.accuracy.presets import PRESETS
    from humar_bench.studies.early_accuracy import plan_of_rows
    from humar_bench.studies.switches import switches_of

    asked = Asked(
        arch=(), level=early.level, size=early.size, pictures=early.pictures, evaluation_pictures=early.val, warm=early.warm,
        seeds=FEWEST_SEEDS if early.seeds is None else early.seeds, rates=parse_rates(early.rates), at_once=early.at_once,
    )
    return plan_of_rows(switches_of(plan.args), plan.args, PRESETS[early.preset or "cpu"], asked)


def run_training(
    name: str, plan: Plan, options: StudyOptions, output: Output, measure: Callable[..., Any], *, reads: Mapping[str, str | None],
    places: tuple[str, ...],
) -> int:
    """`run_study` of one that trains: `measure` is also given the folder that runs are kept in, which is looked at before."""
    with contextlib.ExitStack() as stack:
        return run_study(name, plan, options, output, lambda **given: measure(
            stack.enter_context(runs_folder(study_folder(options.out, output))), **given
        ), reads=reads, places=places)


def run_study(
    name: str, plan: Plan, options: StudyOptions, output: Output, measure: Callable[..., Any], *, reads: Mapping[str, str | None],
    plot: str | None = None, places: tuple[str, ...] = (),
) -> int:
    """Check every path, measure, write what was asked for. `places` are what the study keeps in its folder beside its files. Returns the
    exit code."""
    for each in plan.architectures:
        check_architecture(each)
    check_whole(plan)
    check_paths(output, out=options.out, own=(*files_of(name), *places), plot=plot, reads=reads, architectures=plan.architectures)
    say_whose_code(plan.architectures, reads.get("--inputs"))
    done, records = records_place(options.out, output)  # records of other work do no harm: nobody asks for them
    found, lost = keeping_records(records, output, lambda sink, show: measure(
        timed=options.time, budget_s=options.seconds, done=done, sink=sink, command=command_text(),
        progress=show or (lambda share, text: None),
    ))
    show_study(found, output, study_folder(options.out, output), lost, plot)
    return EXIT_FAILED if found.failures else EXIT_DONE

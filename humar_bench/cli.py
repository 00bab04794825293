"""The command line: parse, call, print, exit code. No arithmetic; torch only inside a command, so that `--help` answers at once.

Tables go to standard output, progress and warnings to standard error. Exit codes: `errors.py`, and 130 after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from humar_bench import __version__, typer_options
from humar_bench import calibrate as calibration
from humar_bench.args import WORKLOADS, ModelArgs, RunArgs
from humar_bench.errors import EXIT_DONE, EXIT_FAILED, EXIT_INVALID, EXIT_USAGE, HumarBenchError, UsageError
from humar_bench.evidence import ClaimsOptions, ClaimsRun, gather
from humar_bench.options import DEFAULT_ARCHITECTURES, Output, Plan, Selection, help_of, option, resolve, scaled_for_cpu, use_of
from humar_bench.record import MEASURES, RECORDS_NAME, RUN_FIELDS, RecordWriter, Run, load, plain, records_path
from humar_bench.registry import BUILT_IN, check_architecture

if TYPE_CHECKING:
    from humar_bench.compare import Comparison

NAME = "humar-bench"
EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 130, 141
COUNTERS = ("fvcore", "thop", "profiler")
_PANELS = {Selection: "What to measure", RunArgs: "How to measure", Output: "Where results go"}
_TIMING = ("processes", "control", "min_runs", "max_runs", "budget")


class Interrupted(HumarBenchError):
    """Ctrl-C."""

    exit_code = EXIT_INTERRUPTED


class _Group(TyperGroup):
    """Turns Ctrl-C and an output that is gone into this package's errors before typer makes something else of them."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except KeyboardInterrupt:
            raise Interrupted("stopped by Ctrl-C; what was written to a records file (-o, --records) before is kept.") from None
        except BrokenPipeError:
            _silence(sys.stdout)
            return EXIT_BROKEN_PIPE
        except OSError as error:
            if error.filename is not None:
                raise
            _silence(sys.stdout)
            raise HumarBenchError(f"standard output could not be written: {error.strerror or error}; make room or use a file.") from error


app = typer.Typer(
    cls=_Group, add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _front(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False
) -> int | None:
    """Is this replacement really smaller, faster, lighter, and how sure are we?

    Measures two pose transformers, or your own architectures, side by side on the same work.

    \b
    Example:
      humar-bench params
      humar-bench report --workload speed-test -o results
    """
    if version:
        print(f"{NAME} {__version__}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit()
    return None


command = functools.partial(typer_options.command, app, panels=_PANELS)


# Measuring


@dataclass(frozen=True)
class FlopsOptions:
    """What only `flops` asks."""

    counter: tuple[str, ...] = option(f"Also ask another counter: {', '.join(COUNTERS)}. Repeatable.", default=(), metavar="NAME")
    operators: bool = option("Show every operator, also those without matmul FLOPs.", default=False)

    def __post_init__(self) -> None:
        for name in self.counter:
            if name not in COUNTERS:
                raise UsageError(f"counter is {name!r}; choose one of {', '.join(COUNTERS)}.")


@dataclass(frozen=True)
class ReportOptions:
    """Where a whole report goes."""

    out: str | None = option("Folder for records, CSV and Markdown; made where missing.", metavar="DIR", flags=("--out", "-o"))


@command("params", Selection, RunArgs, Output, leave_out=_TIMING)
def params(selection: Selection, run: RunArgs, output: Output) -> int:
    """Count parameters by component, side by side; nothing is allocated.

    \b
    Example:
      humar-bench params
      humar-bench params --set enc_layers=3 --csv -
    """
    return measure_and_show(("params",), resolve(selection, run), output)


@command("flops", Selection, FlopsOptions, RunArgs, Output, leave_out=_TIMING)
def flops(selection: Selection, options: FlopsOptions, run: RunArgs, output: Output) -> int:
    """Count FLOPs by component and by operator, and name what was not counted.

    \b
    Example:
      humar-bench flops --batch 2 --feature-sizes 50x50,50x50,50x50
      humar-bench flops --counter fvcore --counter thop
    """
    return measure_and_show(("flops",), resolve(selection, run), output, counters=options.counter, all_operators=options.operators)


@command("fps", Selection, RunArgs, Output)
def fps(selection: Selection, run: RunArgs, output: Output) -> int:
    """Time frames per second and latency in turn, with an interval and a verdict.

    \b
    Example:
      humar-bench fps --device cuda --batch 2
      humar-bench fps --workload speed-test --budget 60
    """
    return measure_and_show(("fps",), resolve(selection, run), output)


@command("memory", Selection, RunArgs, Output, leave_out=_TIMING)
def memory(selection: Selection, run: RunArgs, output: Output) -> int:
    """Measure weights and the peak of one forward, and say what is alive there.

    \b
    Example:
      humar-bench memory --batch 1
    """
    return measure_and_show(("memory",), resolve(selection, run), output)


@command("report", Selection, ReportOptions, RunArgs, Output, leave_out=("csv", "records"))
def report(selection: Selection, options: ReportOptions, run: RunArgs, output: Output) -> int:
    """Measure all of these: records, CSV, Markdown and one screen.

    \b
    Example:
      humar-bench report -o results
      humar-bench report --resume results
    """
    from humar_bench.device import open_device

    if open_device(run.device).kind == "cpu":
        selection = scaled_for_cpu(selection)
    return measure_and_show(MEASURES, resolve(selection, run), output, out=options.out, whole=True)


def measure_and_show(
    measures: Sequence[str], plan: Plan, output: Output, *, counters: Sequence[str] = (), all_operators: bool = False,
    out: str | None = None, whole: bool = False,
) -> int:
    """Check every path and the device, measure, write what was asked for, with `whole` a report's folder too. Returns the exit code."""
    from humar_bench import report as writers
    from humar_bench.compare import compare

    for each in plan.architectures:
        check_architecture(each)
    for name in ("csv", "markdown", "json"):
        path = getattr(output, name)
        if path not in (None, "-"):
            writers.check_writable(path, f"--{name}")
    _check_device(plan.run.device)
    done, records = _records_place(measures, plan, output, out, writers.check_folder)
    for each in plan.architectures:
        if each.foreign:
            say(f"note: {each.name} is not part of humar-bench; loading it runs the code of {each.spec.rpartition(':')[0]}.")
    run = _measure(measures, plan, counters, records, done, quiet=output.quiet)
    folder = output.resume or out if whole else None
    if folder is not None:
        run = load(folder).latest()
        writers.write_report(run, folder, plan.reference)
    comparison = compare(run, plan.reference, all_operators=all_operators)
    _write(comparison, output)
    for failure in comparison.failures:
        say(failure)
    return EXIT_FAILED if comparison.failures else EXIT_DONE


def _records_place(
    measures: Sequence[str], plan: Plan, output: Output, out: str | None, check_folder: Callable[[str, str], Any]
) -> tuple[Run | None, str | None]:
    """What an earlier run left (with --resume), and the file new records go to."""
    if out is not None and output.resume is not None:
        raise UsageError(f"-o is {out} and --resume is {output.resume}; give one of the two.")
    if output.resume is not None:
        records = records_path(output.resume)
        done = load(records)
        done = Run(tuple(record for record in done if record.measure in measures), done.notes)
        _refuse_other_work(plan, done, output.resume)
        check_folder(str(records.parent), "--resume")
        return done, str(records)
    if out is None:
        return None, output.records
    path = os.path.join(str(check_folder(out, "-o")), RECORDS_NAME)
    if os.path.exists(path) and os.path.getsize(path):
        raise UsageError(f"-o {out!r} already holds records; go on with --resume {shlex.quote(out)}, or name another folder.")
    return None, path


def _refuse_other_work(plan: Plan, done: Run, place: str) -> None:
    """A run is of one workload, one set of arguments, one device and one way to measure: a resumed one must ask the same again."""
    wanted = plain({"asked": plan.args, "workload": plan.workload, "run": plan.run})
    for record in done:
        depends = ("device", "seed", *RUN_FIELDS[record.measure])
        for kind, values in wanted.items():
            for name, value in values.items():
                was = getattr(record, kind).get(name)
                if was != value and (kind != "run" or name in depends):
                    raise UsageError(f"--resume {place!r} was measured with {name} {was} and {value} is asked now; ask the same again.")


def _check_device(name: str) -> None:
    if name not in ("auto", "cpu"):
        from humar_bench.device import open_device

        open_device(name)


def _measure(
    measures: Sequence[str], plan: Plan, counters: Sequence[str], records: str | None, done: Run | None, *, quiet: bool
) -> Run:
    from humar_bench import bench
    from humar_bench.progress import shown_progress

    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(RecordWriter(records)) if records is not None else None
        progress = stack.enter_context(shown_progress(sys.stderr, measures, len(plan.architectures), plan.run, quiet=quiet))
        return bench.benchmark(
            plan.architectures, plan.args, plan.workload, measures=list(measures), run=plan.run, sink=sink, progress=progress, done=done,
            counters=tuple(counters), command=shlex.join([NAME, *_typed]), reference=plan.reference,
        )


def _write(comparison: Comparison, output: Output) -> None:
    """Every format asked for, then the screen where standard output is free."""
    from humar_bench import report as writers

    make = {
        "csv": lambda: "".join(writers.to_csv(table) for table in comparison.data.values()),
        "markdown": lambda: writers.to_markdown(comparison),
        "json": lambda: writers.to_json(comparison),
    }
    for name, text in make.items():
        path = getattr(output, name)
        if path == "-":
            sys.stdout.write(text())
        elif path is not None:
            writers.write_text(path, text())
    if output.stdout_format is None and not output.quiet:
        writers.print_comparison(comparison, writers.make_console(sys.stdout))


# Studies: the same measurements over a range of work, or over the switches of the design


@dataclass(frozen=True)
class StudyOptions:
    """How a study is timed, and where it goes."""

    time: bool = option("Also time, as far as the budget reaches.", default=True, flags=("--time/--no-time",))
    seconds: float = option("Seconds for all times together, process starts included.", default=120.0, flags=("--budget",))
    out: str | None = option("Folder for records, CSV, Markdown and curves; made where missing.", metavar="DIR", flags=("--out", "-o"))

    def __post_init__(self) -> None:
        if not 0 < self.seconds < float("inf"):
            raise UsageError(f"--budget is {self.seconds:g}; it must be a number of seconds above 0.")


@dataclass(frozen=True)
class ScalingOptions:
    """What only `scaling` asks."""

    over: str = option("What grows: tokens, queries, batch or keypoints.", default="tokens", metavar="NAME")
    first: str | None = option("Smallest value; by default 1k tokens, 20 queries, 1 image, 8 keypoints.", metavar="N", flags=("--from",))
    last: str | None = option("Largest value; by default 32k tokens, 640 queries, 16 images, 128 keypoints.", metavar="N", flags=("--to",))
    points: int | None = option("Points of the geometric range; by default 5 or 6.", metavar="N")
    plot: str | None = option("Draw the curves into a .png or .svg file (needs matplotlib).", metavar="PATH")


@command("scaling", Selection, ScalingOptions, StudyOptions, RunArgs, Output, leave_out=(*_TIMING, "reference"))
def scaling(selection: Selection, options: ScalingOptions, study: StudyOptions, run: RunArgs, output: Output) -> int:
    """Measure how each cost grows with the work, and fit the exponent.

    Over tokens, feature maps are square pyramids. Costs are counted exactly at every point; times are taken from the smallest point on.

    \b
    Example:
      humar-bench scaling --over tokens --csv -
      humar-bench scaling --over queries --no-time --plot queries.png
    """
    from humar_bench import scaling as rooms
    from humar_bench.report import check_writable
    from humar_bench.report.plot import check_plot, write_plot

    if options.over not in rooms.AXES:
        raise UsageError(f"over is {options.over!r}; choose one of {', '.join(rooms.AXES)}.")
    if options.plot is not None:
        check_plot(options.plot)
        check_writable(options.plot, "--plot")
    ends = [None if text is None else rooms.parse_count(text, flag) for flag, text in (("--from", options.first), ("--to", options.last))]
    axis = rooms.AXES[options.over]
    values = rooms.values_of(axis, *ends, options.points)
    plan = resolve(_small_batch(selection, run), run)
    for value in values:
        rooms.work_at(axis, value, plan.args, plan.workload)  # refuses before anything is measured

    def measure(**given: Any) -> Any:
        found = rooms.measure_scaling(plan, axis, values, **given)
        if options.plot is not None:
            write_plot(found.plot, options.plot)
        return found

    return _study("scaling", plan, study, output, measure)


@command("ablate", Selection, StudyOptions, RunArgs, Output, leave_out=(*_TIMING, "arch", "reference"))
def ablate(selection: Selection, study: StudyOptions, run: RunArgs, output: Output) -> int:
    """Turn each design switch of the replacement, one at a time, and compare.

    \b
    Example:
      humar-bench ablate --no-time
      humar-bench ablate --budget 300 -o ablation
    """
    from humar_bench import ablate as rooms

    plan = resolve(_small_batch(selection, run), run)
    return _study("ablate", plan, study, output, lambda **given: rooms.measure_ablation(plan, **given))


def _small_batch(selection: Selection, run: RunArgs) -> Selection:
    """On a CPU the default workload at batch 1, as a report has it."""
    from humar_bench.device import open_device

    return scaled_for_cpu(selection) if open_device(run.device).kind == "cpu" else selection


def _study(name: str, plan: Plan, options: StudyOptions, output: Output, measure: Callable[..., Any]) -> int:
    """Check every path, measure, write what was asked for. Returns the exit code."""
    from humar_bench import report as writers
    from humar_bench.progress import shown_bar
    from humar_bench.report import study as study_writers

    for each in plan.architectures:
        check_architecture(each)
    formats = {"csv": study_writers.study_csv, "markdown": study_writers.study_markdown, "json": study_writers.study_json}
    for each in formats:
        if (path := getattr(output, each)) not in (None, "-"):
            writers.check_writable(path, f"--{each}")
    done, records = _study_place(options.out, output, writers.check_folder)
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(RecordWriter(records)) if records is not None else None
        show = stack.enter_context(shown_bar(sys.stderr, quiet=output.quiet))
        found = measure(
            timed=options.time, budget_s=options.seconds, done=done, sink=sink, command=shlex.join([NAME, *_typed]),
            progress=show or (lambda share, text: None),
        )
    for each, text in formats.items():
        path = getattr(output, each)
        if path == "-":
            sys.stdout.write(text(found))
        elif path is not None:
            writers.write_text(path, text(found))
    folder = options.out or (output.resume if output.resume is not None and os.path.isdir(output.resume) else None)
    if folder is not None:
        study_writers.write_study(found, folder, name)
    if output.stdout_format is None and not output.quiet:
        study_writers.print_study(found, writers.make_console(sys.stdout))
    for failure in found.failures:
        say(failure)
    return EXIT_FAILED if found.failures else EXIT_DONE


def _study_place(out: str | None, output: Output, check_folder: Callable[[str, str], Any]) -> tuple[Run | None, str | None]:
    """What an earlier run left (with --resume), and the file new records go to. Records of other work do no harm: nobody asks for them."""
    if out is not None and output.resume is not None:
        raise UsageError(f"-o is {out} and --resume is {output.resume}; give one of the two.")
    if output.resume is not None:
        place = records_path(output.resume)
        return load(place), str(place)
    if out is None:
        return None, output.records
    path = os.path.join(str(check_folder(out, "-o")), RECORDS_NAME)
    if os.path.exists(path) and os.path.getsize(path):
        raise UsageError(f"-o {out!r} already holds records; go on with --resume {shlex.quote(out)}, or name another folder.")
    return None, path


# Published claims


@command("claims", ClaimsOptions, ClaimsRun, Output, leave_out=("control", "resume"))
def claims(options: ClaimsOptions, run: ClaimsRun, output: Output) -> int:
    """Hold every published number and order against this machine; 3 when one fails.

    Speed and memory at 20 and at 300 queries, against the original. Claims about the original itself are shown and do not count.

    \b
    Example:
      humar-bench claims
      humar-bench claims --architecture my_model.py:build --no-time
    """
    from humar_bench import report as writers
    from humar_bench.claims import decide, exit_code
    from humar_bench.device import open_device
    from humar_bench.progress import shown_bar
    from humar_bench.registry import parse_architecture
    from humar_bench.report import claims as shown

    check_architecture(candidate := parse_architecture(options.architecture))
    model, batch = options.model, options.batch or (1 if open_device(run.device).kind == "cpu" else 2)
    formats = {"csv": shown.to_csv, "markdown": shown.to_markdown, "json": shown.to_json}
    for each in formats:
        if (path := getattr(output, each)) not in (None, "-"):
            writers.check_writable(path, f"--{each}")
    with contextlib.ExitStack() as stack:
        sink = None if output.records is None else stack.enter_context(RecordWriter(output.records))
        evidence = gather(
            candidate, model, run.plain(), sizes=options.sizes, batch=batch, timed=options.time, sink=sink,
            progress=stack.enter_context(shown_bar(sys.stderr, quiet=output.quiet)), command=shlex.join([NAME, *_typed]),
        )
    verdicts = decide(evidence)
    for each, text in formats.items():
        path = getattr(output, each)
        if path == "-":
            sys.stdout.write(text(evidence, verdicts))
        elif path is not None:
            writers.write_text(path, text(evidence, verdicts))
    if output.stdout_format is None and not output.quiet:
        shown.print_claims(evidence, verdicts, writers.make_console(sys.stdout))
    for failure in evidence.failures:
        say(failure)
    return exit_code(evidence, verdicts)


# Saved runs



@dataclass(frozen=True)
class VerifyOptions:
    """What `verify` asks."""

    dir: str = option("Folder that `report -o` wrote.", metavar="DIR", argument=True)


@command("verify", VerifyOptions)
def verify(options: VerifyOptions) -> int:
    """Prove every table of a report from its records, byte for byte; 5 when not.

    \b
    Example:
      humar-bench verify results
    """
    from humar_bench.verify import verify as prove

    proof = prove(options.dir)
    for line in (*proof.differences, *proof.notes):
        print(line)
    if proof.proved:
        print(f"proved: {proof.said}.")
        return EXIT_DONE
    say(f"not proved: {proof.said}.")
    return EXIT_INVALID


@dataclass(frozen=True)
class CompareOptions:
    """What `compare` asks."""

    old: str = option("Folder or records file of the earlier run.", metavar="OLD", argument=True)
    new: str = option("Folder or records file of the later run.", metavar="NEW", argument=True)
    fail_on: str | None = option(
        "Most that may get worse: slower:2%,memory:1% and so on. By default also params:0,flops:0.", metavar="LIMITS"
    )
    across_machines: bool = option("Also compare other machines, versions or work; every ratio says so.", default=False)
    reference: str | None = option("Architecture that both timed; speed is compared by the ratio against it.", metavar="NAME")


@command("compare", CompareOptions)
def compare(options: CompareOptions) -> int:
    """Compare two saved runs: 0 nothing worse, 3 regression, 4 undecided, 5 invalid.

    \b
    Example:
      humar-bench compare results/before results/after
      humar-bench compare before after --fail-on slower:5%,memory:1%
    """
    from humar_bench.regression import compare_runs, parse_limits
    from humar_bench.report import make_console, print_table

    limits = None if options.fail_on is None else parse_limits(options.fail_on)
    found = compare_runs(
        load(options.old), load(options.new), limits=limits, across_machines=options.across_machines, reference=options.reference
    )
    print_table(found.table, make_console(sys.stdout))
    print(found.verdict)
    return found.exit_code


# This machine


@dataclass(frozen=True)
class CalibrateOptions:
    """Where a calibration goes."""

    out: str | None = option("Folder for certificate, raw data and Markdown; made where missing.", metavar="DIR", flags=("--out", "-o"))


@command("calibrate", calibration.Settings, CalibrateOptions, Output, leave_out=("csv", "records", "resume"))
def calibrate(settings: calibration.Settings, options: CalibrateOptions, output: Output) -> int:
    """Measure this bench's own false alarms and what it finds, on this machine.

    Identical stacks of layers and stacks with 1, 2 and 4 % more, timed in as many fresh processes as the budget holds; other tools'
    decision rules on the same times beside it. 5 when identical stacks differ.

    \b
    Example:
      humar-bench calibrate -o results/calibration
      humar-bench calibrate --budget 60
    """
    from humar_bench import report as writers
    from humar_bench.progress import shown_bar
    from humar_bench.report import calibration as tables

    for name in ("markdown", "json"):
        path = getattr(output, name)
        if path not in (None, "-"):
            writers.check_writable(path, f"--{name}")
    _check_device(settings.device)
    sink = None if options.out is None else calibration.RawWriter(tables.empty_place(options.out))
    with shown_bar(sys.stderr, quiet=output.quiet) as show:
        made = calibration.calibrate(
            settings, sink=sink, command=shlex.join([NAME, *_typed]),
            progress=None if show is None else lambda event: show(event["share"], f"process {event['process'] + 1}"),
        )
    for name, text in (("markdown", tables.calibration_markdown), ("json", calibration.written)):
        path = getattr(output, name)
        if path == "-":
            sys.stdout.write(text(made))
        elif path is not None:
            writers.write_text(path, text(made))
    if options.out is not None:
        made = tables.write_calibration(made, options.out)
    if output.stdout_format is None and not output.quiet:
        tables.print_calibration(made, writers.make_console(sys.stdout))
    wrong = calibration.fault(made)
    if wrong:
        say(wrong)
    return EXIT_INVALID if wrong else EXIT_DONE


# What there is


@command("list")
def list_() -> int:
    """List architectures, what each makes of every shared argument, and workloads.

    \b
    Example:
      humar-bench list
    """
    from humar_bench.report import make_console, print_table
    from humar_bench.table import Column, Table

    def words(*keys: str) -> tuple[Column, ...]:
        return tuple(Column(key, text=True) for key in keys)

    architectures = [{"architecture": name, "builder": spec} for name, spec in BUILT_IN.items()]
    architectures += [
        {"architecture": "[NAME=]package.module:builder", "builder": "your own, from an installed module"},
        {"architecture": "[NAME=]path/file.py:builder", "builder": "your own, from a file"},
    ]
    arguments = [
        {"argument": each.name, "default": str(each.default), **{name: use_of(each.name, name) for name in DEFAULT_ARCHITECTURES}}
        for each in dataclasses.fields(ModelArgs)
    ]
    workloads = []
    for name, make in WORKLOADS.items():
        work = make()
        sizes = work.sizes_text.replace(",", ", ")
        workloads.append({"workload": name, "batch": work.batch, "queries": work.num_queries, "feature maps": sizes})
    console = make_console(sys.stdout)
    feet = ("Set one with --set NAME=VALUE or --args FILE.",)
    for table in (
        Table("architectures", "Architectures", words("architecture", "builder"), tuple(architectures)),
        Table("arguments", "Shared arguments", words("argument", "default", *DEFAULT_ARCHITECTURES), tuple(arguments), feet),
        Table(
            "workloads", "Workloads", (*words("workload"), Column("batch"), Column("queries"), *words("feature maps")), tuple(workloads)
        ),
    ):
        print_table(table, console)
    return EXIT_DONE


@dataclass(frozen=True)
class EnvOptions:
    """What only `env` asks."""

    device: str = option(help_of(RunArgs, "device"), default="auto", metavar="NAME")
    json: bool = option("Print JSON.", default=False)


@command("env", EnvOptions)
def env(options: EnvOptions) -> int:
    """Print the machine, the device and the versions that every record carries.

    \b
    Example:
      humar-bench env
      humar-bench env --json
    """
    import json

    RunArgs(device=options.device)
    from humar_bench.device import open_device
    from humar_bench.environment import environment
    from humar_bench.report import make_console, print_table
    from humar_bench.table import Column, Table

    facts = environment(open_device(options.device))
    if options.json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return EXIT_DONE
    packages = facts.pop("packages")
    rows = [{"fact": name, "value": value} for name, value in {**facts, **packages}.items() if value is not None]
    columns = (Column("fact", text=True), Column("value", text=True))
    print_table(Table("environment", "Environment", columns, tuple(rows)), make_console(sys.stdout))
    return EXIT_DONE


# Ends


def say(sentence: object) -> None:
    """One line on standard error; a screen that is gone is no reason to stop."""
    with contextlib.suppress(OSError, ValueError):
        print(f"{NAME}: {' '.join(str(sentence).split())}", file=sys.stderr, flush=True)


def _silence(stream: Any) -> None:
    """Keep Python from complaining at exit about a stream that cannot take what is left in it."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


_typed: list[str] = []


def main(argv: Sequence[str] | None = None) -> int:
    """The console entry: every error a user can cause is one sentence on standard error. Returns the exit code."""
    _typed[:] = sys.argv[1:] if argv is None else argv
    try:
        code = app(args=list(_typed), prog_name=NAME, standalone_mode=False)
    except HumarBenchError as error:
        say(error)
        return error.exit_code
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else EXIT_FAILED
    except Exception as error:
        if not hasattr(error, "format_message"):  # not typer's own complaint about the command line
            raise
        context = getattr(error, "ctx", None)
        say(f"{error.format_message().rstrip('.')}; see {context.command_path if context else NAME} --help.")
        return EXIT_USAGE
    return code if isinstance(code, int) else EXIT_DONE

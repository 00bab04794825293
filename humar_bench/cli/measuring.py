"""The commands that measure architectures on one workload: params, flops, fps, memory and report."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from humar_bench.args import EAGER, RunArgs
from humar_bench.cli.app import command, command_text, say
from humar_bench.cli.shared import (
    TIMING,
    check_device,
    check_paths,
    check_whole,
    files_read,
    records_place,
    say_whose_code,
    small_batch,
    write_and_show,
)
from humar_bench.errors import EXIT_DONE, EXIT_FAILED, HumarBenchError, UsageError
from humar_bench.options import Call, Output, Selection, Whole, option
from humar_bench.records.appending import OutputLost
from humar_bench.records.audit import readable
from humar_bench.records.record import COMPONENT_TIME, END_TO_END, MEASURES, RUN_FIELDS, Run, measures_with, plain, records_in
from humar_bench.records.writer import RecordWriter
from humar_bench.running.plan import Plan, resolve
from humar_bench.subjects.registry import check_architecture
from humar_bench.training.extra import check_extra

if TYPE_CHECKING:
    from humar_bench.report.comparison import Comparison

REPORT_FILES = (*(f"{measure}.csv" for measure in MEASURES), "report.md")
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model")
COUNTERS = ("fvcore", "thop", "profiler", "flop_counter")


@dataclass(frozen=True)
class FlopsOptions:
    """What only `flops` asks."""

    counter: tuple[str, ...] = option(
        f"Also ask another counter: {', '.join(COUNTERS)}. Repeatable.", default=(), metavar="NAME", words=COUNTERS
    )
    explain: bool = option("Ask every counter and explain each operator in which it differs from ours.", default=False)
    operators: bool = option("Show every operator, also those without matmul FLOPs.", default=False)

    def __post_init__(self) -> None:
        for name in self.counter:
            if name not in COUNTERS:
                raise UsageError(f"counter is {name!r}; choose one of {', '.join(COUNTERS)}.")


_WAY = ("pictures", "caption", "point", "cache_text")  # what only --end-to-end has


@dataclass(frozen=True)
class FpsOptions:
    """What only `fps` asks."""

    by_component: bool = option("Also say how much of a forward each component takes for itself.", default=False)
    end_to_end: bool = option("Time the whole way from picture files to people, stage by stage (needs --whole).", default=False)
    pictures: str | None = option("Folder of the pictures; without, made-up people as JPEG files.", metavar="DIR")
    caption: tuple[str, ...] = option(
        "Sentence about the pictures, in turn; without, made-up ones. Repeatable.", default=(), metavar="TEXT"
    )
    point: str | None = option("Point prompt in pixels of every picture; without, its middle.", metavar="X,Y")
    cache_text: bool = option("Compute the text features of a repeated caption once.", default=False)

    def __post_init__(self) -> None:
        if not self.end_to_end and (given := next((name for name in _WAY if getattr(self, name)), None)):
            raise UsageError(f"--{given.replace('_', '-')} is of the way from pictures to people; add --end-to-end.")
        if self.end_to_end and self.by_component:
            raise UsageError("--end-to-end times stages and --by-component times components; give one of the two.")
        if empty := [each for each in self.caption if not each.strip()]:
            raise UsageError(f"--caption is {empty[0]!r}; write what the person looks like, such as 'the person in red'.")

    @property
    def place(self) -> tuple[float, float] | None:
        """The point (x, y). Raises UsageError."""
        if self.point is None:
            return None
        found = re.fullmatch(r"\s*(\d{1,6}(?:\.\d+)?)\s*,\s*(\d{1,6}(?:\.\d+)?)\s*", self.point)
        if not found:
            raise UsageError(f"--point is {self.point!r}; write two numbers of pixels from the upper left corner, such as 320,240.")
        return float(found[1]), float(found[2])


@dataclass(frozen=True)
class TrustOptions:
    """What the speed table rests on."""

    certificate: str | None = option("Certificate of calibrate on this machine (folder or file); the table cites it.", metavar="PATH")


@dataclass(frozen=True)
class ReportOptions:
    """Where a whole report goes."""

    out: str | None = option("Folder for records, CSV and Markdown; made where missing.", metavar="DIR", flags=("--out", "-o"))
    details: bool = option("Show every table, not the summary alone.", default=False)


@command("params", Selection, Whole, Call, RunArgs, Output, leave_out=TIMING)
def params(selection: Selection, whole: Whole, call: Call, run: RunArgs, output: Output) -> int:
    """Count parameters by component, side by side; nothing is allocated.

    \b
    Example:
      humar-bench params
      humar-bench params --set enc_layers=3 --csv -
      humar-bench params --whole --backbone mobilevit_s --text-encoder minilm
    """
    return measure_and_show(("params",), resolve(selection, run, whole, call), output, reads=files_read(selection, call))


@command("flops", Selection, Whole, Call, FlopsOptions, RunArgs, Output, leave_out=TIMING)
def flops(selection: Selection, whole: Whole, call: Call, options: FlopsOptions, run: RunArgs, output: Output) -> int:
    """Count FLOPs by component and by operator, and name what was not counted.

    \b
    Example:
      humar-bench flops --batch 2 --feature-sizes 50x50,50x50,50x50
      humar-bench flops --explain --batch 1
    """
    counters = COUNTERS if options.explain else options.counter
    return measure_and_show(
        ("flops",), resolve(selection, run, whole, call), output, counters=counters, all_operators=options.operators,
        reads=files_read(selection, call),
    )


@command("fps", Selection, Whole, Call, FpsOptions, TrustOptions, RunArgs, Output)
def fps(
    selection: Selection, whole: Whole, call: Call, options: FpsOptions, trust: TrustOptions, run: RunArgs, output: Output
) -> int:
    """Time frames per second and latency in turn, with an interval and a verdict.

    \b
    Example:
      humar-bench fps --device cuda --batch 2
      humar-bench fps --workload speed-test --budget 60 --by-component
      humar-bench fps --whole --end-to-end --pictures photos --cache-text
    """
    if options.end_to_end and call.inputs is not None:
        raise UsageError(f"--inputs is {call.inputs} and --end-to-end makes inputs of pictures; leave out one of the two.")
    if options.end_to_end:
        return _from_pictures(selection, whole, options, run, output)
    if options.by_component and run.backend != EAGER:
        raise UsageError(f"backend is {run.backend} and --by-component was given; only eager calls a model's components, leave out one.")
    measures = ("fps", COMPONENT_TIME) if options.by_component else ("fps",)
    plan = resolve(selection, run, whole, call)
    return measure_and_show(measures, plan, output, certificate=trust.certificate, reads=files_read(selection, call))


def _from_pictures(selection: Selection, whole: Whole, options: FpsOptions, run: RunArgs, output: Output) -> int:
    """fps --end-to-end: at batch 1 unless another is asked for. Returns the exit code."""
    if not whole.whole:
        raise UsageError("--end-to-end goes from pictures to people, and only the whole model does; add --whole.")
    if run.backend != EAGER:
        raise UsageError(f"backend is {run.backend} and --end-to-end was given; it runs the model as it is, leave out one.")
    plan = resolve(selection if selection.batch is not None else dataclasses.replace(selection, batch=1), run, whole)
    prompt = plan.workload.prompt
    for name, kind in (("caption", "text"), ("cache_text", "text"), ("point", "point")):
        if getattr(options, name) not in (None, (), False) and prompt != kind:
            raise UsageError(f"--{name.replace('_', '-')} is of the prompt {kind} and --prompt is {prompt}; make the two agree.")
    if options.pictures is not None and not os.path.isdir(options.pictures):
        raise UsageError(f"--pictures {options.pictures!r} is no folder; name one that holds pictures.")
    check_extra("--end-to-end reads pictures with", ("PIL",))
    pictures = {
        "pictures": options.pictures, "captions": list(options.caption), "point": options.place, "cache_text": options.cache_text,
        "tokenizer": _tokenizer_of(whole),
    }
    return measure_and_show((END_TO_END,), plan, output, reads=files_read(selection, Call()), pictures=pictures)


def _tokenizer_of(whole: Whole) -> str | None:
    """The folder of the text encoder's weights, where it holds a tokenizer too."""
    folder = whole.text_weights
    return folder if folder and any(os.path.exists(os.path.join(folder, name)) for name in TOKENIZER_FILES) else None


@command("memory", Selection, Whole, Call, RunArgs, Output, leave_out=TIMING)
def memory(selection: Selection, whole: Whole, call: Call, run: RunArgs, output: Output) -> int:
    """Measure weights and the peak of one forward, and say what is alive there.

    \b
    Example:
      humar-bench memory --batch 1
    """
    return measure_and_show(("memory",), resolve(selection, run, whole, call), output, reads=files_read(selection, call))


@command("report", Selection, Whole, Call, ReportOptions, TrustOptions, RunArgs, Output, leave_out=("csv", "records"))
def report(
    selection: Selection, whole: Whole, call: Call, options: ReportOptions, trust: TrustOptions, run: RunArgs, output: Output
) -> int:
    """Measure all of these: records, CSV, Markdown and one screen.

    \b
    Example:
      humar-bench report -o results
      humar-bench report --resume results
      humar-bench report --arch small=cnn.py:small --arch wide=cnn.py:wide --inputs cnn.py:images
    """
    plan = resolve(small_batch(selection, run, call), run, whole, call)
    return measure_and_show(
        measures_with(run.backend), plan, output, out=options.out, whole=True, details=options.details, certificate=trust.certificate,
        reads=files_read(selection, call),
    )


def measure_and_show(
    measures: Sequence[str], plan: Plan, output: Output, *, counters: Sequence[str] = (), all_operators: bool = False,
    out: str | None = None, whole: bool = False, details: bool = True, certificate: str | None = None,
    pictures: Mapping[str, Any] | None = None, reads: Mapping[str, str | None] | None = None,
) -> int:
    """Check every path and the device, measure, write what was asked for, with `whole` a report's folder too; `reads` are files that say
    what is measured, by their option. Returns the exit code."""
    from humar_bench import report as writers
    from humar_bench.report.comparison import compare

    for each in plan.architectures:
        check_architecture(each)
    check_paths(output, out=out, own=REPORT_FILES if whole else (), reads={**(reads or {}), "--certificate": certificate},
                architectures=plan.architectures)
    check_device(plan.run.device)
    check_whole(plan)
    cited = None if certificate is None else _cited(certificate, plan.run.device)
    done, records = _places(measures, plan, output, out, cited)
    say_whose_code(plan.architectures, (reads or {}).get("--inputs"))
    with readable(done or ()):
        run, lost = _measure(
            measures, plan, counters, records, done, cited, quiet=output.quiet, early=whole and not output.quiet, pictures=pictures
        )
    folder = output.resume or out if whole else None
    if folder is not None:
        run = Run(run.records)  # what was odd about a file that is mended now is none of its tables'
    with readable(run):
        comparison = compare(run, plan.reference if plan.reference in run.architectures else None, all_operators=all_operators)
        writes = [] if folder is None or lost else [lambda: writers.write_report(run, folder, plan.reference)]
        shown = details or lost is not None  # then no file has the rest
        failed = _write(comparison, output, writes, lost, details=shown, folder=folder if writes else None)
    unread = [each["reason"] for record in list(run.select(measure=END_TO_END, status="ok"))[:1] for each in record.measured["unreadable"]]
    for failure in (*comparison.failures, *unread):
        say(failure)
    if failed is not None:
        raise failed
    return EXIT_FAILED if comparison.failures or unread else EXIT_DONE


def _cited(certificate: str, device: str) -> dict[str, Any]:
    """The certificate as records cite it; refused when it is of another machine."""
    from humar_bench.devices.environment import environment
    from humar_bench.devices.opening import open_device
    from humar_bench.studies.calibrate.calibrate import cited_here

    return cited_here(certificate, environment(open_device(device)))


def _places(
    measures: Sequence[str], plan: Plan, output: Output, out: str | None, cited: Mapping[str, Any] | None
) -> tuple[Run | None, str | None]:
    """What an earlier run left of these measures, and the file new records go to; a resumed run has to ask the same again."""
    from humar_bench.report import check_folder

    done, records = records_place(out, output)
    if done is not None:
        done = Run(tuple(record for record in done if record.measure in measures), done.notes)
        _refuse_other_work(plan, done, output.resume)
        _refuse_other_certificate(cited, done, output.resume)
        check_folder(os.path.dirname(records) or ".", "--resume")
    return done, records


def _refuse_other_work(plan: Plan, done: Run, place: str) -> None:
    """A run is of one workload, one set of arguments, one device and one way to measure: a resumed one must ask the same again."""
    wanted = plain({"asked": plan.args, "workload": plan.workload, "run": plan.run})
    for record in done:
        depends = ("device", "seed", *RUN_FIELDS[record.measure])
        for kind, values in wanted.items():
            for name in {**values, **(record.workload if kind == "workload" else {})}:  # a workload of another subject may have more
                was, value = record.asked_run(name) if kind == "run" else getattr(record, kind).get(name), values.get(name)
                if was != value and (kind != "run" or name in depends):
                    raise UsageError(f"--resume {place!r} was measured with {name} {was} and {value} is asked now; ask the same again.")


def _refuse_other_certificate(cited: Mapping[str, Any] | None, done: Run, place: str) -> None:
    now = (cited or {}).get("cited", "none")
    for record in done.select(measure="fps", status="ok"):
        if (was := (record.environment.get("certificate") or {}).get("cited", "none")) != now:
            raise UsageError(f"--resume {place!r} was measured under certificate {was} and {now} is asked now; ask the same again.")


def _measure(
    measures: Sequence[str], plan: Plan, counters: Sequence[str], records: str | None, done: Run | None,
    cited: Mapping[str, Any] | None, *, quiet: bool, early: bool = False, pictures: Mapping[str, Any] | None = None,
) -> tuple[Run, OutputLost | None]:
    """The records of the run, and what happened to their file, if something did; raised where not one record is known. With `early`,
    what is known is said as soon as it is."""
    from humar_bench.cli.early import Early
    from humar_bench.cli.progress import shown_progress
    from humar_bench.running import bench

    run = Run()
    try:
        with contextlib.ExitStack() as stack:
            sink = stack.enter_context(RecordWriter(records)) if records is not None else None
            sink = Early(sink, [each.name for each in plan.architectures], plan.reference, say) if early else sink
            progress = stack.enter_context(shown_progress(sys.stderr, measures, len(plan.architectures), plan.run, quiet=quiet))
            run = bench.benchmark(
                plan.architectures, plan.args, plan.workload, measures=list(measures), run=plan.run, sink=sink, progress=progress,
                done=done, counters=tuple(counters), command=command_text(), reference=plan.reference, certificate=cited,
                pictures=pictures,
            )
    except OutputLost as lost:
        known = run or Run(tuple(record for record in records_in(lost.content) if record.measure in measures)).latest()
        if not known:
            raise
        return known, lost
    return run, None


def _write(
    comparison: Comparison, output: Output, writes: Sequence[Callable[[], object]], lost: OutputLost | None, *, details: bool,
    folder: str | None,
) -> HumarBenchError | None:
    """What is to be written and every format asked for, then the screen where standard output is free. Returns what could not be."""
    from humar_bench import report as writers

    formats = {
        "csv": lambda: "".join(writers.to_csv(table) for table in comparison.data.values()),
        "markdown": lambda: writers.to_markdown(comparison), "json": lambda: writers.to_json(comparison),
    }

    def show() -> None:
        writers.print_comparison(comparison, writers.make_console(sys.stdout), details=details, folder=folder)

    return write_and_show(output, formats, *writes, show=show, lost=lost)

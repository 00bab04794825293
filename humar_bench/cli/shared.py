"""What several commands do alike: paths that are checked before anything is measured, formats, the folder of a new run."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from humar_bench.args import RunArgs, WholeWorkload
from humar_bench.cli.app import say
from humar_bench.errors import HumarBenchError, InvalidMeasurement, UsageError, not_installed
from humar_bench.options import STANDARD_OUTPUT, Call, Output, Selection, option
from humar_bench.records.appending import OutputLost
from humar_bench.records.record import RECORDS_NAME, Run, records_in, records_path
from humar_bench.records.writer import RecordWriter
from humar_bench.running import leftovers
from humar_bench.running.plan import Plan, scaled_for_cpu
from humar_bench.subjects.loading import place_of
from humar_bench.subjects.registry import Architecture
from humar_bench.subjects.sources import shadowed
from humar_bench.table import joined

if TYPE_CHECKING:
    from humar_bench.report.study import Study

Found = TypeVar("Found")
Show = Callable[[float, str], None]
OURS = "humar_bench"

OWN_PARTS = ("swin", "efficientformerv2", "tite")  # how backbones and text encoders in own code are called; the others need transformers
# Options of RunArgs that only a timed comparison has.
TIMING = ("backend", "processes", "first_look", "control", "min_runs", "max_runs", "budget")


@dataclass(frozen=True)
class FolderOptions:
    """Where a study goes."""

    out: str | None = option("Folder for records, CSV and Markdown; made where missing.", metavar="DIR", flags=("--out", "-o"))


def small_batch(selection: Selection, run: RunArgs, call: Call) -> Selection:
    """On a CPU the default workload at batch 1, so that a whole report or study ends within minutes; models that are called by --inputs at
    the batch that they would have anywhere."""
    if call.inputs is not None:
        return selection
    from humar_bench.devices.opening import open_device

    return scaled_for_cpu(selection) if open_device(run.device).kind == "cpu" else selection


def say_whose_code(architectures: Iterable[Architecture] = (), inputs: str | None = None) -> None:
    """Whose code will run, before any of it does: a line for each architecture of somebody's and for the file or module of --inputs, and
    one for each folder, the current one and those of foreign files, that holds modules which Python alone would have run."""
    architectures = [each for each in architectures if each.foreign and not each.builder.startswith(f"{OURS}.")]
    for each in architectures:
        say(f"note: {each.name} is not part of humar-bench; loading it runs the code of {each.place.where}.")
    if inputs:
        say(f"note: the inputs are not part of humar-bench; making them runs the code of {inputs}.")
    files = [*(each.place.where for each in architectures), *([inputs] if inputs else [])]
    for folder in dict.fromkeys([".", *(os.path.dirname(each) or "." for each in files if each.endswith(".py"))]):
        if names := shadowed(folder):
            where = "the current folder" if folder == "." else folder
            say(f"note: {joined(names)} in {where} {'is' if len(names) == 1 else 'are'} not used; humar-bench runs its own files and the "
                "installed ones.")


def files_read(selection: Selection, call: Call) -> dict[str, str | None]:
    """Option -> the file it names, of those that say what is measured."""
    return {"--args": selection.args, "--components": call.components, "--inputs": call.inputs and place_of(call.inputs).where}


def check_whole(plan: Plan) -> None:
    """Refuse parts of the whole model whose package is missing, and weights that cannot be read or are of another model, before anything is
    measured; without torch where no weights are named."""
    work = plan.workload
    if not isinstance(work, WholeWorkload):
        return
    works = list(dict.fromkeys(work.own(each.settings, each.name) for each in plan.architectures))
    for part in (part for own in works for part in (own.backbone, own.text_encoder)):
        if not part.startswith(OWN_PARTS) and importlib.util.find_spec("transformers") is None:
            raise not_installed(f"{part} comes from", "transformers", extra="model")
    if work.backbone_weights or work.text_weights or work.pretrained:
        from humar_bench.subjects.weights import check_parts

        for own in works:
            check_parts(own)


def check_device(name: str) -> None:
    """Refuse a device that is not there before anything starts; without torch where the answer is known."""
    if name not in ("auto", "cpu"):
        from humar_bench.devices.opening import open_device

        open_device(name)


def check_paths(
    output: Output, formats: Iterable[str] = ("csv", "markdown", "json"), *, out: str | None = None, own: Iterable[str] = (),
    plot: str | None = None, reads: Mapping[str, str | None] | None = None, architectures: Iterable[Architecture] = (),
) -> None:
    """Refuse, before anything is measured, a path that cannot be written, two outputs on one path, an output that is read, and a new
    folder `out` in which one of its `own` files would be written over. `reads` are other files that are read, by their option."""
    from humar_bench.report import check_writable, refuse_shared
    from humar_bench.report.files import refuse_special

    if output.records is not None:
        refuse_special(records_path(output.records), "--records", null=False, instead="name a file, so that nothing is lost")

    paths = {f"--{name}": getattr(output, name) for name in formats} | {"--plot": plot}
    written = {flag: path for flag, path in paths.items() if path not in (None, STANDARD_OUTPUT)}
    formats_and_plot = dict(written)
    if output.records is not None:
        written["--records"] = str(records_path(output.records))
    if output.resume is not None:
        written["--resume"] = str(records_path(output.resume))
    for flag, folder in (("-o", out), ("--resume", output.resume)):
        if folder is not None and (flag == "-o" or os.path.isdir(folder)):
            held = (*own, RECORDS_NAME) if flag == "-o" else own
            written |= {flag: folder} if flag == "-o" else {}
            inside = {f"{name} of {flag} {folder}": os.path.join(folder, name) for name in held}
            for said, path in inside.items():
                refuse_special(path, said, null=False, instead="move it away or name another folder")
                _refuse_way_out(folder, path)
            written |= inside
    files = {f"--arch {each.name}": each.place.where for each in architectures if each.foreign}
    read = {flag: path for flag, path in ((reads or {}) | files).items() if path is not None and not os.path.isdir(path)}
    refuse_shared(written | _streams(output), read)
    for flag, path in formats_and_plot.items():
        check_writable(path, flag)
    if out is not None and output.resume is None:
        _refuse_to_write_over(out, own)


def _refuse_way_out(folder: str, path: str) -> None:
    """Raises UsageError for a link that leads out of a run's folder, which may come from anybody: another file would be written over."""
    if os.path.islink(path) and not os.path.realpath(path).startswith(os.path.join(os.path.realpath(folder), "")):
        raise UsageError(f"{path} is a link that leads out of the folder; move it away or name another folder.")


def _streams(output: Output) -> dict[str, str]:
    """Standard output, where something is printed there, and standard error, where it is another file."""
    used = {"standard output": 1} if output.stdout_format or not output.quiet else {}
    with contextlib.suppress(OSError):
        if "standard output" not in used or not os.path.samestat(os.fstat(1), os.fstat(2)):
            used["standard error"] = 2
    return {name: f"/dev/fd/{number}" for name, number in used.items()}


def _refuse_to_write_over(out: str, own: Iterable[str]) -> None:
    """A folder without records is nobody's results yet: what is called like one of its files is the user's."""
    held = {name: os.path.join(out, name) for name in (RECORDS_NAME, *own)}
    there = [name for name, path in held.items() if os.path.exists(path) and os.path.getsize(path)]
    if there and RECORDS_NAME not in there:
        raise UsageError(f"-o {out!r} already holds {there[0]}, which would be written over; name another folder.")


def records_place(out: str | None, output: Output) -> tuple[Run | None, str | None]:
    """What an earlier run left (with --resume), and the file new records go to: in the folder `out`, or where --records says.

    Raises UsageError.
    """
    from humar_bench.report import check_folder

    if out is not None and output.resume is not None:
        raise UsageError(f"-o is {out} and --resume is {output.resume}; give one of the two.")
    if output.resume is not None:
        records = records_path(output.resume)
        return _sound(records), str(records)
    if out is None:
        return None, output.records
    path = os.path.join(str(check_folder(out, "-o")), RECORDS_NAME)
    if os.path.exists(path) and os.path.getsize(path):
        raise UsageError(f"-o {out!r} already holds records; go on with --resume {shlex.quote(out)}, or name another folder.")
    return None, path


def study_folder(out: str | None, output: Output) -> str | None:
    """The folder that a study's tables go to: `out`, or what it goes on with."""
    return out or (output.resume if output.resume is not None and os.path.isdir(output.resume) else None)


@contextlib.contextmanager
def runs_folder(folder: str | None) -> Iterator[str]:
    """Where runs are kept while they are trained: in the study's folder, or in one that is gone at the end."""
    if folder is not None:
        yield folder
        return
    say("note: no folder is named (-o), so runs are not kept and a study that is stopped cannot go on.")
    made = leftovers.own_folder()  # where this process is killed, the next one removes it
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _sound(records: Path) -> Run:
    """An earlier run to go on with. What was torn at its end is measured again; raises InvalidMeasurement for anything else in its records
    that `verify` would not pass, since all tables would rest on it."""
    from humar_bench.saved.verify import read_once

    done, found = read_once(records)
    if wrong := [each for each in found if not each.torn]:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise InvalidMeasurement(f"{records} is not what was measured ({wrong[0]}){more}; humar-bench verify names all of it.")
    return done


def write_and_show(
    output: Output, formats: Mapping[str, Callable[[], str]], *writes: Callable[[], object], show: Callable[[], None],
    lost: HumarBenchError | None = None,
) -> HumarBenchError | None:
    """Make every `writes` (a folder, a plot) and every format asked for, then show the tables where standard output is free, whatever
    could not be written: what was measured is seen in any case. Returns the first error, `lost` before all; the others are said."""
    failed = [] if lost is None else [lost]
    for write in (*writes, *(functools.partial(_write_format, getattr(output, name), text) for name, text in formats.items())):
        try:
            write()
        except HumarBenchError as error:
            failed.append(error)
    if output.stdout_format is None and not output.quiet:
        show()
    for error in failed[1:]:
        say(error)
    return failed[0] if failed else None


def _write_format(path: str | None, text: Callable[[], str]) -> None:
    from humar_bench.report import write_text

    if path == STANDARD_OUTPUT:
        sys.stdout.write(text())
    elif path is not None:
        write_text(path, text())


def show_study(study: Study, output: Output, folder: str | None, lost: HumarBenchError | None = None, plot: str | None = None) -> None:
    """Write a study in every format asked for and into its folder, show it, say what failed. Raises what could not be written, at the
    end; where the records are `lost`, that, and the folder is left alone."""
    from humar_bench.report import make_console
    from humar_bench.report import study as writers
    from humar_bench.report.plot import write_plot

    writes = [] if folder is None or lost else [lambda: writers.write_study(study, folder)]
    if plot is not None:
        writes.append(lambda: write_plot(study.plot, plot))
    formats = {
        "csv": lambda: writers.study_csv(study), "markdown": lambda: writers.study_markdown(study),
        "json": lambda: writers.study_json(study),
    }
    show = lambda: writers.print_study(study, make_console(sys.stdout))  # noqa: E731
    failed = write_and_show(output, formats, *writes, show=show, lost=lost)
    for failure in study.failures:
        say(failure)
    if failed is not None:
        raise failed


def keeping_records(records: str | None, output: Output, measure: Callable[[RecordWriter | None, Show | None], Found]
                    ) -> tuple[Found, OutputLost | None]:
    """What `measure`, called with a sink for records and the progress bar, finds; and what happened to the records file at the end.

    Where it was lost before that, the records there are are shown, one row each, and OutputLost is raised.
    """
    from humar_bench.cli.progress import shown_bar
    from humar_bench.report import make_console, print_table
    from humar_bench.report.comparison import records_table

    found = None
    try:
        with contextlib.ExitStack() as stack:
            sink = stack.enter_context(RecordWriter(records)) if records is not None else None
            found = measure(sink, stack.enter_context(shown_bar(sys.stderr, quiet=output.quiet)))
    except OutputLost as lost:
        if found is not None:
            return found, lost
        if output.stdout_format is None and not output.quiet:
            print_table(records_table(records_in(lost.content)), make_console(sys.stdout))
        raise
    return found, None

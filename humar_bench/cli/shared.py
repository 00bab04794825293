"""What several commands do alike: paths that are checked before anything is measured, formats, the folder of a new run."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from humar_bench.args import RunArgs
from humar_bench.cli.app import say
from humar_bench.errors import UsageError
from humar_bench.options import STANDARD_OUTPUT, Output, Selection, option
from humar_bench.records.record import RECORDS_NAME, Run, load, records_path
from humar_bench.running.plan import scaled_for_cpu
from humar_bench.subjects.registry import Architecture
from humar_bench.subjects.sources import shadowed
from humar_bench.table import joined

if TYPE_CHECKING:
    from humar_bench.report.study import Study

TIMING = ("backend", "processes", "control", "min_runs", "max_runs", "budget")  # options of RunArgs that only a timed comparison has


@dataclass(frozen=True)
class FolderOptions:
    """Where a study goes."""

    out: str | None = option("Folder for records, CSV and Markdown; made where missing.", metavar="DIR", flags=("--out", "-o"))


def small_batch(selection: Selection, run: RunArgs) -> Selection:
    """On a CPU the default workload at batch 1, so that a whole report or study ends within minutes."""
    from humar_bench.devices.opening import open_device

    return scaled_for_cpu(selection) if open_device(run.device).kind == "cpu" else selection


def say_shadowed(architectures: Iterable[Architecture] = ()) -> None:
    """One line for each folder, the current one and those of foreign files, that holds modules which Python alone would have run."""
    files = [each.spec.rpartition(":")[0] for each in architectures if each.foreign]
    for folder in dict.fromkeys([".", *(os.path.dirname(each) or "." for each in files if each.endswith(".py"))]):
        if names := shadowed(folder):
            where = "the current folder" if folder == "." else folder
            say(f"note: {joined(names)} in {where} {'is' if len(names) == 1 else 'are'} not used; humar-bench runs its own files and the "
                "installed ones.")


def check_device(name: str) -> None:
    """Refuse a device that is not there before anything starts; without torch where the answer is known."""
    if name not in ("auto", "cpu"):
        from humar_bench.devices.opening import open_device

        open_device(name)


def check_paths(output: Output, formats: Iterable[str] = ("csv", "markdown", "json")) -> None:
    """Refuse a path that cannot be written before anything is measured."""
    from humar_bench.report import check_writable

    for name in formats:
        path = getattr(output, name)
        if path not in (None, STANDARD_OUTPUT):
            check_writable(path, f"--{name}")


def records_place(out: str | None, output: Output) -> tuple[Run | None, str | None]:
    """What an earlier run left (with --resume), and the file new records go to: in the folder `out`, or where --records says.

    Raises UsageError.
    """
    from humar_bench.report import check_folder

    if out is not None and output.resume is not None:
        raise UsageError(f"-o is {out} and --resume is {output.resume}; give one of the two.")
    if output.resume is not None:
        records = records_path(output.resume)
        return load(records), str(records)
    if out is None:
        return None, output.records
    path = os.path.join(str(check_folder(out, "-o")), RECORDS_NAME)
    if os.path.exists(path) and os.path.getsize(path):
        raise UsageError(f"-o {out!r} already holds records; go on with --resume {shlex.quote(out)}, or name another folder.")
    return None, path


def write_formats(output: Output, formats: Mapping[str, Callable[[], str]]) -> None:
    """Every format asked for, into its file or onto standard output; nothing is made that nobody asked for."""
    from humar_bench.report import write_text

    for name, text in formats.items():
        path = getattr(output, name)
        if path == STANDARD_OUTPUT:
            sys.stdout.write(text())
        elif path is not None:
            write_text(path, text())


def show_study(study: Study, output: Output, folder: str | None) -> None:
    """Write a study in every format asked for and into its folder, then onto the screen where standard output is free."""
    from humar_bench.report import make_console
    from humar_bench.report import study as writers

    write_formats(output, {
        "csv": lambda: writers.study_csv(study), "markdown": lambda: writers.study_markdown(study),
        "json": lambda: writers.study_json(study),
    })
    if folder is not None:
        writers.write_study(study, folder)
    if output.stdout_format is None and not output.quiet:
        writers.print_study(study, make_console(sys.stdout))
    for failure in study.failures:
        say(failure)

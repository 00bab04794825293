"""`claims`: every published number and order against this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from humar_bench.cli.app import command, command_text
from humar_bench.cli.shared import FolderOptions, check_paths, keeping_records, records_place, say_whose_code, show_study
from humar_bench.errors import InvalidMeasurement, UsageError
from humar_bench.options import Output
from humar_bench.studies import files_of
from humar_bench.studies.claims.evidence import ClaimsOptions, ClaimsRun, gather
from humar_bench.subjects.registry import check_architecture

if TYPE_CHECKING:
    from humar_bench.records.record import Run
    from humar_bench.studies.accuracy.tables import Accuracy


@command("claims", ClaimsOptions, ClaimsRun, FolderOptions, Output, leave_out=("control", "resume"))
def claims(options: ClaimsOptions, run: ClaimsRun, place: FolderOptions, output: Output) -> int:
    """Hold every published number and order against this machine; 3 when one fails.

    Speed and memory at 20 and at 300 queries, against the original. Claims about the original itself are shown and do not count.

    \b
    Example:
      humar-bench claims
      humar-bench claims --architecture my_model.py:build --no-time
      humar-bench claims --accuracy results/cpu-accuracy
      humar-bench claims --whole results/cpu-whole
    """
    import dataclasses

    if options.whole is not None:
        return _whole(options.whole, place, output)
    from humar_bench.devices.opening import open_device
    from humar_bench.studies.claims.evidence import accuracy_of
    from humar_bench.studies.claims.tables import Claims
    from humar_bench.subjects.registry import parse_architecture

    check_architecture(candidate := parse_architecture(options.architecture))
    model, batch = options.model, options.batch or (1 if open_device(run.device).kind == "cpu" else 2)
    accuracy = None if options.accuracy is None else accuracy_of(_accuracy(options.accuracy), candidate)
    check_paths(output, out=place.out, own=files_of("claims"), reads={"--args": options.args}, architectures=[candidate])
    say_whose_code([candidate])
    _, records = records_place(place.out, output)
    found, lost = keeping_records(records, output, lambda sink, show: Claims(dataclasses.replace(gather(
        candidate, model, run.plain(), sizes=options.sizes, batch=batch, timed=options.time, sink=sink, progress=show,
        command=command_text(),
    ), accuracy=accuracy)))
    show_study(found, output, place.out, lost)
    return found.exit_code


def _whole(folder: str, place: FolderOptions, output: Output) -> int:
    """What is promised of the whole model, by a report's records alone. Raises UsageError, InvalidMeasurement."""
    from humar_bench.studies.claims.whole import WholeClaims

    if place.out is not None or output.records is not None:
        raise UsageError("claims --whole measures nothing and keeps no records; write its table with --markdown, --csv or --json.")
    found = WholeClaims(_proved("--whole", folder))
    show_study(found, output, None)
    return found.exit_code


def _proved(option: str, folder: str) -> Run:
    """A folder's records, proved first: a claim is not decided by tables that were changed. Raises UsageError, InvalidMeasurement."""
    from humar_bench.records.record import load
    from humar_bench.saved.verify import verify

    proof = verify(folder)
    if not proof.proved:
        said = f"{option} {folder} is not what was measured ({proof.differences[0]})"
        raise InvalidMeasurement(f"{said}; humar-bench verify names all of it.")
    return load(folder)


def _accuracy(folder: str) -> Accuracy:
    """A study of accuracy. Raises UsageError, InvalidMeasurement."""
    from humar_bench.report.study import read_study
    from humar_bench.studies import MAKERS
    from humar_bench.studies.accuracy.tables import Accuracy

    study = read_study(folder, _proved("--accuracy", folder), MAKERS)
    if not isinstance(study, Accuracy):
        raise UsageError(f"--accuracy {folder} holds the study {study.name}; name a folder that `humar-bench accuracy -o` wrote.")
    return study

"""`claims`: every published number and order against this machine."""

from __future__ import annotations

from humar_bench.cli.app import command, command_text
from humar_bench.cli.shared import FolderOptions, check_paths, keeping_records, records_place, say_shadowed, show_study
from humar_bench.options import Output
from humar_bench.studies import files_of
from humar_bench.studies.claims.evidence import ClaimsOptions, ClaimsRun, gather
from humar_bench.subjects.registry import check_architecture


@command("claims", ClaimsOptions, ClaimsRun, FolderOptions, Output, leave_out=("control", "resume"))
def claims(options: ClaimsOptions, run: ClaimsRun, place: FolderOptions, output: Output) -> int:
    """Hold every published number and order against this machine; 3 when one fails.

    Speed and memory at 20 and at 300 queries, against the original. Claims about the original itself are shown and do not count.

    \b
    Example:
      humar-bench claims
      humar-bench claims --architecture my_model.py:build --no-time
    """
    from humar_bench.devices.opening import open_device
    from humar_bench.studies.claims.tables import Claims
    from humar_bench.subjects.registry import parse_architecture

    check_architecture(candidate := parse_architecture(options.architecture))
    model, batch = options.model, options.batch or (1 if open_device(run.device).kind == "cpu" else 2)
    check_paths(output, out=place.out, own=files_of("claims"), reads={"--args": options.args}, architectures=[candidate])
    say_shadowed([candidate])
    _, records = records_place(place.out, output)
    found, lost = keeping_records(records, output, lambda sink, show: Claims(gather(
        candidate, model, run.plain(), sizes=options.sizes, batch=batch, timed=options.time, sink=sink, progress=show,
        command=command_text(),
    )))
    show_study(found, output, place.out, lost)
    return found.exit_code

"""`calibrate`: how far this machine's verdicts can be trusted."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from humar_bench.cli.app import command, command_text, say
from humar_bench.cli.shared import check_device, check_paths, say_shadowed, write_formats
from humar_bench.errors import EXIT_DONE, EXIT_INVALID
from humar_bench.options import Output, option
from humar_bench.studies.calibrate import calibrate as calibration


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
    from humar_bench.cli.progress import shown_bar
    from humar_bench.report import make_console
    from humar_bench.studies.calibrate import tables

    check_paths(output, ("markdown", "json"))
    check_device(settings.device)
    say_shadowed()
    sink = None if options.out is None else calibration.RawWriter(tables.empty_place(options.out))
    with shown_bar(sys.stderr, quiet=output.quiet) as show:
        made = calibration.calibrate(
            settings, sink=sink, command=command_text(),
            progress=None if show is None else lambda event: show(event["share"], f"process {event['process'] + 1}"),
        )
    write_formats(output, {"markdown": lambda: tables.calibration_markdown(made), "json": lambda: calibration.written(made)})
    if options.out is not None:
        made = tables.write_calibration(made, options.out)
    if output.stdout_format is None and not output.quiet:
        tables.print_calibration(made, make_console(sys.stdout))
    wrong = calibration.fault(made)
    if wrong:
        say(wrong)
    return EXIT_INVALID if wrong else EXIT_DONE

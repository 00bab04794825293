"""`calibrate`: how far this machine's verdicts can be trusted."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass

from humar_bench.cli.app import command, command_text, say
from humar_bench.cli.shared import check_device, check_paths, say_whose_code, write_and_show
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

    own = (calibration.RAW_NAME, calibration.CERTIFICATE_NAME, calibration.MARKDOWN_NAME)
    check_paths(output, ("markdown", "json"), out=options.out, own=own)
    check_device(settings.device)
    say_whose_code()
    with contextlib.ExitStack() as stack:
        sink = None if options.out is None else stack.enter_context(contextlib.closing(
            calibration.RawWriter(tables.empty_place(options.out))))
        show = stack.enter_context(shown_bar(sys.stderr, quiet=output.quiet))
        made = calibration.calibrate(
            settings, sink=sink, command=command_text(),
            progress=None if show is None else lambda event: show(event["share"], f"process {event['process'] + 1}"),
        )
    lost = None if sink is None else sink.lost
    writes, shown = [], made
    if options.out is not None and lost is None:
        writes, shown = [lambda: tables.write_calibration(made, options.out)], calibration.with_raw_beside(made)[0]
    formats = {"markdown": lambda: tables.calibration_markdown(made), "json": lambda: calibration.written(made)}
    failed = write_and_show(output, formats, *writes, show=lambda: tables.print_calibration(shown, make_console(sys.stdout)), lost=lost)
    wrong = calibration.fault(made)
    if wrong:
        say(wrong)
    if failed is not None:
        raise failed
    return EXIT_INVALID if wrong else EXIT_DONE

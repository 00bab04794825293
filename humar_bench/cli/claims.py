"""`claims`: every published number and order against this machine."""

from __future__ import annotations

import contextlib
import sys

from humar_bench.cli.app import command, command_text, say
from humar_bench.cli.shared import check_paths, write_formats
from humar_bench.evidence import ClaimsOptions, ClaimsRun, gather
from humar_bench.options import Output
from humar_bench.record import RecordWriter
from humar_bench.registry import check_architecture


@command("claims", ClaimsOptions, ClaimsRun, Output, leave_out=("control", "resume"))
def claims(options: ClaimsOptions, run: ClaimsRun, output: Output) -> int:
    """Hold every published number and order against this machine; 3 when one fails.

    Speed and memory at 20 and at 300 queries, against the original. Claims about the original itself are shown and do not count.

    \b
    Example:
      humar-bench claims
      humar-bench claims --architecture my_model.py:build --no-time
    """
    from humar_bench.claims import decide, exit_code
    from humar_bench.device import open_device
    from humar_bench.progress import shown_bar
    from humar_bench.registry import parse_architecture
    from humar_bench.report import claims as shown
    from humar_bench.report import make_console

    check_architecture(candidate := parse_architecture(options.architecture))
    model, batch = options.model, options.batch or (1 if open_device(run.device).kind == "cpu" else 2)
    check_paths(output)
    with contextlib.ExitStack() as stack:
        sink = None if output.records is None else stack.enter_context(RecordWriter(output.records))
        evidence = gather(
            candidate, model, run.plain(), sizes=options.sizes, batch=batch, timed=options.time, sink=sink,
            progress=stack.enter_context(shown_bar(sys.stderr, quiet=output.quiet)), command=command_text(),
        )
    verdicts = decide(evidence)
    write_formats(output, {
        "csv": lambda: shown.to_csv(evidence, verdicts),
        "markdown": lambda: shown.to_markdown(evidence, verdicts),
        "json": lambda: shown.to_json(evidence, verdicts),
    })
    if output.stdout_format is None and not output.quiet:
        shown.print_claims(evidence, verdicts, make_console(sys.stdout))
    for failure in evidence.failures:
        say(failure)
    return exit_code(evidence, verdicts)

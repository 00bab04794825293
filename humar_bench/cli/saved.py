"""The commands about saved runs: verify and compare."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from humar_bench.cli.app import command, say, tell
from humar_bench.errors import EXIT_DONE, EXIT_INVALID
from humar_bench.options import option


@dataclass(frozen=True)
class VerifyOptions:
    """What `verify` asks."""

    dir: str = option("Folder that `report -o` or `calibrate -o` wrote.", metavar="DIR", argument=True)


@command("verify", VerifyOptions)
def verify(options: VerifyOptions) -> int:
    """Prove every table of a report or a calibration, byte for byte; 5 when not.

    \b
    Example:
      humar-bench verify results
      humar-bench verify results/calibration
    """
    from humar_bench.cli.progress import said_when_slow
    from humar_bench.saved.verify import verify as prove

    with said_when_slow(f"making every table of {options.dir} again"):
        proof = prove(options.dir)
    for line in (*proof.differences, *proof.notes):
        tell(line)
    if proof.proved:
        tell(f"proved: {proof.said}.")
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
    from humar_bench.cli.progress import said_when_slow
    from humar_bench.report import make_console, print_table
    from humar_bench.saved.limits import parse_limits
    from humar_bench.saved.regression import compare_runs
    from humar_bench.saved.verify import read_audited

    limits = None if options.fail_on is None else parse_limits(options.fail_on)
    with said_when_slow(f"holding {options.new} against {options.old}"):
        (old, wrong), (new, also) = read_audited(options.old), read_audited(options.new)
        found = compare_runs(
            old, new, limits=limits, across_machines=options.across_machines, reference=options.reference,
            faults=[*(f"OLD: {each}" for each in wrong), *(f"NEW: {each}" for each in also)],
        )
    print_table(found.table, make_console(sys.stdout))
    tell(found.verdict)
    return found.exit_code

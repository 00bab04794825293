"""`roofline`: how far a forward is from what this machine can do."""

from __future__ import annotations

from humar_bench.args import RunArgs
from humar_bench.cli.app import command
from humar_bench.cli.shared import TIMING, files_read, small_batch
from humar_bench.cli.studies import StudyOptions, run_study
from humar_bench.options import Call, Output, Selection, Whole
from humar_bench.running.plan import resolve


@command("roofline", Selection, Whole, Call, StudyOptions, RunArgs, Output, leave_out=(*TIMING, "reference"))
def roofline(selection: Selection, whole: Whole, call: Call, study: StudyOptions, run: RunArgs, output: Output) -> int:
    """Hold each forward against this machine's own matmul and copy rates.

    The floor that FLOPs and unavoidable bytes set, the share of it that is reached, and whether calling operators takes the time.

    \b
    Example:
      humar-bench roofline
      humar-bench roofline --device cuda --dtype bfloat16 -o roofline
      humar-bench roofline --whole --backbone mobilevit_s --text-encoder minilm
    """
    from humar_bench.studies.roofline import measure as rooms

    rooms.check_dtype(run.dtype)
    plan = resolve(small_batch(selection, run, call), run, whole, call)
    reads = files_read(selection, call)
    return run_study("roofline", plan, study, output, lambda **given: rooms.measure_roofline(plan, **given), reads=reads)

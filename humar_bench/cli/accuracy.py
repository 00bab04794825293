"""`accuracy`: architectures trained side by side, and what each keeps of the reference's accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from humar_bench.cli.accuracy_options import AccuracyOptions, parse_rates
from humar_bench.cli.app import command, command_text, say
from humar_bench.cli.shared import (
    check_device,
    check_paths,
    keeping_records,
    records_place,
    runs_folder,
    say_whose_code,
    show_study,
    study_folder,
)
from humar_bench.errors import UsageError
from humar_bench.options import Output
from humar_bench.studies import files_of
from humar_bench.training.extra import check_extra

if TYPE_CHECKING:
    from humar_bench.studies.accuracy.plan import AccuracyPlan


@command("accuracy", AccuracyOptions, Output)
def accuracy(options: AccuracyOptions, output: Output) -> int:
    """Train every architecture alike and say what it keeps: 0 keeps, 3 loses, 4 undecided, 5 invalid.

    Same pictures, order, schedule and front end; the learning rate of each from one grid; several seeds, the reference twice as a control.

    \b
    Example:
      humar-bench accuracy --preset cpu --level 0 -o results/accuracy
      humar-bench accuracy --resume results/accuracy --level 0
    """
    from humar_bench.studies.accuracy.accuracy import measure_accuracy
    from humar_bench.studies.accuracy.kept import PLACES

    plan = _plan(options)
    check_extra()
    architectures = [arm.architecture for arm in plan.arms]
    check_device(plan.base.device)
    check_paths(output, out=options.out, own=(*files_of("accuracy"), *PLACES), architectures=architectures)
    say_whose_code(architectures)
    done, records = records_place(options.out, output)
    folder = study_folder(options.out, output)
    with runs_folder(folder) as runs:
        found, lost = keeping_records(records, output, lambda sink, show: measure_accuracy(
            plan, runs, done=done, sink=sink, progress=show or (lambda share, text: None), command=command_text(),
            time_limit_s=options.time_limit,
        ))
    show_study(found, output, folder, lost)
    if found.missing and not found.failures:
        say(f"{found.missing} runs are missing, so there is no verdict; go on with --resume.")
    return found.exit_code


def _plan(options: AccuracyOptions) -> AccuracyPlan:
    from humar_bench.studies.accuracy.plan import Asked, plan_of
    from humar_bench.studies.accuracy.presets import PRESETS

    if options.preset not in PRESETS:
        raise UsageError(f"--preset is {options.preset!r}; choose one of {', '.join(PRESETS)}.")
    asked = Asked(
        arch=options.arch, reference=options.reference, level=options.level, data=options.data, ring=options.ring, seeds=options.seeds,
        pictures=options.pictures, evaluation_pictures=options.val, rates=parse_rates(options.rates), front_share=options.front_share,
        size=options.size, warm=options.warm, keeps=options.keeps, at_once=options.at_once, taught=options.taught,
    )
    return plan_of(PRESETS[options.preset], asked)

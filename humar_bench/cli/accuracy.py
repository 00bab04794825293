"""`accuracy`: architectures trained side by side, and what each keeps of the reference's accuracy."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

from humar_bench.args import WEEK_S
from humar_bench.cli.app import command, command_text, say
from humar_bench.cli.shared import check_device, check_paths, keeping_records, records_place, say_whose_code, show_study
from humar_bench.errors import UsageError
from humar_bench.options import DEFAULT_ARCHITECTURES, Output, option
from humar_bench.studies import files_of
from humar_bench.training.extra import check_extra


@dataclass(frozen=True)
class AccuracyOptions:
    """What `accuracy` asks. `None` means: as the preset has it."""

    preset: str = option(
        "cpu: early accuracy on small models, 2 cores, an hour; gpu: full width, 256 px, one H100; refhuman: the whole model.",
        default="cpu", metavar="NAME", words=("cpu", "gpu", "refhuman"),
    )
    arch: tuple[str, ...] = option(
        "A built-in architecture, package.module:builder or path/file.py:builder; NAME=... names it, "
        "NAME=efficient[efficient_decoder_sets=3] gives it fields of its own. Repeatable.", default=DEFAULT_ARCHITECTURES,
        metavar="[NAME=]ARCH",
    )
    reference: str | None = option("What accuracy is kept of; the first architecture by default.", metavar="NAME")
    level: int | None = option("Procedural people: 0 one person, 1 several and the sentence decides, 2 everything.", metavar="N")
    data: str | None = option("A folder in RefHuman's format instead.", metavar="DIR")
    size: int | None = option("Height and width of procedural pictures.", metavar="N")
    pictures: int | None = option("Pictures that each run is trained on.", metavar="N")
    val: int | None = option("Pictures that each run is evaluated on.", metavar="N")
    seeds: int | None = option("Runs of each architecture; the control has as many again.", metavar="N")
    warm: int | None = option("Pictures that what stands before the transformer is trained on ahead, once for all runs.", metavar="N")
    rates: str | None = option("Learning rates to choose from, the same for all: at least three.", metavar="X,X,X")
    keeps: float = option("The share of the reference's accuracy that has to be kept.", default=0.95)
    ring: str | None = option(
        "The original's first sampling points on small maps: published, scaled, both, or better: of both the one that scores more on the "
        "seed for learning rates. better by default.", metavar="WHICH", words=("better", "both", "published", "scaled"),
    )
    at_once: int | None = option("Runs side by side; one a core by default.", metavar="N")
    time_limit: float | None = option("Seconds; no run is begun that would end later.", metavar="S")
    out: str | None = option("Folder for records, runs, tables and curves; made where missing.", metavar="DIR", flags=("--out", "-o"))

    def __post_init__(self) -> None:
        if self.time_limit is not None and not 0 < self.time_limit <= 10 * WEEK_S:
            raise UsageError(f"--time-limit is {self.time_limit:g}; it must be a number of seconds above 0, at most ten weeks.")


@command("accuracy", AccuracyOptions, Output)
def accuracy(options: AccuracyOptions, output: Output) -> int:
    """Train every architecture alike and say what it keeps: 0 keeps, 3 loses, 4 undecided, 5 invalid.

    Same pictures, order, schedule and front end; the learning rate of each from one grid; several seeds, the reference twice as a control.

    \b
    Example:
      humar-bench accuracy --preset cpu --level 0 -o results/accuracy
      humar-bench accuracy --resume results/accuracy --level 0
    """
    from humar_bench.studies.accuracy import plan as plans
    from humar_bench.studies.accuracy.accuracy import measure_accuracy
    from humar_bench.studies.accuracy.kept import PLACES

    plan = _plan(options, plans)
    check_extra()
    architectures = [arm.architecture for arm in plan.arms]
    check_device(plan.base.device)
    check_paths(output, out=options.out, own=(*files_of("accuracy"), *PLACES), architectures=architectures)
    say_whose_code(architectures)
    done, records = records_place(options.out, output)
    folder = options.out or (output.resume if output.resume is not None and os.path.isdir(output.resume) else None)
    with _runs_folder(folder) as runs:
        found, lost = keeping_records(records, output, lambda sink, show: measure_accuracy(
            plan, runs, done=done, sink=sink, progress=show or (lambda share, text: None), command=command_text(),
            time_limit_s=options.time_limit,
        ))
    show_study(found, output, folder, lost)
    if found.missing and not found.failures:
        say(f"{found.missing} runs are missing, so there is no verdict; go on with --resume.")
    return found.exit_code


def _plan(options: AccuracyOptions, plans: object) -> object:
    if options.preset not in plans.PRESETS:
        raise UsageError(f"--preset is {options.preset!r}; choose one of {', '.join(plans.PRESETS)}.")
    asked = plans.Asked(
        arch=options.arch, reference=options.reference, level=options.level, data=options.data, ring=options.ring, seeds=options.seeds,
        pictures=options.pictures, evaluation_pictures=options.val, rates=_rates(options.rates), size=options.size, warm=options.warm,
        keeps=options.keeps, at_once=options.at_once,
    )
    return plans.plan_of(plans.PRESETS[options.preset], asked)


def _rates(text: str | None) -> tuple[float, ...] | None:
    """'3e-4,1e-3' -> numbers. Raises UsageError."""
    if text is None:
        return None
    try:
        found = tuple(float(each) for each in text.split(","))
    except ValueError:
        raise UsageError(f"--rates is {text!r}; write numbers with commas between them, such as 3e-4,6e-4,1.2e-3.") from None
    if not all(0 < each < 1 for each in found):
        raise UsageError(f"--rates is {text!r}; every learning rate must be above 0 and below 1.")
    return found


@contextlib.contextmanager
def _runs_folder(folder: str | None) -> Iterator[str]:
    """Where runs are kept while they are trained: in the study's folder, or in one that is gone at the end."""
    if folder is not None:
        yield folder
        return
    say("note: no folder is named (-o), so runs are not kept and a study that is stopped cannot go on.")
    with tempfile.TemporaryDirectory(prefix="humar-bench-accuracy-") as made:
        yield made

"""`search`: designs of the replacement that no other one beats in cost and accuracy together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humar_bench.args import RunArgs
from humar_bench.cli.accuracy_options import alike, check_small
from humar_bench.cli.app import command
from humar_bench.cli.shared import TIMING, check_device, files_read, small_batch
from humar_bench.cli.studies import FEWEST_SEEDS, StudyOptions, run_training
from humar_bench.errors import UsageError
from humar_bench.options import Call, Output, Selection, option
from humar_bench.running.plan import Plan, parse_settings, read_args_file, resolve
from humar_bench.table import MIB
from humar_bench.training.extra import check_extra

if TYPE_CHECKING:
    from humar_bench.studies.search.search import SearchPlan

MOST_DESIGNS, MOST_TIMED = 1_000_000, 100


@dataclass(frozen=True)
class SearchOptions:
    """What is searched, and how far. Of trainings `None` means: as the preset has it."""

    designs: int = option("Designs to look at: exact costs, nothing is run.", default=2000)
    over: tuple[str, ...] = option(
        "Search this field alone, over these values; by default hidden_dim, dec_layers and all efficient_ fields but those of --set. "
        "Repeatable.", default=(), metavar="FIELD=V,V,...",
    )
    most_parameters: float | None = option("Only designs of at most so many million parameters.", metavar="M")
    most_gflop: float | None = option("Only designs of at most so many GFLOP a forward.", metavar="G")
    most_peak: float | None = option("Only designs of at most so many MiB of peak memory.", metavar="MIB")
    timed: int = option("Designs of the front that are counted exactly and timed beside the default.", default=12)
    train: bool = option("Also train those that time leaves, by successive halving.", default=True, flags=("--train/--no-train",))
    trained: int = option("Designs of the first rung of trainings; each next one has half, at twice the pictures.", default=8)
    preset: str = alike("preset", "What is trained: cpu or gpu (see accuracy).", default="cpu", metavar="NAME", words=("cpu", "gpu"))
    level: int | None = alike("level", metavar="N")
    size: int | None = alike("size", metavar="N")
    pictures: int | None = alike("pictures", "Pictures of each run in the last rung.", metavar="N")
    val: int | None = alike("val", metavar="N")
    seeds: int | None = alike("seeds", "Runs of each design in the last rung; 2 by default.", metavar="N")
    warm: int | None = alike("warm", "Pictures that what stands before the transformer is trained on ahead, once a width.", metavar="N")
    rate: float | None = option("Learning rate of every training; the second highest of the preset's by default.", metavar="X")
    journal: str | None = option(
        "File that designs are looked up and kept in, so that several machines search together; in the folder by default.", metavar="FILE",
    )
    at_once: int | None = alike("at_once", "Processes side by side that look or train; one a core by default.", metavar="N")
    time_limit: float | None = alike("time_limit", "Seconds of trainings; no run is begun that would end later.", metavar="S")

    def __post_init__(self) -> None:
        for flag, value, least, most in (
            ("--designs", self.designs, 1, MOST_DESIGNS), ("--timed", self.timed, 1, MOST_TIMED),
            ("--trained", self.trained, 1, MOST_TIMED),
        ):
            if not least <= value <= most:
                raise UsageError(f"{flag} is {value}; it must be from {least} to {most:,}.")
        for flag, most in (("--most-parameters", self.most_parameters), ("--most-gflop", self.most_gflop), ("--most-peak", self.most_peak)):
            if most is not None and not 0 < most < float("inf"):
                raise UsageError(f"{flag} is {most:g}; it must be a number above 0.")
        if self.at_once is not None and not 0 <= self.at_once <= 1024:
            raise UsageError(f"--at-once is {self.at_once}; it must be from 1 to 1024, or 0 for one process a core.")
        check_small(self.preset, self.time_limit)

    @property
    def bounds(self) -> dict[str, float]:
        """The most of each cost, in its own unit."""
        most = {"parameters": (self.most_parameters, 1e6), "matmul_flops": (self.most_gflop, 1e9), "peak_bytes": (self.most_peak, MIB)}
        return {name: value * unit for name, (value, unit) in most.items() if value is not None}


@command("search", Selection, SearchOptions, StudyOptions, RunArgs, Output, leave_out=(*TIMING, "arch", "reference"))
def search(selection: Selection, options: SearchOptions, study: StudyOptions, run: RunArgs, output: Output) -> int:
    """Search designs of the replacement for those that no other one beats.

    Exact costs of thousands, without running any; then the time of a few that stand for the front; then short trainings of those that are
    left, by successive halving. Each design ends as a line of --set options.

    \b
    Example:
      humar-bench search --no-train -o search
      humar-bench search --designs 5000 --most-parameters 5.06 --pictures 4800 -o search
      humar-bench search --no-time --no-train --over hidden_dim=128,192,256 --over dec_layers=3,4,6
    """
    from humar_bench.studies.search.search import PLACES, measure_search
    from humar_bench.studies.search.storage import library, refuse_strange

    library()  # its sentence
    if options.journal:
        refuse_strange(Path(options.journal))
    asked = _plan(selection, options, run)
    if asked.trainings is not None:
        check_extra()
        check_device(asked.trainings.base.device)
    return run_training("search", asked.plan, study, output, lambda folder, **given: measure_search(
        asked, folder, time_limit_s=options.time_limit, **given
    ), reads=files_read(selection, Call()), places=PLACES)


def _plan(selection: Selection, options: SearchOptions, run: RunArgs) -> SearchPlan:
    """Raises UsageError with one sentence for what cannot be searched."""
    from humar_bench.studies.search.search import SearchPlan
    from humar_bench.studies.search.space import space_of

    plan: Plan = resolve(small_batch(selection, run, Call()), run)
    fixed = {**parse_settings(selection.set), **({} if selection.args is None else read_args_file(selection.args))}
    space = space_of(plan.args, options.over, fixed)
    trainings = _trainings(options) if options.train else None
    if trainings is not None:
        trainings.small(plan.args, plan.args)  # refuses before anything is looked at
    return SearchPlan(plan, space, options.designs, options.bounds, options.timed, options.at_once or 0, trainings, options.journal)


def _trainings(options: SearchOptions) -> Any:
    from humar_bench.studies.accuracy.plan import Asked
    from humar_bench.studies.accuracy.presets import PRESETS
    from humar_bench.studies.search.halving import trainings_of

    asked = Asked(
        arch=(), level=options.level, size=options.size, pictures=options.pictures, evaluation_pictures=options.val, warm=options.warm,
        seeds=FEWEST_SEEDS if options.seeds is None else options.seeds, at_once=options.at_once,
    )
    return trainings_of(PRESETS[options.preset], asked, designs=options.trained, rate=options.rate)



"""What is asked of trainings that are compared: the options of `accuracy`, some of which `ablate` and `search` have too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from humar_bench.args import WEEK_S
from humar_bench.errors import UsageError
from humar_bench.options import DEFAULT_ARCHITECTURES, help_of, option


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
    taught: tuple[str, ...] = option(
        "Name of an --arch that is trained once more, where each run also imitates the reference's run of the same seed. Repeatable.",
        default=(), metavar="NAME",
    )
    level: int | None = option("Procedural people: 0 one person, 1 several and the sentence decides, 2 everything.", metavar="N")
    data: str | None = option("A folder in RefHuman's format instead, or procedural:0-1: level 0 first, then level 1.", metavar="DATA")
    size: int | None = option("Height and width of procedural pictures.", metavar="N")
    pictures: int | None = option("Pictures that each run is trained on.", metavar="N")
    val: int | None = option("Pictures that each run is evaluated on.", metavar="N")
    seeds: int | None = option("Runs of each architecture; the control has as many again.", metavar="N")
    warm: int | None = option("Pictures that what stands before the transformer is trained on ahead, once for all runs.", metavar="N")
    rates: str | None = option("Learning rates to choose from, the same for all: at least three.", metavar="X,X,X")
    front_share: float | None = option(
        "What multiplies the learning rates of what was trained ahead, so that runs keep what it knows; 0: it stays as it is.", metavar="X"
    )
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


def alike(name: str, help: str = "", **more: Any) -> Any:
    """An option of `accuracy`, or one like it."""
    return option(help or help_of(AccuracyOptions, name), **more)


def check_small(preset: str | None, time_limit: float | None) -> None:
    """Raises UsageError for a preset that trains no small model, and as `AccuracyOptions` does."""
    if preset not in (None, "cpu", "gpu"):
        raise UsageError(f"--preset is {preset!r}; choose cpu or gpu.")
    AccuracyOptions(time_limit=time_limit)


def parse_rates(text: str | None) -> tuple[float, ...] | None:
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

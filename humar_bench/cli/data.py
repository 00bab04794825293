"""`data`: look at the procedural people, write them in RefHuman's format, check a folder in that format."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass

import typer

from humar_bench.args import parse_size
from humar_bench.cli import typer_options
from humar_bench.cli.app import app, say, tell
from humar_bench.cli.progress import shown_bar
from humar_bench.errors import EXIT_DONE, EXIT_FAILED
from humar_bench.options import option
from humar_bench.training.extra import check_extra

group = typer.Typer(rich_markup_mode="rich", context_settings={"help_option_names": ["-h", "--help"]})
app.add_typer(group, name="data")
command = functools.partial(typer_options.command, group, panels={})


@group.callback(invoke_without_command=True)
def _front(context: typer.Context) -> None:
    """People to learn from: look at them, write them in RefHuman's format, check a folder.

    \b
    Example:
      humar-bench data show -o people.png
      humar-bench data export people --level 1
      humar-bench data check people
    """
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit()


@dataclass(frozen=True)
class ShowOptions:
    """What `data show` asks."""

    data: str | None = option("procedural:LEVEL or a folder in RefHuman's format; every level by default.", metavar="DATA")
    split: str = option("train, val or test.", default="train")
    seed: int = option("Seed of the procedural people.", default=0)
    first: int = option("Number of the first picture.", default=0)
    number: int = option("Pictures, of each level where all are shown.", default=12)
    size: str = option("Height and width of procedural pictures.", default="128x128", metavar="HxW")
    plain: bool = option("Without box, keypoints, mask and scribble.", default=False)
    out: str = option("The contact sheet.", default="people.png", metavar="PNG", flags=("--out", "-o"))


@command("show", ShowOptions)
def show(options: ShowOptions) -> int:
    """Write a contact sheet: pictures with keypoints, mask and scribble, and their sentences.

    \b
    Example:
      humar-bench data show -o people.png
      humar-bench data show --data procedural:2 --number 48 --plain
      humar-bench data show --data path/to/RefHuman --split val
    """
    check_extra("data show needs", ("PIL", "faster_coco_eval"))
    from humar_bench.data.show import as_png, contact_sheet, examples_of
    from humar_bench.report.files import check_writable, refuse_stream, refuse_within, write_bytes

    refuse_stream(options.out, "--out")
    refuse_within(options.out, "--out", options.data, "--data")
    check_writable(options.out, "--out")
    examples = examples_of(
        options.data, options.split, seed=options.seed, first=options.first, number=options.number, size=parse_size(options.size)
    )
    write_bytes(options.out, as_png(contact_sheet(examples, labels=not options.plain)))
    tell(f"{options.out}: {len(examples)} pictures.")
    return EXIT_DONE


@dataclass(frozen=True)
class ExportOptions:
    """What `data export` asks."""

    dir: str = option("Folder for RefHuman_train.json, RefHuman_val.json and images/; made where missing.", metavar="DIR", argument=True)
    level: int = option("0: one person; 1: several, the sentence decides; 2: everything.", default=1)
    seed: int = option("Seed of the procedural people.", default=0)
    train: int = option("Pictures to train on.", default=1000)
    val: int = option("Pictures to evaluate on.", default=200)
    size: str = option("Height and width of the pictures.", default="128x128", metavar="HxW")


@command("export", ExportOptions)
def export(options: ExportOptions) -> int:
    """Write procedural people as RefHuman's files, for whatever reads those.

    \b
    Example:
      humar-bench data export people
      humar-bench data export people --level 2 --train 20000 --val 5000 --size 240x320
    """
    check_extra("data export needs", ("PIL",))
    from humar_bench.data.export import export_people
    from humar_bench.data.people import ProceduralPeople

    size, lengths = parse_size(options.size), {"train": options.train, "val": options.val}
    sets = {split: ProceduralPeople(split, options.level, options.seed, length, size) for split, length in lengths.items()}
    with shown_bar(sys.stderr, quiet=False) as bar:
        export_people(options.dir, sets, bar)
    tell(f"{options.dir}: {options.train} pictures to train on, {options.val} to evaluate on.")
    return EXIT_DONE


@dataclass(frozen=True)
class CheckOptions:
    """What `data check` asks."""

    dir: str = option("Folder with RefHuman_train.json, RefHuman_val.json and images/.", metavar="DIR", argument=True)


@command("check", CheckOptions)
def check(options: CheckOptions) -> int:
    """Check a RefHuman folder, entry by entry: 0 when all can be read, 1 when not.

    wrong: cannot be read. left out: not trained on. odd: read, but look at it.

    \b
    Example:
      humar-bench data check path/to/RefHuman
    """
    check_extra("data check needs", ("PIL", "faster_coco_eval"))
    from humar_bench.data.check import FolderCheck

    checked = FolderCheck(options.dir)
    for finding in checked:
        tell(finding)
    say(checked.summary)
    return EXIT_FAILED if checked.is_wrong else EXIT_DONE

"""`train`, `warm-start` and `evaluate`: learn a model, give it a head start, say how good it is."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from humar_bench.args import PROMPTS
from humar_bench.cli.app import command, say, tell
from humar_bench.cli.progress import shown_bar
from humar_bench.cli.shared import check_paths, say_whose_code, write_and_show
from humar_bench.errors import EXIT_DONE, UsageError
from humar_bench.options import STANDARD_OUTPUT, Output, option
from humar_bench.subjects.registry import parse_architecture
from humar_bench.training.options import PRESETS, OptimArgs
from humar_bench.training.train_args import NUMBER_TYPES, TrainArgs, with_settings

NOT_OF_A_TABLE = ("records", "resume")  # options of `Output` that only records have


def _of(name: str, **more: Any) -> Any:
    """The option of a field of `TrainArgs`; None: as the preset has it."""
    return option(next(each.metadata["help"] for each in dataclasses.fields(TrainArgs) if each.name == name), **more)


@dataclass(frozen=True)
class LearnOptions:
    """What is learned from, and on what."""

    data: str | None = option("procedural:LEVEL, procedural:0-1 (level 0 first), or a folder in RefHuman's format.", metavar="DATA")
    preset: str | None = option(f"{', '.join(PRESETS)}: model and optimiser to start from; small for procedural data.", metavar="NAME",
                                words=tuple(PRESETS))
    pictures: int | None = _of("pictures")
    size: int | None = _of("size")
    lr: float | None = option("Learning rate; that of backbone and graph biases in proportion.")
    batch_size: int | None = option("Pictures a process and step.")
    seed: int | None = _of("seed")
    data_seed: int | None = _of("data_seed")
    threads: int | None = _of("threads")
    workers: int | None = _of("workers")
    rendered: str | None = _of("rendered", metavar="DIR")
    tokenizer: str | None = _of("tokenizer", metavar="DIR")
    set: tuple[str, ...] = option(
        "Any field of ModelArgs, UniphdArgs, OptimArgs, LossArgs or TrainArgs, such as enc_layers=4. Repeatable.", default=(),
        metavar="FIELD=VALUE",
    )
    quiet: bool = option("No table, no progress; errors still show.", default=False, flags=("--quiet", "-q"))


@dataclass(frozen=True)
class TrainOptions:
    """What only `train` asks."""

    arch: str | None = option(
        "original, original-fused, efficient, package.module:builder or path/file.py:builder.", metavar="[NAME=]ARCH",
        words=("original", "efficient"),
    )
    out: str | None = option("Folder of the run; made where missing.", metavar="DIR", flags=("--out", "-o"))
    resume: str | None = option("Go on with this run, with its own options.", metavar="DIR")
    teacher: str | None = _of("teacher", metavar="DIR")
    front_end: str | None = _of("front_end", metavar="FILE")
    backbone_weights: str | None = _of("backbone_weights", metavar="DIR")
    text_weights: str | None = _of("text_weights", metavar="DIR")
    evaluate_every: int | None = _of("evaluate_every")
    evaluation_pictures: int | None = _of("evaluation_pictures")
    accumulate: int | None = _of("accumulate")
    device: str | None = _of("device", metavar="NAME", words=("auto", "cpu", "cuda"))
    dtype: str | None = _of("dtype", metavar="NAME", words=NUMBER_TYPES)


@command("train", TrainOptions, LearnOptions)
def train(options: TrainOptions, learn: LearnOptions) -> int:
    """Train one model; a run folder keeps its log, curves and last checkpoint.

    torchrun starts it once a device. What it finds is printed at the end; docs/training.md says what the folder holds.

    \b
    Example:
      humar-bench train --arch efficient --data procedural:1 -o run
      humar-bench train --resume run
      torchrun --nproc-per-node 4 -m humar_bench train --data path/to/RefHuman -o run
    """
    from humar_bench.training.run_folder import read_options
    from humar_bench.training.saved_model import trusted

    if options.resume is not None:
        _refuse_beside_resume(options, learn)
        folder, args = options.resume, read_options(options.resume)
        args = dataclasses.replace(args, arch=trusted(args.arch, options.arch, f"the run {folder}"))
    elif options.out is None:
        raise UsageError("-o is missing; name a folder for the run, or go on with one by --resume.")
    else:
        folder, args = options.out, train_args(learn, options)
    first = os.environ.get("RANK", "0") == "0"
    quiet = learn.quiet or not first
    if first:
        say_whose_code([parse_architecture(args.arch)])
    from humar_bench.training.loop import train as run

    with shown_bar(sys.stderr, quiet=quiet, doing="training") as bar:
        run(args, folder, resume=options.resume is not None, tell=_told(bar, quiet))
    if first:
        _show_run(folder, args, quiet)
    return EXIT_DONE


@dataclass(frozen=True)
class WarmStartOptions:
    """What only `warm-start` asks."""

    out: str = option("File for the weights, .safetensors.", default="front-end.safetensors", metavar="FILE", flags=("--out", "-o"))


@command("warm-start", WarmStartOptions, LearnOptions)
def warm_start(options: WarmStartOptions, learn: LearnOptions) -> int:
    """Train what stands before the transformer on the cells of keypoints, for --front-end.

    \b
    Example:
      humar-bench warm-start --data procedural:0 --pictures 8000 -o front.safetensors
      humar-bench train --data procedural:0 --front-end front.safetensors -o run
    """
    from humar_bench.report.files import check_writable, refuse_stream, refuse_within
    from humar_bench.training.warm_start import WARM_OPTIM
    from humar_bench.training.warm_start import warm_start as run

    refuse_stream(options.out, "--out")
    refuse_within(options.out, "--out", learn.data, "--data")
    check_writable(options.out, "--out")
    args = train_args(learn, optim=WARM_OPTIM)
    with shown_bar(sys.stderr, quiet=learn.quiet, doing="training") as bar:
        show = bar or (lambda share, text: None)
        found = run(
            args, options.out, optim=args.optim, tell=lambda event: show(event["step"] / event["steps"], f"OKS {event['oks']:.3f}")
        )
    if not learn.quiet:
        tell(f"{found.path}: {found.pictures:,} pictures, OKS of the best cells {found.oks:.3f}.")
    return EXIT_DONE


@dataclass(frozen=True)
class EvaluateOptions:
    """What is evaluated, and on what."""

    model: str = option("Folder of a run, or a published checkpoint (.pth).", metavar="RUN|CHECKPOINT", argument=True)
    data: str | None = option("procedural:LEVEL or a folder in RefHuman's format; a run's own by default.", metavar="DATA")
    split: str | None = option("val or test.", metavar="NAME", words=("val", "test"))
    pictures: int | None = _of("evaluation_pictures")
    data_seed: int | None = _of("evaluation_seed")
    prompt: str | None = option(
        f"{', '.join(PROMPTS)}: what says whom to find; text where the model reads it.", metavar="KIND", words=PROMPTS
    )
    masks: bool = option("Also make and score masks, where the model has them.", default=True, flags=("--masks/--no-masks",))
    resamples: int = option("Bootstrap draws of pictures; 0: no intervals.", default=1000)
    batch: int | None = option("Pictures a forward.", metavar="B")
    arch: str | None = option(
        "The transformer, where a checkpoint does not say it, or where it is code of somebody's own.", metavar="ARCH",
        words=("original", "efficient"),
    )
    tokenizer: str | None = _of("tokenizer", metavar="DIR")
    threads: int | None = _of("threads")
    device: str | None = _of("device", metavar="NAME", words=("auto", "cpu", "cuda"))
    set: tuple[str, ...] = option("Any field of ModelArgs or UniphdArgs a checkpoint was built with.", default=(), metavar="FIELD=VALUE")

    def __post_init__(self) -> None:
        if self.prompt is not None and self.prompt not in PROMPTS:
            raise UsageError(f"prompt is {self.prompt!r}; choose one of {', '.join(PROMPTS)}.")
        if not 0 <= self.resamples <= 100_000:
            raise UsageError(f"resamples is {self.resamples}; it must be 0 to 100,000.")


@command("evaluate", EvaluateOptions, Output, leave_out=NOT_OF_A_TABLE)
def evaluate(options: EvaluateOptions, output: Output) -> int:
    """Evaluate a trained or published model: OKS-AP, PCKh, mask IoU, with intervals.

    Of the best-scored query, which is what a user gets, and COCO's own tables over all queries. Intervals are 95 %, over pictures.

    \b
    Example:
      humar-bench evaluate run
      humar-bench evaluate run --data procedural:2 --pictures 2000 --csv -
      humar-bench evaluate uniphd.pth --data path/to/RefHuman
    """
    from humar_bench.records.record import json_text, plain
    from humar_bench.report import make_console, print_table, to_csv
    from humar_bench.report.files import refuse_within
    from humar_bench.report.markdown import table_to_markdown
    from humar_bench.report.training import evaluation_tables
    from humar_bench.training.evaluate_saved import evaluate_saved

    check_paths(output, reads={options.model: options.model})
    written = {name: getattr(output, name) for name in ("csv", "markdown", "json")}
    for name, path in _given(**written).items():
        for folder, what in ((options.model, "the run"), (options.data, "--data")):
            if path != STANDARD_OUTPUT:
                refuse_within(path, f"--{name}", folder, what)
    if options.arch is not None:
        say_whose_code([parse_architecture(options.arch)])
    with shown_bar(sys.stderr, quiet=output.quiet, doing="evaluating") as bar:
        show = bar or (lambda share, text: None)
        found = evaluate_saved(
            options.model, data=options.data, settings=options.set, arch=options.arch, prompt=options.prompt, masks=options.masks,
            resamples=options.resamples, device=options.device, threads=options.threads or 0,
            changes=_given(
                evaluation_split=options.split, evaluation_pictures=options.pictures, evaluation_seed=options.data_seed,
                evaluation_batch=options.batch, tokenizer=options.tokenizer,
            ),
            tell=lambda share: show(share, "evaluating"),
        )
    tables = evaluation_tables(found.estimates, found.keypoints, found.conditions)

    def show_all() -> None:
        for table in tables:
            print_table(table, make_console(sys.stdout))

    formats: dict[str, Callable[[], str]] = {
        "csv": lambda: "\n".join(to_csv(table) for table in tables),
        "markdown": lambda: "\n".join(table_to_markdown(table) for table in tables),
        "json": lambda: json_text(plain(found.document()), indent=2) + "\n",
    }
    failed = write_and_show(output, formats, show=show_all)
    if failed is not None:
        raise failed
    return EXIT_DONE


def train_args(learn: LearnOptions, options: TrainOptions | None = None, optim: OptimArgs | None = None) -> TrainArgs:
    """What was typed on top of a preset, whose optimiser may be another one. Raises UsageError."""
    data = learn.data or "procedural:0"
    preset = learn.preset or ("small" if data.startswith("procedural") else "published")
    arch = options.arch if options is not None and options.arch else "original"
    if preset not in PRESETS:
        raise UsageError(f"the preset is {preset!r}; choose one of {', '.join(PRESETS)}.")
    args = TrainArgs.small(arch, data) if preset == "small" else TrainArgs(arch=arch, data=data, augment=not data.startswith("procedural"))
    if preset == "small" and not args.is_procedural:
        args = dataclasses.replace(args, pictures=0)
    names = ("pictures", "size", "seed", "data_seed", "threads", "workers", "rendered", "tokenizer")
    changes = _given(**{name: getattr(learn, name) for name in names})
    if options is not None:
        own = ("teacher", "front_end", "backbone_weights", "text_weights")
        changes |= _given(**{name: getattr(options, name) for name in own})
        own = ("evaluate_every", "evaluation_pictures", "accumulate", "device", "dtype")
        changes |= _given(**{name: getattr(options, name) for name in own})
    optim = args.optim if optim is None else optim
    optim = optim if learn.lr is None else optim.with_lr(learn.lr)
    optim = optim if learn.batch_size is None else dataclasses.replace(optim, batch_size=learn.batch_size)
    return with_settings(dataclasses.replace(args, **changes, optim=optim), learn.set)


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _refuse_beside_resume(options: TrainOptions, learn: LearnOptions) -> None:
    typed = {each.name: getattr(owner, each.name) for owner in (options, learn) for each in dataclasses.fields(owner)}
    others = [name for name, value in typed.items() if value not in (None, (), False) and name not in ("resume", "arch", "quiet")]
    if others:
        raise UsageError(f"--resume goes on with the options of {options.resume}; leave --{others[0].replace('_', '-')} out.")


def _told(bar: Callable[[float, str], None] | None, quiet: bool) -> Callable[[Mapping[str, Any]], None]:
    """What shows a run's events: the bar, or a line an evaluation where there is none."""
    said = {"loss": "", "scores": ""}

    def hear(event: Mapping[str, Any]) -> None:
        if event["kind"] == "step":
            said["loss"] = f", loss {event['losses']['total']:.1f}"
        elif event["kind"] == "evaluation":
            said["scores"] = f", AP {event['ap']:.3f}, OKS {event['oks']:.3f}"
            if bar is None and not quiet:
                say(f"after {event['pictures']:,} pictures{said['loss']}{said['scores']}.")
        elif bar is not None:
            bar(event["step"] / event["steps"], f"step {event['step']:,} of {event['steps']:,}{said['loss']}{said['scores']}")

    return hear


def _show_run(folder: str, args: TrainArgs, quiet: bool) -> None:
    """The curve on the terminal with the table of evaluations, then as PNG where it can be drawn."""
    from humar_bench.report import make_console, print_table
    from humar_bench.report.plot import block_plot, can_plot, write_plot
    from humar_bench.report.training import curve_plot, curve_table
    from humar_bench.training.run_folder import CURVE, read_log

    lines = read_log(folder)
    plot = curve_plot(args.arch, lines)
    if not quiet:
        console = make_console(sys.stdout)
        if plot.panels:
            console.print(block_plot(plot))
        print_table(curve_table(lines), console)
        tell(f"{folder}: evaluate it with humar-bench evaluate {folder}.")
    if plot.panels and can_plot():
        write_plot(plot, str(Path(folder) / CURVE))

"""`variants`: what every backbone, text encoder and transformer make together."""

from __future__ import annotations

from dataclasses import dataclass

from humar_bench.args import BACKBONES, PROMPTS, SHOWN_MASKS, TEXT_ENCODERS, RunArgs, WholeWorkload
from humar_bench.cli.app import command
from humar_bench.cli.shared import TIMING, files_read
from humar_bench.cli.studies import StudyOptions, run_study
from humar_bench.errors import UsageError
from humar_bench.options import Call, Output, Selection, Whole, help_of, option
from humar_bench.running.plan import resolve, scaled_for_cpu


@dataclass(frozen=True)
class VariantsOptions:
    """Which variants, and what their forwards are given."""

    backbone: tuple[str, ...] = option(
        f"Only this backbone: {', '.join(BACKBONES)}. Repeatable.", default=(), metavar="NAME", words=BACKBONES
    )
    text_encoder: tuple[str, ...] = option(
        f"Only this text encoder: {', '.join(TEXT_ENCODERS)}. Repeatable.", default=(), metavar="NAME", words=TEXT_ENCODERS
    )
    most: float | None = option("Only variants of at most so many million parameters.", metavar="M")
    prompt: str | None = option(f"{', '.join(PROMPTS)}: what says whom to find; text by default.", metavar="KIND", words=PROMPTS)
    caption_tokens: int | None = option(help_of(WholeWorkload, "caption_tokens"), metavar="T")
    masks: str | None = option(
        f"{', '.join(SHOWN_MASKS)}: queries whose masks are made; all by default; looped: one by one.", metavar="WHICH", words=SHOWN_MASKS
    )

    plot: str | None = option("Draw time against parameters and FLOPs into a .png or .svg file (needs matplotlib).", metavar="PATH")

    def __post_init__(self) -> None:
        if self.most is not None and not 0 < self.most < float("inf"):
            raise UsageError(f"--most is {self.most:g}; it must be a number of million parameters above 0.")


@command("variants", Selection, VariantsOptions, StudyOptions, RunArgs, Output, leave_out=(*TIMING, "reference"))
def variants(selection: Selection, options: VariantsOptions, study: StudyOptions, run: RunArgs, output: Output) -> int:
    """Count, and time, every backbone, text encoder and transformer together.

    Parameters, FLOPs and predicted peak memory of each whole model, exact; parts are counted once. Times of those with the fewest FLOPs
    first, in turn, as far as the budget reaches.

    \b
    Example:
      humar-bench variants --no-time
      humar-bench variants --budget 600 --text-encoder minilm --plot variants.png
      humar-bench variants --no-time --most 60 --text-encoder minilm -o variants
    """
    from humar_bench.report.plot import check_plot
    from humar_bench.studies.variants import variants as rooms

    if options.plot is not None:
        check_plot(options.plot)
    whole = Whole(whole=True, prompt=options.prompt, caption_tokens=options.caption_tokens, masks=options.masks)
    plan = resolve(scaled_for_cpu(selection), run, whole)
    rooms.points_of(plan, options.backbone, options.text_encoder)  # refuses before anything is counted

    def measure(*, timed: bool, budget_s: float, **given: object) -> rooms.Variants:
        return rooms.measure_variants(
            plan, options.backbone, options.text_encoder, most=options.most, timed=timed, budget_s=budget_s, **given
        )

    return run_study("variants", plan, study, output, measure, reads=files_read(selection, Call()), plot=options.plot)

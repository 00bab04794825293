"""What the command line adds to `args.py`: which architectures on which work (`Selection`, `Whole`), and where results go (`Output`)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from humar_bench.args import BACKBONES, BUILT_IN, PROMPTS, SHOWN_MASKS, TEXT_ENCODERS, WORKLOADS, ModelArgs, WholeWorkload, Workload
from humar_bench.errors import UsageError

DEFAULT_ARCHITECTURES = ("original", "efficient")
STANDARD_OUTPUT = "-"


def option(help: str, *, default: Any = None, **more: Any) -> Any:
    """A dataclass field that is an option of the command line; `more` may name its `metavar`, `flags` and the `words` a shell completes."""
    return field(default=default, metadata={"help": help, **more})


_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_KINDS = {bool: "true or false", int: "a whole number", float: "a number"}


def read_number(text: str, kind: type) -> int | float:
    """A number as it is usually written: no underscores, spaces or digits of other scripts, which Python would take. Raises ValueError."""
    if not text.isascii() or "_" in text or text != text.strip():
        raise ValueError(text)
    return kind(text)


def parse_value(name: str, text: str, kind: type) -> Any:
    """The value of --set NAME=TEXT. Raises UsageError."""
    if kind is str:
        return text
    try:
        return _TRUTH[text.lower()] if kind is bool else read_number(text, kind)
    except (KeyError, ValueError):
        raise UsageError(f"--set {name} is {text!r}; it must be {_KINDS[kind]}.") from None


def help_of(owner: type, name: str) -> str:
    """The sentence of one field."""
    return next(each.metadata["help"] for each in dataclasses.fields(owner) if each.name == name)


@dataclass(frozen=True)
class Selection:
    """Which architectures, on which work. `None` means: as the workload has it."""

    arch: tuple[str, ...] = option(
        "original, original-fused, efficient, efficient-fused, efficient-accurate, package.module:builder or path/file.py:builder; "
        "NAME=... names it. Repeatable.",
        default=DEFAULT_ARCHITECTURES, metavar="[NAME=]ARCH", words=tuple(BUILT_IN),
    )
    reference: str | None = option("Architecture that ratios and verdicts are against; the first by default.", metavar="NAME")
    workload: str = option(
        f"{', '.join(WORKLOADS)}: sizes and queries to start from.", default="uniphd", metavar="NAME", words=tuple(WORKLOADS)
    )
    batch: int | None = option(help_of(Workload, "batch"), metavar="B")
    num_queries: int | None = option(help_of(ModelArgs, "num_queries"), metavar="Q")
    feature_sizes: str | None = option("Feature maps, one HEIGHTxWIDTH per level: 50x50,25x25.", metavar="HxW,...")
    image_size: str | None = option("Image size; its maps follow at strides 8, 16, 32, ...", metavar="HxW")
    padded: bool = option("Part of every image but the first is padding.", default=False)
    set: tuple[str, ...] = option("Any field of ModelArgs, such as enc_layers=4. Repeatable.", default=(), metavar="FIELD=VALUE")
    args: str | None = option("Fields of ModelArgs from a .json or .toml file.", metavar="FILE")


@dataclass(frozen=True)
class Whole:
    """The whole model around each transformer. `None` means: as `WholeWorkload` has it."""

    whole: bool = option("Measure the whole model around each transformer, from images and a prompt on.", default=False)
    backbone: str | None = option(f"Its backbone: {', '.join(BACKBONES)}.", metavar="NAME", words=BACKBONES)
    text_encoder: str | None = option(f"Its text encoder: {', '.join(TEXT_ENCODERS)}.", metavar="NAME", words=TEXT_ENCODERS)
    prompt: str | None = option(f"{', '.join(PROMPTS)}: what says whom to find; text by default.", metavar="KIND", words=PROMPTS)
    caption_tokens: int | None = option(help_of(WholeWorkload, "caption_tokens"), metavar="T")
    masks: str | None = option(
        f"{', '.join(SHOWN_MASKS)}: queries whose masks are made; all by default; looped: one by one.", metavar="WHICH", words=SHOWN_MASKS
    )

    backbone_weights: str | None = option(help_of(WholeWorkload, "backbone_weights"), metavar="DIR")
    text_weights: str | None = option(help_of(WholeWorkload, "text_weights"), metavar="DIR")
    pretrained: bool = option(help_of(WholeWorkload, "pretrained"), default=False)

    def __post_init__(self) -> None:
        if given := [name for name in self.parts if not self.whole]:
            raise UsageError(f"{given[0].replace('_', '-')} is {self.parts[given[0]]!r} and only the whole model has one; add --whole.")

    @property
    def parts(self) -> dict[str, Any]:
        """What was typed, by the names of `WholeWorkload`."""
        typed = {each.name: getattr(self, each.name) for each in dataclasses.fields(self) if each.name != "whole"}
        return {name: value for name, value in typed.items() if value is not None and value is not False}


@dataclass(frozen=True)
class Call:
    """Any model, by any call."""

    inputs: str | None = option(
        "file.py:function or package.module:function that makes what every model is called with, given the batch size (or, by the names of "
        "its parameters, batch, workload, args, device, seed): a tensor, a tuple, a dict or (args, kwargs). Builders then take nothing or "
        "args; --set and --args reach who asks for args, sizes and queries who asks for workload.", metavar="FILE:FUNCTION",
    )
    components: str | None = option(
        "JSON file of components: names with beginnings of modules' paths; without, the modules at the top.", metavar="FILE",
    )

    def __post_init__(self) -> None:
        if self.components is not None and self.inputs is None:
            raise UsageError(f"--components is {self.components} and only parts of models called by --inputs are named so; add --inputs.")


@dataclass(frozen=True)
class Output:
    """Where results go. `-` is standard output; one of the formats may have it, and then no table is printed there."""

    csv: str | None = option("Write the table as CSV, full precision; - is standard output.", metavar="PATH")
    markdown: str | None = option("Write the tables as Markdown; - is standard output.", metavar="PATH")
    json: str | None = option("Write every number as JSON; - is standard output.", metavar="PATH")
    records: str | None = option("Append each record to this JSON-lines file as it is measured.", metavar="PATH")
    resume: str | None = option("Go on with these records; measure only what they lack, append the rest.", metavar="DIR")
    quiet: bool = option("No table, no progress; errors still show.", default=False, flags=("--quiet", "-q"))

    def __post_init__(self) -> None:
        printed = [f"--{name}" for name in ("csv", "markdown", "json") if getattr(self, name) == STANDARD_OUTPUT]
        if len(printed) > 1:
            raise UsageError(f"{' and '.join(printed)} both ask for standard output; give a path to all but one.")
        if self.records is not None and self.resume is not None:
            raise UsageError(f"--records is {self.records} and --resume is {self.resume}; give one of the two.")
        if self.records == STANDARD_OUTPUT:
            raise UsageError("--records is '-'; records need a file, so that nothing is lost; use --json - for standard output.")

    @property
    def stdout_format(self) -> str | None:
        """The format that has standard output to itself, if one does."""
        return next((name for name in ("csv", "markdown", "json") if getattr(self, name) == STANDARD_OUTPUT), None)

"""What a user types -> ModelArgs, Workload, RunArgs and architectures. No torch here.

Options of the models, the work and the run take their names, defaults and sentences from `args.py`; `Selection` and `Output` declare
what the command line adds. What is typed counts more than the `--args` file, and the file more than the defaults.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from humar_bench.args import EFFICIENT_PREFIX, WORKLOADS, ModelArgs, RunArgs, Size, Workload, parse_size, pyramid
from humar_bench.errors import UsageError

DEFAULT_ARCHITECTURES = ("original", "efficient")
STANDARD_OUTPUT = "-"
MOST_LEVELS = 12  # the twelfth level of an image has stride 16,384


def option(help: str, *, default: Any = None, **more: Any) -> Any:
    """A dataclass field that is an option of the command line; `more` may name its `metavar` and `flags`."""
    return field(default=default, metadata={"help": help, **more})


def help_of(owner: type, name: str) -> str:
    """The sentence of one field."""
    return next(each.metadata["help"] for each in dataclasses.fields(owner) if each.name == name)


@dataclass(frozen=True)
class Selection:
    """Which architectures, on which work. `None` means: as the workload has it."""

    arch: tuple[str, ...] = option(
        "original, original-fused, efficient, efficient-fused, package.module:builder or path/file.py:builder; "
        "NAME=... names it. Repeatable.",
        default=DEFAULT_ARCHITECTURES, metavar="[NAME=]ARCH",
    )
    reference: str | None = option("Architecture that ratios and verdicts are against; the first by default.", metavar="NAME")
    workload: str = option(f"{', '.join(WORKLOADS)}: sizes and queries to start from.", default="uniphd", metavar="NAME")
    batch: int | None = option(help_of(Workload, "batch"), metavar="B")
    num_queries: int | None = option(help_of(ModelArgs, "num_queries"), metavar="Q")
    feature_sizes: str | None = option("Feature maps, one HEIGHTxWIDTH per level: 50x50,25x25.", metavar="HxW,...")
    image_size: str | None = option("Image size; its maps follow at strides 8, 16, 32, ...", metavar="HxW")
    padded: bool = option("Part of every image but the first is padding.", default=False)
    set: tuple[str, ...] = option("Any field of ModelArgs, such as enc_layers=4. Repeatable.", default=(), metavar="FIELD=VALUE")
    args: str | None = option("Fields of ModelArgs from a .json or .toml file.", metavar="FILE")


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


@dataclass(frozen=True)
class Plan:
    """Everything a command measures. Level count and query count agree between `args` and `workload`."""

    architectures: tuple[Any, ...]  # of humar_bench.subjects.registry.Architecture
    reference: str
    args: ModelArgs
    workload: Workload
    run: RunArgs


def resolve(selection: Selection, run: RunArgs | None = None) -> Plan:
    """Raises UsageError with one sentence when what was typed cannot be measured."""
    from humar_bench.subjects.registry import parse_architectures

    architectures = tuple(parse_architectures(list(selection.arch or DEFAULT_ARCHITECTURES)))
    args, workload = resolve_work(selection)
    names = [architecture.name for architecture in architectures]
    reference = names[0] if selection.reference is None else selection.reference
    if reference not in names:
        raise UsageError(f"reference is {reference!r}; choose one of the architectures measured: {', '.join(names)}.")
    return Plan(architectures, reference, args, workload, run or RunArgs())


def scaled_for_cpu(selection: Selection) -> Selection:
    """The default workload at batch 1, so that a whole report ends within minutes on two cores; anything asked for stays as asked."""
    if selection.workload == Workload.uniphd().name and selection.batch is None:
        return dataclasses.replace(selection, batch=1)
    return selection


def resolve_work(selection: Selection) -> tuple[ModelArgs, Workload]:
    """ModelArgs and Workload that agree on the number of levels and queries. Raises UsageError."""
    from_file = {} if selection.args is None else read_args_file(selection.args)
    typed = parse_settings(selection.set)
    preset = _preset(selection.workload, selection.batch)
    queries = _queries(selection.num_queries, typed, from_file, preset)
    sizes = _sizes(selection, typed, from_file, preset)
    same = sizes == preset.feature_sizes and queries == preset.num_queries
    workload = Workload(preset.name if same else "custom", preset.batch, queries, sizes, selection.padded)
    return ModelArgs(**{**from_file, **typed, "num_queries": queries, "num_feature_levels": len(sizes)}), workload


def _preset(name: str, batch: int | None) -> Workload:
    if name not in WORKLOADS:
        raise UsageError(f"workload is {name!r}; choose one of {', '.join(WORKLOADS)}.")
    return WORKLOADS[name]() if batch is None else WORKLOADS[name](batch=batch)


def _queries(option: int | None, typed: Mapping[str, Any], from_file: Mapping[str, Any], preset: Workload) -> int:
    if option is not None and typed.get("num_queries", option) != option:
        raise UsageError(f"--num-queries is {option} and --set num_queries is {typed['num_queries']}; give one of the two.")
    if option is not None:
        return option
    return typed.get("num_queries", from_file.get("num_queries", preset.num_queries))


def _sizes(selection: Selection, typed: Mapping[str, Any], from_file: Mapping[str, Any], preset: Workload) -> tuple[Size, ...]:
    if selection.feature_sizes is not None and selection.image_size is not None:
        raise UsageError(
            f"--feature-sizes is {selection.feature_sizes} and --image-size is {selection.image_size}; give one of the two."
        )
    if selection.feature_sizes is not None:
        sizes = tuple(parse_size(text) for text in selection.feature_sizes.split(","))
        levels = typed.get("num_feature_levels", len(sizes))
        if levels != len(sizes):
            raise UsageError(
                f"--set num_feature_levels is {levels} and --feature-sizes names {len(sizes)} levels; make the two agree or leave one out."
            )
        return sizes
    levels = typed.get("num_feature_levels", from_file.get("num_feature_levels", len(preset.feature_sizes)))
    ModelArgs(num_feature_levels=levels)  # its own sentence when this is no level count
    if selection.image_size is not None:
        if levels > MOST_LEVELS:
            raise UsageError(f"num_feature_levels is {levels}; --image-size makes at most {MOST_LEVELS}, name more with --feature-sizes.")
        return pyramid(parse_size(selection.image_size), levels)
    if levels > len(preset.feature_sizes):
        raise UsageError(
            f"num_feature_levels is {levels} and the workload {preset.name} has {len(preset.feature_sizes)} levels; "
            f"name {levels} sizes with --feature-sizes, or give --image-size."
        )
    return preset.feature_sizes[:levels]


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """['enc_layers=4', 'pre_norm=true'] -> typed fields of ModelArgs. Raises UsageError."""
    fields = {option.name: option.default for option in dataclasses.fields(ModelArgs)}
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = (part.strip() for part in setting.partition("="))
        if not equals or not name or not text:
            raise UsageError(f"--set is {setting!r}; write FIELD=VALUE, such as enc_layers=4.")
        if name not in fields:
            raise UsageError(f"--set {name}: {_unknown_field(name)}")
        value = _parse_value(name, text, type(fields[name]))
        if name in values and values[name] != value:
            raise UsageError(f"--set gives {name} twice, {values[name]} and {value}; give it once.")
        values[name] = value
    return values


def _unknown_field(name: str) -> str:
    known = [option.name for option in dataclasses.fields(ModelArgs)]
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "`humar-bench list` names them all."
    return f"ModelArgs has no field {name!r}; {hint}"


_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_KINDS = {bool: "true or false", int: "a whole number", float: "a number"}


def _parse_value(name: str, text: str, kind: type) -> Any:
    if kind is str:
        return text
    try:
        return _TRUTH[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise UsageError(f"--set {name} is {text!r}; it must be {_KINDS[kind]}.") from None


def read_args_file(path: str) -> dict[str, Any]:
    """Fields of ModelArgs from a JSON or TOML file. Raises UsageError."""
    suffix = Path(path).suffix.lower()
    if suffix not in (".json", ".toml"):
        raise UsageError(f"--args is {path!r}; it must end in .json or .toml.")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--args {path!r} cannot be read: {error.strerror or error}; name a file that can.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--args {path!r} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    try:
        values = json.loads(text) if suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        message = " ".join(str(error).split())
        raise UsageError(f"--args {path!r} is not {suffix[1:].upper()}: {message}; correct it or use --set.") from error
    if not isinstance(values, dict):
        raise UsageError(f"--args {path!r} holds a {type(values).__name__}; it must hold fields of ModelArgs with their values.")
    known = {option.name for option in dataclasses.fields(ModelArgs)}
    for name in values:
        if name not in known:
            raise UsageError(f"--args {path!r}: {_unknown_field(name)}")
    return values


# What the built-in architectures make of a shared argument that they do not take as it is asked; all others they do.
_NO_EFFECT = dict.fromkeys(("return_intermediate_dec", "pose_guide_trigger", "late_within_attn_trigger"), "changes nothing")
_OF_THE_REPLACEMENT = {
    **dict.fromkeys(("enc_n_points", "dec_n_points", "pre_norm", "within_type", *_NO_EFFECT), "not used"),
    "nheads": "efficient_nheads", "enc_layers": "efficient_enc_layers", "dim_feedforward": "efficient_mlp_ratio x hidden_dim",
    "transformer_activation": "always gelu",
}
DEVIATIONS: dict[str, dict[str, str]] = {
    "original": _NO_EFFECT,
    "original-fused": _NO_EFFECT,
    "efficient": _OF_THE_REPLACEMENT,
    "efficient-fused": _OF_THE_REPLACEMENT,
}


def use_of(name: str, architecture: str) -> str:
    """What a built-in architecture makes of a ModelArgs field: 'as asked', 'not used', or what it takes instead."""
    if name.startswith(EFFICIENT_PREFIX):
        return "as asked" if architecture in ("efficient", "efficient-fused") else "not used"
    return DEVIATIONS[architecture].get(name, "as asked")

"""What a user types -> a Plan: ModelArgs, Workload, RunArgs and architectures that agree. No torch here.

What is typed counts more than the `--args` file, and the file more than the defaults.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from humar_bench.args import WHOLE_IMAGES, WORKLOADS, FreeWorkload, ModelArgs, RunArgs, Size, WholeWorkload, Workload, parse_size, pyramid
from humar_bench.errors import UsageError
from humar_bench.options import DEFAULT_ARCHITECTURES, Call, Selection, Whole, parse_value
from humar_bench.reading import parse_json, read_bytes
from humar_bench.subjects.registry import Architecture, check_inputs, check_settings, parse_architectures
from humar_bench.table import well_formed

MOST_ARGS = 2**20  # bytes of an --args file
MOST_LEVELS = 12  # the twelfth level of an image has stride 16,384


@dataclass(frozen=True)
class Plan:
    """Everything a command measures. Level count and query count agree between `args` and `workload`."""

    architectures: tuple[Architecture, ...]
    reference: str
    args: ModelArgs
    workload: Workload
    run: RunArgs


def resolve(selection: Selection, run: RunArgs | None = None, whole: Whole | None = None, call: Call | None = None) -> Plan:
    """Raises UsageError with one sentence when what was typed cannot be measured."""
    architectures = tuple(parse_architectures(list(selection.arch or DEFAULT_ARCHITECTURES)))
    is_whole = whole is not None and whole.whole
    if call is not None and call.inputs is not None:
        if is_whole:
            raise UsageError(f"--inputs is {call.inputs} and --whole makes inputs of its own; leave out one of the two.")
        args, workload = resolve_free(selection, call)
    else:
        args, workload = resolve_whole(selection, whole) if is_whole else resolve_work(selection)
    for each in architectures:
        check_settings(each, workload)
    names = [architecture.name for architecture in architectures]
    reference = names[0] if selection.reference is None else well_formed(selection.reference)
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


def resolve_whole(selection: Selection, whole: Whole) -> tuple[ModelArgs, WholeWorkload]:
    """As `resolve_work`, for the whole model: the image size is of the workload or of --image-size. Raises UsageError."""
    if selection.feature_sizes is not None:
        raise UsageError(f"--feature-sizes is {selection.feature_sizes} and the whole model makes its own maps; give --image-size.")
    if selection.workload not in WHOLE_IMAGES:
        raise UsageError(f"workload is {selection.workload!r} and the whole model takes images; choose one of {', '.join(WHOLE_IMAGES)}.")
    size = WHOLE_IMAGES[selection.workload] if selection.image_size is None else parse_size(selection.image_size)
    args, base = resolve_work(dataclasses.replace(selection, image_size=f"{size[0]}x{size[1]}"))
    own = _preset(selection.workload, selection.batch)
    same = size == WHOLE_IMAGES[selection.workload] and (base.num_queries, len(base.feature_sizes)) == (
        own.num_queries, len(own.feature_sizes))
    given = {"name": own.name if same else "custom", "image_size": size, **whole.parts}
    return args, WholeWorkload(**{**{each.name: getattr(base, each.name) for each in dataclasses.fields(base)}, **given})


def resolve_free(selection: Selection, call: Call) -> tuple[ModelArgs, FreeWorkload]:
    """As `resolve_work`, for models that are called by --inputs. Raises UsageError."""
    check_inputs(call.inputs)
    args, base = resolve_work(selection)
    return args, FreeWorkload.around(base, call.inputs, None if call.components is None else read_components(call.components))


def read_components(path: str) -> dict[str, list[str]]:
    """Component -> beginnings of modules' paths, from a JSON file. Raises UsageError."""
    try:
        found = parse_json(read_bytes(path, MOST_ARGS))
    except OSError as error:
        raise UsageError(f"--components {path!r} cannot be read: {error.strerror or error}; name a file that can.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--components {path!r} is not JSON: {' '.join(str(error).split())}; correct it.") from error
    fits = isinstance(found, dict) and found and all(
        name and (isinstance(each, str) and each or isinstance(each, list) and each and all(isinstance(one, str) and one for one in each))
        for name, each in found.items()
    )
    if not fits:
        wanted = '{"encoder": ["stem", "blocks"], "head": ["fc"]}'
        raise UsageError(f"--components {path!r} must hold names, each with a list of beginnings of modules' paths, such as {wanted}.")
    return found


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
        value = parse_value(name, text, type(fields[name]))
        if name in values and values[name] != value:
            raise UsageError(f"--set gives {name} twice, {values[name]} and {value}; give it once.")
        values[name] = value
    return values


def _unknown_field(name: str) -> str:
    known = [option.name for option in dataclasses.fields(ModelArgs)]
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "`humar-bench list` names them all."
    return f"ModelArgs has no field {name!r}; {hint}"


def read_args_file(path: str) -> dict[str, Any]:
    """Fields of ModelArgs from a JSON or TOML file. Raises UsageError."""
    suffix = Path(path).suffix.lower()
    if suffix not in (".json", ".toml"):
        raise UsageError(f"--args is {path!r}; it must end in .json or .toml.")
    try:
        text = read_bytes(path, MOST_ARGS).decode("utf-8")
    except OSError as error:
        raise UsageError(f"--args {path!r} cannot be read: {error.strerror or error}; name a file that can.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--args {path!r} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    try:
        values = parse_json(text) if suffix == ".json" else tomllib.loads(text)
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

"""Name -> architecture -> builder -> model: those of `BUILT_IN`, and anybody's own `package.module:builder` or `path/file.py:builder`.

Torch is imported only inside functions.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humar_bench.args import ACCURATE, ARM_SETTINGS, BUILT_IN, EFFICIENT_PREFIX, INPUTS_FORMS, ModelArgs, WholeWorkload, Workload, shown
from humar_bench.errors import UsageError
from humar_bench.subjects.loading import Place, check_place, found_in, is_file, is_name, literals, load, place_of
from humar_bench.subjects.making import made
from humar_bench.subjects.reach import reached
from humar_bench.subjects.sources import own_first, stranger
from humar_bench.table import well_formed

if TYPE_CHECKING:
    import torch

_WANTED = "name a function that takes the arguments and returns a model"
INPUTS_WANTED = "name a function that takes the batch size and returns a model's inputs"
_FORMS = f"choose {', '.join(BUILT_IN)}, package.module:builder or path/file.py:builder"


@dataclass(frozen=True)
class Architecture:
    """What is measured: the name it has in tables and the spec it is loaded by, which may end in parts of its own around it, as in
    'efficient[backbone=mobilevit_s,masks=best]'."""

    name: str
    spec: str
    foreign: bool

    @property
    def builder(self) -> str:
        """The spec without parts of its own."""
        return _cut(self.spec)[0]

    @property
    def place(self) -> Place:
        """The file or module of a foreign builder, and its name there."""
        return place_of(self.builder)

    @property
    def settings(self) -> dict[str, str]:
        """The parts of its own, by the names of `ARM_SETTINGS`."""
        return dict(pair.split("=") for pair in filter(None, _cut(self.spec)[1].split(",")))


def _cut(spec: str) -> tuple[str, str]:
    """'efficient[masks=best]' -> ('efficient', 'masks=best')."""
    builder, opened, inside = spec.removesuffix("]").rpartition("[") if spec.endswith("]") else (spec, "", "")
    return (builder, inside) if opened else (spec, "")


def parse_architecture(text: Any) -> Architecture:
    """'original', 'package.module:builder', 'path/file.py:builder', each with an optional 'NAME=' before it and, in the whole model, an
    optional '[backbone=...,text_encoder=...,masks=...]' after it; or the builder itself, or a model, where a child process can find it
    (`reach.py`). Raises UsageError."""
    if isinstance(text, Architecture):
        return text
    if not isinstance(text, str):
        return Architecture(*reached(text, "the architecture", _FORMS), foreign=True)
    name, (spec, inside) = "", _cut(text.strip())
    if named := re.fullmatch(r"([^=/\\:]*)=(.*)", spec):
        name, spec = well_formed(named[1].strip()), named[2].strip()
        if not name:
            raise UsageError(f"the architecture {text!r} has an empty name before its =; write NAME={spec or 'original'}.")
    if inside or text.strip().endswith("[]"):
        own = _settings(inside, text)
        found = parse_architecture(spec)
        ending = f"[{','.join(f'{key}={value}' for key, value in own.items())}]"
        return Architecture(name or found.name + ending, found.spec + ending, found.foreign)
    if spec in BUILT_IN:
        return Architecture(name or spec, spec, foreign=False)
    if ":" not in spec:
        raise UsageError(f"the architecture {spec!r} is unknown; {_FORMS}.")
    where, builder, given = place_of(spec)
    if not where or not is_name(builder):
        raise UsageError(f"the architecture {spec!r} does not name a builder; {_FORMS}.")
    if given is not None:
        literals(given, f"the architecture {spec!r}")
    if is_file(where):
        if not where.endswith(".py"):
            raise UsageError(f"{where} is not a Python file; name one that ends in .py, as in model.py:{builder}.")
        return Architecture(name or well_formed(f"{Path(where).stem}:{spec[len(where) + 1:]}"), spec, foreign=True)
    if not is_name(where):
        raise UsageError(f"the architecture {spec!r} names no module; {_FORMS}.")
    return Architecture(name or spec, spec, foreign=True)


def _settings(inside: str, text: str) -> dict[str, str]:
    """'masks=best,backbone=mobilevit_s' -> its pairs. Raises UsageError."""
    found: dict[str, str] = {}
    for pair in inside.split(","):
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or key not in ARM_SETTINGS or key in found or "=" in value:
            raise UsageError(
                f"the architecture {text!r} has {pair.strip()!r} in its brackets; write each of {', '.join(ARM_SETTINGS)} at most once, "
                "as in efficient[masks=best,backbone=mobilevit_s]."
            )
        found[key] = value
    return found


def check_settings(architecture: Architecture, workload: Workload) -> None:
    """Raises UsageError for parts of its own that do not exist, or around a transformer that is measured alone."""
    if architecture.settings:
        if not isinstance(workload, WholeWorkload):
            name = next(iter(architecture.settings))
            raise UsageError(f"{architecture.name} sets {name}, and only the whole model has one; add --whole.")
        workload.own(architecture.settings, architecture.name)


def parse_architectures(given: Any) -> list[Architecture]:
    """Parse one, each of several, or each of a mapping from names; refuse a name that stands twice. Raises UsageError."""
    if isinstance(given, Mapping):
        architectures = [dataclasses.replace(parse_architecture(each), name=well_formed(str(name))) for name, each in given.items()]
    else:
        several = isinstance(given, Iterable) and not isinstance(given, str) and not callable(given)
        architectures = [parse_architecture(each) for each in (given if several else [given])]
    if not architectures:
        raise UsageError(f"no architecture is named; {_FORMS}.")
    names = [each.name for each in architectures]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise UsageError(f"two architectures are named {name!r}; give one another name, as in OTHER={architectures[index].spec}.")
    return architectures


def check_architecture(architecture: str | Architecture) -> None:
    """Refuse early, without running anything, a builder that cannot be there. Raises UsageError."""
    architecture = parse_architecture(architecture)
    if architecture.foreign:
        check_place(architecture.place, _WANTED)


def check_inputs(spec: str) -> None:
    """As `check_architecture`, for the function that makes inputs."""
    place = place_of(spec)
    if not place.where or not is_name(place.name) or not (is_file(place.where) or is_name(place.where)):
        raise UsageError(f"--inputs is {shown(spec)}; name the function that makes them, {INPUTS_FORMS}.")
    if place.is_file and not place.where.endswith(".py"):
        raise UsageError(f"{place.where} is not a Python file; name one that ends in .py, as in model.py:{place.name}.")
    if place.given is not None:
        literals(place.given, f"--inputs {spec!r}")
    check_place(place, INPUTS_WANTED, at_once=True)  # without inputs there is nothing, an architecture is a row


def load_builder(architecture: str | Architecture, *, free: bool = False) -> Callable[[ModelArgs], torch.nn.Module]:
    """The builder function of an architecture; with `free`, a foreign one may take nothing. Raises UsageError when it cannot be loaded."""
    architecture = parse_architecture(architecture)
    if architecture.foreign:
        place = architecture.place
        return _taking_args(load(place, _WANTED), place, free)
    place = place_of(BUILT_IN.get(architecture.builder, architecture.builder))
    return found_in(_import_own(place.where), place, _WANTED)


def _taking_args(found: Any, place: Place, free: bool) -> Callable[[ModelArgs], torch.nn.Module]:
    """A builder that is called with the arguments, of a function, a class or a model. Raises UsageError."""
    import torch

    if isinstance(found, torch.nn.Module):  # one that was never run, each time
        return lambda args: copy.deepcopy(found)
    if place.given is not None:
        positional, named = literals(place.given, place.name)
        return lambda args: found(*positional, **named)
    if free and not _wants_args(found, place.name):
        return lambda args: found()
    if not free:
        _refuse_other_call(found, place.name)
    return found


def _wants_args(builder: Callable[..., Any], name: str) -> bool:
    """Whether a builder asks for the arguments: by a parameter called args or, a function, by its only one. Raises UsageError for one that
    asks for anything else."""
    try:
        signature = inspect.signature(builder)
    except (TypeError, ValueError):  # written in C
        return False
    asked = signature.parameters.get("args")
    if asked is not None and asked.kind is not asked.VAR_POSITIONAL:
        given, wants = {"args": None}, True
    else:
        given, wants = {}, False
    if _takes(signature, **given):
        return wants
    if not isinstance(builder, type) and _takes(signature, None):
        return True
    raise UsageError(
        f"{name} is a {_kind(builder)} that takes {_parameters(signature)}, and a builder is called with nothing, or with args where it "
        f"asks for args; name a function that calls it, or write its arguments behind it, as in {name}(64)."
    )


def _takes(signature: inspect.Signature, *given: Any, **named: Any) -> bool:
    try:
        signature.bind(*given, **named)
    except TypeError:
        return False
    return True


def _kind(builder: Any) -> str:
    return "class" if isinstance(builder, type) else "function"


def _parameters(signature: inspect.Signature) -> str:
    return ", ".join(str(each).partition(":")[0] for each in signature.parameters.values()) or "nothing"


def _refuse_other_call(builder: Callable[..., Any], name: str) -> None:
    """Raises UsageError for a builder that cannot be called with the arguments alone."""
    try:
        signature = inspect.signature(builder)
    except (TypeError, ValueError):  # written in C; it will say so itself
        return
    if not _takes(signature, None):
        raise UsageError(
            f"{name} is a {_kind(builder)} that takes {_parameters(signature)}, and a builder is called with the arguments alone; "
            f"{_WANTED}, such as def build(args). A model that is called another way needs --inputs, with which it may also take nothing."
        )


def build(
    architecture: str | Architecture,
    args: Any,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> torch.nn.Module:
    """A model in eval mode, its weights drawn from `seed`, the same numbers on every device. In float32 it stays as it was built; in
    another `dtype` its floating-point weights are converted, complex ones are not (`as_built`).

    On the meta device nothing is allocated. A foreign model's parts with the shared interface's names are named as the built-in ones' are
    (`components.name_components`). Raises UsageError when the builder cannot be loaded, MeasurementError when it fails.
    """
    architecture = parse_architecture(architecture)
    builder, args = load_builder(architecture), ModelArgs.of(args)
    model = made(architecture.name, lambda: builder(args), device=device, dtype=dtype, seed=seed)
    if architecture.foreign:
        from humar_bench.subjects.components import name_components

        name_components(model)
    return model


def _import_own(name: str) -> Any:
    """A module of a built-in architecture, from the folder that this file is in, whatever else is called like it."""
    package = name.partition(".")[0]
    if where := stranger(package):
        raise UsageError(f"{package} is already loaded from {where} and stands in the way of humar-bench's own; load that one under "
                         "another name, or in another process.")
    with own_first():
        return importlib.import_module(name)


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
    "efficient-accurate": {
        **dict.fromkeys(("enc_n_points", "pre_norm", *_NO_EFFECT), "not used"), "enc_layers": "efficient_enc_layers",
        "dim_feedforward": f"{ACCURATE['efficient_decoder_mlp_ratio']} x hidden_dim",
        **{name: f"always {value}" for name, value in ACCURATE.items()},
    },
}


def use_of(name: str, architecture: str) -> str:
    """What a built-in architecture makes of a ModelArgs field: 'as asked', 'not used', or what it takes instead."""
    if name.startswith(EFFICIENT_PREFIX):
        return DEVIATIONS[architecture].get(name, "as asked" if architecture.startswith("efficient") else "not used")
    return DEVIATIONS[architecture].get(name, "as asked")

"""Name -> architecture -> builder -> model: those of `BUILT_IN`, and anybody's own `package.module:builder` or `path/file.py:builder`.

Torch is imported only inside functions.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

from humar_bench.args import ARM_SETTINGS, BUILT_IN, EFFICIENT_PREFIX, ModelArgs, WholeWorkload, Workload
from humar_bench.errors import MeasurementError, UsageError, is_out_of_memory, one_line
from humar_bench.reading import read_bytes
from humar_bench.subjects.sources import own_first, stranger
from humar_bench.table import well_formed

if TYPE_CHECKING:
    import torch

MOST_SOURCE = 16 * 2**20  # bytes of a Python file
_WANTED = "name a function that takes the arguments and returns a model"
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
    def settings(self) -> dict[str, str]:
        """The parts of its own, by the names of `ARM_SETTINGS`."""
        return dict(pair.split("=") for pair in filter(None, _cut(self.spec)[1].split(",")))


def _cut(spec: str) -> tuple[str, str]:
    """'efficient[masks=best]' -> ('efficient', 'masks=best')."""
    builder, opened, inside = spec.removesuffix("]").rpartition("[") if spec.endswith("]") else (spec, "", "")
    return (builder, inside) if opened else (spec, "")


def parse_architecture(text: str | Architecture) -> Architecture:
    """'original', 'package.module:builder', 'path/file.py:builder', each with an optional 'NAME=' before it and, in the whole model, an
    optional '[backbone=...,text_encoder=...,masks=...]' after it. Raises UsageError."""
    if isinstance(text, Architecture):
        return text
    if not isinstance(text, str):
        raise UsageError(f"the architecture {text!r} is not text; {_FORMS}.")
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
    where, colon, builder = spec.rpartition(":")
    if not colon:
        raise UsageError(f"the architecture {spec!r} is unknown; {_FORMS}.")
    if not where or not builder.isidentifier():
        raise UsageError(f"the architecture {spec!r} does not name a builder; {_FORMS}.")
    if _is_file(where):
        if not where.endswith(".py"):
            raise UsageError(f"{where} is not a Python file; name one that ends in .py, as in model.py:{builder}.")
        return Architecture(name or well_formed(f"{Path(where).stem}:{builder}"), spec, foreign=True)
    if not all(part.isidentifier() for part in where.split(".")):
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


def parse_architectures(texts: Iterable[str | Architecture]) -> list[Architecture]:
    """Parse each and refuse a name that stands twice. Raises UsageError."""
    architectures = [parse_architecture(text) for text in ([texts] if isinstance(texts, str) else texts)]
    if not architectures:
        raise UsageError(f"no architecture is named; {_FORMS}.")
    names = [each.name for each in architectures]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise UsageError(f"two architectures are named {name!r}; give one another name, as in OTHER={architectures[index].spec}.")
    return architectures


def check_architecture(architecture: str | Architecture) -> None:
    """Refuse early, without running anything, a builder that cannot be there. Raises UsageError.

    A file is parsed and must define the name; of a module only its outermost package is looked for.
    """
    architecture = parse_architecture(architecture)
    if not architecture.foreign:
        return
    where, _, name = architecture.builder.rpartition(":")
    if not _is_file(where):
        top = where.partition(".")[0]
        if top not in sys.modules and not (importlib.util.find_spec(top) or PathFinder.find_spec(top, [os.getcwd()])):
            raise UsageError(f"there is no module {where!r} here; install it, or run where it can be imported.")
        return
    path = _existing(Path(where))
    try:
        tree = ast.parse(read_bytes(path, MOST_SOURCE))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f"the file {path.name} cannot be loaded: {_import_error(error)}.") from None
    except OSError as error:
        raise UsageError(f"the file {path.name} cannot be read: {error.strerror}.") from None
    if any(isinstance(node, ast.AsyncFunctionDef) and node.name == name for node in tree.body):
        raise UsageError(f"{name} in {where} is async, and its model would have to be waited for; {_WANTED}.")
    if not any(word in (name, "*") for word in _words(tree)):
        functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        raise UsageError(f"{where} has no {name!r}{_it_has(functions)}; {_WANTED}.")


def _words(tree: ast.AST) -> Iterator[str]:
    """Every name a file writes down anywhere: assigned, imported, or as text (it may set names by hand)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.alias):
            yield node.asname or node.name
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def load_builder(architecture: str | Architecture) -> Callable[[ModelArgs], torch.nn.Module]:
    """The builder function of an architecture. Raises UsageError when it cannot be loaded."""
    architecture = parse_architecture(architecture)
    spec = BUILT_IN.get(architecture.builder, architecture.builder)
    where, _, name = spec.rpartition(":")
    if architecture.foreign:
        module = _load_file(Path(where)) if _is_file(where) else _import_module(where)
    else:
        module = _import_own(where)
    builder = getattr(module, name, None)
    if builder is None:
        own = [word for word, value in vars(module).items() if callable(value) and getattr(value, "__module__", "") == module.__name__]
        raise UsageError(f"{where} has no {name!r}{_it_has(own)}; {_WANTED}.")
    if not callable(builder):
        raise UsageError(f"{name!r} in {where} is a {type(builder).__name__}; {_WANTED}.")
    if inspect.iscoroutinefunction(builder):
        raise UsageError(f"{name} in {where} is async, and its model would have to be waited for; {_WANTED}.")
    if architecture.foreign:
        _refuse_other_call(builder, name)
    return builder


def _refuse_other_call(builder: Callable[..., Any], name: str) -> None:
    """Raises UsageError for a builder that cannot be called with the arguments alone."""
    try:
        signature = inspect.signature(builder)
    except (TypeError, ValueError):  # written in C; it will say so itself
        return
    try:
        signature.bind(None)
    except TypeError:
        takes = ", ".join(str(each).partition(":")[0] for each in signature.parameters.values()) or "nothing"
        raise UsageError(
            f"{name} is a {'class' if isinstance(builder, type) else 'function'} that takes {takes}, and a builder is called with the "
            f"arguments alone; {_WANTED}, such as def build(args)."
        ) from None


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


def made(
    name: str, make: Callable[[], torch.nn.Module], *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None, seed: int = 0
) -> torch.nn.Module:
    """What `make` builds for the architecture `name`, as `build` gives it. Raises MeasurementError when it fails."""
    import torch

    device = torch.device(device)
    made_on = device if device.type == "meta" else torch.device("cpu")
    try:
        with _seeded(seed), made_on:
            model = make()
    except UsageError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise MeasurementError(f"the builder of {name} raised {one_line(error)}.") from error
    if not isinstance(model, torch.nn.Module):
        raise MeasurementError(f"the builder of {name} returned a {type(model).__name__}; it must return a torch.nn.Module.")
    dtype = None if dtype is torch.float32 else dtype  # what models are built in, unless their builders want another one
    found = _AS_BUILT[model] = AsBuilt(_number_types(model), "" if dtype is None else str(dtype).removeprefix("torch."))
    converted = _converted(model, device, dtype).eval()
    _AS_BUILT[converted] = found
    return converted


@dataclass(frozen=True)
class AsBuilt:
    """Elements of weights and buffers by number type (floating-point and complex ones), and what the floating-point ones were converted to
    ('' where nothing was asked)."""

    types: dict[str, int]
    converted_to: str

    def measured(self) -> dict[str, Any]:
        """For a record; nothing where all is float32, as usual."""
        return {} if set(self.types) <= {"float32"} else {"as_built": self.types, "converted_to": self.converted_to}


_AS_BUILT: weakref.WeakKeyDictionary[Any, AsBuilt] = weakref.WeakKeyDictionary()


def as_built(model: Any) -> AsBuilt:
    """The number types that a model of `made` had when its builder handed it over."""
    try:
        return _AS_BUILT[model]
    except (KeyError, TypeError):
        return AsBuilt({}, "")


def _number_types(model: torch.nn.Module) -> dict[str, int]:
    from torch.nn.parameter import UninitializedTensorMixin

    found: dict[str, int] = {}
    for each in (*model.parameters(), *model.buffers()):
        if (each.is_floating_point() or each.is_complex()) and not isinstance(each, UninitializedTensorMixin):
            name = str(each.dtype).removeprefix("torch.")
            found[name] = found.get(name, 0) + each.numel()
    return found


def _converted(model: torch.nn.Module, device: torch.device, dtype: torch.dtype | None) -> torch.nn.Module:
    """The model with its tensors on a device and its floating-point tensors of a number type; complex ones stay.

    `Module.to` cannot swap fake tensors, so under a fake tensor mode each tensor is replaced by hand, a shared one once. It would also
    throw the imaginary part of complex weights away.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensor

    if not any(isinstance(each.data, FakeTensor) for each in model.parameters()):
        if dtype is not None and any(each.is_complex() for each in (*model.parameters(), *model.buffers())):
            return model._apply(lambda tensor: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None))
        return model.to(device=device, dtype=dtype)
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for own in (module._parameters, module._buffers):
            for name, old in own.items():
                if old is None:
                    continue
                if id(old) not in made:
                    new = old.detach().to(device=device, dtype=dtype if old.is_floating_point() else None)
                    made[id(old)] = torch.nn.Parameter(new, old.requires_grad) if isinstance(old, torch.nn.Parameter) else new
                own[name] = made[id(old)]
    return model


def _is_file(where: str) -> bool:
    return where.endswith(".py") or "/" in where or os.sep in where


def _it_has(names: list[str]) -> str:
    """The functions a module defines, for a message about one it does not define."""
    public = [name for name in names if not name.startswith("_")]
    return f"; it has {', '.join(public[:5])}" if public else ""


def _existing(path: Path) -> Path:
    if not path.exists():
        raise UsageError(f"the file {path} does not exist; name an existing Python file, as in path/file.py:builder.")
    if not path.is_file():
        raise UsageError(f"{path} is not a file; name an existing Python file, as in path/file.py:builder.")
    return path.resolve()


def _import_own(name: str) -> Any:
    """A module of a built-in architecture, from the folder that this file is in, whatever else is called like it."""
    package = name.partition(".")[0]
    if where := stranger(package):
        raise UsageError(f"{package} is already loaded from {where} and stands in the way of humar-bench's own; load that one under "
                         "another name, or in another process.")
    with own_first():
        return importlib.import_module(name)


def _import_module(name: str) -> Any:
    _reachable(os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise UsageError(f"there is no module {name!r} here; install it, or run where it can be imported.") from None
        raise UsageError(f"the module {name!r} cannot be imported: it needs {error.name!r}, which is not installed.") from None
    except Exception as error:
        raise UsageError(f"the module {name!r} cannot be imported: {_import_error(error)}.") from error


def _load_file(path: Path) -> Any:
    path = _existing(path)
    module_name = f"_humar_bench_file_{path.stem}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    _reachable(str(path.parent))  # a file may import its neighbours
    found = importlib.util.spec_from_file_location(module_name, path)
    module = importlib.util.module_from_spec(found)
    sys.modules[module_name] = module  # dataclasses and pickle look their module up here
    try:
        found.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise UsageError(f"the file {path.name} cannot be loaded: {_import_error(error)}.") from error
    return module


def _import_error(error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f"it is not Python at line {error.lineno} ({error.msg})" if error.lineno else f"it is not Python ({error.msg})"
    if isinstance(error, (UnicodeDecodeError, ValueError)) and "null bytes" in str(error):
        return "it is not Python (it holds null bytes)"
    if isinstance(error, ModuleNotFoundError):
        return f"it needs {error.name!r}, which is not installed"
    return f"it raised {one_line(error)}"


def _reachable(folder: str) -> None:
    """Let imports find a folder, after everything that is installed."""
    if folder not in sys.path:
        sys.path.append(folder)


class _seeded:
    """Torch's CPU generator starts from a seed inside and is as before outside; other devices' generators are not touched."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        import torch

        self.generator = torch.default_generator
        self.before = self.generator.get_state()
        self.generator.manual_seed(self.seed)

    def __exit__(self, *exc: object) -> None:
        self.generator.set_state(self.before)


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

"""'path/file.py:name' and 'package.module:name' -> what stands there under that name. Loading it runs somebody's code.

A name may have dots (`Net.small`) and literal arguments behind it (`Net(64, depth=2)`). No torch here.
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
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NamedTuple

from humar_bench.errors import UsageError, one_line
from humar_bench.reading import read_bytes

MOST_SOURCE = 16 * 2**20  # bytes of a Python file
FILE_MODULE = "_humar_bench_file_"  # what the names of modules made of files begin with
_CALLED = re.compile(r"(.*?):([^:(]*)\((.+)\)", re.DOTALL)
_loading: list[str] = []  # files whose code runs now, because they are being loaded


class Place(NamedTuple):
    """Where a name stands: a file or a module. `given` is the text of the arguments behind it, None where there are none."""

    where: str
    name: str
    given: str | None = None

    @property
    def is_file(self) -> bool:
        return is_file(self.where)


def place_of(spec: str) -> Place:
    """'a.py:Net.small' -> ('a.py', 'Net.small', None), 'a.py:Net(4)' -> ('a.py', 'Net', '4'); `where` is '' where there is no colon."""
    if found := _CALLED.fullmatch(spec):
        return Place(*found.groups())
    where, _, name = spec.rpartition(":")
    return Place(where, name)


def is_file(where: str) -> bool:
    return where.endswith(".py") or "/" in where or os.sep in where


def is_name(text: str) -> bool:
    """Whether a text is an identifier, or several with dots between them."""
    return all(part.isidentifier() for part in text.split("."))


def literals(given: str, said: str) -> tuple[list[Any], dict[str, Any]]:
    """'64, depth=2' -> ([64], {'depth': 2}). Raises UsageError, with `said` for what has them, unless all are literals."""
    try:
        [call] = ast.parse(f"f({given})").body
        call = call.value
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)) or any(each.arg is None for each in call.keywords):
            raise ValueError
        return [ast.literal_eval(each) for each in call.args], {each.arg: ast.literal_eval(each.value) for each in call.keywords}
    except (SyntaxError, ValueError, TypeError, AttributeError, RecursionError, MemoryError):
        raise UsageError(f"{said} has ({given[:60]}) behind it; write literal values there, as in Net(64, depth=2).") from None


def check_place(place: Place, wanted: str, *, at_once: bool = False) -> None:
    """Refuse early, without running anything, a name that cannot be there. Raises UsageError, whose way out is `wanted`.

    A file is parsed and must have the name, with `at_once` not as an async function; of a module only its outermost package is looked for.
    """
    where, name = place.where, place.name
    if not place.is_file:
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
    if at_once and any(isinstance(node, ast.AsyncFunctionDef) and node.name == name for node in tree.body):
        raise UsageError(_is_async(place, wanted))
    if not any(word in (name.partition(".")[0], "*") for word in _words(tree)):
        functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        raise UsageError(f"{where} has no {name!r}{_it_has(functions)}; {wanted}.")


def _is_async(place: Place, wanted: str) -> str:
    return f"{place.name} in {place.where} is async, and what it gives would have to be waited for; {wanted}."


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


def load(place: Place, wanted: str) -> Any:
    """What can be called under a name, after its file or module was loaded. Raises UsageError, whose way out is `wanted`."""
    module = _load_file(Path(place.where)) if place.is_file else _import_module(place.where)
    return found_in(module, place, wanted)


def found_in(module: Any, place: Place, wanted: str) -> Any:
    """What can be called under a name of a module that is loaded. Raises UsageError."""
    found = module
    for part in place.name.split("."):
        found = getattr(found, part, None)
    if found is None:
        own = [word for word, value in vars(module).items() if callable(value) and getattr(value, "__module__", "") == module.__name__]
        raise UsageError(f"{place.where} has no {place.name!r}{_it_has(own)}; {wanted}.")
    if not callable(found):
        raise UsageError(f"{place.name!r} in {place.where} is a {type(found).__name__}; {wanted}.")
    if inspect.iscoroutinefunction(found):
        raise UsageError(_is_async(place, wanted))
    return found


def refuse_while_loading(what: str) -> None:
    """Raises UsageError where a file that is being loaded calls `what`: a child would start children of its own without end."""
    if _loading:
        raise UsageError(f"{what} is called while {_loading[-1]} is loaded to find a model in it; put the call under "
                         "if __name__ == '__main__':.")


def _it_has(names: list[str]) -> str:
    """The functions a module defines, for a message about one it does not define."""
    public = [name for name in names if not name.startswith("_")]
    return f"; it has {', '.join(public[:5])}" if public else ""


def _existing(path: Path) -> Path:
    if not os.path.exists(path):
        raise UsageError(f"the file {path} does not exist; name an existing Python file, as in path/file.py:builder.")
    if not os.path.isfile(path):
        raise UsageError(f"{path} is not a file; name an existing Python file, as in path/file.py:builder.")
    return path.resolve()


def _import_module(name: str) -> Any:
    _reachable(os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise UsageError(f"there is no module {name!r} here; install it, or run where it can be imported.") from None
        raise UsageError(f"the module {name!r} cannot be imported: it needs {error.name!r}, which is not installed.") from None
    except (Exception, SystemExit) as error:
        raise UsageError(f"the module {name!r} cannot be imported: {_import_error(error)}.") from error


def _load_file(path: Path) -> Any:
    path = _existing(path)
    module_name = f"{FILE_MODULE}{path.stem}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    _reachable(str(path.parent))  # a file may import its neighbours
    found = importlib.util.spec_from_file_location(module_name, path)
    module = importlib.util.module_from_spec(found)
    sys.modules[module_name] = module  # dataclasses and pickle look their module up here
    _loading.append(path.name)
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise UsageError(f"the file {path.name} cannot be loaded: {_import_error(error)}.") from error
    finally:
        _loading.pop()
    return module


def _import_error(error: BaseException) -> str:
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

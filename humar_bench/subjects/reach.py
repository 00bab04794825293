"""Objects of a running Python -> the text by which a child process finds them again: 'path/file.py:name' or 'package.module:name'.

A measurement runs in a process of its own, which has what files and packages hold and nothing of what was made since. No torch here.
"""

from __future__ import annotations

import ast
import functools
import os
import sys
import types
from pathlib import Path
from typing import Any

from humar_bench.args import shown
from humar_bench.errors import UsageError
from humar_bench.reading import read_bytes
from humar_bench.subjects.loading import FILE_MODULE, MOST_SOURCE, literals
from humar_bench.table import well_formed

_CALLABLE = (type, types.FunctionType, types.MethodType, types.BuiltinFunctionType)
MAIN = "__main__"


def reached(thing: Any, what: str, forms: str) -> tuple[str, str]:
    """(name, spec) of a class, a function, a method of a class, a `functools.partial` with literal arguments, or whatever stands in a file
    under a name of its own (a model, too). `what` it is for and `forms`, what else there is, are for sentences.

    Raises UsageError for what a child cannot reach: a lambda, what a function or an interactive session made.
    """
    said = f"{what} {' '.join(shown(thing).split())}"
    if isinstance(thing, _CALLABLE):
        return thing.__qualname__, _spec(thing, thing.__module__ or "builtins", thing.__qualname__, said)
    if not callable(thing):
        raise UsageError(f"{said} is not text; {forms}.")
    if found := _variable(thing):
        module, name = found
        return name, f"{_where(module, said)}:{name}"
    if isinstance(thing, functools.partial):
        name, spec = reached(thing.func, what, forms)
        if not (inside := _written(thing, said)):
            return name, spec
        return well_formed(f"{name}({inside})"), f"{spec}({inside})"
    raise UsageError(_made_here(said))


def _made_here(said: str) -> str:
    return (
        f"{said} was made while this program runs, and a measuring process cannot have it; give the function or class that builds it, or "
        "let it stand in a file under a name of its own, outside of functions and of if __name__ == '__main__'."
    )


def _spec(thing: Any, module: str, qualname: str, said: str) -> str:
    if "<" in qualname:
        raise UsageError(
            f"{said} is a {'lambda' if qualname.endswith('<lambda>') else 'function inside another'}, which a measuring process cannot "
            "find; write it as a function of its own into a file and give that."
        )
    where, found = _where(module, said), sys.modules.get(module)
    if module == MAIN and not _stays(qualname.partition(".")[0]):
        raise UsageError(_made_here(said))
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if found != thing:
        raise UsageError(
            f"{said} is not what {where} has under the name {qualname}, so that a measuring process would find something else; give it a "
            "name of its own."
        )
    return f"{where}:{qualname}"


def _where(name: str, said: str) -> str:
    """The file, or of a package the module, that a child loads for a module of this process. Raises UsageError."""
    module = sys.modules.get(name)
    spec, file = getattr(module, "__spec__", None), getattr(module, "__file__", None) or ""
    if name == MAIN and spec is not None:  # python -m package.module
        return spec.name
    if "." in name or hasattr(module, "__path__"):
        return name
    if file.endswith(".py") and os.path.isfile(file):
        return _short(file)
    if name == MAIN or name.startswith(FILE_MODULE):
        raise UsageError(
            f"{said} was written in a notebook or an interactive session, where a measuring process cannot find it; write it into a file "
            "and give that, as in model.py:build."
        )
    return name


def _short(file: str) -> str:
    """A file's path from the current folder where it is below it."""
    path = Path(file).resolve()
    here = Path.cwd().resolve()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _variable(thing: Any) -> tuple[str, str] | None:
    """(module, name) of the variable of a module that is this object: in the program that runs, in its class's module, anywhere."""
    first, main = (MAIN, type(thing).__module__), sys.modules.get(MAIN)
    for module in dict.fromkeys((*first, *list(sys.modules))):
        if module != MAIN and sys.modules.get(module) is main:  # multiprocessing has a second name for it
            continue
        names = getattr(sys.modules.get(module), "__dict__", None)
        for name, value in list(names.items()) if isinstance(names, dict) else ():
            if value is thing and name.isidentifier() and (module != MAIN or _stays(name)):
                return module, name
    return None


def _stays(name: str) -> bool:
    """Whether the file of the program that runs gives a name its value also when it is only loaded: not under `if __name__ == ...`."""
    main = sys.modules.get(MAIN)
    if getattr(main, "__spec__", None) is None and not os.path.isfile(getattr(main, "__file__", None) or ""):
        return False
    try:
        body = ast.parse(read_bytes(main.__file__, MOST_SOURCE)).body
    except (OSError, SyntaxError, ValueError):
        return False
    kept = [each for each in body if not (isinstance(each, ast.If) and "__name__" in ast.unparse(each.test))]
    return name in {word for each in kept for word in _bound(each)}


def _bound(statement: ast.stmt) -> set[str]:
    """Names that a statement of a file's top level binds."""
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {statement.name}
    inside = list(ast.walk(statement))
    stored = {each.id for each in inside if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
    imported = {each.asname or each.name.partition(".")[0] for each in inside if isinstance(each, ast.alias)}
    return stored | imported | {each.name for each in inside if isinstance(each, (ast.FunctionDef, ast.ClassDef))}


def _written(thing: functools.partial, said: str) -> str:
    """The arguments of a partial as text. Raises UsageError unless they come out of it as they were."""
    written = ", ".join([*map(repr, thing.args), *(f"{name}={value!r}" for name, value in thing.keywords.items())])
    try:
        same = literals(written, said) == (list(thing.args), dict(thing.keywords))
    except UsageError:
        same = False
    if not same:
        raise UsageError(
            f"{said} has arguments that cannot be written down as text; let a partial have numbers, text and plain containers, or write "
            "a function that calls it into a file."
        )
    return written

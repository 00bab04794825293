"""Which component of a model a module path belongs to: the words the tables use (encoder, decoder, heads, ...).

A model names its components itself, in `model.components`: pairs of (path prefix, component name), the prefix "" for all the rest. A model
inside it may name its own parts. One that names nothing need not: there the first part of the path is the name.
"""

from __future__ import annotations

from typing import Any

TOP = "(top)"
Names = tuple[tuple[str, str], ...]


def component_of(model: Any, path: str) -> str:
    """The component of a module or parameter path: the longest prefix that fits in the outermost model that names one, then what that model
    calls all the rest, else the first part of the path."""
    return _named(model, path) or dict(names_of(model)).get("") or path.partition(".")[0] or TOP


def names_of(model: Any) -> Names:
    """The pairs in `model.components`; none where there is no such thing, or where a model means something else by that name."""
    pairs = getattr(model, "components", None)
    if not isinstance(pairs, (tuple, list)):
        return ()
    fit = all(isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(each, str) for each in pair) for pair in pairs)
    return tuple(pairs) if fit else ()


def _named(model: Any, path: str) -> str:
    """By the longest prefix of its own that fits, else by the first model inside it, along the path, that has one; '' where none has."""
    fitting = [pair for pair in names_of(model) if pair[0] and (path == pair[0] or path.startswith(f"{pair[0]}."))]
    if fitting:
        return max(fitting, key=lambda pair: len(pair[0]))[1]
    first, _, rest = path.partition(".")
    inside = getattr(model, first, None) if first else None
    if inside is None or not hasattr(inside, "named_modules"):
        return ""
    return _named(inside, rest) or dict(names_of(inside)).get("", "")

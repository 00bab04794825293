"""Which component of an architecture a module path belongs to: the words the tables use (encoder, decoder, heads, ...).

An architecture of ours names its components itself, in `model.components`: pairs of (path prefix, component name). A foreign one
need not: there the first part of the path is the name.
"""

from __future__ import annotations

from typing import Any

TOP = "(top)"


def component_of(model: Any, path: str) -> str:
    """The component of a module or parameter path: the longest prefix in `model.components` wins, else the first path part."""
    best, name = -1, None
    for prefix, component in getattr(model, "components", None) or ():
        inside = not prefix or path == prefix or path.startswith(prefix + ".")
        if inside and len(prefix) > best:
            best, name = len(prefix), component
    if name is not None:
        return name
    return path.partition(".")[0] or TOP

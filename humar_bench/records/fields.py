"""The types and bounds that a field may have, and which fields of a value are not what their class says. Standard library only."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

ABSENT: Any = None  # the default of a field that may be absent


@dataclass(frozen=True)
class Range:
    """Bounds of a number, both in it; with `above`, the lower one is not. `words` say what it has to be."""

    low: float
    high: float
    words: str
    above: bool = False

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.above and value == self.low)


MOST, LONGEST_S = 10**30, 1e9  # counts beyond reason, and 30 years
Count = Annotated[int, Range(0, MOST, "a whole number of at least 0")]
Positive = Annotated[int, Range(1, MOST, "a whole number of at least 1")]
Difference = Annotated[int, Range(-MOST, MOST, "a whole number")]
Seconds = Annotated[float, Range(0, LONGEST_S, "a finite number")]
Time = Annotated[float, Range(0, LONGEST_S, "a positive number", above=True)]
Amount = Annotated[float, Range(0, MOST, "a number of at least 0")]
Number = Annotated[float, Range(-MOST, MOST, "a finite number")]
Share = Annotated[float, Range(0, 1, "a number from 0 to 1")]


# Held against a value ---------------------------------------------------------------------------------------------------------------


@functools.cache
def _fields(schema: type) -> tuple[tuple[str, Any, bool], ...]:
    """(name, type, whether it has to be there) of each field."""
    hints = typing.get_type_hints(schema, include_extras=True)
    return tuple((each.name, hints[each.name], each.default is dataclasses.MISSING) for each in dataclasses.fields(schema))


def faults(value: Mapping[str, Any], schema: type, *, whole: bool = True) -> list[str]:
    """One sentence part for each field of an object that is not what its class says; with `whole`, also for each that is missing."""
    return list(_object(value, schema, "", whole))


def _object(value: Mapping[str, Any], schema: type, place: str, whole: bool) -> Iterator[str]:
    for name, hint, needed in _fields(schema):
        if name in value:
            yield from _value(value[name], hint, f"{place}.{name}" if place else name, whole)
        elif needed and whole:
            yield f"{place or 'it'} lacks {name}"


def _value(value: Any, hint: Any, place: str, whole: bool) -> Iterator[str]:
    """What is wrong with one value; a list says how many of its elements are wrong, everything else names the first."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        if value is None and type(None) in typing.get_args(hint):
            return
        hint = next(each for each in typing.get_args(hint) if each is not type(None))
    if hint is Any:
        return
    kind, inside = _kind(hint), typing.get_args(hint)
    if kind in (int, float):
        yield from _number(value, hint, place)
    elif type(value) is not kind:
        yield f"its {place} is {_shown(value)}"
    elif dataclasses.is_dataclass(hint):
        yield from _object(value, hint, place, whole)
    elif kind is dict:
        for key, each in value.items():
            yield from _value(each, inside[1], f"{place}.{key}", whole)
    elif kind is list:
        yield from _elements(value, inside[0], place, whole)


def _kind(hint: Any) -> type:
    """The type that JSON gives to such a value."""
    if dataclasses.is_dataclass(hint):
        return dict
    origin = typing.get_origin(hint)
    return hint.__origin__ if origin is Annotated else origin or hint


def _number(value: Any, hint: Any, place: str) -> Iterator[str]:
    if not _is_number(value, hint):
        shown = "no number" if value is None else _shown(value)
        yield f"{place} is {shown}; it must be {hint.__metadata__[0].words}"


def _is_number(value: Any, hint: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if hint.__origin__ is int else (int, float)):
        return False
    if not isinstance(value, int) and not math.isfinite(value):
        return False
    return hint.__metadata__[0].holds(value)


def _elements(values: list, hint: Any, place: str, whole: bool) -> Iterator[str]:
    if typing.get_origin(hint) is Annotated:
        wrong = [each for each in values if not _is_number(each, hint)]
        if wrong:
            what = "times" if place.endswith("_s") else "values"
            words = hint.__metadata__[0].words.removeprefix("a ")
            yield f"{place} holds {len(wrong)} of {len(values)} {what} that are no {words}"
        return
    for index, each in enumerate(values):
        if found := next(_value(each, hint, f"{place}[{index}]", whole), None):
            yield found
            return


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."

"""The types and bounds that a field may have, and which fields of a value are not what their class says. Standard library only."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

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


class _Type(NamedTuple):
    """A hint, looked into once. `kind` is the type that JSON gives to such a value, `bounds` those of a number, `inside` what a list or an
    object of any names holds; `nested` is a class of fields."""

    kind: Any
    nullable: bool
    bounds: Range | None
    nested: type | None
    inside: _Type | None

    def sound(self, value: Any) -> bool:
        """Whether a value is right as it stands, with nothing inside that could be wrong."""
        if value is None and self.nullable or self.kind is Any:
            return True
        if self.bounds is not None:
            return _is_number(value, self)
        return type(value) is self.kind and self.nested is None and self.inside is None


def _type_of(hint: Any) -> _Type:
    nullable = typing.get_origin(hint) in (types.UnionType, typing.Union) and type(None) in typing.get_args(hint)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        hint = next(each for each in typing.get_args(hint) if each is not type(None))
    if dataclasses.is_dataclass(hint):
        return _Type(dict, nullable, None, hint, None)
    if typing.get_origin(hint) is Annotated:
        return _Type(hint.__origin__, nullable, hint.__metadata__[0], None, None)
    kind, inside = typing.get_origin(hint) or hint, typing.get_args(hint)
    return _Type(kind, nullable, None, None, _type_of(inside[-1]) if kind in (dict, list) and inside else None)


@functools.cache
def _fields(schema: type) -> tuple[tuple[str, _Type, bool], ...]:
    """(name, type, whether it has to be there) of each field."""
    hints = typing.get_type_hints(schema, include_extras=True)
    return tuple((each.name, _type_of(hints[each.name]), each.default is dataclasses.MISSING) for each in dataclasses.fields(schema))


def faults(value: Mapping[str, Any], schema: type, *, whole: bool = True) -> list[str]:
    """One sentence part for each field of an object that is not what its class says; with `whole`, also for each that is missing."""
    return list(_object(value, schema, "", whole))


def _object(value: Mapping[str, Any], schema: type, place: str, whole: bool) -> Iterator[str]:
    for name, kind, needed in _fields(schema):
        if name in value:
            if not kind.sound(value[name]):
                yield from _value(value[name], kind, f"{place}.{name}" if place else name, whole)
        elif needed and whole:
            yield f"{place or 'it'} lacks {name}"


def _value(value: Any, of: _Type, place: str, whole: bool) -> Iterator[str]:
    """What is wrong with one value that is not `sound`; a list says how many of its elements are wrong, everything else names the first."""
    if of.bounds is not None:
        shown = "no number" if value is None else _shown(value)
        yield f"{place} is {shown}; it must be {of.bounds.words}"
    elif type(value) is not of.kind:
        yield f"its {place} is {_shown(value)}"
    elif of.nested is not None:
        yield from _object(value, of.nested, place, whole)
    elif of.kind is dict:
        for key, each in value.items():
            if not of.inside.sound(each):
                yield from _value(each, of.inside, f"{place}.{key}", whole)
    else:
        yield from _elements(value, of.inside, place, whole)


def _is_number(value: Any, of: _Type) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if of.kind is int else (int, float)):
        return False
    if not isinstance(value, int) and not math.isfinite(value):
        return False
    return of.bounds.holds(value)


def _elements(values: list, of: _Type, place: str, whole: bool) -> Iterator[str]:
    if of.bounds is not None and not of.nullable:
        wrong = [each for each in values if not _is_number(each, of)]
        if wrong:
            what = "times" if place.endswith("_s") else "values"
            words = of.bounds.words.removeprefix("a ")
            yield f"{place} holds {len(wrong)} of {len(values)} {what} that are no {words}"
        return
    for index, each in enumerate(values):
        if not of.sound(each) and (found := next(_value(each, of, f"{place}[{index}]", whole), None)):
            yield found
            return


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."

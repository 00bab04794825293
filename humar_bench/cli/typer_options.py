"""Dataclasses -> typer options and arguments: each field is one, with its name, default and sentence, declared nowhere else."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from humar_bench.args import EXACT_INT, shown
from humar_bench.errors import UsageError
from humar_bench.options import read_number

_KINDS = {each.__name__: each for each in (int, float, str, bool, tuple)}
_METAVARS = {int: "N", float: "X", str: "NAME", tuple: "TEXT"}
# Metavars of what must not be empty: '' would mean the current folder
_PATHS = ("PATH", "DIR", "FILE", "OLD", "NEW", "PNG", "DATA", "RUN|CHECKPOINT")
MOST = EXACT_INT  # of any number that is typed; what an option means may bound it further
_NUMBERS = {int: "a whole number", float: "a number"}


def command(
    app: typer.Typer, name: str, *owners: type, panels: Mapping[type, str], leave_out: Sequence[str] = ()
) -> Callable[[Callable], Callable]:
    """Register a command of `app` whose options are the fields of the dataclasses `owners`; it is called with one filled object of each."""

    def register(function: Callable[..., int]) -> Callable[..., int]:
        def call(**typed: Any) -> int:
            return function(*(_filled(owner, typed) for owner in owners))

        parameters = [
            _parameter(each, panels.get(owner, "This command"))
            for owner in owners for each in dataclasses.fields(owner) if each.name not in leave_out
        ]
        call.__signature__ = inspect.Signature(parameters)
        call.__annotations__ = {each.name: each.annotation for each in parameters}
        call.__doc__, call.__name__ = function.__doc__, function.__name__
        app.command(name)(call)
        return function

    return register


def _parameter(field: dataclasses.Field, panel: str) -> inspect.Parameter:
    """One dataclass field as a typer option; numbers come in as text, so that the sentence about a wrong one is ours.

    A field whose `argument` is true is named by its place on the command line and has to be there.
    """
    kind, told = _kind(field), field.metadata
    if told.get("argument"):
        declared = typer.Argument(help=told["help"], metavar=told["metavar"], show_default=False)
        return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[str, declared])
    typed, default = {bool: bool, tuple: list[str]}.get(kind, str), field.default
    if kind is not bool:
        typed, default = typed | None, None if kind is tuple or default is None else str(default)
    declared = typer.Option(
        *flags_of(field), help=told["help"].replace("[", r"\["), metavar="" if kind is bool else told.get("metavar", _METAVARS[kind]),
        rich_help_panel=panel, show_default=bool(default), autocompletion=_words(told),
    )
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[typed, declared])


def _words(told: Mapping[str, Any]) -> Callable[[], list[str]] | None:
    """What a shell completes an option's value to; None where it has no fixed words."""
    words = told.get("words") or told.get("choices")
    return None if words is None else lambda: list(words)


def _kind(field: dataclasses.Field) -> type:
    """int, float, str, bool or tuple: the type of a field, with or without None, from its annotation as it is written."""
    return _KINDS[field.type.partition(" | ")[0].partition("[")[0]]


def _filled(owner: type, typed: dict[str, Any]) -> Any:
    """An `owner` from what was typed. Raises UsageError."""
    values = {}
    for field in dataclasses.fields(owner):
        if field.name not in typed:
            continue
        kind, value = _kind(field), typed[field.name]
        if kind is tuple:
            value = tuple(value or field.default)
        elif kind in _NUMBERS and value is not None:
            value = _number(flags_of(field)[0], value, kind)
        elif value == "" and field.metadata.get("metavar") in _PATHS:
            place = field.metadata["metavar"] if field.metadata.get("argument") else flags_of(field)[-1]
            raise UsageError(f"{place} is ''; name a path, such as . for the current folder.")
        values[field.name] = value
    return owner(**values)


def flags_of(field: dataclasses.Field) -> tuple[str, ...]:
    """What is typed for an option: its field's name unless it says otherwise."""
    return field.metadata.get("flags") or (f"--{field.name.replace('_', '-')}",)


def _number(flag: str, text: str, kind: type) -> int | float:
    try:
        value = read_number(text, kind)
    except ValueError:
        raise UsageError(f"{flag} is {shown(text)}; it must be {_NUMBERS[kind]}.") from None
    if abs(value) > MOST and value != float("inf"):  # that has a sentence of its own
        raise UsageError(f"{flag} is {shown(text)}; it must be at most {MOST:,}.")
    return value

"""Where examples come from: procedural people or a folder in RefHuman's format, named by one text. No torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from humar_bench.args import Size, shown
from humar_bench.data.example import Example
from humar_bench.data.levels import levels_of
from humar_bench.data.people import SIZE, ProceduralPeople
from humar_bench.data.refhuman import RefHuman
from humar_bench.errors import UsageError


class Source(Protocol):
    """Examples by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


class Curriculum:
    """Sources one after the other, as one: easy pictures first. `lengths` are theirs."""

    def __init__(self, parts: tuple[Source, ...]) -> None:
        self.parts, self.lengths = parts, tuple(map(len, parts))

    def __len__(self) -> int:
        return sum(self.lengths)

    def __getitem__(self, index: int) -> Example:
        rest = index
        for part, length in zip(self.parts, self.lengths, strict=True):
            if 0 <= rest < length:
                return part[rest]
            rest -= length
        raise IndexError(index)


def open_source(
    data: str, split: str, *, seed: int = 0, length: int = 10_000, size: int | Size = SIZE,
    kept: Callable[[ProceduralPeople], Source] = lambda people: people,
) -> Source:
    """`procedural:LEVEL` or a RefHuman folder -> its examples of a split; `seed`, `length` and `size` are those of procedural people.

    Of `procedural:0-1` the training split is a `Curriculum` of equal parts, and every other split has the last level alone. `kept` may
    hold procedural people elsewhere (`rendered.py`). Raises UsageError.
    """
    if levels := levels_of(data):
        if split != "train" or len(levels) == 1:
            return kept(ProceduralPeople(split, levels[-1], seed, length, size))
        if length < len(levels):
            raise UsageError(f"the data is {shown(data)} and {length} pictures are asked for; ask for {len(levels):,} or more.")
        ProceduralPeople(split, levels[-1], seed, 1, size)  # the last level is there, or nothing is drawn of those before it
        share, rest = divmod(length, len(levels))
        lengths = [share + (at < rest) for at in range(len(levels))]
        people = (ProceduralPeople(split, level, seed, each, size) for level, each in zip(levels, lengths, strict=True))
        return Curriculum(tuple(map(kept, people)))
    if not os.path.isdir(data):
        raise UsageError(f"the data is {shown(data)}, which is no folder; give procedural:LEVEL or a folder in RefHuman's format.")
    return RefHuman(data, split)

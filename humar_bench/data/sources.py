"""Where examples come from: procedural people or a folder in RefHuman's format, named by one text. No torch."""

from __future__ import annotations

import os
import re
from typing import Protocol

from humar_bench.args import Size, shown
from humar_bench.data.example import Example
from humar_bench.data.people import SIZE, ProceduralPeople
from humar_bench.data.refhuman import RefHuman
from humar_bench.errors import UsageError


class Source(Protocol):
    """Examples by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


def open_source(data: str, split: str, *, seed: int = 0, length: int = 10_000, size: int | Size = SIZE) -> Source:
    """`procedural:LEVEL` or a RefHuman folder -> its examples of a split; `seed`, `length` and `size` are those of procedural people.

    Raises UsageError.
    """
    if match := re.fullmatch(r"procedural:([0-9]{1,9})", data):
        return ProceduralPeople(split, int(match[1]), seed, length, size)
    if data.startswith("procedural"):
        raise UsageError(f"the data is {shown(data)}; write procedural:LEVEL, such as procedural:1.")
    if not os.path.isdir(data):
        raise UsageError(f"the data is {shown(data)}, which is no folder; give procedural:LEVEL or a folder in RefHuman's format.")
    return RefHuman(data, split)

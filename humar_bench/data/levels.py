"""How procedural data is named: `procedural:LEVEL`, or `procedural:0-1` for easy pictures first. Standard library alone."""

from __future__ import annotations

import re

from humar_bench.args import shown
from humar_bench.errors import UsageError


def levels_of(data: str) -> range | None:
    """`procedural:1` -> 1, `procedural:0-1` -> 0, 1, in this order; None for what is not procedural. Raises UsageError."""
    if not data.startswith("procedural"):
        return None
    match = re.fullmatch(r"procedural:([0-9]{1,9})(?:-([0-9]{1,9}))?", data)
    if not match or (match[2] and int(match[2]) <= int(match[1])):
        raise UsageError(f"the data is {shown(data)}; write procedural:LEVEL, such as procedural:1, or procedural:0-1 for level 0 first.")
    return range(int(match[1]), int(match[2] or match[1]) + 1)

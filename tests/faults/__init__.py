"""Every fault that is seeded into the product, and the page that lists them."""

from __future__ import annotations

from tests.faults import counting, output, peaks, timing
from tests.faults.fault import GROUPS, Fault

FAULTS: tuple[Fault, ...] = (*timing.FAULTS, *peaks.FAULTS, *counting.FAULTS, *output.FAULTS)

INTRODUCTION = """\
# Seeded faults

A benchmark is wrong in ways that look like results. Each of these {count} faults is put into the product on purpose
(`tests/faults/test_faults.py`): into the harness, into a model that cheats, into a machine in a bad state, into a file that was damaged.
A virtual device with its own clock, streams, allocator and driver makes the GPU ones happen on any machine, in seconds. Each must end
in a flag that names it (a verdict that is invalid, a note below a table, a failed row) or in an exit code that is not 0; and its clean
twin, the same thing done right, must raise none.

What a fault does to a number is what it does in these tests, where a clean forward takes 40 ms, or what is known from the field.
"""


def to_markdown() -> str:
    """The page, from the same objects that the tests run."""
    parts = [INTRODUCTION.format(count=len(FAULTS))]
    for group in GROUPS:
        rows = [fault for fault in FAULTS if fault.group == group]
        lines = [f"| {each.name} | {each.seeded} | {each.effect} | {each.caught} |".replace("\n", " ") for each in rows]
        head = ["| fault | what is wrong | what it does to a number | what catches it |", "| --- | --- | --- | --- |"]
        parts.append("\n".join([f"## {group.capitalize()}", "", *head, *lines, ""]))
    return "\n".join(parts)

"""One seeded fault: what is wrong, what that does to a number, what catches it, and how to make it and its clean twin happen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

GROUPS = ("timing", "memory", "counting", "output")


@dataclass(frozen=True)
class Fault:
    """`faulty` and `clean` run the product and return what it said is wrong; `says` is in what it says of the faulty one."""

    name: str
    group: str
    seeded: str
    effect: str
    caught: str
    says: str
    faulty: Callable[[], list[str]]
    clean: Callable[[], list[str]]

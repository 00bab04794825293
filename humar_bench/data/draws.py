"""Chance that is the same on every machine: draws from a key in words.

The stream is `random.Random`'s `random()`, which Python promises to keep for a seed that is a whole number; everything else is made from
it by IEEE arithmetic on single numbers. The split is part of the key, so no seed of one split gives a stream of another.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from humar_bench.errors import UsageError

T = TypeVar("T")
SPLITS = ("train", "val", "test")
GRAIN = 1 << 12  # a real draw is one of this many steps


def key_of(split: str, *parts: object) -> str:
    """One text for a split and what else decides the draws. Raises UsageError for a split that is not one."""
    if split not in SPLITS:
        raise UsageError(f"the split is {split!r}; choose one of {', '.join(SPLITS)}.")
    return "|".join((split, *map(str, parts)))


class Draws:
    """Draws that only the key decides."""

    def __init__(self, key: str) -> None:
        self.key = key
        self._random = random.Random(int.from_bytes(hashlib.blake2b(key.encode()).digest(), "big")).random

    def whole(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + int(self._random() * (high - low + 1))

    def real(self, low: float, high: float) -> float:
        """low plus whole steps of a 4096th of the way to high."""
        return low + (high - low) * (self.whole(0, GRAIN) / GRAIN)

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def pick(self, of: Sequence[T]) -> T:
        return of[self.whole(0, len(of) - 1)]

    def shuffled(self, of: Sequence[T]) -> list[T]:
        """A copy in a drawn order."""
        left, out = list(of), []
        while left:
            out.append(left.pop(self.whole(0, len(left) - 1)))
        return out

    def grains(self, *shape: int) -> np.ndarray:
        """uint8 [shape], evenly spread: SHAKE-128 of the key and of one draw."""
        size = math.prod(shape)
        stream = hashlib.shake_128(f"{self.key}|{self._random():.17g}".encode()).digest(size)
        return np.frombuffer(stream, np.uint8).reshape(shape)

    def below(self, limit: int, *shape: int) -> np.ndarray:
        """Whole numbers [shape] from 0 to below `limit`, at most 2**32."""
        return (self.grains(*shape, 4).view("<u4")[..., 0].astype(np.uint64) * limit >> 32).astype(np.int64)

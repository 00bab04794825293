"""Inputs for the rounds that show whether a model knows what it is timed on: each is new to it, and costs as much to fetch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from humar_bench.measures.speed import Block
from humar_bench.subjects.subject import Subject

MOST_NEW, NEW_BYTES = 64, 8 * 2**20  # different inputs of one block: at most so many, and no more than a processor's cache holds
FETCHED_BYTES_PER_S = 2e10  # about what a core reads from there
FETCHED_SHARE = 0.02  # of a call: more than this, fetching another input each time would be taken for knowing the old one


class NewInputs:
    """Inputs that no forward has seen: sets in memory of their own, other values each time; two in turn where a block takes one."""

    def __init__(
        self, make: Callable[[int], Any], renewed: Callable[[Any], list[tuple[torch.Tensor, int]] | None],
        scales: tuple[float, float] = Subject.scales,
    ) -> None:
        self.make, self.renewed, self.scales_of = make, renewed, scales
        self.sets: list[Any] = []
        self.turn = self.renewals = 0
        self.scales: list[float] = []

    @property
    def current(self) -> Any:
        if not self.sets:
            self.renew()
        return self.sets[self.turn]

    def upcoming(self) -> Iterator[Any]:
        """One after the other until they are renewed, in few steps: they are timed, and beside a forward of 10 us each counts."""
        first, renewals, sets, index = self.current, self.renewals, self.sets, self.turn + 1
        yield first
        while self.renewals == renewals:
            yield sets[index % len(sets)]
            index += 1

    def renew(self, blocks: Mapping[str, Block] | None = None) -> dict[str, int]:
        """New values, for blocks of one call unless more is said. Returns how many different inputs each block may take, by name."""
        blocks = blocks or {}
        self.sets = self.sets or [self.make(1), self.make(2)]
        size = sum(each.numel() * each.element_size() for each in tree_leaves(self.sets[0]) if isinstance(each, torch.Tensor))
        allowed = {name: _different_inputs(block, size) for name, block in blocks.items()}
        for index in range(len(self.sets), max(allowed.values(), default=0)):
            self.sets.append(self.make(index + 1))
        self.renewals += 1
        self.turn = self.renewals % len(self.sets) if max(allowed.values(), default=1) == 1 else 0
        for index, one in enumerate(self.sets):
            if index == self.turn or max(allowed.values(), default=1) > 1:
                self._renew(index, one)
        return allowed

    def _renew(self, index: int, one: Any) -> None:
        """What the subject names is moved on by one along the dimension it names and scaled: its sum, by which a model may know it, too.
        Where it names nothing they are made with a seed of their own."""
        moved = self.renewed(one)
        if moved is None:
            self.sets[index] = self.make(MOST_NEW * self.renewals + index + 1)
            return
        self.scales += [1.0] * (index + 1 - len(self.scales))
        least, more = self.scales_of
        scale = least + more * ((0.618034 * self.renewals + 0.1 * index) % 1)  # no two of the last ones are alike
        for tensor, dim in moved:
            tensor.copy_(tensor.roll(1, dims=dim))
            if tensor.is_floating_point():
                tensor.mul_(scale / self.scales[index])
        self.scales[index] = scale


def _different_inputs(block: Block, size: int) -> int:
    """One a call, as many as fit; one for all calls where fetching another input each time would show in a call that reads it."""
    fetch_s = size / FETCHED_BYTES_PER_S
    if block.calls == 1 or FETCHED_SHARE * block.call_s < fetch_s < block.call_s:
        return 1
    return max(1, min(block.calls, MOST_NEW, NEW_BYTES // max(size, 1)))

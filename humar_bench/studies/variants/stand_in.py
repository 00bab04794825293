"""What a part of a model leaves behind, recorded once, and a stand-in that leaves the same without doing the work.

The cost of a model around one of its parts depends on the part's outputs alone: shapes, strides, and which of them share memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from humar_bench.measures.storages import LiveTensor, alive_now


@dataclass(frozen=True)
class Leaf:
    """A tensor: the number of its storage, and where it lies on it."""

    storage: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Layout:
    """Nested values with their tensors as leaves on storages of some bytes; hashable, and equal where the tensors lie alike."""

    storages: tuple[int, ...]
    leaves: tuple[Any, ...]
    spec: TreeSpec

    def __hash__(self) -> int:
        return hash((self.storages, self.leaves))

    def __deepcopy__(self, memo: dict[int, Any]) -> Layout:
        return self

    @classmethod
    def of(cls, values: Any) -> Layout:
        """Where the tensors of nested values lie; all else is kept as it is."""
        flat, spec = tree_flatten(values)
        numbers: dict[int, int] = {}
        sizes: list[int] = []
        leaves: list[Any] = []
        for each in flat:
            if not isinstance(each, Tensor):
                leaves.append(each)
                continue
            storage = each.untyped_storage()
            if storage._cdata not in numbers:
                numbers[storage._cdata] = len(sizes)
                sizes.append(storage.nbytes())
            leaves.append(Leaf(numbers[storage._cdata], each.storage_offset(), tuple(each.shape), tuple(each.stride()), each.dtype))
        return cls(tuple(sizes), tuple(leaves), spec)

    def made(self, device: str) -> Any:
        """The same values on new storages."""
        storages = [torch.empty(size, dtype=torch.uint8, device=device) for size in self.storages]

        def tensor(leaf: Leaf) -> Tensor:
            whole = storages[leaf.storage].view(leaf.dtype)
            return whole.as_strided(leaf.shape, leaf.stride, leaf.offset)

        return tree_unflatten([tensor(each) if isinstance(each, Leaf) else each for each in self.leaves], self.spec)


class Reached(Exception):
    """The forward came to a stand-in that has nothing to give yet."""


class StandIn(nn.Module):
    """Gives the outputs of a layout, and keeps what it was called with (`given`) and what was alive then (`alive`).

    On the meta device the outputs are ready-made, so that giving them is no operator. Without a layout a call raises `Reached`.
    """

    def __init__(self, outputs: Layout | None, device: str) -> None:
        super().__init__()
        self.layout, self.device = outputs, device
        self.ready = outputs.made("meta") if outputs is not None and device == "meta" else None
        self.given: Layout | None = None
        self.alive: tuple[LiveTensor, ...] = ()

    def forward(self, *inputs: Any) -> Any:
        """The outputs, whatever the inputs."""
        self.given, self.alive = Layout.of(inputs), alive_now()
        if self.layout is None:
            raise Reached
        return self.layout.made(self.device) if self.ready is None else self.ready


class StandInBackbone(StandIn):
    """In place of a backbone: its channels too."""

    def __init__(self, outputs: Layout | None, channels: Sequence[int], device: str) -> None:
        super().__init__(outputs, device)
        self.channels = tuple(channels)


class StandInTextEncoder(StandIn):
    """In place of a text encoder: its width too."""

    def __init__(self, outputs: Layout | None, width: int, device: str) -> None:
        super().__init__(outputs, device)
        self.width = width

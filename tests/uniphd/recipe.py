"""Weights and inputs of the whole model's golden files: everything from names and seeds, nothing stored."""

from __future__ import annotations

import json
import math
import zlib
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from humar_bench.uniphd import Points, Scribbles, TextFeatures, UniPHD, UniphdOutput, build_uniphd
from tests.tolerance import assert_close

DATA = Path(__file__).resolve().parent.parent / "data" / "uniphd"
PROMPT_PARTS = ("prompt_tokens", "prompt_mask", "prompt_pos", "prompt_sentence")
MAP_STRIDES = 4  # the first map's; each later one is half as large, rounded up


class Maps(nn.Module):
    """Where a backbone would be: the widths of its maps, no weights."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.channels = tuple(channels)


class Features(nn.Module):
    """Where a text encoder would be."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width


def values(name: str, shape: tuple[int, ...]) -> Tensor:
    """One entry of a state dict, from its name."""
    r = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape)).astype(np.float32)
    if r.ndim >= 2:
        fan = math.prod(r.shape[1:]) if r.ndim == 4 else r.shape[-1]
        r = r / np.float32(math.sqrt(fan))
    else:
        r = 1 + np.float32(0.1) * r if name.endswith("weight") else np.float32(0.1) * r
    return torch.from_numpy(r)


def fill(model: nn.Module) -> nn.Module:
    """Every floating-point entry from its own name; a tensor that has two names takes the one without `transformer.`."""
    entries = sorted(model.state_dict().items(), key=lambda item: not item[0].startswith("transformer."))
    with torch.no_grad():
        for name, entry in entries:
            if entry.is_floating_point():
                entry.copy_(values(name, entry.shape))
    return model


def normal(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


def padded(sizes: list[list[int]], multiple: int = 16) -> Tensor:
    """The padding [B, H, W] of images of these sizes."""
    height, width = (-(-max(size[i] for size in sizes) // multiple) * multiple for i in (0, 1))
    padding = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for each, (h, w) in zip(padding, sizes, strict=True):
        each[:h, :w] = False
    return padding


def map_sizes(height: int, width: int) -> list[tuple[int, int]]:
    sizes = [(-(-height // MAP_STRIDES), -(-width // MAP_STRIDES))]
    for _ in range(3):
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    return sizes


def lengths_padding(lengths: list[int]) -> Tensor:
    return torch.arange(max(lengths))[None] >= torch.tensor(lengths)[:, None]


def scribbles(seed: int, sizes: list[list[int]]) -> Tensor:
    """[B, 12, 2] whole pixels (x, y) inside each image."""
    r = np.random.RandomState(seed)
    drawn = [np.stack([r.randint(0, w, 12), r.randint(0, h, 12)], 1) for h, w in sizes]
    return torch.from_numpy(np.stack(drawn)).float()


class Case:
    """A golden file's model and inputs."""

    def __init__(self, config: dict[str, Any], **changes: Any) -> None:
        self.sizes, self.seed, self.channels = config["sizes"], config["seed"], config["channels"]
        self.lengths, self.text_dim, self.args = config["lengths"], config["text_dim"], {**config["args"], **changes}
        self.padding = padded(self.sizes)

    @classmethod
    def of(cls, name: str, **changes: Any) -> Case:
        return cls(json.loads(np.load(DATA / f"{name}.npz")["config"].tobytes().decode()), **changes)

    def model(self, transformer: str | Callable | nn.Module | None = None) -> UniPHD:
        args = Namespace(**self.args)
        return fill(build_uniphd(args, transformer, backbone=Maps(self.channels), text_encoder=Features(self.text_dim))).eval()

    def maps(self) -> list[Tensor]:
        sizes = zip(self.channels, map_sizes(*self.padding.shape[1:]), strict=True)
        return [normal(self.seed + i, (len(self.sizes), c, *size)) for i, (c, size) in enumerate(sizes)]

    def prompt(self, kind: str) -> TextFeatures | Points | Scribbles:
        if kind == "text":
            batch = len(self.sizes)
            features = normal(self.seed + 10, (batch, max(self.lengths), self.text_dim))
            return TextFeatures(features, lengths_padding(self.lengths), normal(self.seed + 11, (batch, self.text_dim)))
        drawn = Scribbles(scribbles(self.seed + 20, self.sizes))
        return drawn if kind == "scribble" else drawn.point()

    def inputs(self, kind: str = "text", dtype: torch.dtype = torch.float32) -> tuple:
        """Maps, padding, prompt and sizes; the same numbers in every number type."""
        def to_type(each: Any) -> Any:
            return each.to(dtype) if isinstance(each, Tensor) and each.is_floating_point() else each

        return (*tree_map(to_type, (self.maps(), self.padding, self.prompt(kind))), self.sizes)


def with_inside(model: UniPHD, *inputs: Any) -> dict[str, Tensor]:
    """The outputs of `from_maps` and what is computed on the way, by the names of the golden files."""
    seen: dict[str, Any] = {}

    def watch(owner: Any, name: str, keep: Callable[[tuple, Any], dict[str, Tensor]]) -> Callable[[], None]:
        ordinary = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            made = ordinary(*args, **kwargs)
            seen.update(keep(args, made))
            return made

        owner.__dict__[name] = watched
        return lambda: owner.__dict__.pop(name)

    undo = [
        watch(model, "_tokens", lambda _, made: dict(zip(PROMPT_PARTS, made, strict=True))),
        watch(model.transformer, "forward", _transformer_parts),
        watch(model.controller, "forward", lambda _, made: {"controller": made}),
        watch(model.mask_refine, "draft", lambda _, made: {"mask_low": made}),
        watch(model.mask_refine, "refine", lambda _, made: {"mask_refined": made}),
    ]
    try:
        outputs = model.from_maps(*inputs)
    finally:
        for each in undo:
            each()
    if seen["prompt_mask"] is None:
        seen["prompt_mask"] = torch.zeros(seen["prompt_tokens"].shape[:2], dtype=torch.bool)
    return {**seen, **outputs_by_name(outputs)}


def _transformer_parts(inputs: tuple, outputs: tuple) -> dict[str, Tensor]:
    srcs, masks, positions, query = inputs
    _, points, _, _, memory = outputs
    lists = {"src": srcs, "mask": masks, "pos": positions, "memory": memory}
    named = {f"{name}_{i}": each for name, levels in lists.items() for i, each in enumerate(levels)}
    return {**named, "query": query[:, 0, 0], "refpoints_first": points[0], "refpoints_mask": points[-2]}


def outputs_by_name(outputs: UniphdOutput) -> dict[str, Tensor]:
    named = {name: each for name, each in outputs._asdict().items() if name.startswith("pred_")}
    return {**named, **{f"aux{i}_{name}": each for i, layer in enumerate(outputs.aux_outputs) for name, each in layer._asdict().items()}}


def agree(name: str, made: Tensor, golden: np.ndarray, terms: int = 1) -> None:
    """Hold a tensor against a golden one, which is float32 and sums of up to `terms`. `@k` after a name is every k-th of its values."""
    values, expected = made.detach(), torch.from_numpy(golden)
    if "@" in name:
        values = values.reshape(-1)[:: int(name.partition("@")[2])]
    assert values.shape == expected.shape, f"{name}: {tuple(values.shape)} instead of {tuple(expected.shape)}"
    if expected.dtype == torch.bool:
        assert torch.equal(values, expected), name
    else:
        assert_close(values, expected, terms=terms, dtype=torch.float32, name=name)

"""Models and inputs of somebody who knows nothing of poses, loaded by file; some go wrong, each in its own way."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

SIDE = 16  # of a picture, in pixels
WORDS = 50


class Network(nn.Module):
    """Two convolutions and a layer on the mean of what they give. For pictures of side s: 2 * (s/2)^2 * 27w + 2 * (s/4)^2 * 18w^2 + 40w
    FLOP a picture, 28w + (18w^2 + 2w) + (20w + 10) parameters."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.blocks = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(image).relu()).relu().mean((2, 3)))


def small() -> nn.Module:
    return Network(4)


def wide() -> nn.Module:
    return Network(8)


def as_wide_as(args) -> nn.Module:
    return Network(args.hidden_dim)


def images(batch: int) -> Tensor:
    return torch.randn(batch, 3, SIDE, SIDE)


def other_images(batch: int) -> Tensor:
    return torch.randn(batch, 3, SIDE, SIDE)


def images_of_a_side(n: int, side: int = SIDE) -> Tensor:
    return torch.randn(n, 3, side, side)


net = Network(4)


# Sequences --------------------------------------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """An LSTM of two layers over [T, B, 6], and a layer on its last step: the batch is the second dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(6, 8, num_layers=2)
        self.head = nn.Linear(8, 3)

    def forward(self, steps: Tensor) -> dict[str, object]:
        found, (hidden, cell) = self.rnn(steps)
        return {"scores": self.head(found[-1]), "state": (hidden, cell)}


def sequences(batch, device, seed):
    generator = torch.Generator(device).manual_seed(seed)
    return (torch.randn(5, batch, 6, generator=generator, device=device),)


def tiny_bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(
        vocab_size=WORDS, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=12,
    ))


def text(batch, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(WORDS, (batch, 7), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


# Any tree of outputs ------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Found:
    scores: Tensor
    best: Tensor
    layers: list[Tensor]
    note: str = ""


class Tagger(nn.Module):
    """Word by word; takes keywords alone and gives a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 8)
        self.score = nn.Linear(8, 4)

    def forward(self, *, ids: Tensor, weights: Tensor) -> Found:
        words = self.words(ids)
        scores = self.score(words) * weights[..., None]
        return Found(scores, scores.argmax(-1), [words], "done")


def ids_alone(batch):
    return {"ids": torch.randint(WORDS, (batch, 9)), "weights": torch.ones(batch, 9)}


def a_pair(batch, workload, args):
    assert workload.batch == batch and args.num_queries == workload.num_queries
    return (torch.randn(batch, 3, SIDE, SIDE),), {}


class Chooses(nn.Module):
    """Looks at its flags."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(6, 40), nn.Linear(6, 3)

    def forward(self, rows: Tensor, flags: Tensor) -> Tensor:
        return self.wide(rows) if bool(flags.any()) else self.narrow(rows)


def flagged(batch):
    return torch.randn(batch, 6), torch.ones(batch, dtype=torch.bool)


# What goes wrong ----------------------------------------------------------------------------------------------------------------------


class Remembers(Network):
    """Knows its answer by the sum of its input."""

    def __init__(self) -> None:
        super().__init__(64)
        self.known: dict[float, Tensor] = {}

    def forward(self, image: Tensor) -> Tensor:
        key = float(image.double().sum())
        if key not in self.known:
            self.known = {**self.known, key: super().forward(image)}
        return self.known[key]


class Silent(nn.Module):
    def forward(self, image: Tensor) -> str:
        return "nothing"


class Undefined(Network):
    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image) / 0 * 0


class TakesTwo(Network):
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return super().forward(image) * mask


def needs_a_width(width):
    return Network(width)


class NeedsAWidth(Network):
    def __init__(self, width):
        super().__init__(width)


def a_list(batch):
    return [images(batch)]


def no_tensor(batch):
    return {"size": batch}


def raises(batch):
    raise ValueError("no pictures here")


class Unsayable(Exception):
    def __str__(self):
        raise ValueError


def raises_what_cannot_be_said(batch):
    raise Unsayable


def leaves(batch):
    raise SystemExit(0)


def within_itself(batch):
    made = [images(batch)]
    made.extend([made, made])
    return (made,)


def deep(batch):
    made = images(batch)
    for _ in range(1000):
        made = (made,)
    return made


def without_numbers(batch):
    return torch.randn(batch, 3, device="meta")


def wants_more(batch, resolution):
    return torch.randn(batch, 3, resolution, resolution)


def of_no_batch(seed):
    return torch.randn(2, 3, SIDE, SIDE)


def always_the_same(batch):
    return torch.ones(batch, 9, dtype=torch.long)


def grows(batch, seed):
    return torch.randn(batch, 3, SIDE, SIDE + seed)


def counts(batch):
    """Whole numbers that follow no seed."""
    return {"ids": torch.arange(batch * 9).reshape(batch, 9) % WORDS}


async def later(batch):
    return images(batch)


def of_a_side(side=16, seed=0):
    """Whose only number is no batch."""
    return torch.randn(2, 3, side, side)

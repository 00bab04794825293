"""Batches of procedural pictures in which everybody is asked about, for training ahead: a picture is looked at once, and every sentence
about it is a question.

With one question a picture, words of place are learned and nothing else is: they are right so often that a colour adds little. So for the
first part of the schedule no question names a place.

Shapes: B pictures, N questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from humar_bench.data.people import ProceduralPeople
from humar_bench.data.targets import Target
from humar_bench.data.transforms import to_target
from humar_bench.training.batches import Batch, Collate, Steps, Tokens, loader
from humar_bench.training.train_args import TrainArgs

EACH = 2  # sentences a person
PLACELESS, UNSAID = 0.6, ("place",)  # share of the steps, and what their sentences do not name

Sample = tuple[Tensor, Target]


class Questions(NamedTuple):
    """`asked` has an entry a question, N; `first` [B] is one of each picture's, `of` [N] the picture of each."""

    asked: Batch
    first: Tensor
    of: Tensor


@dataclass(frozen=True)
class _Asked(Dataset[list[Sample]]):
    """(entry, whether places are named) -> the picture's questions, or the one it comes with where there are none without a place."""

    people: ProceduralPeople

    def __getitem__(self, number: tuple[int, bool]) -> list[Sample]:
        entry, places = number
        asked = self.people.questions(entry, EACH, () if places else UNSAID)
        return [to_target(example) for example in asked or [self.people[entry]]]


@dataclass(frozen=True)
class _Collate:
    collate: Collate

    def __call__(self, pictures: Sequence[list[Sample]]) -> Questions:
        numbers = torch.tensor(list(map(len, pictures)))
        first = numbers.cumsum(0) - numbers
        return Questions(self.collate(list(chain(*pictures))), first, torch.arange(len(numbers)).repeat_interleave(numbers))


def question_batches(options: TrainArgs, people: ProceduralPeople, tokens: Tokens | None, order: Steps, steps: int) -> Iterator[Questions]:
    """The questions of every step, of the pictures that `order` gives it."""
    numbers = [[(entry, step >= PLACELESS * steps) for _, entry in order.of(step)] for step in range(steps)]
    return iter(loader(options, _Asked(people), numbers, _Collate(Collate(tokens, masks=False))))

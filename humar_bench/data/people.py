"""Procedural people: the picture, the person meant and the sentence that number `index` of a seed always has.

Level 0: one person on plain ground. Level 1: two to four people, the sentence decides. Level 2: one to four, from all sides, before and
behind each other and things, cut by the picture's edge, in other light.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from humar_bench.data.draws import Draws, key_of
from humar_bench.data.example import SCRIBBLES, Example
from humar_bench.data.prompts import bounds, scribbles_within
from humar_bench.data.rendering import Rendering, render
from humar_bench.data.scenes import MOST_TRIES, Scene, draw_scene
from humar_bench.data.sentences import draw_sentence
from humar_bench.errors import UsageError

VERSION = 1  # of the pictures: another number is another data set
SIZE, MOST_SIDE = 128, 4096
LEAST_AREA, LEAST_SEEN = 0.004, 5  # of the person meant: share of the picture, keypoints that can be seen


class Referred(NamedTuple):
    """A scene, the number of the person meant, and the sentence that fits only that person."""

    scene: Scene
    meant: int
    sentence: str


class ProceduralPeople:
    """Number -> `Example`, without end to the numbers but with a length. Raises UsageError for a split, level or size that cannot be.

    `size` is the picture's height in pixels, or (height, width).
    """

    def __init__(self, split: str, level: int, seed: int = 0, length: int = 10_000, size: int | tuple[int, int] = SIZE) -> None:
        self.height, self.width = (size, size) if isinstance(size, int) else size
        if min(self.height, self.width) < 32:
            raise UsageError(f"the size is {self.height}x{self.width}; people need at least 32 pixels a side.")
        if max(self.height, self.width) > MOST_SIDE:
            raise UsageError(f"the size is {self.height}x{self.width}; people are drawn with at most {MOST_SIDE:,} pixels a side.")
        if max(self.height, self.width) > 2 * min(self.height, self.width):
            raise UsageError(f"the size is {self.height}x{self.width}; one side may be at most twice the other.")
        if length < 1:
            raise UsageError(f"the number of pictures is {length}; it must be at least 1.")
        self.split, self.level, self.seed, self.length = split, level, seed, length
        self.draws(0), draw_scene(self.draws(0), level)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        """Picture number `index`."""
        if not 0 <= index < self.length:
            raise IndexError(index)
        draws = self.draws(index)
        referred, drawn = self.drawn(draws)
        return _example(draws, drawn, referred.meant, referred.sentence, index)

    def questions(self, index: int, each: int = 1, unsaid: Sequence[str] = ()) -> list[Example]:
        """Picture number `index` and everybody in it who is seen well enough: `each` sentences a person, without attributes of the kinds
        `unsaid` (`data/sentences.py`). Who cannot be told from the others by the rest is not asked about."""
        referred, drawn = self.drawn(self.draws(index))
        draws = Draws(key_of(self.split, "questions", VERSION, self.level, self.seed, index, *unsaid))
        seen = [person for person in range(len(referred.scene.people)) if _shows_enough(drawn, person)]
        said = [(person, draw_sentence(draws, referred.scene, person, unsaid)) for person in seen for _ in range(each)]
        return [_example(draws, drawn, person, sentence, index) for person, sentence in said if sentence is not None]

    def drawn(self, draws: Draws) -> tuple[Referred, Rendering]:
        """What a picture is of, and everybody in it as drawn, by the chance of its number."""
        for _ in range(MOST_TRIES):
            referred = draw_referred(draws, self.level, self.width / self.height)
            drawn = render(referred.scene, draws, self.height)
            if _shows_enough(drawn, referred.meant):
                return referred, drawn
        raise AssertionError("no picture in which the person meant is seen")

    def draws(self, index: int) -> Draws:
        """The chance of picture number `index`. The split is in the key: no seed of one split is one of another."""
        return Draws(key_of(self.split, "people", VERSION, self.level, self.seed, index))

    def referred(self, index: int) -> Referred:
        """What picture number `index` is first drawn from, without drawing it."""
        return draw_referred(self.draws(index), self.level, self.width / self.height)


def draw_referred(draws: Draws, level: int, aspect: float = 1.0) -> Referred:
    """A scene of this level, somebody in it and a sentence."""
    for _ in range(MOST_TRIES):
        scene = draw_scene(draws, level, aspect)
        meant = draws.whole(0, len(scene.people) - 1)
        sentence = draw_sentence(draws, scene, meant)
        if sentence is not None:
            return Referred(scene, meant, sentence)
    raise AssertionError("no scene with somebody who can be told from the others")


def _shows_enough(drawn: Rendering, meant: int) -> bool:
    mask = drawn.masks[meant]
    return np.count_nonzero(mask) >= LEAST_AREA * mask.size and np.count_nonzero(drawn.keypoints[meant, :, 2] == 2) >= LEAST_SEEN


def _example(draws: Draws, drawn: Rendering, person: int, sentence: str, index: int) -> Example:
    mask = drawn.masks[person]
    top, bottom, left, right = bounds(mask)
    return Example(
        picture=drawn.picture,
        boxes=np.array([[left, top, right, bottom]], np.float32),
        keypoints=drawn.keypoints[person][None].astype(np.float32),
        area=np.array([np.count_nonzero(mask)], np.float32),
        masks=mask[None],
        scribbles=scribbles_within(draws, mask, SCRIBBLES),
        caption=sentence,
        image_id=index,
        orig_size=mask.shape,
    )

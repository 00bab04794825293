"""Whom a trained run finds in pictures of several people: the one meant, or somebody else, by what the sentence names.

    python benchmarks/whom.py RUN [--arch ARCH] [--pictures 600] [--level 1]

A pose is of the person whose OKS with it is highest. By chance one of the people in the picture is found. One core, about a minute.

Shapes: K keypoints.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from humar_bench.data.people import ProceduralPeople
from humar_bench.errors import UsageError
from humar_bench.studies.accuracy.worker import oks_of
from humar_bench.training.batches import evaluation_batches, evaluation_source, tokens_of
from humar_bench.training.saved_model import load_run
from humar_bench.training.similarity import keypoint_sigmas
from humar_bench.training.train_args import TrainArgs
from humar_bench.uniphd import UniPHD
from humar_bench.uniphd.postprocess import postprocess

NAMED = {  # what a sentence of `data/sentences.py` can name, by its words
    "place": r"left|right|middle|centre|between", "shirt": r"shirt|top", "lower": r"trousers|pants|shorts|skirt", "hair": r"hair",
    "size": r"biggest|largest|tallest|smallest|littlest|shortest", "posture": r"sit|seated|stand|feet", "arm": r"\barm\b|hand up",
}


class Answer(NamedTuple):
    """One picture: what its sentence names, how many people there are, whether the nearest is the one meant, and the OKS with both."""

    named: tuple[str, ...]
    people: int
    right: bool
    meant_oks: float
    nearest_oks: float


def named_in(sentence: str) -> tuple[str, ...]:
    """'the one in a red shirt on the left' -> ('place', 'shirt')."""
    return tuple(kind for kind, words in NAMED.items() if re.search(words, sentence))


def answers(model: UniPHD, options: TrainArgs) -> Iterator[Answer]:
    """The model's best-scored pose of every evaluation picture, held against everybody in it."""
    source, sigmas = evaluation_source(options), keypoint_sigmas(options.model.num_body_points)
    people = ProceduralPeople(options.evaluation_split, options.level, options.evaluation_seed, len(source), options.size)
    index = 0
    for batch in evaluation_batches(options, source, tokens_of(options), masks=False):
        with torch.inference_mode():
            outputs = model(batch.images, batch.padding, batch.prompt("text"), batch.sizes, masks="none")
        for found in postprocess(outputs, batch.sizes, batch.orig_sizes, masks=False):
            referred, drawn = people.drawn(people.draws(index))
            pose = found.keypoints[0].unflatten(0, (-1, 3))[:, :2].numpy()  # [K, 2]
            each = [
                oks_of(pose, points, float(max(np.count_nonzero(mask), 1)), sigmas) if (points[:, 2] > 0).any() else 0.0
                for points, mask in zip(drawn.keypoints, drawn.masks, strict=True)
            ]
            nearest = int(np.argmax(each))
            yield Answer(named_in(referred.sentence), len(each), nearest == referred.meant, each[referred.meant], each[nearest])
            index += 1


def table(found: list[Answer]) -> Iterator[str]:
    """Lines of text: all, by number of people, by what is named, most frequent first."""
    def line(said: str, own: list[Answer]) -> str:
        right = [each.meant_oks for each in own if each.right]
        return (f"{said:24s} {len(own):5d} {np.mean([each.right for each in own]):7.3f} {np.mean([1 / each.people for each in own]):7.3f} "
                f"{np.mean([each.meant_oks for each in own]):7.3f} {np.mean(right) if right else float('nan'):7.3f}")

    yield f"{'':24s} {'':5s}   right  chance     OKS  OKS where right"
    yield line("all", found)
    for people in sorted({each.people for each in found}):
        yield line(f"{people} people", [each for each in found if each.people == people])
    groups: dict[tuple[str, ...], list[Answer]] = {}
    for each in found:
        groups.setdefault(each.named, []).append(each)
    for named, own in sorted(groups.items(), key=lambda pair: (-len(pair[1]), pair[0])):
        if len(own) >= len(found) / 60:
            yield line(" and ".join(named) or "nothing known", own)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--arch", help="the run's architecture, where that is code of its own")
    parser.add_argument("--pictures", type=int, default=600)
    parser.add_argument("--level", type=int, default=1)
    typed = parser.parse_args()
    torch.set_num_threads(1)
    try:
        options, model = load_run(typed.run, typed.arch)
        options = dataclasses.replace(options, data=f"procedural:{typed.level}", evaluation_pictures=typed.pictures, rendered="")
        if "text" not in options.whole.train_trigger:
            raise UsageError(f"{typed.run} reads no sentences (train_trigger); train one that does.")
        for line in table(list(answers(model, options))):
            print(line)
    except UsageError as error:
        sys.exit(f"whom: {error}")


if __name__ == "__main__":
    main()

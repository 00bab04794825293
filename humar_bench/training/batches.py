"""Batches of a training run: which pictures each step sees, and how they become tensors and prompts.

What step s sees is decided by the data seed and s alone, however many processes share it and wherever a run was resumed: the pictures of
an epoch in a drawn order, cut into steps, a step cut into processes.

Shapes: B pictures, T tokens, (H, W) the padded batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from humar_bench.args import SMALL_TEXT_ENCODERS, Size
from humar_bench.data.datasets import EvaluationSet, TrainingSet
from humar_bench.data.draws import Draws, key_of
from humar_bench.data.people import ProceduralPeople
from humar_bench.data.rendered import rendered
from humar_bench.data.sources import Curriculum, Source, open_source
from humar_bench.data.targets import Target, TargetBatch
from humar_bench.errors import UsageError
from humar_bench.training.train_args import TrainArgs
from humar_bench.uniphd import Captions, Points, Scribbles, padded_batch

Tokens = Callable[[Sequence[str]], tuple[Tensor, Tensor]]
SHARES = {"text": 2, "scribble": 1, "point": 1}  # how often each prompt stands in training, as published
TRAINING_POINTS = (4, 7)  # which point of a scribble may be the point prompt in training, from 0


class Batch(NamedTuple):
    """What a forward and its losses read."""

    images: Tensor  # [B, 3, H, W]
    padding: Tensor  # [B, H, W], True = padding
    sizes: tuple[Size, ...]  # (height, width) as resized
    orig_sizes: tuple[Size, ...]
    image_ids: tuple[int, ...]
    captions: Captions | None
    scribbles: Tensor  # [B, 12, 2]
    targets: TargetBatch

    def to(self, device: torch.device) -> Batch:
        """The same with its tensors on `device`; sizes stay on the host."""
        captions = self.captions and Captions(*(each.to(device, non_blocking=True) for each in self.captions))
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in ("images", "padding", "scribbles", "targets")}
        return self._replace(captions=captions, **moved)

    def prompt(self, kind: str, point: int | None = None) -> Captions | Points | Scribbles:
        """The prompt of one kind; `point` says which of the scribble's, the one of evaluation where it is left out."""
        if kind == "text":
            return self.captions
        scribbles = Scribbles(self.scribbles)
        if kind == "scribble":
            return scribbles
        return scribbles.point() if point is None else scribbles.point(point)


@dataclasses.dataclass(frozen=True)
class Collate:
    """Samples (picture, target) -> `Batch`. `tokens` is None for a model that reads no captions."""

    tokens: Tokens | None
    masks: bool

    def __call__(self, samples: Sequence[tuple[Tensor, Target]]) -> Batch:
        targets = [target for _, target in samples]
        padded = padded_batch([picture for picture, _ in samples])
        if not self.masks:
            targets = [dataclasses.replace(target, masks=None) for target in targets]
        return Batch(
            images=padded.images,
            padding=padded.padding,
            sizes=tuple(target.size for target in targets),
            orig_sizes=tuple(target.orig_size or target.size for target in targets),
            image_ids=tuple(target.image_id for target in targets),
            captions=self.tokens and Captions(*self.tokens([target.caption for target in targets])),
            scribbles=torch.stack([target.scribble for target in targets]),
            targets=TargetBatch.collate(targets),
        )


class _Numbered(Dataset[tuple[Tensor, Target]]):
    """(epoch, entry) -> a training sample: one loader serves all epochs, also one that starts in the middle."""

    def __init__(self, training: TrainingSet) -> None:
        self.training = training

    def __getitem__(self, number: tuple[int, int]) -> tuple[Tensor, Target]:
        epoch, entry = number
        self.training.set_epoch(epoch)
        return self.training[entry]


def open_data(options: TrainArgs, split: str, *, length: int, seed: int) -> Source:
    """The examples that `options` name, procedural ones from the folder where they are kept drawn; those that are trained on only where
    no workers draw them as they come. Raises UsageError."""
    keeps = options.rendered and not (split == "train" and options.workers)

    def kept(people: ProceduralPeople) -> Source:
        return rendered(people, options.rendered) if keeps else people

    return open_source(options.data, split, seed=seed, length=length, size=options.size, kept=kept)


def training_source(options: TrainArgs) -> Source:
    """What a run is trained on. Raises UsageError."""
    length = options.length or options.pictures
    if options.is_procedural and not length:
        raise UsageError("procedural pictures have no end; say how many to train on with pictures (--pictures).")
    source = open_data(options, "train", length=max(length, 1), seed=options.data_seed)
    if isinstance(source, Curriculum) and options.pictures != len(source):
        if not options.pictures:
            raise UsageError(f"the data is {options.data}, easy pictures first; say how many with pictures, and leave length out.")
        does = "come back to the easy ones" if options.pictures > len(source) else "end before the last level is whole"
        raise UsageError(
            f"the data is {options.data}, easy pictures first, and {options.pictures} pictures of {len(source)} different ones would "
            f"{does}; leave length out."
        )
    return source


def evaluation_source(options: TrainArgs) -> Source:
    """What a run is evaluated on. Raises UsageError."""
    return open_data(options, options.evaluation_split, length=options.evaluation_pictures or 1000, seed=options.evaluation_seed)


class Steps:
    """Which entries of `source` each step sees: `pictures` a step, in a drawn order, the last incomplete step of an epoch dropped. The
    parts of a `Curriculum` come one after the other, each in an order of its own."""

    def __init__(self, source: Sized, pictures: int, seed: int) -> None:
        entries = len(source)
        if entries < pictures:
            raise UsageError(f"there are {entries} pictures and a step takes {pictures}; take more pictures or smaller batches.")
        self.pictures = pictures
        self.an_epoch = entries // pictures  # steps
        parts = source.lengths if isinstance(source, Curriculum) else (entries,)

        def order(epoch: int) -> np.ndarray:
            random = np.random.default_rng((seed, epoch))
            return np.concatenate([end - part + random.permutation(part) for part, end in zip(parts, accumulate(parts), strict=True)])

        self._order = lru_cache(maxsize=1)(order)

    def of(self, step: int) -> list[tuple[int, int]]:
        """(epoch, entry) of every picture of step `step`."""
        epoch, within = divmod(step, self.an_epoch)
        return [(epoch, int(entry)) for entry in self._order(epoch)[within * self.pictures : (within + 1) * self.pictures]]


class _Share:
    """The numbers of one process, batch by batch, from step `first` to before `last`; a step is cut into processes, then into batches."""

    def __init__(self, steps: Steps, first: int, last: int, *, batch: int, accumulate: int, rank: int) -> None:
        self.steps, self.range, self.batch, self.accumulate, self.rank = steps, range(first, last), batch, accumulate, rank

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in self.range:
            numbers = self.steps.of(step)
            for at in range(self.rank * self.accumulate, (self.rank + 1) * self.accumulate):
                yield numbers[at * self.batch : (at + 1) * self.batch]


def training_batches(options: TrainArgs, source: Source, tokens: Tokens | None, steps: Steps, first: int, last: int, rank: int = 0
                     ) -> Iterator[Batch]:
    """The batches of process `rank` from step `first` to before `last`: `accumulate` of them a step."""
    share = _Share(steps, first, last, batch=options.optim.batch_size, accumulate=options.accumulate, rank=rank)
    dataset = _Numbered(TrainingSet(source, seed=options.data_seed, augment=options.augment))
    return iter(loader(options, dataset, share, Collate(tokens, options.loss.masks)))


def evaluation_batches(options: TrainArgs, source: Source, tokens: Tokens | None, *, masks: bool, rank: int = 0, of: int = 1
                       ) -> Iterator[Batch]:
    """Every `of`-th entry, from entry `rank` on."""
    size, entries = options.evaluation_batch, range(rank, evaluated(options, source), of)
    dataset = EvaluationSet(source, resized=not options.is_procedural)
    return iter(loader(options, dataset, [list(entries[at : at + size]) for at in range(0, len(entries), size)], Collate(tokens, masks)))


def evaluated(options: TrainArgs, source: Source) -> int:
    """How many entries are evaluated on."""
    return min(options.evaluation_pictures or len(source), len(source))


def loader(options: TrainArgs, dataset: Dataset, numbers: Iterable, collate: Callable[[Sequence], Any]) -> DataLoader:
    """The batches that `collate` makes of a dataset's samples: `numbers` has those of each batch."""
    return DataLoader(dataset, batch_sampler=numbers, collate_fn=collate, num_workers=options.workers)


def prompt_of(options: TrainArgs, step: int) -> tuple[str, int]:
    """The prompt of step `step`, the same for its whole batch: its kind, and which of the scribble's points it is if it is one."""
    draws = Draws(key_of("train", "prompt", options.data_seed, step))
    kinds = [kind for kind, share in SHARES.items() if kind in options.whole.train_trigger for _ in range(share)]
    return draws.pick(kinds), draws.whole(*TRAINING_POINTS)


def evaluation_prompt(options: TrainArgs) -> str:
    """Text where the model reads it, else a scribble, else a point."""
    return next(kind for kind in SHARES if kind in options.whole.train_trigger)


def tokens_of(options: TrainArgs) -> Tokens | None:
    """What makes token ids of captions; None for a model that reads none. Raises UsageError where the tokenizer is not on this machine."""
    if "text" not in options.whole.train_trigger:
        return None
    from humar_bench.uniphd.text_encoders import WordTokenizer, load_tokenizer

    name = options.whole.text_encoder_type
    if name in SMALL_TEXT_ENCODERS:
        from humar_bench.data.sentences import VOCABULARY

        return WordTokenizer(VOCABULARY)
    return load_tokenizer(options.tokenizer or kept_tokenizer(name), name)


def kept_tokenizer(name: str) -> str:
    """The folder of the hub's own cache that has a published text encoder's tokenizer; nothing is fetched. Raises UsageError."""
    from humar_bench.subjects.weights import HUB

    wanted = f"the tokenizer of {name} ({HUB[name]}) is not on this machine; give its folder with --tokenizer"
    try:
        from huggingface_hub import snapshot_download

        return snapshot_download(HUB[name], local_files_only=True, allow_patterns=["*.json", "*.txt", "*.model"])
    except ImportError:
        raise UsageError(f"{wanted}.") from None
    except (OSError, ValueError):
        raise UsageError(f"{wanted}, or fetch it once with huggingface_hub.") from None

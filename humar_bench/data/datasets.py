"""Pictures by number for training and evaluation: (normalised picture [3, h, w], `Target`), from procedural people or a RefHuman folder.

What augmentation does to entry i in epoch e is decided by the seed, e and i alone: any number of workers, and a run that was resumed,
see the same.
"""

from __future__ import annotations

from torch import Tensor
from torch.utils.data import Dataset

from humar_bench.data.draws import Draws, key_of
from humar_bench.data.example import SCRIBBLES
from humar_bench.data.sources import Source
from humar_bench.data.targets import Target
from humar_bench.data.transforms import for_evaluation, for_training, to_target
from humar_bench.errors import UsageError

MOST_REPLACED = 100  # entries tried in a row whose person was cropped away


class TrainingSet(Dataset[tuple[Tensor, Target]]):
    """A source as it is trained on. `augment` flips, crops and resizes; without, only the scribble is left to chance."""

    def __init__(self, source: Source, *, seed: int = 0, augment: bool = True, keep_cut: bool = True) -> None:
        self.source, self.seed, self.augment, self.keep_cut = source, seed, augment, keep_cut
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """What chance does differs from epoch to epoch; call it before the workers start."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        """Entry `index`; another one, by chance, where its person was cropped away. Raises UsageError where that never ends."""
        draws = Draws(key_of("train", "augmentation", self.seed, self.epoch, index))
        for _ in range(MOST_REPLACED):
            example = self.source[index]
            if not self.augment:
                return to_target(example, draws.whole(0, SCRIBBLES - 1))
            if (sample := for_training(example, draws, keep_cut=self.keep_cut)) is not None:
                return sample
            index = draws.whole(0, len(self.source) - 1)
        raise UsageError(f"{MOST_REPLACED} entries in a row had nobody left in their crop; check the boxes with `humar-bench data check`.")


class EvaluationSet(Dataset[tuple[Tensor, Target]]):
    """A source as it is evaluated on: scribble number 0, and `resized` to the published size or left as it is."""

    def __init__(self, source: Source, *, resized: bool = True) -> None:
        self.source, self.resized = source, resized

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        example = self.source[index]
        return for_evaluation(example) if self.resized else to_target(example)

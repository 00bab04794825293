"""A model run over a data set, and what it scores there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from humar_bench.data.refhuman import RefHuman, read_annotations
from humar_bench.data.sources import Source
from humar_bench.data.targets import Target
from humar_bench.errors import MeasurementError
from humar_bench.training.batches import Batch, Tokens, evaluated, evaluation_batches, evaluation_prompt
from humar_bench.training.evaluation import Evaluator, ground_truth_of
from humar_bench.training.picture_statistics import PictureStatistics
from humar_bench.training.train_args import TrainArgs
from humar_bench.uniphd import UniPHD
from humar_bench.uniphd.postprocess import postprocess

# Names in a log -> metrics of `PictureStatistics`
LOGGED = {
    "ap": "best/AP", "ap50": "best/AP50", "ap75": "best/AP75", "oks": "best/mean OKS", "pckh": "best/PCKh", "coco_ap": "keypoints/AP",
    "box_ap": "bbox/AP", "oiou": "best/oIoU", "miou": "best/mIoU",
}


def ground_truth(options: TrainArgs, source: Source) -> dict[str, Any]:
    """COCO layout of what is evaluated on: a folder's own file, or made of procedural pictures' labels."""
    if not isinstance(source, RefHuman):
        from humar_bench.data.datasets import EvaluationSet

        return ground_truth_of(_labels(EvaluationSet(source, resized=False)[index] for index in range(evaluated(options, source))))
    kept = {image["id"] for image, _ in source.entries[: evaluated(options, source)]}
    content = read_annotations(source.folder, source.split)
    images = [image for image in content["images"] if image["id"] in kept]
    return {"images": images, "annotations": [each for each in content["annotations"] if each["image_id"] in kept]}


def _labels(samples: Iterable[tuple[Any, Target]]) -> Iterable[Target]:
    return (target for _, target in samples)


@torch.no_grad()
def run_model(model: UniPHD, batches: Iterable[Batch], evaluator: Evaluator, *, device: torch.device, prompt: str, masks: bool,
              tell: Callable[[int], None] = lambda done: None) -> None:
    """Give the evaluator what the model finds in every batch; `tell` hears how many pictures are done.

    Raises MeasurementError where scores are not finite.
    """
    was_training, done = model.training, 0
    model.eval()
    try:
        for batch in batches:
            on_device = batch.to(device)
            outputs = model(on_device.images, on_device.padding, on_device.prompt(prompt), batch.sizes, masks="all" if masks else "none")
            if not bool(torch.isfinite(outputs.pred_logits).all() & torch.isfinite(outputs.pred_keypoints).all()):
                raise MeasurementError(f"the model gives NaN or infinity for entry {batch.image_ids[0]} or one beside it: it has diverged.")
            found = postprocess(outputs, batch.sizes, batch.orig_sizes, masks=masks)
            for image_id, detections in zip(batch.image_ids, found, strict=True):
                evaluator.add(image_id, detections)
            done += len(found)
            tell(done)
    finally:
        model.train(was_training)


class Evaluation:
    """The data a run is evaluated on, prepared once."""

    def __init__(self, options: TrainArgs, source: Source, tokens: Tokens | None) -> None:
        self.options, self.source, self.tokens = options, source, tokens
        self.truth = ground_truth(options, source)

    def __call__(
        self, model: UniPHD, device: torch.device, *, rank: int = 0, of: int = 1, gather: Callable[[Any], list[Any]] | None = None,
        prompt: str | None = None, masks: bool = True, tell: Callable[[int], None] = lambda done: None,
    ) -> PictureStatistics | None:
        """Evaluate, by text where the model reads it unless `prompt` says otherwise, with masks where it makes them.

        With several processes each takes its share, `gather` brings them together, and all but the first get None.
        """
        masks = masks and not self.options.whole.no_mask
        evaluator = Evaluator(self.truth)
        batches = evaluation_batches(self.options, self.source, self.tokens, masks=masks, rank=rank, of=of)
        run_model(model, batches, evaluator, device=device, prompt=prompt or evaluation_prompt(self.options), masks=masks, tell=tell)
        if gather is not None:
            for parts in gather([evaluator.parts()]):
                evaluator.merge(parts)
        return evaluator.statistics() if rank == 0 else None


def logged(statistics: PictureStatistics) -> dict[str, float]:
    """The figures that a log has of an evaluation."""
    names = {short: name for short, name in LOGGED.items() if name in statistics.names}
    return dict(zip(names, statistics.values(list(names.values())).tolist(), strict=True))

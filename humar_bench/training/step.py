"""The model of a run, and one forward with its losses as a module: what several processes have to wrap to add up their gradients.

Shapes: B pictures, Q queries, P matched pairs, (H, W) the padded batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from humar_bench.args import SMALL_BACKBONES, SMALL_TEXT_ENCODERS
from humar_bench.errors import UsageError
from humar_bench.subjects.checkpoint import other_types
from humar_bench.subjects.registry import load_builder, parse_architecture
from humar_bench.training.batches import Batch
from humar_bench.training.losses import Criterion, Losses
from humar_bench.training.matcher import Match
from humar_bench.training.options import FRONT_END
from humar_bench.training.train_args import TrainArgs
from humar_bench.uniphd import Captions, Points, Scribbles, UniPHD, build_uniphd

OF_THE_TRANSFORMER, AROUND_IT = 1, 2  # what is drawn from a seed


def build_model(options: TrainArgs) -> UniPHD:
    """The whole model with its initial weights. Two streams are drawn from the seed, so that two architectures with one seed start with
    the same weights everywhere but inside the transformer. Raises UsageError."""
    builder = load_builder(parse_architecture(options.arch))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(options.seed, OF_THE_TRANSFORMER))
        transformer = builder(options.model)
        torch.manual_seed(stream(options.seed, AROUND_IT))
        size = (options.size, options.size) if options.is_procedural else (480, 640)
        model = build_uniphd(options.model, transformer, options=options.whole, image_size=size)
    if options.no_dropout:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            elif isinstance(module, nn.MultiheadAttention):
                module.dropout = 0.0
    return model


def device_of(name: str | None) -> torch.device:
    """cpu, cuda, or with auto (or None) cuda where there is one. Raises UsageError where cuda is asked for and not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("device is cuda and torch finds no CUDA device here; choose cpu or auto.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def stream(*parts: int) -> int:
    """One seed for torch out of several numbers."""
    import numpy as np

    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def front_end_of(model: UniPHD) -> dict[str, Tensor]:
    """The weights before the transformer, by their names in the model."""
    return {name: value for name, value in model.state_dict().items() if name.partition(".")[0] in FRONT_END}


class TrainingStep(nn.Module):
    """A batch and its prompt -> `Losses`. Masks are made of the matched queries alone; `distillation` adds the losses against a teacher."""

    def __init__(self, model: UniPHD, criterion: Criterion, distillation: Any = None) -> None:
        super().__init__()
        self.model, self.criterion, self.distillation = model, criterion, distillation

    def forward(self, batch: Batch, prompt: Captions | Points | Scribbles) -> Losses:
        """Raises MeasurementError where the outputs are not finite."""
        trains_masks = self.criterion.args.masks
        outputs = self.model(batch.images, batch.padding, prompt, batch.sizes, masks="later" if trains_masks else "none")
        matches = self.criterion.match(outputs, batch.targets)
        masks = self._masks(outputs, matches.layers) if trains_masks else None
        losses = self.criterion(outputs, batch.targets, matches=matches, masks=masks)
        if self.distillation is None:
            return losses
        imitated = self.distillation(outputs, matches.layers, batch, prompt)
        return Losses(losses.total + self.distillation.weighted(imitated), losses.named | imitated)

    def _masks(self, outputs: Any, pairs: Match) -> Tensor:
        """Masks [P, H, W] of the last layer's pairs, in their order."""
        most = max(pairs.pairs)
        queries = pairs.picture.new_zeros(len(pairs.pairs), most)
        place = torch.cat([torch.arange(number) for number in pairs.pairs]).to(queries.device)
        queries[pairs.picture, place] = pairs.query[-1]
        return self.model.masks_of(outputs.mask_inputs, queries)[pairs.picture, place]


def load_start(model: UniPHD, options: TrainArgs) -> None:
    """Fill a new model from the weights that `options` name for its start. Raises UsageError where they are of another model."""
    from humar_bench.subjects.weights import load_backbone_weights, load_text_weights

    parts = {"backbone_weights": options.whole.backbone, "text_weights": options.whole.text_encoder_type}
    for name, part in parts.items():
        if getattr(options, name) and part in (*SMALL_BACKBONES, *SMALL_TEXT_ENCODERS):
            raise UsageError(f"{name} is {getattr(options, name)!r}, and nobody publishes weights of {part}; leave it out.")
    if options.backbone_weights:
        load_backbone_weights(model.backbone[0], options.backbone_weights)
    if options.text_weights:
        if "text" not in options.whole.train_trigger:
            raise UsageError("text_weights names weights of a text encoder, and a model without text prompts has none; leave it out.")
        load_text_weights(model.text_encoder, options.text_weights)
    if options.front_end:
        load_front_end(model, options.front_end)


def load_front_end(model: UniPHD, path: str) -> None:
    """Fill what stands before the transformer from a file of `warm_start`. Raises UsageError where it is of another model."""
    from humar_bench.training.run_folder import read_tensors

    weights, own = read_tensors(path), front_end_of(model)
    wrong = [name for name in {*weights, *own} if name not in weights or name not in own or weights[name].shape != own[name].shape]
    if wrong:
        raise UsageError(f"{path} is the front end of another model: {min(wrong)} and {len(wrong) - 1} more do not fit.")
    if types := other_types(weights, own):
        raise UsageError(f"{path} is the front end of another model: it has {types[0]}.")
    model.load_state_dict(weights, strict=False)

"""Everything that decides one training run, as plain values that a run folder keeps: `TrainArgs`. No torch here."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from humar_bench.args import EXACT_INT, SMALL_BACKBONES, SMALL_TEXT_ENCODERS, ModelArgs, UniphdArgs, _check_fields, _option, shown
from humar_bench.data.levels import levels_of
from humar_bench.errors import UsageError
from humar_bench.options import parse_value
from humar_bench.training.options import LossArgs, OptimArgs

NUMBER_TYPES = ("float32", "tf32", "bfloat16", "float16")
# What two cores can train: the same parts as the published model, each narrower.
SMALL_MODEL = ModelArgs(
    hidden_dim=64, dim_feedforward=256, enc_layers=3, dec_layers=3, num_feature_levels=3, num_queries=4, efficient_enc_layers=2,
)
SMALL_WHOLE = UniphdArgs(
    backbone=SMALL_BACKBONES[0], text_encoder_type=SMALL_TEXT_ENCODERS[0], train_trigger=frozenset({"text"}), no_mask=True
)


@dataclass(frozen=True)
class TrainArgs:
    """One training run. Raises UsageError where it cannot be.

    A step takes `optim.batch_size` pictures a process, `accumulate` times. The model's initial weights and dropout are drawn from `seed`,
    those outside the transformer alike for every architecture; pictures, their order, augmentation and prompts from `data_seed`.
    """

    arch: str = _option("original", "The transformer: a name, package.module:builder or path/file.py:builder.")
    data: str = _option("procedural:0", "procedural:LEVEL, procedural:0-1 for easy pictures first, or a folder in RefHuman's format.")
    size: int = _option(128, "Height and width of procedural pictures.", low=32, high=4_096)
    length: int = _option(0, "Different procedural pictures; 0: as many as are trained on.", low=0)
    pictures: int = _option(0, "Pictures to train on, repeated ones counted; 0: optim.epochs times all.", low=0)
    augment: bool = _option(False, "Flip, crop and resize as published (to 360 pixels and more).")
    seed: int = _option(0, "Seed of the initial weights and of dropout.", low=0, high=EXACT_INT)
    data_seed: int = _option(0, "Seed of pictures, their order, augmentation and prompts.", low=0, high=EXACT_INT)
    no_dropout: bool = _option(False, "No dropout anywhere in the model.")
    backbone_weights: str = _option("", "Folder of published weights the backbone starts from, as the hub lays it out.")
    text_weights: str = _option("", "The same for the text encoder.")
    front_end: str = _option("", "Weights from `warm_start` for all that stands before the transformer.")
    teacher: str = _option("", "Run whose model is imitated too.")
    teacher_keypoints: float = _option(5.0, "Weight of the distance to the teacher's keypoints.", low=0)
    teacher_class: float = _option(1.0, "Weight of the distance to the teacher's class scores.", low=0)
    teacher_tokens: float = _option(1.0, "Weight of how unlike the teacher's its tokens are to each other.", low=0)
    evaluate_every: int = _option(0, "Pictures between evaluations; 0: at the end alone.", low=0)
    evaluation_split: str = _option("val", "What is evaluated on.", choices=("val", "test"))
    evaluation_seed: int = _option(0, "Seed of the procedural pictures that are evaluated on.", low=0, high=EXACT_INT)
    evaluation_pictures: int = _option(500, "Pictures that are evaluated on; of a RefHuman folder the first ones, 0: all.", low=0)
    evaluation_batch: int = _option(25, "Pictures a forward in evaluation.", low=1, high=4_096)
    checkpoint_every: int = _option(200, "Steps between checkpoints.", low=1)
    log_every: int = _option(20, "Steps between lines of the log.", low=1)
    accumulate: int = _option(1, "Batches whose gradients are added up for one step.", low=1, high=4_096)
    device: str = _option("auto", "cpu, cuda, or auto: cuda where there is one.", choices=("auto", "cpu", "cuda"))
    dtype: str = _option("float32", "Number type of matrix products; tf32: float32 held, matrix units used, on CUDA.", choices=NUMBER_TYPES)
    threads: int = _option(0, "CPU threads; 0 keeps torch's own number.", low=0, high=1_024)
    workers: int = _option(0, "Processes that prepare pictures.", low=0, high=256)
    rendered: str = _option("", "Folder where procedural pictures are kept, drawn once for all runs.")
    tokenizer: str = _option("", "Folder of the text encoder's tokenizer; empty: the hub's own cache on this machine.")
    model: ModelArgs = field(default_factory=ModelArgs)
    whole: UniphdArgs = field(default_factory=UniphdArgs)
    optim: OptimArgs = field(default_factory=OptimArgs)
    loss: LossArgs = field(default_factory=LossArgs)

    def __post_init__(self) -> None:
        _check_fields(self)
        if self.whole.no_mask and self.loss.masks:
            raise UsageError("the model has no mask head (no_mask) and masks are to be trained; set masks false, or no_mask false.")
        if not self.is_procedural and self.evaluation_split == "test":
            raise UsageError("evaluation_split is 'test', which a RefHuman folder does not have; choose val.")

    @property
    def is_procedural(self) -> bool:
        return self.data.startswith("procedural")

    @property
    def level(self) -> int | None:
        """Of procedural data, the one that is evaluated on; None for a folder. Raises UsageError for a level that cannot be read."""
        levels = levels_of(self.data)
        return levels[-1] if levels else None

    @classmethod
    def small(cls, arch: str = "original", data: str = "procedural:0", **changes: Any) -> TrainArgs:
        """What two cores can train: small model, small-data optimiser, text prompts, no masks; with `changes`."""
        fitting = {"pictures": 8000, "model": SMALL_MODEL, "whole": SMALL_WHOLE, "optim": OptimArgs.preset("small")}
        return cls(**{"arch": arch, "data": data, "loss": LossArgs(masks=False), **fitting, **changes})

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; back by `of_json`."""
        found = dataclasses.asdict(self)
        found["whole"]["train_trigger"] = sorted(self.whole.train_trigger)
        return json.loads(json.dumps(found))

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> TrainArgs:
        """Read what `to_json` gave; what a later version added is passed over. Raises UsageError for values that cannot be."""
        try:
            parts = {name: kind(**_known(kind, values[name])) for name, kind in _PARTS.items()}
            return cls(**{**_known(cls, values), **parts})
        except (KeyError, TypeError, AttributeError) as error:
            said = f"these are no options of a training run ({shown(error)})"
            raise UsageError(f"{said}; give a folder that `humar-bench train` wrote.") from None


_PARTS = {"model": ModelArgs, "whole": UniphdArgs, "optim": OptimArgs, "loss": LossArgs}


def _known(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    return {option.name: values[option.name] for option in dataclasses.fields(kind) if option.name in values}


def with_settings(options: TrainArgs, settings: Iterable[str]) -> TrainArgs:
    """The options with every FIELD=VALUE, a field of `TrainArgs` or of one of its parts. Raises UsageError."""
    changes: dict[str, dict[str, Any]] = {part: {} for part in ("", *_PARTS)}
    for setting in settings:
        name, equals, text = (part.strip() for part in setting.partition("="))
        if not equals or not name or not text:
            raise UsageError(f"--set is {setting!r}; write FIELD=VALUE, such as enc_layers=4.")
        owners = [part for part in changes if name in _settable(part)]
        if not owners:
            near = difflib.get_close_matches(name, [each for part in changes for each in _settable(part)], n=2, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else "docs/training.md says where they are listed."
            raise UsageError(f"--set {name}: training has no option {name!r}; {hint}")
        for part in owners:
            changes[part][name] = frozenset(text.split()) if name == "train_trigger" else parse_value(name, text, _settable(part)[name])
    parts = {part: dataclasses.replace(getattr(options, part), **changes[part]) for part in _PARTS}
    return dataclasses.replace(options, **changes[""], **parts)


def _settable(part: str) -> dict[str, type]:
    """Fields of a part that one word can be, and their types."""
    fields = dataclasses.fields(_PARTS[part] if part else TrainArgs)
    return {each.name: type(each.default) for each in fields if type(each.default) in (bool, int, float, str, frozenset)}

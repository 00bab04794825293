"""The child's side of `fps --end-to-end`: pictures as files in, people in pixels of the pictures out, each stage as its user runs it.

Decode, resize, normalise, tokenise, text encoder, forward, post-process; with a device that has memory of its own also the copies to it
and back. Pictures are those of a folder, or made-up people as JPEG files in memory.

Shapes: B pictures of one item.
"""

from __future__ import annotations

import dataclasses
import io
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from humar_bench.args import Size
from humar_bench.data.example import SCRIBBLE_POINTS, SCRIBBLES, Example
from humar_bench.data.keypoints import NAMES
from humar_bench.data.people import ProceduralPeople
from humar_bench.data.transforms import fitting, resize, to_target
from humar_bench.devices.device import Device
from humar_bench.errors import MeasurementError, UsageError, one_line
from humar_bench.measures.pipeline import AFTER, BEFORE, MODEL, PipelineTimes, Stage, time_pipelines
from humar_bench.running.task import Task, failure, success
from humar_bench.subjects.registry import Architecture
from humar_bench.uniphd import Captions, Points, Scribbles, TextFeatures, check_prompt, padded_batch
from humar_bench.uniphd.postprocess import postprocess
from humar_bench.uniphd.text_encoders import WordPieceTokenizer, load_tokenizer

MADE_UP, LEVEL, LARGER, QUALITY = 8, 1, 2, 90  # pictures, the level of the people in them, how much larger than the model takes, of JPEG
MOST_PICTURES = 1_000  # of a folder; more would only be read into the same figures
MOST_NAMED = 20
BUDGET_SHARE = 0.5  # of the run's budget for an architecture: this is one process, without a verdict
PUBLISHED = "a published tokenizer"
OWN_WORDS = "a word-piece tokenizer of the captions' own words"


@dataclass(frozen=True)
class Picture:
    """One encoded picture, the sentence about it and its scribbles in pixels; the file is a path, or bytes in memory."""

    file: Path | bytes
    caption: str
    scribbles: np.ndarray  # [5, 12, 2]
    size: Size = (0, 0)  # (height, width)

    def open(self) -> np.ndarray:
        """uint8 [H, W, 3], whatever the file's colours. Raises UsageError."""
        from PIL import Image

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(self.file) if isinstance(self.file, bytes) else self.file) as picture:
                    return np.array(picture.convert("RGB"))
        except Exception as error:  # its decoders raise whatever they do
            where = "made up" if isinstance(self.file, bytes) else self.file
            raise UsageError(f"the picture {where} cannot be read: {one_line(error)}.") from None


@dataclass
class Item:
    """B pictures on their way through the stages; each stage fills in what the next one needs."""

    pictures: Sequence[Picture]
    examples: list[Example] = field(default_factory=list)
    orig_sizes: list[Size] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    scribbles: list[Tensor] = field(default_factory=list)
    new_captions: list[str] = field(default_factory=list)  # those that are tokenised and encoded
    batch: Any = None
    prompt: Any = None
    outputs: Any = None
    found: Any = None

    @property
    def captions(self) -> list[str]:
        return [each.caption for each in self.pictures]


class Cache:
    """Text features of every caption met so far, on the host's side a dictionary."""

    def __init__(self) -> None:
        self.features: dict[str, TextFeatures] = {}

    def missing(self, captions: Sequence[str]) -> list[str]:
        return [each for each in dict.fromkeys(captions) if each not in self.features]

    def of(self, captions: Sequence[str]) -> TextFeatures:
        """Features of B captions, padded to the longest: [B, T, D], [B, T], [B, D]."""
        each = [self.features[caption] for caption in captions]
        longest = max(one.features.shape[1] for one in each)
        short = [longest - one.features.shape[1] for one in each]
        return TextFeatures(
            torch.cat([F.pad(one.features, (0, 0, 0, fewer)) for one, fewer in zip(each, short, strict=True)]),
            torch.cat([F.pad(one.padding, (0, fewer), value=True) for one, fewer in zip(each, short, strict=True)]),
            torch.cat([one.sentence for one in each]),
        )


def measure_end_to_end(task: Task, device: Device) -> dict[str, dict[str, Any]]:
    """Every architecture in this one process, on the same pictures in turn. Raises UsageError where no picture can be read."""
    asked = task.plan
    pictures, unreadable = pictures_of(task, asked.get("pictures"), asked.get("captions") or (), asked.get("point"))
    size = min(task.workload.batch, len(pictures))
    if size < task.workload.batch:
        raise UsageError(f"batch is {task.workload.batch} and {len(pictures)} pictures can be read; take a smaller batch or more pictures.")
    items = [pictures[at : at + size] for at in range(0, len(pictures) - size + 1, size)]
    results: dict[str, dict[str, Any]] = {}
    pipelines, models, about = {}, {}, {}
    for architecture in task.architectures:
        task.tell("build", architecture.name)
        try:
            models[architecture.name] = model = task.model(architecture, device.name)
            own = Pipeline(task, architecture, model, device, asked, pictures)
            own.check(items[0])
            pipelines[architecture.name], about[architecture.name] = own.stages(), own
        except Exception as error:
            results[architecture.name] = failure(error, architecture.name)
    times = time_pipelines(
        pipelines, items, device, budget_s=BUDGET_SHARE * task.run.budget, seed=task.run.seed, max_rounds=task.run.max_runs,
        tell=lambda stage, name: task.tell(stage, name),
    ) if pipelines else {}
    for name, found in times.items():
        results[name] = _result(task, models[name], found, name, {
            **about[name].measured(), "pictures": len(pictures), "source": "folder" if asked.get("pictures") else "made up",
            "unreadable": unreadable, "original_sizes": sorted({each.size for each in pictures}),
        })
    return results


def _result(task: Task, model: Any, found: PipelineTimes, name: str, about: Mapping[str, Any]) -> dict[str, Any]:
    if found.error is not None:
        return failure(found.error, name)
    return success(model, {**found.measured(), **about, "batch": task.workload.batch, "threads": torch.get_num_threads()})


# Pictures ---------------------------------------------------------------------------------------------------------------------------


def pictures_of(
    task: Task, folder: str | None, captions: Sequence[str], point: Sequence[float] | None
) -> tuple[list[Picture], list[dict[str, str]]]:
    """The pictures that can be read, each opened once; and name and reason of each that cannot. Raises UsageError where none can."""
    height, width = (LARGER * side for side in task.workload.image_size)
    people = ProceduralPeople("test", LEVEL, task.run.seed, MADE_UP, (height, width))
    if folder is None:
        made = [people[index] for index in range(MADE_UP)]
        return [Picture(_jpeg(each.picture), _caption(captions, index, each.caption), each.scribbles, each.size)
                for index, each in enumerate(made)], []
    paths = picture_files(folder)
    found, unreadable = [], []
    for index, path in enumerate(paths):
        picture = Picture(path, _caption(captions, index, people.referred(index % MADE_UP).sentence), np.zeros((0, 2), np.float32))
        try:
            height, width = picture.open().shape[:2]
            place = (width / 2, height / 2) if point is None else tuple(point)
            scribbles = np.broadcast_to(np.array(place, np.float32), (SCRIBBLES, SCRIBBLE_POINTS, 2)).copy()
            check_prompt(Points(torch.tensor([place])), [(height, width)])
            found.append(dataclasses.replace(picture, scribbles=scribbles, size=(height, width)))
        except UsageError as error:
            unreadable.append({"name": path.name, "reason": str(error)})
    if not found:
        raise UsageError(f"none of the {len(paths)} pictures in {folder} can be used: {unreadable[0]['reason']}")
    return found, unreadable[:MOST_NAMED]


def picture_files(folder: str | os.PathLike) -> list[Path]:
    """Files of a folder that are called like pictures, by name. Raises UsageError where it is no folder or has none."""
    from PIL import Image

    known = Image.registered_extensions()
    try:
        paths = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in known and path.is_file())
    except OSError as error:
        raise UsageError(f"--pictures {str(folder)!r} cannot be read: {error.strerror}; name a folder with pictures.") from None
    if not paths:
        raise UsageError(f"--pictures {str(folder)!r} holds no file that is called like a picture, such as one.jpg; name another folder.")
    return paths[:MOST_PICTURES]


def _caption(captions: Sequence[str], index: int, made_up: str) -> str:
    return captions[index % len(captions)] if captions else made_up


def _jpeg(picture: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


# Stages -----------------------------------------------------------------------------------------------------------------------------


class Pipeline:
    """What one architecture's pictures go through."""

    def __init__(
        self, task: Task, architecture: Architecture, model: Any, device: Device, asked: Mapping[str, Any], pictures: Sequence[Picture]
    ) -> None:
        self.task, self.architecture, self.model, self.device = task, architecture, model, device
        self.prompt, self.longest = task.workload.prompt, max(task.workload.image_size)
        self.apart = device.kind == "cuda"  # it has memory of its own
        self.cache = Cache() if asked.get("cache_text") else None
        self.encoded, self.lengths = 0, set()
        if self.prompt == "text":
            folder = asked.get("tokenizer")
            own = task.subject.of(architecture).workload.text_encoder
            encoder = model.text_encoder
            self.tokenizer_name = PUBLISHED if folder else OWN_WORDS
            words = [each.caption for each in pictures]
            self.tokenizer = load_tokenizer(folder, own) if folder else WordPieceTokenizer(words, encoder.pad_id)
            if folder and self.tokenizer.vocabulary > encoder.vocabulary:
                raise UsageError(
                    f"the tokenizer in {folder} has {self.tokenizer.vocabulary:,} tokens and {own} takes {encoder.vocabulary:,}; give its "
                    "own."
                )

    def stages(self) -> list[Stage]:
        """In order; `Item` in, `Item` out."""
        named: list[tuple[str, Callable[[Item], Item], str]] = [
            ("decode", self.decode, BEFORE), ("resize", self.resize, BEFORE), ("normalise", self.normalise, BEFORE),
        ]
        if self.prompt == "text":
            named.append(("tokenise", self.tokenise, BEFORE))
        if self.apart:
            named.append(("copy to the device", self.upload, MODEL))
        if self.prompt == "text":
            named.append(("text encoder", self.encode, MODEL))
        named += [("forward", self.forward, MODEL), ("post-process", self.finish, AFTER)]
        if self.apart:
            named.append(("copy to the host", self.download, AFTER))
        return [Stage(name, _without_gradients(work), line) for name, work, line in named]

    def check(self, pictures: Sequence[Picture]) -> None:
        """One pass; its outputs have to be those of the whole model on pictures of their size. Raises MeasurementError."""
        item: Any = pictures
        for stage in self.stages():
            item = stage.work(item)
        subject = self.task.subject.of(self.architecture)
        height, width = item.batch.images.shape[-2:]
        workload = dataclasses.replace(subject.workload, image_size=(height, width))
        type(subject)(subject.args, workload).check(item.outputs, name=self.architecture.name)
        if len(item.found) != len(pictures):
            raise MeasurementError(f"{self.architecture.name} gave people for {len(item.found)} of {len(pictures)} pictures.")

    def measured(self) -> dict[str, Any]:
        told: dict[str, Any] = {"longest": self.longest, "cached_text": self.cache is not None, "encoded_captions": self.encoded}
        return {**told, "tokenizer": self.tokenizer_name, "tokens": sorted(self.lengths)} if self.prompt == "text" else told

    def decode(self, pictures: Sequence[Picture]) -> Item:
        item = Item(pictures)
        for each in pictures:
            picture = each.open()
            item.examples.append(_nobody(picture, each))
            item.orig_sizes.append(picture.shape[:2])
        return item

    def resize(self, item: Item) -> Item:
        item.examples = [resize(each, fitting(each.size, self.longest, self.longest)) for each in item.examples]
        return item

    def normalise(self, item: Item) -> Item:
        both = [to_target(each) for each in item.examples]
        item.images, item.scribbles = [image for image, _ in both], [target.scribble for _, target in both]
        item.batch = padded_batch(item.images)
        if self.prompt != "text":
            scribbles = Scribbles(torch.stack(item.scribbles))
            item.prompt = scribbles if self.prompt == "scribble" else scribbles.point()
        return item

    def tokenise(self, item: Item) -> Item:
        item.new_captions = item.captions if self.cache is None else self.cache.missing(item.captions)
        item.prompt = Captions(*self.tokenizer(item.new_captions)) if item.new_captions else None
        if item.prompt is not None:
            self.lengths.add(item.prompt.ids.shape[1])
        return item

    def upload(self, item: Item) -> Item:
        item.batch = type(item.batch)(*(each.to(self.device.name, non_blocking=True) for each in item.batch))
        if item.prompt is not None:
            item.prompt = type(item.prompt)(*(each.to(self.device.name, non_blocking=True) for each in item.prompt))
        return item

    def encode(self, item: Item) -> Item:
        if item.prompt is not None:
            self.encoded += len(item.new_captions)
            item.prompt = TextFeatures(*self.model.text_encoder(*item.prompt))
        if self.cache is not None:
            for index, caption in enumerate(item.new_captions):
                self.cache.features[caption] = TextFeatures(*(each[index : index + 1] for each in item.prompt))
            item.prompt = self.cache.of(item.captions)
        return item

    def forward(self, item: Item) -> Item:
        images = item.batch.images.to(self.task.dtype)
        item.outputs = self.model(images, item.batch.padding, item.prompt, item.batch.sizes)
        return item

    def finish(self, item: Item) -> Item:
        sizes = [tuple(image.shape[1:]) for image in item.images]
        item.found = postprocess(item.outputs, sizes, item.orig_sizes)
        return item

    def download(self, item: Item) -> Item:
        item.found = [each.to("cpu") for each in item.found]
        return item


def _nobody(picture: np.ndarray, about: Picture) -> Example:
    """An example whose people are not known."""
    height, width = picture.shape[:2]
    boxes, keypoints, area = (np.zeros(shape, np.float32) for shape in ((0, 4), (0, len(NAMES), 3), (0,)))
    masks = np.zeros((0, height, width), bool)
    return Example(picture, boxes, keypoints, area, masks, about.scribbles, about.caption, 0, (height, width))


def _without_gradients(work: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Inference mode holds for one thread, and each line of stages has its own."""

    def run(value: Any) -> Any:
        with torch.inference_mode():
            return work(value)

    return run

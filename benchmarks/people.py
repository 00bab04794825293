"""What the pictures of `humar_bench.data` cost: procedural people a second, and a training example of RefHuman step by step.

    python benchmarks/people.py

CPU time of this process on one thread; the least of several rounds, since others on the machine only ever add to it.
"""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from humar_bench.data import transforms
from humar_bench.data.draws import Draws, key_of
from humar_bench.data.example import Example
from humar_bench.data.export import rectangles
from humar_bench.data.people import SIZE, ProceduralPeople
from humar_bench.data.prompts import draw_scribbles
from humar_bench.data.refhuman import decode_mask
from humar_bench.data.scenes import LEVELS

ROUNDS, PICTURES = 7, 100
PHOTO, RESIZED = (480, 640), (360, 480)  # sizes of a picture and of what it is resized to


def least_s(work: Callable[[], object]) -> float:
    """CPU seconds of `work`, the least of the rounds."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def pictures_a_second(level: int) -> float:
    people = ProceduralPeople("train", level, length=PICTURES)
    return PICTURES / least_s(lambda: [people[index] for index in range(PICTURES)])


def steps(example: Example) -> dict[str, Callable[[], object]]:
    """What happens to one example between the disk and the model, and another way to resize."""
    draws = Draws(key_of("train", "benchmark"))
    file = io.BytesIO()
    Image.fromarray(example.picture).save(file, "JPEG", quality=90)
    polygons, planar = rectangles(example.masks[0]), torch.from_numpy(example.picture).permute(2, 0, 1)[None].contiguous()
    photo = Image.fromarray(example.picture)
    away = dataclasses.replace(example, scribbles=example.scribbles * 0)
    return {
        "decode the picture (JPEG)": lambda: np.array(Image.open(io.BytesIO(file.getvalue())).convert("RGB")),
        "decode the mask": lambda: decode_mask(polygons, example.size),
        "flip": lambda: transforms.flip(example),
        "resize everything": lambda: transforms.resize(example, RESIZED),
        "resize the picture only, Pillow (what is used)": lambda: photo.resize(RESIZED[::-1], Image.Resampling.BILINEAR),
        "resize the picture only, torch, uint8": lambda: F.interpolate(planar, size=RESIZED, mode="bilinear", antialias=True),
        "resize the picture only, torch, float32": lambda: F.interpolate(planar.float(), size=RESIZED, mode="bilinear", antialias=True),
        "draw a scribble anew": lambda: transforms.keep_inside(away, draws, 0),
        "of that, the curve": lambda: draw_scribbles(draws, example.masks[0], 1),
        "normalise": lambda: transforms.to_target(example),
        "all of training's transforms": lambda: transforms.for_training(example, draws),
        "all of evaluation's": lambda: transforms.for_evaluation(example),
    }


def differing(picture: np.ndarray) -> float:
    """The share of values that torch's filter for bytes makes different from Pillow's, over sizes of the training transform."""
    planar, found = torch.from_numpy(picture).permute(2, 0, 1)[None], []
    for shorter in transforms.SHORTER_SIDES:
        size = transforms.fitting(picture.shape[:2], shorter, transforms.LONGEST)
        ours = np.array(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR))
        theirs = F.interpolate(planar, size=size, mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()
        found.append((ours != theirs).mean())
    return float(np.mean(found))


def main() -> None:
    torch.set_num_threads(1)
    for level in range(len(LEVELS)):
        print(f"level {level}: {pictures_a_second(level):.0f} pictures of {SIZE} px a second")
    example = ProceduralPeople("train", 2, size=PHOTO)[0]
    for name, work in steps(example).items():
        work()
        print(f"{name}: {1000 * least_s(lambda work=work: [work() for _ in range(10)]) / 10:.2f} ms")
    print(f"torch's bytes differ from Pillow's in {100 * differing(example.picture):.2f} % of the values")


if __name__ == "__main__":
    main()

"""The child process of `humar-bench accuracy`: one training run, the training ahead of the shared front end, or the mean pose.

Shapes: I entries, K keypoints.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from humar_bench.errors import HumarBenchError, MeasurementError, UsageError, one_line
from humar_bench.records.record import failed_result
from humar_bench.running.worker import serve
from humar_bench.studies.accuracy.kept import WEIGHTS, digest, short
from humar_bench.studies.accuracy.plan import FLOOR
from humar_bench.studies.accuracy.scores import DIGITS, Scores
from humar_bench.training.picture_statistics import BEST, PictureStatistics
from humar_bench.training.train_args import TrainArgs

WARM = "warm"  # a request's role beside those of a job
POSES = 2000  # of the training people, that the mean pose is the mean of
SAME_AP = 2e-3  # average precision from rounded OKS and from the evaluation itself


def run_training(options: TrainArgs, folder: Path, tell: Any, *, teaches: bool = False, teacher_arch: str | None = None) -> dict[str, Any]:
    """Train, or go on where an earlier process of the same study stopped; what the record holds. A run that `teaches` keeps its weights."""
    from humar_bench.training.loop import train
    from humar_bench.training.run_folder import RUN, read_evaluation, read_log
    from humar_bench.training.step import build_model

    there = os.path.exists(folder / RUN)
    if there and not can_go_on(folder, options):
        shutil.rmtree(folder)
        there = False
    summary = train(options, folder, resume=there, tell=tell, teacher_arch=teacher_arch)
    curve = [line for line in read_log(folder) if line["kind"] == "evaluation"]
    found = {
        "pictures": summary.pictures, "parameters": sum(each.numel() for each in build_model(options).parameters()),
        "curve": [{name: line[name] for name in ("pictures", "wall_s", "cpu_s", "ap", "oks")} for line in curve],
        **of_pictures(read_evaluation(folder, summary.steps)), "resumed": there,
    }
    if options.front_end:
        found["front_end"] = short(digest(options.front_end))
    made = Scores(found).accuracy()
    if abs(made - curve[-1]["ap"]) > SAME_AP:
        raise MeasurementError(f"the pictures make an average precision of {made:.4f} and the evaluation said {curve[-1]['ap']:.4f}.")
    for old in () if teaches else folder.glob(WEIGHTS):  # finished runs are not gone on with, and many of them are large
        old.unlink()
    return found


def can_go_on(folder: Path, options: TrainArgs) -> bool:
    """Whether a run's folder holds the beginning of this very run. One of another study, of a folder that was moved, or whose weights are
    gone or cannot be read, is made anew."""
    from humar_bench.training.run_folder import read_checkpoint, read_options, read_state

    try:
        state = read_state(folder)
        if state is not None:
            read_checkpoint(folder, state)
        return read_options(folder) == options
    except UsageError:
        return False


def of_pictures(statistics: PictureStatistics) -> dict[str, Any]:
    """Score and OKS of the best-scored pose of every entry that has somebody to find, and whose picture it is."""
    column = statistics.ratios.index(f"{BEST}/mean OKS")
    counts = statistics.below[:, column] > 0
    first = statistics.coco["keypoints"].rank == 0
    score = np.zeros(len(counts))
    score[statistics.coco["keypoints"].entry[first]] = statistics.coco["keypoints"].score[first]
    picture = np.unique(statistics.picture[counts], return_inverse=True)[1]
    shared = len(np.unique(picture)) < len(picture)
    return {
        "score": score[counts].round(DIGITS).tolist(), "oks": statistics.above[counts, column].round(DIGITS).tolist(),
        "picture": picture.tolist() if shared else None,
    }


# The mean pose --------------------------------------------------------------------------------------------------------------------


def mean_pose_scores(options: TrainArgs, tell: Any) -> dict[str, Any]:
    """What the mean pose of the training people scores at the right place and scale: centre and size of each person's own box."""
    from humar_bench.training.batches import evaluated, evaluation_source, open_data
    from humar_bench.training.similarity import keypoint_sigmas

    source = open_data(options, "train", length=POSES, seed=0)
    number = min(POSES, len(source))
    pose = mean_pose((source[index] for index in range(number)), lambda done: tell({"share": 0.6 * done / number}))
    people = evaluation_source(options)
    of = evaluated(options, people)
    oks = []
    for index in range(of):
        example = people[index]
        if len(example.keypoints) and (example.keypoints[0, :, 2] > 0).any():
            oks.append(oks_of(placed(pose, example.boxes[0]), example.keypoints[0], float(example.area[0]), keypoint_sigmas(len(pose))))
        tell({"share": 0.6 + 0.4 * index / of})
    return {"pictures": 0, "parameters": 0, "curve": [], "score": [1.0] * len(oks), "oks": [round(each, DIGITS) for each in oks]}


def mean_pose(examples: Any, tell: Any = lambda done: None) -> np.ndarray:
    """Mean over people of each visible keypoint's place, from the middle of the box and in units of the box's size [K, 2]."""
    total = number = 0.0
    for done, example in enumerate(examples, 1):
        if len(example.keypoints):
            middle, size = _frame(example.boxes[0])
            seen = example.keypoints[0, :, 2:] > 0
            total, number = total + seen * (example.keypoints[0, :, :2] - middle) / size, number + seen
        tell(done)
    return np.asarray(total / np.maximum(number, 1))


def placed(pose: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The pose [K, 2] in pixels, in a corner box."""
    middle, size = _frame(box)
    return middle + size * pose


def _frame(box: np.ndarray) -> tuple[np.ndarray, float]:
    """Middle and size (root of the area) of a corner box."""
    low, high = np.asarray(box[:2], float), np.asarray(box[2:], float)
    return (low + high) / 2, float(np.sqrt(np.prod(np.maximum(high - low, 1e-6))))


def oks_of(points: np.ndarray, truth: np.ndarray, area: float, sigmas: Any) -> float:
    """COCO's OKS of one pose: points [K, 2], truth [K, 3] (x, y, v)."""
    seen = truth[:, 2] > 0
    squared = ((points - truth[:, :2]) ** 2).sum(-1)
    near = np.exp(-squared / (2 * (2 * np.array(sigmas)) ** 2) / (area + np.spacing(1)))
    return float(near[seen].mean())


# As a process ---------------------------------------------------------------------------------------------------------------------


def measured(request: Mapping[str, Any], tell: Any) -> dict[str, Any]:
    options = TrainArgs.of_json(request["options"])
    if request["role"] == WARM:
        from humar_bench.training.warm_start import warm_start

        found = warm_start(options, request["front_end"], tell=lambda event: tell({"share": event["step"] / event["steps"]}))
        return {"oks": found.oks, "digest": short(digest(request["front_end"]))}
    if request["role"] == FLOOR:
        return mean_pose_scores(options, tell)
    return run_training(
        options, Path(request["folder"]), lambda event: tell({"share": event["step"] / event.get("steps", np.inf)}),
        teaches=request.get("teaches", False), teacher_arch=request.get("teacher_arch"),
    )


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """{"environment", "result"}, or one sentence: `usage_error` where asking was wrong."""
    told = _Teller(request)
    try:
        found = measured(request, told)
    except UsageError as error:
        return {"usage_error": str(error)}
    except Exception as error:
        reason = str(error) if isinstance(error, HumarBenchError) else f"{request['name']} raised {one_line(error)}."
        kind = "not finite" if "not finite" in reason or "NaN" in reason else "error"
        return {"environment": _environment(request), "result": failed_result(kind, reason)}
    return {"environment": _environment(request), "result": {"status": "ok", "kind": "", "reason": "", "built": {}, "measured": found}}


def _environment(request: Mapping[str, Any]) -> dict[str, Any]:
    from humar_bench.devices.environment import environment
    from humar_bench.devices.opening import open_device

    return environment(open_device(request["options"]["device"]))


class _Teller:
    """Says on the child's pipe how far it is, at most a hundred times."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.pipe, self.name, self.said = request.get("events"), request["name"], -1

    def __call__(self, event: Mapping[str, Any]) -> None:
        percent = int(100 * min(1.0, event["share"]))
        if percent > self.said and self.pipe is not None:
            self.said = percent
            line = {"stage": "training", "architecture": self.name, "share": percent / 100}
            with contextlib.suppress(OSError):  # a parent that is gone is no reason to fail
                os.write(self.pipe, json.dumps(line).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(serve(answer))

"""How well a model finds the person that was meant, on a COCO-layout ground truth with one person an entry (RefHuman).

Two readings stand beside each other. COCO's own table over all detections is what the paper reports: the 19 queries that were not meant
count as wrong wherever their scores rank. Of the best-scored query alone, which is what a user gets: AP, mean OKS, PCKh, and the masks'
overall and mean IoU. IoU and OKS are faster-coco-eval's; an entry has one person at most, so what COCO's matching makes of them is short
enough to be kept for every entry (`average_precision`), which the library does not; its tables are equal (a test).

Shapes: N detections of an entry, K keypoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from humar_bench.data.targets import Target
from humar_bench.errors import UsageError
from humar_bench.training.average_precision import COCO_ROWS, Found, Matched
from humar_bench.training.picture_statistics import BEST, PictureStatistics
from humar_bench.training.similarity import keypoint_sigmas
from humar_bench.uniphd.postprocess import PERSON, Detections

EARS, COCO_KEYPOINTS = (3, 4), 17  # their distance is PCKh's measure of a head; other conventions have no ears
OF_HEAD = 0.5
MASK_IOUS = (0.5, 0.6, 0.7, 0.8, 0.9)
IOU_EPSILON = 1e-6  # of the published mean IoU


@dataclass(frozen=True)
class _Found:
    """The detections of one entry on the host, the best score first."""

    scores: np.ndarray  # [N]
    boxes: np.ndarray  # [N, 4] (x, y, width, height)
    keypoints: np.ndarray  # [N, 3K]
    masks: list[dict] | None  # run lengths: N, or 1 of the best-scored


class Evaluator:
    """Takes detections entry by entry, then evaluates them together.

    ground_truth: COCO layout (`images`, `annotations`), at most one annotation an entry of `images`; it is not changed. Raises
    UsageError when it does not look like that.
    """

    def __init__(self, ground_truth: Mapping[str, Any]) -> None:
        self.images = {image["id"]: image for image in ground_truth["images"]}
        self.people: dict[int, dict] = {}
        for annotation in ground_truth["annotations"]:
            entry = annotation["image_id"]
            if entry in self.people:
                raise UsageError(f"entry {entry} has more than one annotation; a sentence means one person, so give one entry for each.")
            if entry not in self.images:
                raise UsageError(f"annotation {annotation['id']} belongs to entry {entry}, which images does not have.")
            self.people[entry] = annotation
        numbers = {len(annotation["keypoints"]) // 3 for annotation in self.people.values()}
        if len(numbers) != 1:
            raise UsageError(f"the annotations have {sorted(numbers)} keypoints; there must be some, all with the same number.")
        self.sigmas = np.array(keypoint_sigmas(numbers.pop()))
        self._found: dict[int, _Found] = {}

    def add(self, image_id: int, detections: Detections) -> None:
        """Take an entry's detections, on any device. Masks become run lengths at once. Raises UsageError for an entry that is not there."""
        from faster_coco_eval.core import mask as run_lengths

        if image_id not in self.images:
            raise UsageError(f"there is no entry {image_id} in the ground truth.")
        found = detections.to("cpu")
        order = found.scores.argsort(descending=True, stable=True)
        boxes = torch.cat((found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]), dim=1)
        masks = None
        if found.masks is not None:  # one mask at a time stays in the cache while it is read by columns
            pixels = found.masks.view(torch.uint8).numpy()
            chosen = order.tolist() if len(pixels) == len(order) else range(len(pixels))
            masks = [run_lengths.encode(np.asfortranarray(pixels[at])) for at in chosen]
        scores, boxes, keypoints = (each[order].double().numpy() for each in (found.scores, boxes, found.keypoints))
        self._found[image_id] = _Found(scores, boxes, keypoints, masks)

    def parts(self) -> dict[int, _Found]:
        """What was added, for a process that gathers those of others."""
        return self._found

    def merge(self, parts: Mapping[int, _Found]) -> None:
        """Take what another process added."""
        self._found |= parts

    def statistics(self) -> PictureStatistics:
        """Match everything. Raises UsageError where an entry has no detections."""
        entries = sorted(self.images)
        if missing := [entry for entry in entries if entry not in self._found]:
            raise UsageError(f"{len(missing)} of {len(entries)} entries have no detections, such as {missing[0]}; run the model on all.")
        found = [self._found[entry] for entry in entries]
        has_masks = all(each.masks is not None for each in found) and all("segmentation" in person for person in self.people.values())
        masks = [each.masks for each in found] if has_masks else None
        every_mask = masks is not None and all(len(each) == len(of.scores) for each, of in zip(masks, found, strict=True))
        truth = _coco(list(self.images.values()), list(self.people.values()))
        values = {
            "bbox": [each.boxes.tolist() for each in found],
            **({"segm": masks} if every_mask else {}),
            "keypoints": [each.keypoints.tolist() for each in found],
        }
        coco = {}
        for kind, of_entries in values.items():
            key, most = "segmentation" if kind == "segm" else kind, max(row.most for row in COCO_ROWS[kind])
            rows = [
                {"image_id": entry, "category_id": PERSON, "score": score, key: value}
                for entry, each, of_entry in zip(entries, found, of_entries, strict=True)
                for score, value in list(zip(each.scores.tolist(), of_entry, strict=True))[:most]
            ]
            coco[kind] = match(truth, rows, kind, self.sigmas)
        columns = self._of_best(truth, entries, found, masks)
        above, below = (np.stack([column[side] for column in columns.values()], axis=1) for side in (0, 1))
        names = [self.images[entry].get("file_name", entry) for entry in entries]
        picture = np.unique([str(name) for name in names], return_inverse=True)[1]
        return PictureStatistics(picture, coco, tuple(columns), above, below)

    def _of_best(
        self, truth: Any, entries: list[int], found: list[_Found], masks: list[list[dict]] | None
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Metrics of each entry's best-scored query as (what is summed, what it is divided by), each [I]."""
        points = np.stack([each.keypoints[0] for each in found]).reshape(len(found), -1, 3)[..., :2]
        people = [self.people.get(entry) for entry in entries]
        nobody = {"keypoints": np.zeros(3 * len(self.sigmas)), "area": 0.0}
        keypoints = np.array([(person or nobody)["keypoints"] for person in people], dtype=float).reshape(len(found), -1, 3)
        area = np.array([(person or nobody)["area"] for person in people], dtype=float)
        columns = pose_columns(points, keypoints, area, self.sigmas)
        if masks is not None:
            columns |= _mask_columns([each[0] for each in masks], [None if person is None else truth.annToRLE(person) for person in people])
        return columns


def pose_columns(points: np.ndarray, truth: np.ndarray, area: np.ndarray, sigmas: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """OKS and PCKh of one pose an entry, also by keypoint (numbered from 1), as (what is summed, what it is divided by), each [I].

    points [I, K, 2] and truth [I, K, 3] (x, y, v) in pixels, area [I] in square pixels, sigmas [K]. Entries without a labelled keypoint
    count nowhere, entries without both ears not in PCKh: a keypoint is right within half their distance (Andriluka et al. 2014 measure the
    head otherwise; this is UniPHD's).
    """
    labelled = truth[..., 2] > 0
    squared = ((points - truth[..., :2]) ** 2).sum(-1)
    near = np.where(labelled, np.exp(-squared / (2 * (2 * sigmas) ** 2) / (area[:, None] + np.spacing(1))), 0.0)
    number = labelled.sum(1)
    columns = {f"{BEST}/mean OKS": (near.sum(1) / np.maximum(number, 1), (number > 0).astype(float))}
    per_keypoint = {f"{BEST}/OKS of keypoint {k + 1}": (near[:, k], labelled[:, k].astype(float)) for k in range(len(sigmas))}
    if len(sigmas) == COCO_KEYPOINTS:
        ears = truth[:, EARS]
        counted = labelled & (ears[..., 2] > 0).all(1)[:, None]
        head = np.linalg.norm(ears[:, 0, :2] - ears[:, 1, :2], axis=-1)
        right = counted & (np.sqrt(squared) <= OF_HEAD * head[:, None])
        columns[f"{BEST}/PCKh"] = (right.sum(1).astype(float), counted.sum(1).astype(float))
        per_keypoint |= {
            f"{BEST}/PCKh of keypoint {k + 1}": (right[:, k].astype(float), counted[:, k].astype(float)) for k in range(len(sigmas))
        }
    return columns | per_keypoint


def _mask_columns(masks: Sequence[dict], truth: Sequence[dict | None]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Overall IoU, mean IoU and precision at IoU of one mask an entry, all run lengths; entries without a person count nowhere."""
    from faster_coco_eval.core import mask as run_lengths

    shared, together = np.zeros((2, len(masks)))
    for at, (mask, wanted) in enumerate(zip(masks, truth, strict=True)):
        if wanted is not None:
            shared[at] = run_lengths.area(run_lengths.merge([mask, wanted], intersect=True))
            together[at] = run_lengths.area(run_lengths.merge([mask, wanted]))
    there = np.array([wanted is not None for wanted in truth], dtype=float)
    iou = (shared + IOU_EPSILON) / (together + IOU_EPSILON) * there
    columns = {f"{BEST}/oIoU": (shared, together), f"{BEST}/mIoU": (iou, there)}
    return columns | {f"{BEST}/precision at IoU {limit}": ((iou > limit).astype(float), there) for limit in MASK_IOUS}


def match(truth: Any, results: list[dict], kind: str, sigmas: np.ndarray) -> Matched:
    """Match COCO results of one kind (bbox, segm, keypoints) to the people of a `COCO` that has at most one an entry.

    results: by entry in the order of their ids, an entry's best score first, no more than COCO's limit for the kind.
    """
    library = evaluate(truth, results, kind, sigmas)
    entries = library.params.imgIds
    number = {entry: at for at, entry in enumerate(entries)}
    people = {each["image_id"]: each for each in truth.dataset["annotations"]}
    overlaps = [np.reshape(library.ious[entry, PERSON], -1) for entry in entries if entry in people]
    entry = np.array([number[each["image_id"]] for each in results])
    overlap = np.full(len(results), -1.0)
    overlap[np.array([each["image_id"] in people for each in results])] = np.concatenate(overlaps)
    somebody = [people.get(each, {"area": 0.0, "ignore": 1}) for each in entries]
    found = Found(
        entry=entry,
        score=np.array([each["score"] for each in results]),
        size=np.array([each["area"] for each in results], dtype=float),
        overlap=overlap,
        person_size=np.array([each["area"] for each in somebody], dtype=float),
        person_counts=np.array([not each["ignore"] for each in somebody]),
        crowd=np.array([bool(each.get("iscrowd")) for each in somebody]),
    )
    return Matched.of(found, dict(zip(library.params.areaRngLbl, library.params.areaRng, strict=True)))


def evaluate(truth: Any, results: list[dict], kind: str, sigmas: np.ndarray | None = None) -> Any:
    """The library's evaluation of one kind after its `evaluate`; it writes each result's area into `results`."""
    from faster_coco_eval import COCOeval_faster

    library = COCOeval_faster(truth, truth.loadRes(results), kind, kpt_oks_sigmas=sigmas)
    library.params.catIds = [PERSON]
    library.evaluate()
    return library


def _coco(images: list[dict], annotations: list[dict]) -> Any:
    """The library's `COCO` of copies: its evaluation writes into annotations."""
    from faster_coco_eval import COCO

    counted = [
        {"iscrowd": 0, "num_keypoints": sum(v > 0 for v in each["keypoints"][2::3]), **each, "category_id": PERSON} for each in annotations
    ]
    return COCO({"images": images, "annotations": counted, "categories": [{"id": PERSON, "name": "person"}], "info": {}})


def ground_truth_of(targets: Iterable[Target]) -> dict[str, list[dict]]:
    """COCO layout of targets in pixels of their original pictures, an entry for each; masks are enlarged as masks are (nearest).

    Raises UsageError for a target without `orig_size`, or with more than one person.
    """
    from faster_coco_eval.core import mask as run_lengths

    images, annotations = [], []
    for target in targets:
        if target.orig_size is None:
            raise UsageError(f"target {target.image_id} has no orig_size; boxes and keypoints cannot be told in pixels.")
        if len(target.labels) > 1:
            raise UsageError(f"target {target.image_id} has {len(target.labels)} people; give one target for each.")
        height, width = target.orig_size
        images.append({"id": target.image_id, "height": height, "width": width})
        for person in range(len(target.labels)):
            cx, cy, w, h = target.boxes[person].tolist()
            points, visible = target.keypoints[person].split((2 * target.num_keypoints, target.num_keypoints))
            points = points.view(-1, 2) * torch.tensor([width, height])
            annotation = {
                "id": len(annotations) + 1,
                "image_id": target.image_id,
                "bbox": [(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height],
                "area": target.area[person].item() * width * height,
                "keypoints": torch.cat((points, visible[:, None]), dim=1).flatten().tolist(),
            }
            if target.masks is not None:
                mask = F.interpolate(target.masks[person][None, None].float(), size=target.orig_size, mode="nearest")[0, 0]
                annotation["segmentation"] = run_lengths.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
            annotations.append(annotation)
    return {"images": images, "annotations": annotations}

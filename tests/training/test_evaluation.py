"""The evaluation against the golden statistics, against the library on other sets, and its intervals."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch

from humar_bench.data.targets import Target
from humar_bench.errors import UsageError
from humar_bench.training import evaluation
from humar_bench.training.average_precision import BEST_ROWS, COCO_ROWS
from humar_bench.training.evaluation import Evaluator, ground_truth_of
from humar_bench.training.picture_statistics import PictureStatistics, draws
from humar_bench.training.similarity import keypoint_sigmas
from humar_bench.uniphd.postprocess import Detections
from tests.training.golden import WHOLE


def filled(boxes, height: int, width: int) -> torch.Tensor:
    """Masks of corner boxes, rounded, clipped and filled."""
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for mask, box in zip(masks, boxes, strict=True):
        x0, y0, x1, y1 = (int(np.clip(round(each), 0, limit)) for each, limit in zip(box, (width, height) * 2, strict=True))
        mask[y0:y1, x0:x1] = True
    return masks


def detections(scores, boxes, points, height: int, width: int, masks: bool = True) -> Detections:
    points = torch.tensor(points, dtype=torch.float64).unflatten(1, (-1, 2))
    return Detections(
        scores=torch.tensor(scores, dtype=torch.float64),
        labels=torch.ones(len(scores), dtype=torch.long),
        boxes=torch.tensor(boxes, dtype=torch.float64),
        keypoints=torch.cat((points, torch.full_like(points[..., :1], 0.731)), dim=-1).flatten(1),
        masks=filled(boxes, height, width) if masks else None,
    )


def made_up(seed: int, entries: int, found: int, keypoints: int = 17, pictures: int | None = None) -> tuple[dict, dict[int, Detections]]:
    """A ground truth of boxes of all sizes, some keypoints unlabelled, and detections from excellent to far off; some scores equal."""
    random = np.random.default_rng(seed)
    images, annotations, results = [], [], {}
    for entry in range(10, 10 + entries):
        side = 400
        w, h = random.uniform(10, 200, 2) if entry % 3 else random.uniform(10, 40, 2)
        x, y = random.uniform(0, side - w), random.uniform(0, side - h)
        points = np.column_stack((random.uniform(x, x + w, keypoints), random.uniform(y, y + h, keypoints)))
        v = random.integers(0, 3, keypoints) if entry % 7 else np.zeros(keypoints, dtype=int)
        images.append({"id": entry, "height": side, "width": side, "file_name": f"{entry % (pictures or entries)}.jpg"})
        annotations.append(
            {
                "id": entry + 1000,
                "image_id": entry,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [x, y, w, h],
                "area": w * h * 0.7,
                "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                "keypoints": np.column_stack((points, v)).flatten().tolist(),
                "num_keypoints": int((v > 0).sum()),
            }
        )
        spread = random.uniform(0.5, 15, (found, 1))
        boxes = np.array([x, y, x + w, y + h]) + random.normal(0, 1, (found, 4)) * spread
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        poses = points.flatten() + random.normal(0, 1, (found, 2 * keypoints)) * spread / 2
        scores = -np.sort(-np.round(random.random(found), 2 if entry % 2 else 6))
        results[entry] = detections(scores.tolist(), boxes.tolist(), poses.tolist(), side, side)
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}, results


def evaluated(ground_truth: dict, results: dict[int, Detections]) -> PictureStatistics:
    evaluator = Evaluator(ground_truth)
    for entry, found in results.items():
        evaluator.add(entry, found)
    return evaluator.statistics()


def by_the_library(ground_truth: dict, results: dict[int, Detections], kind: str, best: bool = False) -> np.ndarray:
    """COCO's stats vector, all of it made by the library; with `best`, of each entry's first detection alone."""
    from faster_coco_eval.core import mask as run_lengths

    truth = evaluation._coco(ground_truth["images"], copy.deepcopy(ground_truth["annotations"]))
    rows = []
    for entry, found in results.items():
        for at in range(1 if best else len(found.scores)):
            x0, y0, x1, y1 = found.boxes[at].tolist()
            value = {
                "bbox": {"bbox": [x0, y0, x1 - x0, y1 - y0]},
                "segm": {"segmentation": run_lengths.encode(np.asfortranarray(found.masks[at].numpy().astype(np.uint8)))},
                "keypoints": {"keypoints": found.keypoints[at].tolist()},
            }[kind]
            rows.append({"image_id": entry, "category_id": 1, "score": found.scores[at].item(), **value})
    sigmas = keypoint_sigmas(len(ground_truth["annotations"][0]["keypoints"]) // 3)
    library = evaluation.evaluate(truth, rows, kind, sigmas)
    library.accumulate()
    library.summarize()
    return library.stats


def table(statistics: PictureStatistics, kind: str, weights: np.ndarray | None = None) -> np.ndarray:
    return np.nan_to_num(statistics.values([f"{kind}/{row.name}" for row in COCO_ROWS[kind]], weights), nan=-1.0)


def golden() -> tuple[dict, dict[int, Detections], dict]:
    file = json.loads((WHOLE / "evaluation.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in file["ground_truth"]["images"]}
    found = {
        int(entry): detections(each["scores"], each["boxes"], each["keypoints"], *sizes[int(entry)])
        for entry, each in file["predictions"].items()
    }
    return file["ground_truth"], found, file["expected"]


def test_the_golden_statistics():
    truth, found, wanted = golden()
    before = copy.deepcopy(truth)
    statistics = evaluated(truth, found)
    assert truth == before, "the ground truth was changed"
    for kind in COCO_ROWS:
        np.testing.assert_allclose(table(statistics, kind), wanted[kind], atol=1e-12)
    best = dict(zip(statistics.names, statistics.values(), strict=True))
    assert best["best/oIoU"] == pytest.approx(wanted["overall_iou"], abs=1e-12)
    assert best["best/mIoU"] == pytest.approx(wanted["mean_iou"], abs=1e-7)  # theirs was added up in float32
    assert [best[f"best/precision at IoU {limit}"] for limit in evaluation.MASK_IOUS] == pytest.approx(wanted["segm_precision_at"])
    column = statistics.ratios.index("best/PCKh")
    assert statistics.above[:, column].sum() == wanted["pckh_correct"]
    assert statistics.below[:, column].sum() == wanted["pckh_total"]


@pytest.mark.parametrize("keypoints", [17, 14])
def test_every_table_equals_the_library_on_sets_of_all_sizes(keypoints):
    truth, found = made_up(1, 40, 12, keypoints)
    statistics = evaluated(truth, found)
    for kind in COCO_ROWS:
        np.testing.assert_allclose(table(statistics, kind), by_the_library(truth, found, kind), atol=1e-12)
    best = statistics.values([f"best/{row.name}" for row in BEST_ROWS])
    np.testing.assert_allclose(best, by_the_library(truth, found, "keypoints", best=True)[:3], atol=1e-12)
    assert (best > 0).all() and ("best/PCKh" in statistics.ratios) == (keypoints == 17)


def resampled(truth: dict, found: dict[int, Detections], weights: np.ndarray) -> tuple[dict, dict[int, Detections]]:
    """The data set in which entry i stands weights[i] times, copies beside each other."""
    images, annotations, results = [], [], {}
    for image, annotation, weight in zip(truth["images"], truth["annotations"], weights, strict=True):
        for _ in range(int(weight)):
            new = len(images) + 1
            images.append(image | {"id": new})
            annotations.append(annotation | {"id": new, "image_id": new})
            results[new] = found[image["id"]]
    return {"images": images, "annotations": annotations}, results


@pytest.mark.parametrize("seed", range(3))
def test_a_resample_equals_the_library_on_the_resampled_set(seed):
    """Every row of every table, also where scores are equal; and all metrics equal a new evaluation of the resampled set."""
    truth, found = made_up(seed + 5, 25, 8)
    statistics = evaluated(truth, found)
    weights = next(iter(draws(25, 1, seed)))
    assert weights.max() > 1 and weights.min() == 0 and weights.sum() == 25
    new_truth, new_found = resampled(truth, found, weights)
    for kind in COCO_ROWS:
        of_entry = np.zeros(25)
        of_entry[statistics.picture] = weights  # entries are in order; pictures are numbered by name
        np.testing.assert_allclose(
            table(statistics, kind, of_entry), by_the_library(new_truth, new_found, kind), atol=1e-12, err_msg=kind
        )
    again = evaluated(new_truth, new_found)
    np.testing.assert_allclose(again.values(), statistics.values(weights=of_entry), atol=1e-12)


def test_a_crowd_and_detections_in_any_order_are_as_in_the_library():
    truth, found = made_up(9, 16, 6)
    for annotation in truth["annotations"][::4]:
        annotation["iscrowd"] = 1
    shuffled = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    mixed = {e: Detections(**{name: value[shuffled] for name, value in vars(each).items()}) for e, each in found.items()}
    statistics = evaluated(truth, mixed)
    for kind in COCO_ROWS:
        np.testing.assert_allclose(table(statistics, kind), by_the_library(truth, mixed, kind), atol=1e-12, err_msg=kind)
    one = {e: Detections(**{name: value[[2, 0, 1]] for name, value in vars(each).items()}) for e, each in made_up(9, 16, 3)[1].items()}
    assert evaluated(truth, one).values(["best/mIoU"]) == evaluated(truth, made_up(9, 16, 3)[1]).values(["best/mIoU"])


def test_more_detections_than_coco_looks_at_are_left_out():
    truth, found = made_up(19, 6, 25)
    np.testing.assert_allclose(table(evaluated(truth, found), "keypoints"), by_the_library(truth, found, "keypoints"), atol=1e-12)


def test_mean_oks_is_the_librarys_of_the_first_detection():
    truth, found = made_up(3, 20, 5)
    statistics = evaluated(truth, found)
    rows = [
        {"image_id": entry, "category_id": 1, "score": each.scores[0].item(), "keypoints": each.keypoints[0].tolist()}
        for entry, each in found.items()
    ]
    library = evaluation.evaluate(evaluation._coco(truth["images"], truth["annotations"]), rows, "keypoints")
    labelled = [each["image_id"] for each in truth["annotations"] if each["num_keypoints"]]
    assert len(labelled) < 20
    wanted = np.mean([library.ious[entry, 1][0, 0] for entry in labelled])
    assert statistics.values(["best/mean OKS"])[0] == pytest.approx(wanted, rel=1e-12)


def test_only_the_best_mask_gives_no_table_of_masks_but_the_same_iou():
    truth, found = made_up(4, 10, 5)
    whole = evaluated(truth, found)
    alone = evaluated(truth, {e: Detections(**(vars(each) | {"masks": each.masks[:1]})) for e, each in found.items()})
    assert "segm/AP" in whole.names and "segm/AP" not in alone.names
    assert alone.values(["best/oIoU", "best/mIoU"]).tolist() == whole.values(["best/oIoU", "best/mIoU"]).tolist()
    none = evaluated(truth, {e: Detections(**(vars(each) | {"masks": None})) for e, each in found.items()})
    assert "best/oIoU" not in none.names
    for annotation in truth["annotations"]:
        del annotation["segmentation"]
    assert evaluated(truth, found).names == none.names


def test_entries_of_one_picture_are_drawn_together():
    truth, found = made_up(6, 24, 4, pictures=8)
    statistics = evaluated(truth, found)
    assert statistics.pictures == 8
    for weights in draws(8, 5, 0):
        of_entry = weights[statistics.picture]
        assert of_entry.sum() == 24 and (of_entry.reshape(3, 8) == of_entry[:8]).all()


def test_intervals_hold_the_value_and_narrow_with_more_pictures():
    widths = {}
    for entries in (30, 120):
        truth, found = made_up(7, entries, 6)
        found = evaluated(truth, found).estimates(["best/AP", "best/mean OKS", "keypoints/AP", "segm/AP large"], resamples=200)
        for name, estimate in found.items():
            assert estimate.low <= estimate.value <= estimate.high, name
        widths[entries] = [each.high - each.low for each in found.values()]
    assert all(0.3 < narrow / wide < 0.8 for narrow, wide in zip(widths[120], widths[30], strict=True)), widths


def test_a_mean_has_the_interval_of_its_standard_error():
    truth, found = made_up(8, 100, 1)
    statistics = evaluated(truth, found)
    column = statistics.ratios.index("best/mIoU")
    error = statistics.above[:, column].std() / np.sqrt(100)
    estimate = statistics.estimates(["best/mIoU"], resamples=2000)["best/mIoU"]
    assert (estimate.high - estimate.low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.08)
    assert statistics.estimates(["best/mIoU"], resamples=0)["best/mIoU"] == (estimate.value, None, None)


def test_what_is_absent_has_no_value():
    truth, found = made_up(2, 3, 2)
    for annotation in truth["annotations"]:
        annotation |= {"keypoints": [0] * 51, "num_keypoints": 0, "area": 100.0}
    found = evaluated(truth, found).estimates(resamples=3)
    for name in ("keypoints/AP", "best/AP", "best/mean OKS", "best/PCKh", "best/OKS of keypoint 3", "bbox/AP large"):
        assert found[name].value is None, name
    assert found["bbox/AP small"].value is not None


def test_statistics_are_saved_and_read_without_objects(tmp_path):
    statistics = evaluated(*made_up(12, 12, 3))
    np.savez(tmp_path / "s.npz", **statistics.arrays())
    with np.load(tmp_path / "s.npz", allow_pickle=False) as file:
        again = PictureStatistics.of_arrays(dict(file))
    assert again.names == statistics.names
    np.testing.assert_array_equal(again.values(), statistics.values())


def test_parts_of_other_processes_are_merged():
    truth, found = made_up(13, 6, 3)
    one, other = Evaluator(truth), Evaluator(truth)
    for entry, each in found.items():
        (one if entry % 2 else other).add(entry, each)
    one.merge(other.parts())
    np.testing.assert_array_equal(one.statistics().values(), evaluated(truth, found).values())


def test_wrong_ground_truths_and_missing_detections_are_one_sentence():
    truth, found = made_up(14, 3, 2)
    twice = truth | {"annotations": [*truth["annotations"], truth["annotations"][0] | {"id": 9}]}
    nowhere = truth | {"annotations": [truth["annotations"][0] | {"image_id": 99}]}
    for wrong, sentence in ((twice, "entry 10 has more than one annotation"), (nowhere, "belongs to entry 99, which images does not have")):
        with pytest.raises(UsageError, match=sentence):
            Evaluator(wrong)
    with pytest.raises(UsageError, match=r"the annotations have \[\] keypoints"):
        Evaluator(truth | {"annotations": []})
    evaluator = Evaluator(truth)
    with pytest.raises(UsageError, match="there is no entry 5 in the ground truth"):
        evaluator.add(5, found[10])
    evaluator.add(10, found[10])
    with pytest.raises(UsageError, match="2 of 3 entries have no detections, such as 11"):
        evaluator.statistics()
    with pytest.raises(UsageError, match="there is no metric 'AP' here; choose from best/AP"):
        evaluated(truth, found).values(["AP"])


def test_an_entry_whose_person_was_left_out_counts_only_its_wrong_detections():
    truth, found = made_up(15, 6, 3)
    less = truth | {"annotations": truth["annotations"][1:]}
    statistics = evaluated(less, found)
    np.testing.assert_allclose(table(statistics, "bbox"), by_the_library(less, found, "bbox"), atol=1e-12)
    assert statistics.below[0].sum() == 0


def test_targets_become_a_ground_truth_in_original_pixels():
    target = Target(
        labels=torch.tensor([1]),
        boxes=torch.tensor([[0.5, 0.25, 0.2, 0.1]]),
        keypoints=torch.cat((torch.full((1, 34), 0.5), torch.ones(1, 17)), 1),
        area=torch.tensor([0.01]),
        size=(20, 40),
        masks=torch.ones(1, 20, 40, dtype=torch.bool),
        orig_size=(100, 200),
        image_id=7,
    )
    truth = ground_truth_of([target])
    assert truth["images"] == [{"id": 7, "height": 100, "width": 200}]
    annotation = truth["annotations"][0]
    assert annotation["bbox"] == pytest.approx([80, 20, 40, 10]) and annotation["area"] == pytest.approx(200)
    assert annotation["keypoints"][:3] == [100, 50, 1]
    right = detections([0.9], [[80, 20, 120, 30]], [[100.0, 50.0] * 17], 100, 200)
    found = evaluated(truth, {7: right}).values(["bbox/AP", "best/AP", "best/mean OKS", "best/oIoU"])
    assert found == pytest.approx([1, 1, 1, 40 * 10 / (100 * 200)])
    with pytest.raises(UsageError, match="target 7 has no orig_size"):
        ground_truth_of([Target(**(vars(target) | {"orig_size": None}))])

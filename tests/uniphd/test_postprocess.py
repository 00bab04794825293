"""Post-processing against the golden file, and on what it does not have."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from humar_bench.errors import UsageError
from humar_bench.uniphd.postprocess import postprocess
from tests.tolerance import assert_close
from tests.training import recipe
from tests.uniphd.recipe import Case

GOLDEN = Path(__file__).resolve().parent.parent / "data" / "whole" / "postprocess.npz"


def golden() -> tuple[dict, dict, dict]:
    """(config, arrays, outputs) of the golden file."""
    with np.load(GOLDEN) as file:
        arrays = dict(file)
    config = json.loads(bytes(arrays.pop("config")))
    return config, arrays, outputs_of(config["seed"], config["sizes"], config["queries"], config["keypoints"], config["classes"])


def outputs_of(seed: int, sizes: list, queries: int, keypoints: int, classes: int) -> dict:
    height, width = recipe.padded(sizes)
    outputs = recipe.predictions(seed, len(sizes), queries, keypoints, height, width, classes)
    return outputs | {"pred_masks": recipe.smooth_masks(seed + 50, len(sizes), queries, height, width)}


def plainly(outputs: dict, b: int, size: tuple, original: tuple, kept: int) -> list[tuple]:
    """One picture, query by query: (score, box, keypoints, mask)."""
    classes, (height, width) = outputs["pred_logits"].shape[-1], original
    scores = outputs["pred_logits"][b].sigmoid().flatten().tolist()
    found = []
    for at in sorted(range(len(scores)), key=lambda at: -scores[at])[:kept]:
        q = at // classes
        x, y, w, h = outputs["pred_boxes"][b, q].tolist()
        box = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
        flat = outputs["pred_keypoints"][b, q].tolist()
        number = len(flat) // 3
        keypoints = [each for k in range(number) for each in (flat[2 * k] * width, flat[2 * k + 1] * height, flat[2 * number + k])]
        mask = F.interpolate(outputs["pred_masks"][b, q, : size[0], : size[1]][None, None], size=original, mode="bilinear")
        found.append((scores[at], box, keypoints, mask[0, 0].sigmoid() > 0.5))
    return found


def test_the_golden_file():
    config, wanted, outputs = golden()
    found = postprocess(outputs, config["sizes"], config["orig_sizes"])
    pixels = float(np.max(config["orig_sizes"]))
    assert_close(torch.stack([each.best_keypoints for each in found]), torch.from_numpy(wanted["best_keypoints"]), scale=pixels)
    for b, each in enumerate(found):
        assert_close(each.scores, torch.from_numpy(wanted[f"scores_{b}"]))
        np.testing.assert_array_equal(each.labels, wanted[f"labels_{b}"])
        assert_close(each.boxes, torch.from_numpy(wanted[f"boxes_{b}"]), scale=pixels)
        assert_close(each.keypoints, torch.from_numpy(wanted[f"keypoints_{b}"]), scale=pixels)
        np.testing.assert_array_equal(each.masks.sum((1, 2)), wanted[f"mask_areas_{b}"])
        np.testing.assert_array_equal(np.packbits(each.masks.numpy()), wanted[f"masks_{b}"])


@pytest.mark.parametrize(
    ("queries", "keypoints", "classes", "sizes", "originals"),
    [
        (7, 14, 3, [(30, 20), (16, 33), (30, 20)], [(61, 40), (16, 33), (61, 40)]),  # two alike
        (33, 3, 1, [(16, 16)], [(9, 21)]),  # more queries than are kept
        (20, 17, 2, [(20, 12), (20, 12)], [(20, 12), (10, 6)]),
    ],
)
def test_every_picture_equals_the_plain_way(queries, keypoints, classes, sizes, originals):
    outputs = outputs_of(11, sizes, queries, keypoints, classes)
    for b, each in enumerate(postprocess(outputs, sizes, originals)):
        wanted = plainly(outputs, b, sizes[b], originals[b], min(20, queries))
        assert len(each.scores) == len(wanted) and (each.labels == 1).all()
        for at, (score, box, points, mask) in enumerate(wanted):
            for made, plain, scale in ((each.scores[at], score, 1), (each.boxes[at], box, max(originals[b])),
                                       (each.keypoints[at].flatten(), points, max(originals[b]))):
                assert_close(made, torch.tensor(plain), scale=float(scale))
            assert torch.equal(each.masks[at], mask)


def test_the_best_mask_alone_is_the_first_of_all():
    _, _, outputs = golden()
    config, _, _ = golden()
    every = postprocess(outputs, config["sizes"], config["orig_sizes"])
    classes = outputs["pred_logits"].shape[-1]
    best = outputs["pred_logits"].flatten(1).argmax(1) // classes
    alone = outputs["pred_masks"][torch.arange(2), best][:, None]
    for one, all_of_them in zip(
        postprocess(outputs | {"pred_masks": alone}, config["sizes"], config["orig_sizes"]), every, strict=True
    ):
        assert one.masks.shape[0] == 1 and torch.equal(one.masks[0], all_of_them.masks[0])


def test_what_the_model_gives_is_read_as_it_is():
    case = Case.of("heads-tiny")
    model = case.model()
    with torch.no_grad():
        every, best, none = (
            postprocess(model.from_maps(*case.inputs(), masks=which), case.sizes, case.sizes) for which in ("all", "best", "none")
        )
    for b in range(len(case.sizes)):
        assert every[b].masks.any() and torch.equal(every[b].masks[:1], best[b].masks) and none[b].masks is None
        assert torch.equal(every[b].boxes, best[b].boxes)


def test_masks_may_be_absent_or_left_out():
    config, _, outputs = golden()
    assert postprocess(outputs, config["sizes"], config["orig_sizes"], masks=False)[0].masks is None
    assert postprocess(outputs | {"pred_masks": None}, config["sizes"], config["orig_sizes"])[1].to("cpu").masks is None


def test_half_precision_gives_whole_pixels_of_float32():
    config, _, outputs = golden()
    halves = {name: value.to(torch.bfloat16) for name, value in outputs.items()}
    found = postprocess(halves, config["sizes"], config["orig_sizes"])[0]
    assert found.boxes.dtype == found.scores.dtype == found.keypoints.dtype == torch.float32


def test_sizes_that_do_not_fit_are_refused():
    config, _, outputs = golden()
    with pytest.raises(UsageError, match="orig_sizes has 1 entries for 2 pictures"):
        postprocess(outputs, config["sizes"], config["orig_sizes"][:1])
    with pytest.raises(UsageError, match=r"larger than the masks, \(64, 80\)"):
        postprocess(outputs, [(60, 81), (64, 50)], config["orig_sizes"])

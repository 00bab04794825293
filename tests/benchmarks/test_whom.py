"""Whom a run finds: models that find everybody right, or always somebody else, are told apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.whom import answers, main, named_in, table
from humar_bench.data.people import ProceduralPeople
from tests.training.small_runs import tiny

PICTURES = 10


class Finds:
    """In place of a model: in every picture the pose of the person meant, `off` people further on."""

    def __init__(self, options, off: int) -> None:
        self.people, self.off, self.index = ProceduralPeople("val", 1, options.evaluation_seed, PICTURES, options.size), off, 0

    def __call__(self, images, padding, prompt, sizes, masks):
        rows = []
        for height, width in sizes:
            referred, drawn = self.people.drawn(self.people.draws(self.index))
            points = drawn.keypoints[(referred.meant + self.off) % len(drawn.keypoints)]
            values = np.concatenate(((points[:, :2] / [width, height]).ravel(), np.ones(len(points))))
            rows.append(torch.tensor(values, dtype=torch.float32))
            self.index += 1
        keypoints = torch.stack((torch.zeros_like(torch.stack(rows)), torch.stack(rows)), dim=1)  # the second query scores more
        scores = torch.tensor([[-1.0], [1.0]]).expand(len(rows), 2, 1)
        return {"pred_logits": scores, "pred_boxes": torch.zeros(len(rows), 2, 4), "pred_keypoints": keypoints, "pred_masks": None}


@pytest.mark.parametrize("off", [0, 1])
def test_the_one_meant_and_somebody_else_are_told_apart(off):
    options = tiny(data="procedural:1", evaluation_pictures=PICTURES)
    found = list(answers(Finds(options, off), options))
    assert len(found) == PICTURES and all(each.right == (off == 0) and each.nearest_oks > 0.99 for each in found)
    assert all((each.meant_oks > 0.99) == (off == 0) and 2 <= each.people <= 4 for each in found)
    lines = list(table(found))
    assert lines[1].split()[:3] == ["all", str(PICTURES), "0.000" if off else "1.000"]
    assert sum(int(line.split("people")[1].split()[0]) for line in lines if " people" in line) == PICTURES


@pytest.mark.parametrize(("sentence", "kinds"), [
    ("the person in a red shirt on the left", ("place", "shirt")), ("one wearing blue pants", ("lower",)),
    ("the seated figure with a hand up", ("posture", "arm")), ("the tallest human whose hair is red", ("hair", "size")),
    ("the person with an arm raised", ("arm",)), ("somebody", ()),
])
def test_what_a_sentence_names(sentence, kinds):
    assert named_in(sentence) == kinds


def test_a_folder_that_is_no_run_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["whom.py", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match=r"^whom: .*none"):
        main()

"""Everybody in a picture asked about: sentences that fit that person only, labels of that person, nothing said that may not be."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.whom import named_in
from humar_bench.data.people import LEAST_AREA, LEAST_SEEN, ProceduralPeople
from tests.data.sentence_reader import whom


@pytest.mark.parametrize("level", (1, 2))
@pytest.mark.parametrize("unsaid", ((), ("place",)), ids=("all", "no places"))
def test_a_question_is_about_the_person_whose_labels_it_has(level, unsaid):
    people, places = ProceduralPeople("test", level, seed=3, size=64), 0
    for index in (*range(60), 185):  # somebody of 185 at level 2 is hardly seen
        scene = people.drawn(people.draws(index))[0].scene
        for asked in people.questions(index, 2, unsaid):
            fits = whom(asked.caption, scene)
            assert fits[0] == fits[1] and len(fits[0]) == 1, asked.caption
            own = 64 * np.array(scene.people[fits[0][0]].keypoints)
            assert np.abs(asked.keypoints[0, :, :2] - own)[asked.keypoints[0, :, 2] > 0].max() < 1.0
            assert asked.area[0] == np.count_nonzero(asked.masks[0]) >= LEAST_AREA * 64 * 64
            assert np.count_nonzero(asked.keypoints[0, :, 2] == 2) >= LEAST_SEEN
            places += "place" in named_in(asked.caption)
    assert places == 0 if unsaid else places > 50


def test_everybody_is_asked_about_so_often_as_is_said():
    people = ProceduralPeople("train", 1, size=64)
    for index in range(20):
        referred, drawn = people.drawn(people.draws(index))
        asked = people.questions(index, 3)
        assert len(asked) == 3 * len(referred.scene.people)  # nobody of level 1 is hidden, and by place everybody can be told
        assert len({each.keypoints.tobytes() for each in asked}) == len(referred.scene.people)
        assert all(np.array_equal(each.picture, people[index].picture) and each.image_id == index for each in asked)
        assert [each.caption for each in asked] == [each.caption for each in people.questions(index, 3)]
    assert len({each.caption for index in range(20) for each in people.questions(index, 3)}) > 100

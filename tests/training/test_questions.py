"""Batches of questions: each belongs to its picture, places come last, and the pictures are those of the order."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from benchmarks.whom import named_in
from humar_bench.data.people import ProceduralPeople
from humar_bench.training.batches import Steps, tokens_of
from humar_bench.training.questions import EACH, question_batches
from tests.training.small_runs import tiny

OPTIONS = tiny(data="procedural:1", pictures=20)
PEOPLE = ProceduralPeople("train", 1, length=20, size=64)


def batches(options=OPTIONS, people=PEOPLE, steps=10):
    return list(question_batches(options, people, tokens_of(options), Steps(people, 2, 0), steps))


@pytest.mark.parametrize("workers", (0, 1))
def test_every_question_stands_with_its_picture(workers):
    order = Steps(PEOPLE, 2, 0)
    for step, (asked, first, of) in enumerate(batches(dataclasses.replace(OPTIONS, workers=workers))):
        entries = [entry for _, entry in order.of(step)]
        assert [asked.image_ids[index] for index in first] == entries
        assert [entries[picture] for picture in of] == list(asked.image_ids) and len(asked.image_ids) >= EACH * len(entries)
        assert torch.equal(asked.images[first][of], asked.images)
        assert asked.targets.points.shape[0] == asked.captions.ids.shape[0] == len(of)


def test_places_are_named_in_the_last_two_fifths(monkeypatch):
    said = []
    monkeypatch.setattr("humar_bench.training.batches.Captions", lambda *tokens: said.append(tokens))
    list(question_batches(OPTIONS, PEOPLE, lambda captions: captions, Steps(PEOPLE, 2, 0), 10))
    named = [any("place" in named_in(caption) for caption in captions) for captions in said]
    assert named == [False] * 6 + [True] * 4


def test_a_picture_without_a_question_has_the_one_it_comes_with(monkeypatch):
    monkeypatch.setattr(ProceduralPeople, "questions", lambda self, index, each, unsaid: [])
    (asked, first, of), *_ = batches()
    assert first.tolist() == of.tolist() == [0, 1]
    plain = [PEOPLE[index] for index in asked.image_ids]
    assert torch.equal(asked.captions.ids, tokens_of(OPTIONS)([each.caption for each in plain])[0])

"""Which pictures and prompts a step sees: every picture once an epoch, the same whoever asks and wherever a run begins."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch

from humar_bench.data.people import ProceduralPeople
from humar_bench.data.rendered import RenderedPeople
from humar_bench.data.sources import Curriculum
from humar_bench.errors import UsageError
from humar_bench.training.batches import (
    Steps,
    evaluation_batches,
    evaluation_source,
    kept_tokenizer,
    prompt_of,
    tokens_of,
    training_batches,
    training_source,
)
from humar_bench.training.train_args import SMALL_WHOLE, TrainArgs, with_settings
from humar_bench.uniphd import Captions, Points, Scribbles
from tests.training.small_runs import tiny

PEOPLE = ProceduralPeople("train", 0, 0, 12, 64)


def test_an_epoch_has_every_picture_once_in_another_order_than_the_next():
    steps = Steps(range(11), 2, seed=3)
    epochs = [[number for step in range(5) for number in steps.of(5 * epoch + step)] for epoch in range(3)]
    for epoch, numbers in enumerate(epochs):
        assert {each for each, _ in numbers} == {epoch} and len({entry for _, entry in numbers}) == 10
    assert len({tuple(entry for _, entry in numbers) for numbers in epochs}) == 3
    assert Steps(range(11), 2, seed=3).of(7) == steps.of(7) != Steps(range(11), 2, seed=4).of(7)


def test_a_curriculum_has_its_easy_pictures_first_each_part_once_and_is_evaluated_on_the_last(tmp_path):
    options = tiny(data="procedural:0-1", pictures=14, rendered=str(tmp_path))
    source = training_source(options)
    assert isinstance(source, Curriculum) and source.lengths == (7, 7) and options.level == 1
    levels = [ProceduralPeople("train", level, options.data_seed, 7, options.size) for level in (0, 1)]
    for at in range(14):
        assert source[at].caption == levels[at // 7][at % 7].caption and np.array_equal(source[at].picture, levels[at // 7][at % 7].picture)
    assert all(isinstance(part, RenderedPeople) for part in source.parts)
    steps = Steps(source, 7, seed=3)
    entries = [[entry for _, entry in steps.of(step)] for step in (0, 1)]
    assert sorted(entries[0]) == list(range(7)) != entries[0] and sorted(entries[1]) == list(range(7, 14)) != entries[1]
    assert evaluation_source(options)[0].caption == ProceduralPeople("val", 1, 0, 1, options.size)[0].caption
    letters = Curriculum((["a"], ["b", "c"]))
    assert [*letters] == ["a", "b", "c"]
    for one, beyond in ((source, 14), (letters, 3), (letters, -1)):
        with pytest.raises(IndexError):
            one[beyond]


def test_pictures_of_training_are_kept_drawn_where_no_workers_draw_them_as_they_come(tmp_path):
    options = tiny(rendered=str(tmp_path), workers=1)
    source, kept = training_source(options), training_source(dataclasses.replace(options, workers=0))
    assert isinstance(source, ProceduralPeople)
    assert isinstance(kept, RenderedPeople) and isinstance(evaluation_source(options), RenderedPeople)
    assert source[3].caption == kept[3].caption and np.array_equal(source[3].picture, kept[3].picture)


@pytest.mark.parametrize(("changes", "said"), [
    ({"length": 7}, "the data is procedural:0-1, easy pictures first, and 14 pictures of 7 different ones would come back to the easy"),
    ({"length": 28}, "and 14 pictures of 28 different ones would end before the last level is whole; leave length out."),
    ({"length": 14, "pictures": 0}, "easy pictures first; say how many with pictures, and leave length out."),
    ({"data": "procedural:1-1"}, "the data is 'procedural:1-1'; write procedural:LEVEL, such as procedural:1, or procedural:0-1"),
    ({"data": "procedural:1-0"}, "the data is 'procedural:1-0'; write procedural:LEVEL, such as procedural:1, or procedural:0-1"),
    ({"data": "procedural:0-999999999"}, "the data is 'procedural:0-999999999' and 14 pictures are asked for; ask for 1,000,000,000"),
    ({"data": "procedural:0-3"}, "the level is 3; choose one of 0, 1, 2."),
])
def test_a_curriculum_that_cannot_be_is_one_sentence(changes, said, tmp_path):
    with pytest.raises(UsageError) as caught:
        training_source(tiny(**{"data": "procedural:0-1", "pictures": 14, "rendered": str(tmp_path / "drawn"), **changes}))
    assert said in str(caught.value)
    assert "length" in changes or not (tmp_path / "drawn").exists()


def ids(batches) -> list[tuple[int, ...]]:
    return [batch.image_ids for batch in batches]


def test_processes_and_accumulated_batches_share_a_step():
    options, alone = tiny(optim={"batch_size": 1}, accumulate=2), tiny(optim={"batch_size": 4})
    steps = Steps(range(12), 4, 0)
    whole = ids(training_batches(alone, PEOPLE, None, steps, 0, 3))
    shares = [ids(training_batches(options, PEOPLE, None, steps, 0, 3, rank)) for rank in (0, 1)]
    assert [len(share) for share in shares] == [6, 6]
    for step in range(3):
        assert sum((batch for share in shares for batch in share[2 * step : 2 * step + 2]), ()) == whole[step]
    assert ids(training_batches(alone, PEOPLE, None, steps, 2, 3)) == whole[2:]


def test_workers_change_nothing():
    options = tiny(augment=True)
    steps, tokens = Steps(range(12), 2, 0), tokens_of(options)
    for one, other in zip(
        training_batches(options, PEOPLE, tokens, steps, 5, 8), training_batches(dataclasses.replace(options, workers=2), PEOPLE, tokens,
                                                                                steps, 5, 8), strict=True,
    ):
        assert torch.equal(one.images, other.images) and torch.equal(one.captions.ids, other.captions.ids)
        assert torch.equal(one.scribbles, other.scribbles) and torch.equal(one.targets.points, other.targets.points)


def test_evaluation_has_every_entry_once_however_many_processes():
    options = tiny()
    source = evaluation_source(options)
    assert sum(ids(evaluation_batches(options, source, None, masks=False)), ()) == (0, 1, 2, 3, 4)
    shares = [sum(ids(evaluation_batches(options, source, None, masks=True, rank=rank, of=2)), ()) for rank in (0, 1)]
    assert shares == [(0, 2, 4), (1, 3)]


def test_masks_are_left_out_unless_asked_for():
    batch = next(evaluation_batches(tiny(), evaluation_source(tiny()), None, masks=False))
    assert batch.targets.masks is None
    batch = next(evaluation_batches(tiny(), evaluation_source(tiny()), None, masks=True))
    assert batch.targets.masks.shape == (3, 64, 64) and batch.captions is None


def test_prompts_are_drawn_in_the_published_shares():
    options = tiny(whole=dataclasses.replace(SMALL_WHOLE, train_trigger=frozenset({"text", "point", "scribble"})))
    drawn = [prompt_of(options, step) for step in range(2000)]
    kinds = Counter(kind for kind, _ in drawn)
    assert abs(kinds["text"] / 2000 - 1 / 2) < 0.05 and abs(kinds["point"] / 2000 - 1 / 4) < 0.05
    assert {point for _, point in drawn} == {4, 5, 6, 7}
    assert drawn[:50] == [prompt_of(options, step) for step in range(50)] != [
        prompt_of(dataclasses.replace(options, data_seed=1), step) for step in range(50)]
    assert {prompt_of(tiny(), step)[0] for step in range(50)} == {"text"}


def test_a_batch_gives_each_kind_of_prompt():
    batch = next(training_batches(tiny(), PEOPLE, tokens_of(tiny()), Steps(range(12), 2, 0), 0, 1))
    text, scribble, point = (batch.prompt(kind, 6) for kind in ("text", "scribble", "point"))
    assert isinstance(text, Captions) and isinstance(scribble, Scribbles) and isinstance(point, Points)
    assert torch.equal(point.points, scribble.points[:, 6]) and torch.equal(batch.prompt("point").points, scribble.points[:, 5])


def test_options_are_read_back_and_changed_by_name():
    options = with_settings(tiny(), ["enc_layers=3", "lr=0.01", "train_trigger=point text", "freeze_text_encoder=yes", "log_every=7"])
    assert TrainArgs.of_json(options.to_json()) == options != tiny()
    assert (options.model.enc_layers, options.optim.lr, options.log_every) == (3, 0.01, 7)
    assert options.whole.train_trigger == {"point", "text"}
    assert options.whole.freeze_text_encoder and options.optim.freeze_text_encoder
    for setting, sentence in (
        ("enc_layer=3", "training has no option 'enc_layer'; did you mean enc_layers"),
        ("lr", "write FIELD=VALUE"),
        ("enc_layers=many", "it must be a whole number"),
    ):
        with pytest.raises(UsageError, match=sentence):
            with_settings(tiny(), [setting])


def test_a_tokenizer_that_is_not_here_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UsageError, match=r"the tokenizer of roberta \(FacebookAI/roberta-base\) is not on this machine"):
        kept_tokenizer("roberta")

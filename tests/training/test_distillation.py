"""Learning from a teacher: what is compared, and that it is learned."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from humar_bench.errors import UsageError
from humar_bench.training.batches import Steps, tokens_of, training_batches, training_source
from humar_bench.training.distillation import WEIGHTS, Distillation, _rows
from humar_bench.training.loop import train
from humar_bench.training.losses import Criterion
from humar_bench.training.run_folder import read_log
from humar_bench.training.step import TrainingStep, build_model
from humar_bench.training.train_args import SMALL_WHOLE
from tests.training.small_runs import tiny


def batch_of(options):
    return next(training_batches(options, training_source(options), tokens_of(options), Steps(range(12), 4, 0), 0, 1))


def step_with(options, teacher_options) -> TrainingStep:
    """A student's step."""
    criterion = Criterion(options.loss)
    student, teacher = build_model(options).eval(), build_model(teacher_options)
    return TrainingStep(student, criterion, Distillation(options, teacher_options, teacher, student, criterion))


def test_a_student_equal_to_its_teacher_loses_nothing_of_the_last_layer():
    options = dataclasses.replace(tiny(), model=dataclasses.replace(tiny().model, dec_layers=1), optim=tiny().optim)
    step = step_with(options, options)
    batch = batch_of(options)
    named = step(batch, batch.prompt("text")).named
    assert named["loss_teacher_keypoints"].item() == 0 and named["loss_teacher_tokens"].item() == pytest.approx(0, abs=1e-10)
    scores = step.model(batch.images, batch.padding, batch.prompt("text"), batch.sizes, masks="none").pred_logits.sigmoid()
    assert 0 < named["loss_teacher_class"].item() < -4 * 2 * torch.log(torch.tensor(0.5))  # the entropy of the scores stays
    assert scores.min() > 0


@pytest.mark.parametrize("width", [pytest.param(32, marks=pytest.mark.slow), 64])
def test_another_architecture_of_any_width_learns_from_it(width):
    single = dataclasses.replace(tiny().model, num_queries=1)  # so that no query takes another's place while it learns
    student = tiny("efficient", model=single)
    teacher = tiny("original", seed=3, model=dataclasses.replace(single, hidden_dim=width))
    step = step_with(student, teacher)
    batch = batch_of(student)
    optimizer = torch.optim.Adam(step.parameters(), lr=3e-4)
    assert len(list(step.parameters())) == len(list(step.model.parameters()))  # the teacher's are not trained
    found = []
    for _ in range(100):
        losses = step(batch, batch.prompt("text"))
        imitated = {name: value for name, value in losses.named.items() if name in WEIGHTS}
        found.append({name: value.item() for name, value in imitated.items()})
        optimizer.zero_grad()
        step.distillation.weighted(imitated).backward()
        optimizer.step()
    assert set(found[0]) == set(WEIGHTS)
    for name in ("loss_teacher_keypoints", "loss_teacher_tokens"):
        assert min(each[name] for each in found) < 0.5 * found[0][name], name  # on the way: so small a model goes up and down


def test_queries_are_compared_by_the_person_they_are_matched_to():
    """Two pictures with two people each, whom student and teacher find with other queries: rows follow the people."""
    picture = torch.tensor([0, 0, 1, 1])
    student = SimpleNamespace(picture=picture, query=torch.tensor([[0, 2, 1, 2]]), people=torch.tensor([[1, 0, 2, 3]]))
    teacher = SimpleNamespace(picture=picture, query=torch.tensor([[1, 3, 0, 4]]), people=torch.tensor([[0, 1, 3, 2]]))
    assert [each.tolist() for each in _rows(student, -1)] == [[0, 0, 1, 1], [2, 0, 1, 2]]
    assert [each.tolist() for each in _rows(teacher, -1)] == [[0, 0, 1, 1], [1, 3, 4, 0]]


def test_the_total_has_the_weighted_losses_of_the_teacher():
    options = tiny(teacher_keypoints=2.0, teacher_class=3.0, teacher_tokens=5.0)
    step = step_with(options, tiny("original"))
    batch = batch_of(options)
    losses = step(batch, batch.prompt("text"))
    step.distillation, kept = None, step.distillation
    alone = step(batch, batch.prompt("text"))
    named = losses.named
    more = 2 * named["loss_teacher_keypoints"] + 3 * named["loss_teacher_class"] + 5 * named["loss_teacher_tokens"]
    torch.testing.assert_close(losses.total, alone.total + more)
    assert not any(parameter.requires_grad for parameter in kept.teacher.parameters()) and not kept.teacher.training


def test_a_run_learns_from_a_run(tmp_path):
    train(tiny("original", evaluate_every=0), tmp_path / "teacher")
    train(tiny("efficient", evaluate_every=0, teacher=str(tmp_path / "teacher")), tmp_path / "student")
    steps = [line for line in read_log(tmp_path / "student") if line["kind"] == "step"]
    assert all(line["losses"]["loss_teacher_keypoints"] > 0 for line in steps)


@pytest.mark.parametrize(("changes", "sentence"), [
    (dict(model=dataclasses.replace(tiny().model, num_body_points=14)), "num_body_points is 17 and 14 in the teacher RUN;"),
    (dict(whole=dataclasses.replace(SMALL_WHOLE, train_trigger=frozenset({"point"}))), "teacher RUN was not trained with the prompt text"),
])
def test_a_teacher_of_something_else_is_refused(changes, sentence):
    with pytest.raises(UsageError, match=sentence):
        step_with(tiny(teacher="RUN"), tiny(**changes))

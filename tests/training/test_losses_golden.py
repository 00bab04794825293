"""Matching, losses and their gradients against the golden files."""

from __future__ import annotations

import pytest

from humar_bench.data.targets import TargetBatch
from humar_bench.training import matcher
from humar_bench.training.losses import Criterion, _stack
from humar_bench.training.options import LossArgs
from tests.training import golden

PUBLISHED = LossArgs(interm=False)


@pytest.fixture(params=["losses", "losses-edge"])
def case(request):
    config, wanted = golden.read(request.param)
    return config, wanted, *golden.inputs(**config)


def test_weighted_costs(case):
    config, wanted, outputs, targets = case
    people = matcher.People.of(TargetBatch.collate(targets))
    cost = matcher.weighted_cost(matcher.matching_costs(_stack(outputs, boxes=True), people, PUBLISHED), PUBLISHED)
    for layer in range(config["layers"]):
        for picture, people in enumerate(config["people"]):
            golden.assert_close(cost[layer, picture, :, :people], wanted[f"cost_{layer}_{picture}"], f"cost {layer} {picture}")


def test_pairs_and_what_is_logged_of_them(case):
    config, wanted, outputs, targets = case
    match = Criterion(PUBLISHED).match(golden.as_model(outputs), targets).layers
    for layer in range(config["layers"]):
        for picture in range(len(config["people"])):
            assert (wanted[f"match_{layer}_{picture}"] == match.of(layer, picture)).all()
        for name in matcher.LOGGED:
            golden.assert_close(match.logged[f"set_cost_{name}"][layer], wanted[f"set_cost_{name}_{layer}"], f"{name} {layer}")


def test_losses_total_and_gradients(case):
    _, wanted, outputs, targets = case
    losses = Criterion(PUBLISHED)(golden.as_model(outputs), targets)
    assert {f"loss/{name}" for name in losses.named} == {key for key in wanted if key.startswith("loss/")}
    for name, value in losses.named.items():
        golden.assert_close(value, wanted[f"loss/{name}"], name)
    golden.assert_close(losses.total, wanted["total"], "total")

    losses.total.backward()
    checked = 0
    for key in wanted:
        if key.startswith("grad_"):
            layer, tensor = key.removeprefix("grad_").split("/")
            name, _, step = tensor.partition("@")
            gradient = outputs[int(layer)][name].grad.flatten()[:: int(step or 1)]
            golden.assert_close(gradient, wanted[key].flatten(), key)
            checked += 1
    assert checked == 4 * len(outputs) + 1


def test_the_total_is_the_weighted_sum_of_the_named(case):
    _, _, outputs, targets = case
    criterion = Criterion(PUBLISHED)
    losses = criterion(golden.as_model(outputs), targets)
    golden.assert_close(sum(criterion.weight_of(name) * value for name, value in losses.named.items()), losses.total.item(), "total")

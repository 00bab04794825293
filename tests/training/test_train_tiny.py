"""The whole model and its losses together: the golden losses and the norm of every parameter's gradient; proposals learn when asked."""

from __future__ import annotations

import pytest
import torch

from humar_bench.training.losses import Criterion
from humar_bench.training.options import LossArgs
from tests.tolerance import chained_terms
from tests.training import golden, recipe
from tests.uniphd.recipe import Case

PROPOSALS = ("enc_output", "enc_output_norm", "enc_pose_embed", "enc_out_class_embed")


@pytest.fixture(scope="module")
def trained():
    """(golden arrays, model, the losses) after one backward pass without proposals."""
    config, wanted = golden.read("train-tiny")
    case = Case(config["model"])
    model = case.model().double()  # what is left is the rounding of the golden file, on every machine the same
    targets = [recipe.in_type(each) for each in recipe.people(config["ground_seed"], [1, 1], 17, config["model"]["sizes"])]
    outputs = model.from_maps(*case.inputs(config["prompt"], torch.float64))
    criterion = Criterion(LossArgs(interm=False))
    matches, losses = criterion.match(outputs, targets), criterion(outputs, targets)
    losses.total.backward()
    return wanted, model, matches, losses


def test_losses_and_pairs(trained):
    wanted, _, matches, losses = trained
    assert {f"loss/{name}" for name in losses.named} == {key for key in wanted if key.startswith("loss/")}
    for name, value in losses.named.items():
        golden.assert_close(value, wanted[f"loss/{name}"], name)
    golden.assert_close(losses.total, wanted["total"], "total")
    for layer in range(3):
        found = [[part.item() for part in matches.layers.of(layer, picture)] for picture in range(2)]
        assert found == wanted[f"match_{layer}"].tolist()


def test_the_norm_of_every_gradient(trained):
    wanted, model, *_ = trained
    names = bytes(wanted["names"]).decode().split("\n")
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, norm in zip(names, wanted["norms"], strict=True):
        gradient = parameters[name].grad
        found = 0.0 if gradient is None else gradient.norm().item()
        golden.assert_close(found, norm, name, terms=chained_terms(model), least=1.0)  # most norms are larger
    assert {id(parameters[name]) for name in names} == {id(parameter) for parameter in model.parameters()}


def test_proposals_learn_unless_switched_off():
    config, _ = golden.read("train-tiny")
    case = Case(config["model"])
    targets = recipe.people(config["ground_seed"], [1, 1], 17, config["model"]["sizes"])
    for interm in (True, False):
        model = case.model()
        Criterion(LossArgs(interm=interm))(model.from_maps(*case.inputs()), targets).total.backward()
        for part in PROPOSALS:
            gradients = [parameter.grad for name, parameter in model.named_parameters() if f"{part}." in name]
            assert gradients
            for gradient in gradients:
                assert (gradient is not None and gradient.abs().sum() > 0) == interm, part

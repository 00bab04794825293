"""Dynamic depth: when a decoder stops, that what it gives until then is what it always gives, and who always gets every iteration."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import torch

from efficient import build_efficient_conv_attention_transformer
from efficient.depth import still
from humar_bench.args import ModelArgs
from humar_bench.errors import UsageError
from humar_bench.subjects.transformer import make_inputs
from tests.models import outputs_by_name, shaken


@pytest.fixture
def args(tiny_args) -> ModelArgs:
    return dataclasses.replace(tiny_args, dec_layers=4)  # two of the instance token, two whole


def built(args: ModelArgs, below: float) -> torch.nn.Module:
    """The same weights whatever the threshold."""
    torch.manual_seed(0)
    return shaken(build_efficient_conv_attention_transformer(dataclasses.replace(args, efficient_exit_below=below)))


def done(outputs: tuple) -> int:
    return len({id(each) for each in outputs[0]})


def test_points_stand_still_when_none_moved_far_and_one_moved_at_all():
    before = torch.full((2, 3, 4, 2), 0.5)
    after = before.clone()
    after[1, 2, 3, 1] += 0.02
    assert still(before, after, 0.03) and not still(before, after, 0.01)
    assert not still(before, before, 0.03)  # heads that were never trained


@pytest.mark.parametrize("below", [0.0, 1e-9, 1.0])
def test_what_is_done_is_what_every_model_does_and_the_rest_is_the_last_again(below, args, tiny_workload):
    model, inputs = built(args, below), make_inputs(args, tiny_workload)
    with torch.inference_mode():
        outputs, whole = model(*inputs), built(args, 0.0)(*inputs)
    iterations = 3 if below == 1 else 4  # the first that may be left out is the last
    assert done(outputs) == iterations and (len(outputs[0]), len(outputs[1])) == (4, 5)
    for got, expected in ((outputs[0], whole[0]), (outputs[1], whole[1][1:])):
        got = got[-4:]
        assert all(torch.equal(a, b) for a, b in zip(got[:iterations], expected[:iterations], strict=True))
        assert all(a is got[iterations - 1] for a in got[iterations:])
    for a, b in zip(outputs[2:4], whole[2:4], strict=True):
        assert torch.equal(a, b)


def test_a_batch_goes_on_until_the_slowest_picture_stands_still(args, tiny_workload):
    inputs = make_inputs(args, tiny_workload)
    model = built(args, 0.0)
    with torch.inference_mode():
        points = model(*inputs)[1]
    moves = [float((points[3] - points[2])[picture, :, 2:].abs().amax()) for picture in range(2)]  # of the first whole iteration
    model.decoder.exit_below = sum(moves) / 2
    fast, slow = (0, 1) if moves[0] < moves[1] else (1, 0)

    def iterations(pictures: list[int]) -> int:
        chosen = inputs._replace(
            srcs=[each[pictures] for each in inputs.srcs], masks=[each[pictures] for each in inputs.masks],
            pos_embeds=[each[pictures] for each in inputs.pos_embeds], query_embed=inputs.query_embed[pictures],
        )
        with torch.inference_mode():
            return done(model(*chosen))

    assert (iterations([fast]), iterations([slow]), iterations([fast, slow])) == (3, 4, 4)


def test_inference_with_gradients_stops_as_well(args, tiny_workload):
    assert done(built(args, 1.0)(*make_inputs(args, tiny_workload))) == 3


def test_training_does_every_iteration(args, tiny_workload):
    assert done(built(args, 1.0).train()(*make_inputs(args, tiny_workload))) == 4


def test_compiled_and_exported_forwards_do_every_iteration(args, tiny_workload):
    inputs = tuple(make_inputs(args, tiny_workload))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about itself
        whole = outputs_by_name(built(args, 0.0)(*inputs))["refpoint_pose_4"]
        model = built(args, 1.0)
        assert not torch.allclose(model(*inputs)[1][-1], whole)
        torch.testing.assert_close(torch.export.export(model, inputs).module()(*inputs)[1][-1], whole)
        torch.compiler.reset()
        torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(*inputs)[1][-1], whole)


def test_a_threshold_beyond_the_image_is_refused():
    with pytest.raises(UsageError, match="efficient_exit_below is 2.0; it must be at most 1"):
        ModelArgs(efficient_exit_below=2.0)

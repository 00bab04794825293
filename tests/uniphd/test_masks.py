"""The mask head: one batched pass is upstream's loop over queries; the masks of some queries are rows of all of them."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from humar_bench.uniphd.masks import MaskHead
from tests.tolerance import assert_close, chained_terms, largest
from tests.uniphd.recipe import Case


def one_query(
    head: MaskHead, memory: list[Tensor], fine: Tensor, coarse: Tensor, parameters: Tensor, centre: Tensor, size: Tensor
) -> Tensor:
    """One query of one image, written out: memory levels [1, C, h, w], parameters [P], centre [2], size [2] -> [H, W]."""
    channels, (h, w) = memory[0].shape[1], memory[0].shape[2:]
    summed = sum(F.interpolate(level, size=(h, w), mode="bicubic") for level in memory)
    w1, w2, b1, b2 = parameters.split([16 * (channels + 2), 256, 16, 16])
    relative = torch.empty(1, 2, h, w, dtype=torch.float64)
    for row in range(h):
        for column in range(w):
            relative[0, 0, row, column] = centre[0] * size[1] - (8 * column + 4)
            relative[0, 1, row, column] = centre[1] * size[0] - (8 * row + 4)
    hidden = F.conv2d(torch.cat((summed, relative), 1), w1.view(16, -1, 1, 1), b1).relu()
    y = F.conv2d(hidden, w2.view(16, 16, 1, 1), b2)
    y = y + head.conv2_1div8(head.conv1_1div8(torch.cat((y, coarse), 1).relu()).relu())
    y = F.interpolate(y, size=fine.shape[2:], mode="bilinear")
    y = y + head.conv2_1div4(head.conv1_1div4(torch.cat((y, fine), 1).relu()).relu())
    return F.pixel_shuffle(y, 4)[0, 0]


def test_one_batched_pass_equals_a_loop_over_queries():
    torch.manual_seed(0)
    head = MaskHead((5, 7)).requires_grad_(False).double()
    normal = functools.partial(torch.randn, dtype=torch.float64)
    memory = [normal(2, 8, *size) for size in ((6, 9), (3, 5), (2, 3))]
    fine, coarse = normal(2, 5, 12, 18), normal(2, 7, 6, 9)
    parameters = normal(2, 3, 16 * 10 + 256 + 32)
    centres, sizes = torch.rand(2, 3, 2, dtype=torch.float64), torch.tensor([[48, 70], [33, 72]])
    made = head(memory, fine, coarse, parameters, centres, sizes)
    assert made.shape == (2, 3, 48, 72)
    for b in range(2):
        one = [level[b : b + 1] for level in memory], fine[b : b + 1], coarse[b : b + 1]
        for q in range(3):
            expected = one_query(head, *one, parameters[b, q], centres[b, q], sizes[b])
            assert_close(made[b, q], expected, scale=largest(made), terms=10 + 16 + chained_terms(head))


@pytest.mark.parametrize("winner", [0, 1])
def test_the_best_mask_is_that_row_of_all_of_them(winner):
    case = Case.of("heads-tiny")
    model, inputs = case.model().double(), case.inputs("point", torch.float64)
    with torch.inference_mode():
        model.class_embed[-1].bias[winner] += 9
        everything, best = model.from_maps(*inputs), model.from_maps(*inputs, masks="best")
    scores = everything.pred_logits.sigmoid().flatten(1)
    assert torch.equal(best.mask_queries[:, 0], scores.argmax(1) // 2) and bool((scores.argmax(1) % 2 == winner).all())
    assert best.pred_masks.shape == (2, 1, *everything.padded_hw)
    rows = everything.pred_masks.gather(1, best.mask_queries[..., None, None].expand_as(best.pred_masks))
    assert_close(best.pred_masks, rows, terms=chained_terms(model))
    assert torch.equal(everything.mask_queries, torch.arange(6).expand(2, -1))
    for name in ("pred_logits", "pred_boxes", "pred_keypoints", "pred_keypoints_visi"):
        assert torch.equal(getattr(best, name), getattr(everything, name))


def test_without_masks_nothing_of_the_mask_head_runs():
    case = Case.of("heads-tiny")
    model = case.model()
    for each in (model.mask_refine, model.controller):
        each.register_forward_hook(lambda *_: pytest.fail("the mask head ran"))
    output = model.from_maps(*case.inputs(), masks="none")
    assert output.pred_masks is None and output.mask_queries is None and output.mask_inputs is None


def test_masks_may_be_made_later_of_chosen_queries_and_learn():
    case = Case.of("heads-tiny")
    model, inputs = case.model().double(), case.inputs(dtype=torch.float64)
    later = model.from_maps(*inputs, masks="later")
    assert later.pred_masks is None
    chosen = torch.tensor([[4, 1], [0, 3]])
    made, everything = model.masks_of(later.mask_inputs, chosen), model.from_maps(*inputs).pred_masks
    rows = torch.stack([everything[b, chosen[b]] for b in range(2)])
    assert_close(made, rows, terms=chained_terms(model))
    made.square().mean().backward()
    assert model.controller.layers[0].weight.grad.abs().sum() > 0 and model.transformer.level_embed.grad.abs().sum() > 0
    assert_close(model.masks_of(later.mask_inputs), everything, terms=chained_terms(model))


def test_without_a_mask_head_masks_are_ones():
    case = Case.of("heads-tiny", no_mask=True)
    model = case.model()
    assert not [name for name in model.state_dict() if name.startswith(("mask_refine", "controller"))]
    output = model.from_maps(*case.inputs())
    assert output.pred_masks.shape == (2, 6, *case.padding.shape[1:]) and bool((output.pred_masks == 1).all())
    assert model.from_maps(*case.inputs(), masks="best").pred_masks.shape[1] == 1
    assert model.from_maps(*case.inputs(), masks="none").pred_masks is None

"""Graph attention along the skeleton: who sees whom, by hand, and what is refused."""

from __future__ import annotations

import pytest
import torch

from efficient.layers import EfficientGraphAttention, skeleton_mask
from humar_bench.args import ModelArgs
from humar_bench.data.keypoints import INDEX, NAMES
from humar_bench.errors import UsageError
from tests.tolerance import assert_close

NEAR_THE_LEFT_WRIST = {  # hops -> the keypoints it sees
    1: {"left_wrist", "left_elbow"},
    2: {"left_wrist", "left_elbow", "left_shoulder"},
    3: {"left_wrist", "left_elbow", "left_shoulder", "right_shoulder", "left_hip"},
}
BODY = set(NAMES[5:])  # no bone of COCO's skeleton joins the face to it


@pytest.mark.parametrize("hops", NEAR_THE_LEFT_WRIST)
def test_a_keypoint_sees_those_so_many_bones_away_and_the_instance_token(hops):
    mask = skeleton_mask(18, hops)[0, 0]
    wrist = mask[1 + INDEX["left_wrist"]]
    assert {NAMES[i - 1] for i in (wrist == 0).nonzero().flatten().tolist() if i} == NEAR_THE_LEFT_WRIST[hops]
    assert (mask[0] == 0).all() and (mask[:, 0] == 0).all() and torch.equal(mask, mask.T)
    assert torch.isneginf(mask[mask != 0]).all()


def test_with_many_hops_a_keypoint_sees_all_that_hangs_together_with_it():
    wrist = skeleton_mask(18, 1_000)[0, 0, 1 + INDEX["left_wrist"]]
    assert {NAMES[i - 1] for i in (wrist == 0).nonzero().flatten().tolist() if i} == BODY


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gradient", [True, False])
def test_what_is_not_seen_moves_nothing(bias, gradient):
    torch.manual_seed(0)
    attention = EfficientGraphAttention(8, heads=2, tokens=18, bias=bias, hops=1).double()
    if bias:
        torch.nn.init.normal_(attention.graph_bias)
    x = torch.randn(2, 18, 8, dtype=torch.float64)
    other = x.clone()
    other[:, 1 + INDEX["left_wrist"]] += 1
    with torch.set_grad_enabled(gradient):
        moved = (attention(x) != attention(other)).any(-1).any(0)
    assert {i for i in range(18) if moved[i]} == {0, 1 + INDEX["left_wrist"], 1 + INDEX["left_elbow"]}


def test_it_is_the_attention_among_those_that_are_seen():
    """Of the wrist: instance token, elbow, itself."""
    torch.manual_seed(0)
    attention = EfficientGraphAttention(8, heads=2, tokens=18, bias=True, hops=1).double()
    torch.nn.init.normal_(attention.graph_bias)
    wrist, seen = 1 + INDEX["left_wrist"], [0, 1 + INDEX["left_elbow"], 1 + INDEX["left_wrist"]]
    x = torch.randn(1, 18, 8, dtype=torch.float64)
    q, k, v = attention.qkv(x)[0].view(18, 3, 2, 4).permute(1, 2, 0, 3)  # [M, N, D] each
    scores = (q[:, wrist, None] * k[:, seen]).sum(-1) / 2 + attention.graph_bias[:, wrist, seen]
    expected = attention.out((scores.softmax(-1)[:, :, None] * v[:, seen]).sum(1).flatten())
    assert_close(attention(x)[0, wrist], expected, terms=3 * 8)


def test_weights_of_one_fit_the_other():
    one, other = (EfficientGraphAttention(8, heads=2, tokens=18, bias=True, hops=hops).state_dict() for hops in (0, 2))
    assert {name: each.shape for name, each in one.items()} == {name: each.shape for name, each in other.items()}


def test_hops_without_a_skeleton_are_refused():
    with pytest.raises(UsageError, match="efficient_skeleton_hops is 2 and num_body_points 6"):
        ModelArgs(efficient_skeleton_hops=2, num_body_points=6)

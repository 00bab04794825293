"""The replacement's own promises: size, linear attention that is an average, levels that never mix on the canvas."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from efficient import build_efficient_conv_attention_transformer
from efficient.canvas import Canvas
from efficient.layers import DepthwiseConv, EfficientGraphAttention, EfficientLinearAttention, linear_attention
from humar_bench.args import ModelArgs, Workload
from humar_bench.subjects.transformer import make_inputs
from tests.models import shaken
from tests.tolerance import assert_close, largest, tolerance


def count(**changes) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build_efficient_conv_attention_transformer(ModelArgs(**changes)).parameters())


LITERAL = {
    "efficient_encoder_sets": 4, "efficient_decoder_sets": 6, "efficient_encoder_stride": 1,
    "efficient_memory_stride": 1, "efficient_cross_tokens": "all", "efficient_encoder_samples": False, "efficient_point_samples": False,
    "efficient_look_mlp": False, "efficient_instance_iterations": 0,
}


def test_the_replacement_has_at_most_five_million_parameters_heads_included():
    assert count() <= 5_000_000
    assert count(num_feature_levels=3) <= 5_000_000


def test_the_literal_description_is_reported_and_is_larger_than_it_says(say):
    """Untied and on the whole memory: 10 blocks of width 256 and the kept heads are far beyond 5 M."""
    literal = count(**LITERAL)
    say(f"the literal description has {literal:,} parameters, the replacement {count():,}")
    assert literal > 2 * count()


def test_a_constant_value_comes_back_from_linear_attention():
    torch.manual_seed(0)
    qk, ones = torch.randn(2, 3, 4, 1000, 64, dtype=torch.float64), torch.ones(3, 4, 1000, 64, dtype=torch.float64)
    assert_close(linear_attention(qk, ones), ones, terms=1000 + 64)
    padding = torch.rand(3, 1000, 1) < 0.3
    counts = (~padding).double().clamp(min=1e-20)
    masked = ones * counts.unsqueeze(1)
    assert_close(linear_attention(qk, masked, counts), ones, terms=1000 + 64)


def test_queries_whose_features_are_all_negative_still_average():
    qk, v = -torch.ones(2, 1, 1, 6, 4), torch.arange(24.0).view(1, 1, 6, 4)
    assert_close(linear_attention(qk, v), v.mean(2, keepdim=True).expand_as(v), terms=6 + 4)


def test_linear_attention_equals_the_quadratic_sum():
    torch.manual_seed(0)
    qk, v = torch.randn(2, 2, 3, 50, 8, dtype=torch.float64), torch.randn(2, 3, 50, 8, dtype=torch.float64)
    counts = torch.ones(2, 50, 1, dtype=torch.float64)
    counts[:, 30:] = 1e-20
    q, k = qk.clamp(min=1e-6)
    weights = (q @ k.transpose(-1, -2))[..., :30]
    expected = weights / weights.sum(-1, keepdim=True) @ v[:, :, :30]
    assert_close(linear_attention(qk, v * counts.unsqueeze(1), counts), expected, scale=largest(v), terms=50 + 8)


def test_sums_are_kept_in_float32_so_that_half_precision_stays_finite_at_7500_tokens():
    torch.manual_seed(0)
    qk, v = torch.randn(2, 1, 4, 7500, 64), torch.randn(1, 4, 7500, 64)
    exact = linear_attention(qk.double(), v.double())
    half = linear_attention((4 * qk).half(), v.half())
    assert torch.isfinite(half).all() and half.dtype == torch.float16
    brain = linear_attention(qk.bfloat16(), v.bfloat16())
    assert_close(brain, exact)  # rounded on the way in and out, not in between


def test_the_value_convolution_restores_the_rank_that_linear_attention_loses():
    torch.manual_seed(0)
    x = torch.randn(1, 400, 32, dtype=torch.float64)
    ranks = []
    for value_conv in (False, True):
        attention = EfficientLinearAttention(32, heads=4, value_conv=value_conv).double()
        jacobian = torch.autograd.functional.jacobian(lambda v, a=attention: mixed(a, x, v), torch.randn(400, dtype=torch.float64))
        ranks.append(int(torch.linalg.matrix_rank(jacobian, tol=tolerance(torch.float64, float(torch.linalg.norm(jacobian)), terms=400))))
    assert ranks[0] <= 8 < 300 < ranks[1]  # 8 = width of a head


def mixed(attention: EfficientLinearAttention, x: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """What one channel's values become under the attention of x, before the output projection."""
    qk, _ = attention.qkv(x).split((64, 32), dim=-1)
    heads = qk.unflatten(-1, (2, 4, -1)).permute(2, 0, 3, 1, 4)
    v = values.view(1, 400, 1).expand(-1, -1, 32)
    attended = linear_attention(heads, v.unflatten(-1, (4, -1)).transpose(1, 2)).transpose(1, 2).flatten(-2)
    if attention.value_conv is not None:
        attended = attended + attention.value_conv(v.unflatten(1, (20, 20))).flatten(1, 2)
    return attended[0, :, 0]


def test_graph_attention_uses_its_bias():
    torch.manual_seed(0)
    attention = EfficientGraphAttention(8, heads=2, tokens=5, bias=True).double()
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    torch.nn.init.zeros_(attention.graph_bias)
    with torch.no_grad():
        attention.graph_bias[:, :, 1:] = -1e4  # all look at token 0 only
    only_first = attention.out(attention.qkv(x)[:, :1, 16:].expand(-1, 5, -1))
    assert_close(attention(x), only_first, terms=5 * 8)
    with torch.no_grad():
        assert_close(attention(x), only_first, terms=5 * 8)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("shapes", [[(9, 7), (5, 4), (3, 2), (2, 1)], [(50, 50)] * 3, [(3, 4), (8, 9)], [(1, 1)]])
def test_levels_lie_apart_on_the_canvas_and_come_back_as_they_were(shapes, stride):
    canvas = Canvas(shapes, stride)
    tokens = torch.randn(2, sum(h * w for h, w in shapes), 3)
    placed = canvas.place_tokens(tokens)
    assert torch.equal(canvas.gather(placed), tokens)
    assert placed.count_nonzero() == tokens.count_nonzero()
    owner = canvas.place([torch.full((1, h, w, 1), level + 1.0) for level, (h, w) in enumerate(shapes)])[0, :, :, 0]
    for dy, dx in [(0, 1), (1, 0), (1, 1), (1, -1)]:  # no two levels touch, not even at a corner
        here, there = owner, owner.roll((-dy, -dx), (0, 1))
        inside = torch.ones_like(owner, dtype=torch.bool)
        inside[owner.shape[0] - dy :] = False
        if dx:
            inside[:, -1 if dx == 1 else 0] = False
        assert ((here == there) | (here == 0) | (there == 0))[inside].all()
    cells = owner.unfold(0, stride, stride).unfold(1, stride, stride).flatten(2)
    low = torch.where(cells == 0, torch.inf, cells).amin(-1)
    assert ((low == cells.amax(-1)) | (cells.amax(-1) == 0)).all()  # a cell holds tokens of one level


def test_a_convolution_on_the_canvas_equals_one_on_each_level():
    torch.manual_seed(0)
    shapes = [(6, 8), (3, 4), (2, 2)]
    canvas, convolution = Canvas(shapes, 2), DepthwiseConv(4).double()
    maps = [torch.randn(2, h, w, 4, dtype=torch.float64) for h, w in shapes]
    together = canvas.gather(convolution(canvas.place(maps)))
    assert_close(together, torch.cat([convolution(each).flatten(1, 2) for each in maps], dim=1), scale=largest(maps[0]), terms=10)


def test_a_cell_is_the_mean_of_its_valid_tokens():
    canvas = Canvas([(3, 3)], 2)
    values = torch.arange(1.0, 10.0).view(1, 9, 1)
    valid = torch.ones(1, 9, 1)
    valid[0, [2, 8]] = 0
    cells, filled = canvas.pool(canvas.place_tokens(values * valid), canvas.place_tokens(valid))
    assert cells.flatten().tolist() == [3.0, 6.0, 7.5, 0.0]  # (1+2+4+5)/4, 6, (7+8)/2, nothing valid
    assert filled.flatten().tolist() == [1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("each", [1, 3])
def test_a_token_samples_the_memory_at_its_reference_point(each):
    """Two levels, no padding, one token to the right for the last sample a level and no weight for others: it equals `grid_sample` of the
    plain map of the level that the token asks for."""
    from efficient.samples import Ground, OffsetSamples

    torch.manual_seed(0)
    size = (6, 9)
    memory = torch.randn(1, 4, *size, dtype=torch.float64)
    points, x = torch.rand(1, 3, 3, 2, dtype=torch.float64), torch.randn(1, 3, 3, 4, dtype=torch.float64)
    right = 1 / size[1]
    points[..., 0] *= 1 - right  # nor beyond the level
    points = points * (1 - 1 / 6) + 0.5 / 6  # not beyond the centres of the outermost tokens
    canvas = Canvas([size, (2, 2)], 2)
    tokens = torch.cat((memory.flatten(2).transpose(1, 2), torch.zeros(1, 4, 4, dtype=torch.float64)), dim=1)
    samples = OffsetSamples(4, levels=2, heads=2, points=each).double()
    for layer in (samples.offsets, samples.level_weights):
        torch.nn.init.zeros_(layer.weight)
    samples.offsets.bias.data = torch.zeros(2, 2, each, 2, dtype=torch.float64).index_fill_(2, torch.tensor([each - 1]), 1)
    samples.offsets.bias.data[..., 1] = 0
    samples.offsets.bias.data = samples.offsets.bias.data.flatten()
    torch.nn.init.eye_(samples.value.weight)
    torch.nn.init.zeros_(samples.value.bias)
    asked = torch.zeros(2, 2, each, dtype=torch.float64)  # the first level's last sample alone
    asked[:, 0, -1] = 50
    samples.level_weights.bias.data = asked.flatten()
    seen, ground = samples.sampled(canvas.place_tokens(samples.value(tokens))), Ground.on(canvas, memory.new_ones(1, 2, 2))
    beside = points + torch.tensor([right, 0], dtype=torch.float64)
    expected = torch.nn.functional.grid_sample(memory, 2 * beside - 1, align_corners=False).permute(0, 2, 3, 1)
    assert_close(samples(x, points, seen, ground), samples.out(expected), scale=max(size) * largest(memory), terms=4 * 4)


def test_all_tokens_or_the_instance_token_hear_of_other_instances(tiny_args, tiny_workload):
    """The look alone, without the image: a change of one token of one instance moves the same token of the others, or none."""
    args = dataclasses.replace(tiny_args, efficient_point_samples=False, efficient_look_mlp=False)
    torch.manual_seed(0)
    for across in ("all", "instance"):
        model = shaken(build_efficient_conv_attention_transformer(dataclasses.replace(args, efficient_across_tokens=across))).double()
        [layer], x = model.decoder.sets, torch.randn(2, 3, args.num_body_points + 1, args.hidden_dim, dtype=torch.float64)
        for token in (0, 2):
            other = x.clone()
            other[0, 1, token] += 1
            one, two = (layer._heard(each) if across == "all" else layer._seen(each, None, None) for each in (x, other))
            moved = [(*at,) for at in (one != two).any(-1).nonzero().tolist()]
            assert moved == ([(0, query, token) for query in range(3)] if across == "all" or token == 0 else [])


def test_the_first_iterations_move_the_instance_token_alone(tiny_args, tiny_workload):
    args = dataclasses.replace(tiny_args, dec_layers=5)
    model = shaken(build_efficient_conv_attention_transformer(args))
    with torch.inference_mode():
        hs_pose, refpoint_pose, *_ = model(*make_inputs(args, tiny_workload))
    moved = [(not torch.equal(a[:, :, 0], b[:, :, 0]), not torch.equal(a[:, :, 1:], b[:, :, 1:])) for a, b in itertools.pairwise(hs_pose)]
    assert model.decoder.early == 2 and moved == [(True, False), (True, True), (True, True), (True, True)]
    assert len(refpoint_pose) == 6 and not torch.equal(refpoint_pose[0], refpoint_pose[1])  # the heads refine what there is
    whole = build_efficient_conv_attention_transformer(dataclasses.replace(args, efficient_instance_iterations=0))
    assert whole.decoder.early == 0 and len(list(whole.parameters())) > len(list(model.parameters()))


@pytest.mark.parametrize("whole", [False, True], ids=["the look", "a whole iteration"])
def test_positions_go_into_the_tokens_of_each_half(tiny_args, tiny_workload, whole):
    """Without samples, the look at least moves by the positions themselves; the attention within an instance has no other way to them."""
    torch.manual_seed(0)
    args = dataclasses.replace(tiny_args, efficient_point_samples=False, efficient_look_mlp=False)
    [layer] = shaken(build_efficient_conv_attention_transformer(args)).double().decoder.sets
    x, pos = torch.randn(2, 2, 3, args.num_body_points + 1, args.hidden_dim, dtype=torch.float64)
    norms = layer.norms(args.hidden_dim, whole=True).double()
    if whole:
        layer.look_around = lambda x, *_: x  # what is left is the second half alone
    does = layer if whole else layer.look_around
    moved, still = (does(x, each, None, None, norms) for each in (pos, torch.zeros_like(pos)))
    expected = does(x + pos, torch.zeros_like(pos), None, None, norms)
    assert_close(moved, expected, terms=args.hidden_dim)
    assert largest(moved - still) > 1e-3 * largest(still)


def test_every_switch_changes_what_is_computed_or_built(tiny_args, tiny_workload):
    from tests.models import SWITCHES

    seen = []
    for switch in SWITCHES:
        torch.manual_seed(0)
        model = shaken(build_efficient_conv_attention_transformer(dataclasses.replace(tiny_args, **switch)))
        with torch.inference_mode():
            tokens = model(*make_inputs(tiny_args, tiny_workload))[0][-1]
        assert not any(torch.equal(tokens, other) for other in seen), switch
        seen.append(tokens)


def test_what_was_built_says_what_the_shared_arguments_became():
    with torch.device("meta"):
        built = build_efficient_conv_attention_transformer(ModelArgs()).built
    assert (built["nheads"], built["enc_layers"], built["dim_feedforward"]) == (4, 4, 512)
    assert "enc_n_points" not in built and built["dec_layers"] == 6


def test_cost_grows_no_faster_than_the_number_of_tokens():
    from torch.utils.flop_counter import FlopCounterMode

    flops = []
    for side in (40, 80, 160):
        workload = Workload("square", 1, 20, ((side, side),))
        args = ModelArgs(num_feature_levels=1)
        with torch.device("meta"):
            model = build_efficient_conv_attention_transformer(args)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(*make_inputs(args, workload, device="meta"))
        flops.append(counter.get_total_flops())
    assert flops[2] - flops[1] == 4 * (flops[1] - flops[0])  # a constant and a part in proportion to the tokens, to the FLOP

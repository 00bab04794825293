"""The original with fused operators: the original's weights, the original's outputs, fewer operators."""

from __future__ import annotations

import copy
import dataclasses

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from baselines import build_fused_transformer, build_transformer
from baselines.deformable_attention import deformable_attention
from baselines.weighted_rows import weighted_rows
from humar_bench.args import ModelArgs, Workload
from humar_bench.measures.agreement import expected_outputs
from humar_bench.measures.flops import count_flops
from humar_bench.subjects.registry import build
from humar_bench.subjects.transformer import make_inputs
from tests.models import fill_from_names, outputs_by_name, shaken
from tests.tolerance import assert_close, assert_outputs_close, chained_terms, largest


def pair(args: ModelArgs) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The original and the fused one with the original's weights."""
    original, fused = build_transformer(args).eval(), build_fused_transformer(args).eval()
    fill_from_names(original)
    fused.load_state_dict(original.state_dict(), strict=True)
    return original, fused


CONFIGURATIONS = st.fixed_dictionaries({
    "hidden_dim": st.sampled_from([12, 24, 36]), "nheads": st.sampled_from([1, 2, 3]), "dim_feedforward": st.integers(1, 40),
    "enc_layers": st.integers(1, 2), "dec_layers": st.integers(1, 2), "enc_n_points": st.integers(1, 5), "dec_n_points": st.integers(1, 5),
    "num_body_points": st.integers(1, 6), "num_classes": st.integers(1, 3), "pre_norm": st.booleans(),
    "transformer_activation": st.sampled_from(["relu", "gelu"]), "within_type": st.sampled_from(["attn_graph", "attn"]),
    "learnable_tgt_init": st.booleans(),
})  # fmt: skip
SIZES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(CONFIGURATIONS, SIZES, st.integers(1, 3), st.booleans(), st.booleans())
def test_any_configuration_gives_the_originals_outputs(fields, sizes, batch, padded, flat):
    queries = min(3, sum(height * width for height, width in sizes))
    args = ModelArgs(**fields, num_queries=queries, num_feature_levels=len(sizes))
    original, fused = (model.double() for model in pair(args))
    inputs = make_inputs(args, Workload("random", batch, queries, tuple(sizes), padded=padded), dtype=torch.float64)
    if flat:
        inputs = inputs._replace(query_embed=inputs.query_embed.squeeze(2))
    before = copy.deepcopy(inputs)
    with torch.inference_mode():
        assert_outputs_close(fused(*inputs), original(*inputs), terms=chained_terms(original))
    assert all(torch.equal(one, other) for one, other in zip(inputs.srcs + inputs.pos_embeds, before.srcs + before.pos_embeds, strict=True))


def test_weights_go_from_one_to_the_other_and_a_seed_gives_both_the_same(tiny_args):
    original, fused = build("original", tiny_args, seed=3), build("original-fused", tiny_args, seed=3)
    assert list(original.state_dict()) == list(fused.state_dict())
    assert all(torch.equal(one, other) for one, other in zip(original.state_dict().values(), fused.state_dict().values(), strict=True))
    assert [name for name, _ in original.named_parameters()] == [name for name, _ in fused.named_parameters()]
    original.load_state_dict(fused.state_dict(), strict=True)
    assert original.built == fused.built


def test_training_gives_the_originals_gradients(tiny_args, tiny_workload):
    original, fused = (model.double().train() for model in pair(tiny_args))
    inputs = make_inputs(tiny_args, tiny_workload, dtype=torch.float64)
    for model in (original, fused):
        sum(value.sin().sum() for value in outputs_by_name(model(*inputs)).values()).backward()
    for (name, one), other in zip(original.named_parameters(), fused.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            assert_close(other.grad, one.grad, terms=2 * chained_terms(original), scale=max(largest(one.grad), 1.0), name=name)


def test_it_survives_a_copy_new_weights_and_another_number_type(tiny_args, tiny_workload):
    original, fused = pair(tiny_args)
    inputs = make_inputs(tiny_args, tiny_workload)
    with torch.inference_mode():
        fused(*inputs)
        assert_outputs_close(copy.deepcopy(fused)(*inputs), original(*inputs), terms=chained_terms(original))
    shaken(original)
    fused.load_state_dict(original.state_dict())
    exact = make_inputs(tiny_args, tiny_workload, dtype=torch.float64)
    with torch.inference_mode():
        assert_outputs_close(fused(*inputs), original(*inputs), terms=chained_terms(original))
        assert_outputs_close(fused.double()(*exact), original.double()(*exact), terms=chained_terms(original))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(SIZES, st.integers(1, 2), st.integers(1, 6), st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(0, 10**6))
def test_weighted_rows_are_deformable_attention(sizes, batch, tokens, heads, depth, samples, seed):
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    memory, levels = sum(height * width for height, width in sizes), len(sizes)
    value, points = normal(batch, memory, heads, depth), torch.rand(batch, tokens, levels, 2, generator=draw, dtype=torch.float64)
    offsets = normal(batch, tokens, heads, levels, samples, 2) * 10.0 ** float(torch.randint(-1, 6, (), generator=draw))
    logits = normal(batch, tokens, heads, levels * samples)
    extent = torch.tensor([[width, height] for height, width in sizes], dtype=torch.float64)
    locations = points[:, :, None, :, None] + offsets / extent[:, None]
    weights = logits.softmax(-1).unflatten(-1, (levels, samples))
    expected = deformable_attention(value, sizes, locations, weights)
    made = weighted_rows(value, offsets, logits, points, extent, sizes)
    assert_close(made, expected, scale=largest(value) * max(map(max, sizes)), terms=4 * levels * samples)  # places are as exact as sides


def test_samples_on_the_last_cell_and_on_the_outer_edge_are_the_originals():
    sizes, extent = [(2, 3)], torch.tensor([[3.0, 2.0]])
    value = torch.arange(1.0, 7.0).view(1, 6, 1, 1)
    points = torch.tensor([[[0.0, 0.0]], [[1.0, 1.0]], [[2.5 / 3, 0.75]], [[0.5 / 3, 0.25]], [[-0.5 / 3, 0.25]]]).unsqueeze(0)
    offsets, logits = torch.zeros(1, 5, 1, 1, 1, 2), torch.zeros(1, 5, 1, 1)
    made = weighted_rows(value, offsets, logits, points, extent, sizes).flatten()
    assert_close(made, torch.tensor([0.25, 1.5, 6.0, 1.0, 0.0]), scale=3 * largest(value), terms=4)


def test_it_saves_the_pose_head_of_unchosen_tokens_and_never_waits_for_the_device():
    args, workload = ModelArgs(num_feature_levels=3), dataclasses.replace(Workload.speed_test(), num_queries=20)
    counts = {}
    for name in ("original", "original-fused"):
        model = build(name, args, device="meta")
        counts[name] = count_flops(model, make_inputs(args, workload, device="meta"), strict=True)
    assert counts["original"].synchronisations == counts["original-fused"].synchronisations == 0
    saved = counts["original"].matmul_flops - counts["original-fused"].matmul_flops
    unchosen, instances = 2 * (7500 - 20), 2 * 20
    assert saved == 2 * unchosen * (256 * 512 + 2 * 512 * 512 + 512 * 34) + 6 * 2 * instances * 2 * 256 * 256


def test_half_precision_is_the_originals_to_its_rounding(tiny_args, tiny_workload):
    """Both are off by what bfloat16 rounds: the fused one not by more than twice the original."""
    original, fused = (shaken(model).bfloat16() for model in pair(tiny_args))
    inputs = make_inputs(tiny_args, tiny_workload, dtype=torch.bfloat16)
    with torch.inference_mode():
        one, other = original(*inputs), fused(*inputs)
    exact = expected_outputs(lambda: build_transformer(tiny_args), original, inputs)
    assert other[0][-1].dtype == torch.bfloat16 and other[1][-1].dtype == torch.float32
    off, allowed = ((each[4][0].float() - exact[4][0]).square().mean().sqrt() for each in (other, one))
    assert 0 < off <= 2 * allowed

"""What both architectures owe their callers: outputs, padding, gradients, refusals, every shape, meta and fake tensors."""

from __future__ import annotations

import dataclasses
from argparse import Namespace

import pytest
import torch

from humar_bench.args import ModelArgs, Workload
from humar_bench.errors import UsageError
from humar_bench.subjects.transformer import Inputs, make_inputs
from tests.models import BUILDERS, SWITCHES, at_valid_places, outputs_by_name, shaken, with_noise_under_padding
from tests.tolerance import assert_close, chained_terms

PADDED = dataclasses.replace(Workload.tiny(batch=3), padded=True)
CASES = [("original", {}), ("original-fused", {}), *(("efficient", switch) for switch in SWITCHES)]


def expected_shapes(args: ModelArgs, workload: Workload) -> dict[str, tuple[int, ...]]:
    batch, queries, channels, keypoints = workload.batch, workload.num_queries, args.hidden_dim, args.num_body_points
    shapes = {f"hs_pose_{i}": (batch, queries, keypoints + 1, channels) for i in range(args.dec_layers)}
    shapes |= {f"refpoint_pose_{i}": (batch, queries, 2 * keypoints + 2) for i in range(args.dec_layers + 1)}
    shapes |= {f"memory_features_{i}": (batch, channels, *size) for i, size in enumerate(workload.feature_sizes[:-1])}
    return {**shapes, "mix_refpoint": (batch, queries, 2 * keypoints), "mix_embedding": (batch, queries, channels)}


@pytest.mark.parametrize(("name", "switch"), CASES)
def test_values_under_the_padding_change_no_output_by_a_single_bit(name, switch, tiny_args):
    model = shaken(BUILDERS[name](dataclasses.replace(tiny_args, **switch)))
    inputs = make_inputs(tiny_args, PADDED)
    with torch.inference_mode():
        plain = at_valid_places(model(*inputs), inputs.masks)
        noisy = at_valid_places(model(*with_noise_under_padding(inputs)), inputs.masks)
    for key, value in plain.items():
        assert torch.isfinite(value).all(), key
        assert torch.equal(value, noisy[key]), key


@pytest.mark.parametrize("name", BUILDERS)
def test_not_even_infinities_under_the_padding_come_through(name, tiny_args):
    model = shaken(BUILDERS[name](tiny_args))
    inputs = make_inputs(tiny_args, PADDED)
    with torch.inference_mode():
        outputs = at_valid_places(model(*with_noise_under_padding(inputs, scale=float("inf"))), inputs.masks)
    assert all(torch.isfinite(value).all() for value in outputs.values())


@pytest.mark.parametrize(("name", "switch"), CASES)
def test_an_image_gives_the_same_memory_and_proposals_padded_as_alone(name, switch, tiny_args):
    """Padding on the right and below changes nothing up to the decoder, whose sine embedding counts from the padded edge, as upstream's."""
    args = dataclasses.replace(tiny_args, num_feature_levels=2, **switch)
    model = shaken(BUILDERS[name](args)).double()
    with torch.no_grad():  # tokens without a proposal all look alike; a class head that dislikes them leaves the choice to the image
        blank = model.enc_output_norm(model.enc_output.bias)
        model.enc_out_class_embed.weight.copy_(-(blank / blank.square().sum()).expand(args.num_classes, -1))
    alone = make_inputs(args, Workload("alone", 1, 5, ((8, 12), (4, 6))), seed=3, dtype=torch.float64)
    pad = [(0, 4, 0, 4), (0, 2, 0, 2)]  # right, below

    def padded(maps: list[torch.Tensor], value: float) -> list[torch.Tensor]:
        return [torch.nn.functional.pad(each, p, value=value) for each, p in zip(maps, pad, strict=True)]

    masks = [mask.bool() for mask in padded([mask.float() for mask in alone.masks], 1.0)]
    with torch.inference_mode():
        one = model(*alone)
        two = model(padded(alone.srcs, 5.0), masks, padded(alone.pos_embeds, -3.0), alone.query_embed)
    terms = chained_terms(model)
    assert_close(two[2], one[2], terms=terms, name="keypoints of the chosen tokens")
    assert_close(two[3], one[3], terms=terms, name="the chosen tokens")
    assert_close(two[4][0][:, :, :8, :12], one[4][0], terms=terms, name="memory")


@pytest.mark.parametrize(("name", "switch"), CASES)
def test_gradients_reach_every_parameter(name, switch, tiny_args):
    model = shaken(BUILDERS[name](dataclasses.replace(tiny_args, **switch))).train()
    hs_pose, refpoint_pose, mix_refpoint, mix_embedding, memory = outputs = model(*make_inputs(tiny_args, PADDED))
    loss = sum(value.sin().sum() for value in outputs_by_name(outputs).values())
    # the outer model reads these heads
    for tokens, classes, boxes in zip(hs_pose, model.decoder.class_embed, model.decoder.bbox_embed, strict=True):
        loss = loss + classes(tokens).sin().sum() + boxes(tokens).sin().sum()
    (loss + model.enc_out_class_embed(mix_embedding).sin().sum()).backward()
    silent = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert silent == []


SHAPES = [
    (Workload("one level", 1, 3, ((7, 5),)), {"num_feature_levels": 1}),
    (Workload("two odd levels", 2, 4, ((5, 9), (1, 3))), {"num_feature_levels": 2, "num_body_points": 1, "enc_n_points": 3}),
    (Workload("growing levels", 1, 2, ((2, 3), (4, 7), (9, 5))), {"num_feature_levels": 3, "dec_n_points": 1, "num_classes": 5}),
    (Workload("five levels", 2, 1, ((9, 8), (5, 4), (3, 2), (2, 1), (1, 1))), {"num_feature_levels": 5, "num_body_points": 21}),
    (Workload("all tokens", 1, 6, ((2, 3),)), {"num_feature_levels": 1, "dec_layers": 1, "enc_layers": 1}),
    (Workload("six levels, the last too coarse", 1, 2, ((9, 8), (5, 4), (3, 2), (2, 1), (1, 1), (1, 1))), {"num_feature_levels": 6}),
]


@pytest.mark.parametrize(("workload", "changes"), SHAPES, ids=[workload.name for workload, _ in SHAPES])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", BUILDERS)
def test_any_sizes_give_finite_outputs_of_the_described_shapes(name, workload, changes, padded, tiny_args):
    args = dataclasses.replace(tiny_args, num_queries=workload.num_queries, efficient_encoder_sets=1, **changes)
    workload = dataclasses.replace(workload, padded=padded)
    model = shaken(BUILDERS[name](args))
    with torch.inference_mode():
        outputs = outputs_by_name(model(*make_inputs(args, workload)))
    assert {key: tuple(value.shape) for key, value in outputs.items()} == expected_shapes(args, workload)
    assert all(torch.isfinite(value).all() for value in outputs.values())


@pytest.mark.parametrize("name", BUILDERS)
def test_an_image_that_is_padding_throughout_gives_finite_outputs(name, tiny_args, tiny_workload):
    inputs = make_inputs(tiny_args, tiny_workload)
    for mask in inputs.masks:
        mask[1] = True
    outputs = outputs_by_name(shaken(BUILDERS[name](tiny_args))(*inputs))
    assert all(torch.isfinite(value).all() for value in outputs.values())


@pytest.mark.parametrize("name", BUILDERS)
def test_a_flat_query_tensor_is_read_like_a_deep_one(name, tiny_args, tiny_workload):
    model = shaken(BUILDERS[name](tiny_args))
    inputs = make_inputs(tiny_args, tiny_workload)
    flat = inputs._replace(query_embed=inputs.query_embed.squeeze(2))
    for key, value in outputs_by_name(model(*flat)).items():
        assert torch.equal(value, outputs_by_name(model(*inputs))[key]), key


@pytest.mark.parametrize("name", BUILDERS)
def test_the_published_snippets_run(name):
    """Parameter counts and the speed test, as published, at a smaller width so that it takes a second."""
    args = Namespace(num_feature_levels=3, num_queries=300, enc_layers=1, dec_layers=1, efficient_encoder_sets=1, efficient_enc_layers=1)
    transformer = BUILDERS[name](args).eval()
    assert sum(p.numel() for p in transformer.parameters()) > 1_000_000
    srcs = [torch.randn(2, 256, 50, 50) for _ in range(3)]
    masks = [torch.zeros(2, 50, 50).bool() for _ in range(3)]
    poses = [torch.randn(2, 256, 50, 50) for _ in range(3)]
    query_embed = torch.randn(2, 300, 256)
    with torch.no_grad():
        outputs = transformer(srcs, masks, poses, query_embed)
    assert outputs[0][0].shape == (2, 300, 18, 256)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_namespace_builds_what_the_arguments_build(name, tiny_args):
    namespace = Namespace(**dataclasses.asdict(tiny_args), lr=1e-4, backbone="swin")
    shapes = [{key: value.shape for key, value in BUILDERS[name](args).state_dict().items()} for args in (tiny_args, namespace)]
    assert shapes[0] == shapes[1]


def broken(inputs: Inputs, **changes) -> Inputs:
    return inputs._replace(**changes)


WRONG = {
    "channels": (lambda i: broken(i, srcs=[i.srcs[0][:, :16], *i.srcs[1:]]), ("16", "hidden_dim 32")),
    "levels": (lambda i: broken(i, srcs=i.srcs[:3]), ("3 levels", "num_feature_levels 4")),
    "mask levels": (lambda i: broken(i, masks=i.masks[:2]), ("2 levels", "num_feature_levels 4")),
    "mask shape": (lambda i: broken(i, masks=[i.masks[0][:, :, :5], *i.masks[1:]]), ("(2, 9, 5)", "(2, 9, 7)")),
    "mask type": (lambda i: broken(i, masks=[i.masks[0].float(), *i.masks[1:]]), ("torch.float32", "torch.bool")),
    "positions": (lambda i: broken(i, pos_embeds=[i.pos_embeds[0][:, :, :8], *i.pos_embeds[1:]]), ("(2, 32, 8, 7)", "(2, 32, 9, 7)")),
    "batch": (lambda i: broken(i, srcs=[i.srcs[0], i.srcs[1][:1], *i.srcs[2:]]), ("batch 1", "has 2")),
    "query width": (lambda i: broken(i, query_embed=i.query_embed[..., :8]), ("(2, 5, 1, 8)", "32")),
    "query rank": (lambda i: broken(i, query_embed=i.query_embed.expand(2, 5, 2, 32)), ("(2, 5, 2, 32)", "1, 32")),
    "query batch": (lambda i: broken(i, query_embed=i.query_embed[:1]), ("(1, 5, 1, 32)", "[2, queries")),
    "too many queries": (lambda i: broken(i, query_embed=torch.zeros(2, 92, 1, 32)), ("92 queries", "91 memory tokens")),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", BUILDERS)
def test_wrong_inputs_are_refused_with_both_values(name, wrong, tiny_args, tiny_workload):
    change, said = WRONG[wrong]
    with pytest.raises(UsageError) as refusal:
        BUILDERS[name](tiny_args)(*change(make_inputs(tiny_args, tiny_workload)))
    assert all(part in str(refusal.value) for part in said), refusal.value
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", BUILDERS)
def test_heads_that_do_not_divide_the_width_are_refused(name):
    with pytest.raises(UsageError, match="nheads 7 does not divide hidden_dim 256"):
        BUILDERS[name](Namespace(nheads=7))


@pytest.mark.parametrize(("name", "switch"), CASES)
def test_meta_and_fake_tensors_go_through(name, switch, tiny_args):
    from torch._subclasses.fake_tensor import FakeTensorMode

    args = dataclasses.replace(tiny_args, **switch)
    with torch.device("meta"):
        model = BUILDERS[name](args)
    outputs = outputs_by_name(model(*make_inputs(args, PADDED, device="meta")))
    assert {key: tuple(value.shape) for key, value in outputs.items()} == expected_shapes(args, PADDED)
    with FakeTensorMode():  # refuses anything that asks the host for a value
        BUILDERS[name](args)(*make_inputs(args, PADDED))


@pytest.mark.parametrize("name", BUILDERS)
def test_half_precision_keeps_coordinates_exact(name, tiny_args, tiny_workload):
    model = shaken(BUILDERS[name](tiny_args)).bfloat16()
    outputs = model(*make_inputs(tiny_args, tiny_workload, dtype=torch.bfloat16))
    assert outputs[0][-1].dtype == torch.bfloat16
    assert outputs[1][-1].dtype == torch.float32
    assert all(torch.isfinite(value).all() for value in outputs_by_name(outputs).values())


@pytest.mark.parametrize("name", BUILDERS)
def test_dropout_acts_in_training_only(name, tiny_args, tiny_workload):
    model = shaken(BUILDERS[name](dataclasses.replace(tiny_args, dropout=0.5)))
    inputs = make_inputs(tiny_args, tiny_workload)
    assert torch.equal(model(*inputs)[0][-1], model(*inputs)[0][-1])
    model.train()
    assert not torch.equal(model(*inputs)[0][-1], model(*inputs)[0][-1])


@pytest.mark.parametrize("name", BUILDERS)
def test_the_same_seed_gives_the_same_inputs_in_every_dtype(name, tiny_args, tiny_workload):
    one, two = make_inputs(tiny_args, tiny_workload, seed=5), make_inputs(tiny_args, tiny_workload, seed=5, dtype=torch.float64)
    assert torch.equal(one.srcs[1].double(), two.srcs[1])
    assert not torch.equal(one.srcs[1], make_inputs(tiny_args, tiny_workload, seed=6).srcs[1])

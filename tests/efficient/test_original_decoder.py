"""The replacement's encoder before the original's decoder."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from baselines import build_fused_transformer
from efficient import build_accurate_transformer, build_efficient_conv_attention_transformer
from efficient.layers import RING
from humar_bench.args import ACCURATE, ModelArgs, Workload
from humar_bench.subjects.transformer import make_inputs
from tests.models import shaken


@pytest.fixture
def args(tiny_args: ModelArgs) -> ModelArgs:
    return dataclasses.replace(tiny_args, efficient_decoder="original")


def test_with_a_layer_an_iteration_it_is_the_originals_decoder_weights_and_all(args, tiny_workload: Workload):
    """The same names, and from the same memory the same tokens and points to the last bit."""
    untied = build_efficient_conv_attention_transformer(dataclasses.replace(args, efficient_decoder_sets=args.dec_layers)).eval()
    original = shaken(build_fused_transformer(args))
    untied.decoder.load_state_dict(original.decoder.state_dict())
    heard = []
    handle = original.decoder.register_forward_pre_hook(lambda module, given: heard.append([*given]))
    with torch.inference_mode():
        original(*make_inputs(args, tiny_workload))
        handle.remove()
        (x, points, memory), = heard
        one, other = (model.decoder(x.clone(), points.clone(), memory) for model in (original, untied))
    assert all(torch.equal(a, b) for told, same in zip(one, other, strict=True) for a, b in zip(told, same, strict=True))


def test_its_layers_are_used_in_turn(args, tiny_workload: Workload):
    """A change of the second of two sets is first seen after the second iteration."""
    model = shaken(build_efficient_conv_attention_transformer(dataclasses.replace(args, efficient_decoder_sets=2)))
    inputs = make_inputs(args, tiny_workload)
    with torch.inference_mode():
        before = model(*inputs)[0]
        model.decoder.layers[1].linear1.bias += 1
        after = model(*inputs)[0]
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, False, False] and len(model.decoder.layers) == 2


def test_its_samples_begin_nearer_than_the_originals(args):
    torch.manual_seed(0)
    near, far = (build(args).decoder.layers[0].cross_attn.sampling_offsets.bias for build in (
        build_efficient_conv_attention_transformer, build_fused_transformer))
    assert torch.equal(near, far * RING) and far.any()


def test_it_is_built_with_the_originals_arguments(args):
    built = build_efficient_conv_attention_transformer(args).built
    assert {name: built[name] for name in ("nheads", "dim_feedforward", "dec_n_points", "transformer_activation", "enc_layers")} == {
        "nheads": args.nheads, "dim_feedforward": args.dim_feedforward, "dec_n_points": args.dec_n_points,
        "transformer_activation": args.transformer_activation, "enc_layers": args.efficient_enc_layers,
    }


def test_the_accurate_replacement_is_as_small_as_the_description_says(say):
    with torch.device("meta"):
        parameters, plain = (sum(p.numel() for p in build(ModelArgs()).parameters()) for build in (
            build_accurate_transformer, build_efficient_conv_attention_transformer))
    say(f"efficient-accurate has {parameters:,} parameters, efficient {plain:,}")
    assert parameters <= 5_060_000


def test_the_accurate_replacement_is_the_switch_with_its_proportions_fixed(args, tiny_workload: Workload):
    """Whatever is asked of those; other arguments are as asked."""
    asked = dataclasses.replace(args, efficient_decoder="own", efficient_decoder_sets=3, efficient_encoder_sets=2, dim_feedforward=7)
    model = build_accurate_transformer(asked)
    assert len(model.decoder.layers) == 1 and model.decoder.layers[0].linear1.out_features == 4 * args.hidden_dim
    assert {name: model.built[name] for name in ACCURATE} == ACCURATE and model.built["dim_feedforward"] == 4 * args.hidden_dim


def test_the_memory_is_projected_once_for_each_layer(args, tiny_workload: Workload):
    model, calls = build_accurate_transformer(args).eval(), []
    model.decoder.layers[0].cross_attn.value_proj.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        model(*make_inputs(args, tiny_workload))
    assert len(calls) == 1 and args.dec_layers == 3

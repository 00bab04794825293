"""What the whole model promises beside its golden numbers: gradients, padding, levels, prompts, one graph, no wait for the device."""

from __future__ import annotations

import math
import warnings
from argparse import Namespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from baselines import build_transformer
from humar_bench.args import BUILT_IN, ModelArgs, UniphdArgs
from humar_bench.errors import UsageError
from humar_bench.measures.components import component_of
from humar_bench.uniphd import Captions, Points, Scribbles, TextFeatures, build_uniphd, check_prompt, padded_batch
from tests.tolerance import assert_close, chained_terms
from tests.uniphd.recipe import Case, Features, Maps, normal, outputs_by_name

KINDS = ["text", "point", "scribble"]
EFFICIENT = {"efficient_nheads": 2, "efficient_enc_layers": 2, "efficient_encoder_sets": 1}


@pytest.fixture
def case() -> Case:
    return Case.of("heads-tiny", **EFFICIENT)


def assert_same(made: Any, expected: Any, terms: int = 0) -> None:
    """Every tensor of two outputs, floating-point ones but for the rounding of so many terms."""
    made, expected = tree_leaves(made), tree_leaves(expected)
    assert len(made) == len(expected)
    for one, other in zip(made, expected, strict=True):
        if isinstance(other, Tensor) and other.is_floating_point() and terms:
            assert_close(one, other, terms=terms)
        else:
            assert torch.equal(one, other) if isinstance(other, Tensor) else one == other


class FromMaps(nn.Module):
    """`from_maps` as a module's forward, which `torch.export` takes."""

    def __init__(self, model: nn.Module, masks: str) -> None:
        super().__init__()
        self.model, self.masks = model, masks

    def forward(self, maps: list[Tensor], padding: Tensor, prompt: Any, sizes: Any) -> Any:
        return self.model.from_maps(maps, padding, prompt, sizes, self.masks)


COMPILED = [pytest.param("original", "text", "all", marks=pytest.mark.slow), ("efficient", "scribble", "best")]


@pytest.mark.parametrize(("transformer", "kind", "masks"), COMPILED)
def test_from_maps_compiles_into_one_graph(transformer, kind, masks):
    torch.compiler.reset()
    case = Case.of("heads-edge", **EFFICIENT)
    model, inputs = case.model(transformer).double(), case.inputs(kind, torch.float64)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about itself
        compiled = torch.compile(model.from_maps, fullgraph=True, backend="eager")
        assert_same(compiled(*inputs, masks), model.from_maps(*inputs, masks), chained_terms(model))


@pytest.mark.parametrize(("transformer", "kind", "masks"), COMPILED)
def test_from_maps_exports_to_a_program_with_the_same_outputs(transformer, kind, masks):
    case = Case.of("heads-edge", **EFFICIENT)
    model, inputs = case.model(transformer).double(), case.inputs(kind, torch.float64)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(FromMaps(model, masks), inputs).module()
        maps, *rest = inputs
        maps = [each.flip(0) for each in maps]
        assert_same(program(maps, *rest), model.from_maps(maps, *rest, masks), chained_terms(model))


@pytest.mark.parametrize("transformer", ["original", "efficient"])
@pytest.mark.parametrize("kind", KINDS)
def test_from_maps_never_asks_the_device_for_a_number(kind, transformer):
    """On the meta device there are no numbers: whatever waited for one would raise."""
    case = Case.of("heads-edge", **EFFICIENT)
    model = case.model(transformer).to("meta")
    *inputs, sizes = case.inputs(kind)
    inputs = tree_map(lambda each: each.to("meta"), inputs)
    for masks in ("all", "best"):
        assert model.from_maps(*inputs, sizes, masks).pred_logits.is_meta
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(inputs[1].any())


def test_sizes_may_be_a_tensor_or_pairs(case):
    model, (*inputs, sizes) = case.model(), case.inputs()
    assert_same(model.from_maps(*inputs, torch.tensor(sizes)), model.from_maps(*inputs, sizes))


@pytest.mark.parametrize("transformer", BUILT_IN)
def test_nothing_under_the_padding_of_the_fused_levels_reaches_a_query(case, transformer):
    """Exactly nothing. A mask of the original's only within reach of its interpolation and convolutions from the border of the image; the
    replacement's memory does not depend on the padding, under it neither.
    """
    model, inputs = case.model(transformer).double(), case.inputs(dtype=torch.float64)
    with torch.inference_mode():
        clean = outputs_by_name(model.from_maps(*inputs))
        handle = model.transformer.register_forward_pre_hook(with_noise_under_padding)
        noisy = outputs_by_name(model.from_maps(*inputs))
        handle.remove()
    masks = clean.pop("pred_masks"), noisy.pop("pred_masks")
    for name, each in clean.items():
        assert torch.equal(each, noisy[name]), name
    assert torch.equal(*masks) == transformer.startswith("efficient")
    height, width = (side - 2 * 32 - 16 for side in case.sizes[0])  # two cells of the coarsest memory level, and the convolutions
    assert_close(*(each[0, :, :height, :width] for each in masks), scale=NOISE, terms=chained_terms(model))


NOISE = 1e6


def with_noise_under_padding(_: nn.Module, inputs: tuple) -> tuple:
    srcs, paddings, positions, query = inputs
    generator = torch.Generator().manual_seed(0)

    def noisy(levels: list[Tensor]) -> list[Tensor]:
        noise = [NOISE * torch.randn(each.shape, generator=generator, dtype=each.dtype) for each in levels]
        return [torch.where(mask[:, None], n, each) for each, n, mask in zip(levels, noise, paddings, strict=True)]

    return noisy(srcs), paddings, noisy(positions), query


@pytest.mark.parametrize("transformer", ["original", "efficient"])
def test_keypoints_are_the_transformers_own_with_a_gradient_of_their_own(case, transformer):
    model, inputs = case.model(transformer).double(), case.inputs(dtype=torch.float64)
    learned = model.from_maps(*inputs, masks="none")
    with torch.no_grad():
        taken = model.from_maps(*inputs, masks="none")
    for one, other in zip((*learned.aux_outputs, learned), (*taken.aux_outputs, taken), strict=True):
        assert_close(one.pred_keypoints, other.pred_keypoints, terms=chained_terms(model))
    assert_close(learned.pred_keypoints[..., 34:], torch.full((2, 6, 17), 1.0, dtype=torch.float64).sigmoid())

    learned.pred_keypoints[..., :34].square().sum().backward()
    moved = [bool(head.layers[-1].weight.grad.any()) if head.layers[-1].weight.grad is not None else False for head in model.pose_embed]
    assert moved == [False, True, True]  # its own step, and the one before it, which is not detached


def test_each_layers_box_also_trains_the_step_before_it(case):
    model = case.model()
    model.from_maps(*case.inputs(), masks="none").aux_outputs[1].pred_boxes.sum().backward()
    assert model.pose_embed[0].layers[-1].weight.grad.any() and model.pose_embed[1].layers[-1].weight.grad is None


@pytest.mark.parametrize("transformer", ["original", "efficient"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns_but_those_of_other_prompts(case, kind, transformer):
    model = case.model(transformer).train()
    output = model.from_maps(*case.inputs(kind))
    named = outputs_by_name(output)
    proposals = output.interm_outputs
    sum(each.square().mean() for each in (*named.values(), proposals.pred_logits, proposals.pred_keypoints)).backward()
    drawn, text = ("prompt_proj", "glob_prompt_proj", "fusion_module.multihead_attn2"), ("text_proj", "sentence_proj")
    others = ((*text, "fusion_module.multihead_attn.") if kind != "text" else drawn)
    still = {name for name, each in model.named_parameters() if each.grad is None or not each.grad.any()}
    expected = {name for name, _ in model.named_parameters() if name.startswith(others)}
    if kind == "point":  # the softmax over a single token is 1 whatever query and key are
        expected |= {name for name in still if name.startswith("fusion_module.multihead_attn2.in_proj")}
    assert still == expected


def test_proposals_are_read_off_what_the_transformer_chose(case):
    model, seen = case.model(), {}
    model.transformer.register_forward_hook(lambda _, inputs, outputs: seen.update(points=outputs[2], tokens=outputs[3]))
    proposals = model.from_maps(*case.inputs()).interm_outputs
    assert torch.equal(proposals.pred_logits, model.transformer.enc_out_class_embed(seen["tokens"]))
    assert torch.equal(proposals.pred_keypoints[..., :34], seen["points"])
    assert proposals.pred_keypoints.shape == (2, 6, 51) and proposals.mix_embedding.requires_grad


@pytest.mark.parametrize("levels", [3, 5])
@pytest.mark.parametrize("transformer", ["original", "efficient"])
def test_other_numbers_of_levels_and_keypoints(levels, transformer):
    case = Case.of("heads-tiny", **EFFICIENT, num_feature_levels=levels, num_body_points=14, num_classes=3)
    model, sizes = case.model(transformer), []
    model.transformer.register_forward_pre_hook(lambda _, inputs: sizes.extend(tuple(each.shape[2:]) for each in inputs[0]))
    output = model.from_maps(*case.inputs())
    assert sizes == [(14, 18), (7, 9), (4, 5), (2, 3), (1, 2)][:levels]
    assert len(model.input_proj) == levels
    assert output.pred_keypoints.shape == (2, 6, 42) and output.pred_logits.shape == (2, 6, 3) and len(output.aux_outputs) == 2
    assert output.pred_masks.shape == (2, 6, 112, 144) and output.padded_hw == (112, 144)


def test_the_first_extra_level_reads_the_raw_map_and_the_second_the_fused_level_before_it():
    case = Case.of("heads-tiny", num_feature_levels=5)
    model, read = case.model(), {}
    for level in (3, 4):
        model.input_proj[level].register_forward_pre_hook(lambda _, inputs, level=level: read.update({level: inputs[0]}))
    model.transformer.register_forward_pre_hook(lambda _, inputs: read.update(fused=inputs[0][3]))
    maps, *rest = case.inputs()
    model.from_maps(maps, *rest)
    assert read[3] is maps[3] and read[4] is read["fused"]


def test_a_forward_prints_nothing_draws_nothing_and_changes_nothing(case, capsys):
    model = case.model()
    before, state = torch.get_rng_state(), {name: each.clone() for name, each in model.state_dict().items()}
    channels = model.backbone[0].channels
    first = model.from_maps(*case.inputs("point"))
    assert torch.equal(torch.get_rng_state(), before)
    assert capsys.readouterr() == ("", "")
    assert model.backbone[0].channels == channels == (12, 16, 24, 40)
    assert all(torch.equal(each, state[name]) for name, each in model.state_dict().items())
    assert_same(model.from_maps(*case.inputs("point")), first)


def test_a_point_is_the_scribbles_sixth_and_far_points_count_as_on_the_border(case):
    drawn = case.prompt("scribble")
    assert torch.equal(drawn.point().points, drawn.points[:, 5]) and torch.equal(drawn.point(0).points, drawn.points[:, 0])
    model, (maps, padding, _, sizes) = case.model(), case.inputs()
    far = model.from_maps(maps, padding, Points(torch.tensor([[-50.0, 1e4], [7.0, 7.0]])), sizes)
    border = model.from_maps(maps, padding, Points(torch.tensor([[0.0, 112.0], [7.0, 7.0]])), sizes)
    assert_same(far, border)


def test_captions_go_through_the_text_encoder(case):
    class Encoder(Features):
        def forward(self, ids: Tensor, attention: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            features = normal(0, (50, self.width))[ids]
            return features, attention != 1, features[:, 0]

    args, encoder = Namespace(**case.args), Encoder(case.text_dim)
    torch.manual_seed(0)
    model = build_uniphd(args, backbone=Maps(case.channels), text_encoder=encoder).eval()
    maps, padding, _, sizes = case.inputs()
    ids, attention = torch.randint(0, 50, (2, 7)), torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    made = model.from_maps(maps, padding, Captions(ids, attention), sizes)
    assert_same(made, model.from_maps(maps, padding, TextFeatures(*encoder(ids, attention)), sizes))
    changed = ids.clone()
    changed[1, 4:] = 0  # under padding
    assert_same(model.from_maps(maps, padding, Captions(changed, attention), sizes), made, chained_terms(model))


def test_without_visibility_heads_the_visibility_is_the_number_0(case):
    model = Case.of("heads-tiny", kps_visi_trigger=False).model()
    assert not [name for name in model.state_dict() if name.startswith("pose_visi_embed")]
    output = model.from_maps(*case.inputs())
    assert output.pred_keypoints_visi == 0 and output.aux_outputs[0].pred_keypoints_visi == 0


def test_half_precision_keeps_coordinates_in_float32(case):
    model = case.model().to(torch.bfloat16)
    maps, padding, prompt, sizes = case.inputs("scribble")
    output = model.from_maps([each.bfloat16() for each in maps], padding, prompt, sizes)
    assert output.pred_boxes.dtype == output.pred_keypoints.dtype == torch.float32
    assert output.pred_logits.dtype == output.pred_masks.dtype == torch.bfloat16
    assert all(each.isfinite().all() for each in outputs_by_name(output).values())


@pytest.mark.parametrize(("given", "encoder"), [
    ({}, "Encoder"), ({"transformer_type": "original"}, "Encoder"), ({"transformer_type": "efficient"}, "EfficientEncoder"),
    ({"efficient_transformer": True}, "EfficientEncoder"), ({"efficient_transformer": False, "transformer_type": "original"}, "Encoder"),
])
def test_upstreams_arguments_say_which_transformer(case, given, encoder):
    """An argparse namespace with much that no part of the model reads."""
    others = {"lr": 1e-4, "aux_loss": True, "device": "cuda", "return_interm_indices": [0, 1, 2, 3], "eval_trigger": "text"}
    args = Namespace(**case.args, **given, **others, train_trigger="text point")
    model = build_uniphd(args, backbone=Maps(case.channels), text_encoder=Features(20))
    assert type(model.transformer.encoder).__name__ == encoder and model.prompts == {"text", "point"}


def test_a_transformer_may_be_a_name_a_builder_or_a_module(case):
    args = ModelArgs(**case.args)
    parts = {"backbone": Maps(case.channels), "text_encoder": Features(20)}
    module = build_transformer(args)
    assert build_uniphd(args, module, **parts).transformer is module
    assert type(build_uniphd(args, build_transformer, **parts).transformer) is type(module)
    assert build_uniphd(args, "efficient", **parts, options=UniphdArgs(no_mask=True)).mask_refine is None
    with pytest.raises(UsageError, match="the transformer 'fully_conv' is unknown; choose one of original, "):
        build_uniphd(Namespace(transformer_type="fully_conv"), **parts)


def test_heads_are_shared_with_the_transformer_and_start_as_copies_of_one_draw(case):
    torch.manual_seed(0)
    model = build_uniphd(Namespace(**case.args), backbone=Maps(case.channels), text_encoder=Features(20)).requires_grad_(False)
    for name in ("class_embed", "bbox_embed", "pose_embed"):
        assert getattr(model.transformer.decoder, name) is getattr(model, name)
    for heads in (model.class_embed, model.bbox_embed, model.pose_embed, model.pose_visi_embed):
        first, *others = heads
        for other in others:
            for one, two in zip(first.parameters(), other.parameters(), strict=True):
                assert torch.equal(one, two) and one is not two
    for head in (*model.bbox_embed, *model.pose_embed):
        assert not head.layers[-1].weight.any() and not head.layers[-1].bias.any() and head.layers[0].bias.any()
    for head in (*model.class_embed, *model.pose_visi_embed, model.transformer.enc_out_class_embed):
        assert torch.equal(head.bias, torch.full_like(head.bias, -math.log(99)))
    for layer in (*model.controller.layers, *(projection[0] for projection in model.input_proj)):
        fan = layer.weight[0].numel() + layer.weight.shape[0] * layer.weight[0, 0].numel()
        assert not layer.bias.any() and math.sqrt(6 / fan) * 0.9 < layer.weight.abs().max() <= math.sqrt(6 / fan)
    assert model.text_proj.layer_norm.eps == 1e-12 and model.text_proj.dropout.p == 0.1


@pytest.mark.parametrize(("prompts", "without"), [
    ("text", ["prompt_proj", "glob_prompt_proj", "fusion_module.multihead_attn2"]),
    ("scribble", ["text_proj", "sentence_proj", "fusion_module.multihead_attn."]),
])
def test_prompts_it_is_not_built_for_have_no_parameters_and_are_refused(case, prompts, without):
    model = Case.of("heads-tiny", train_trigger=prompts).model()
    assert not [name for name in model.state_dict() if name.startswith(tuple(without))]
    assert model.from_maps(*case.inputs(prompts)).pred_boxes.shape == (2, 6, 4)
    with pytest.raises(UsageError, match=f"the prompt is point, the model was built for {prompts}; name point in train_trigger"):
        model.from_maps(*case.inputs("point"))


def test_every_parameter_belongs_to_a_named_component(case):
    model = case.model()
    found = {name: component_of(model, name) for name, _ in model.named_parameters()}
    assert set(found.values()) == {"prompt", "projection", "fusion", "transformer", "heads", "mask head"}
    assert component_of(model, "backbone.0.norm0") == "backbone" and component_of(model, "text_encoder.text_backbone") == "text encoder"


def test_images_of_several_sizes_become_one_batch():
    images = [torch.randn(3, 30, 41), torch.randn(3, 33, 16)]
    batch, padding, sizes = padded_batch(images)
    assert batch.shape == (2, 3, 48, 48) and sizes.tolist() == [[30, 41], [33, 16]]
    for image, placed, mask, (h, w) in zip(images, batch, padding, sizes, strict=True):
        assert torch.equal(placed[:, :h, :w], image) and placed.count_nonzero() == image.count_nonzero()
        assert not mask[:h, :w].any() and mask.sum() == 48 * 48 - h * w
    with pytest.raises(UsageError, match="image 1 has shape"):
        padded_batch([images[0], torch.randn(1, 8, 8)])
    with pytest.raises(UsageError, match="no images"):
        padded_batch([])


def test_a_frozen_text_encoder_gets_no_gradient(case):
    encoder = nn.Linear(2, 2)
    encoder.width = 20
    model = build_uniphd(Namespace(**case.args, freeze_text_encoder=True), backbone=Maps(case.channels), text_encoder=encoder)
    assert not any(each.requires_grad for each in model.text_encoder.parameters()) and model.text_proj.fc.weight.requires_grad


@pytest.mark.parametrize(("change", "said"), [
    (dict(masks="some"), "masks is 'some'; choose one of all, best, none, later"),
    (dict(maps=lambda maps: maps[:3]), "maps has 3 maps; the model takes 4"),
    (dict(maps=lambda maps: [maps[0], maps[2], maps[1], maps[3]]), r"maps\[1\] has shape .* it must be \[2, 16, height, width\]"),
    (dict(padding=lambda padding: padding.float()), "padding is torch.float32"),
    (dict(padding=lambda padding: padding[:, :100]), r"padding is 100x144 and maps\[0\] is 28x36; it must be a quarter"),
    (dict(padding=lambda padding: padding[:1]), r"maps\[0\] has shape .* it must be \[1, 12"),
    (dict(sizes=lambda sizes: sizes[:1]), "sizes has 1 rows for a batch of 2"),
    (dict(prompt=lambda _: torch.zeros(2, 2)), "prompt is a Tensor; it must be one of Captions, TextFeatures, Points, Scribbles"),
    (dict(prompt=lambda _: Points(torch.zeros(2, 1, 2))), r"the point prompt has shape \(2, 1, 2\).* it must be \[batch, 2\]"),
    (dict(prompt=lambda _: Scribbles(torch.zeros(3, 12, 2))), r"the scribble prompt has shape \(3, 12, 2\) for a batch of 2"),
    (dict(prompt=lambda _: Captions(torch.zeros(2, 0).long(), torch.zeros(2, 0))), r"the text prompt has shape \(2, 0\).* at least one"),
])
def test_inputs_that_do_not_fit_are_one_sentence(case, change, said):
    given = dict(zip(("maps", "padding", "prompt", "sizes"), case.inputs(), strict=True), masks="all")
    for name, make in change.items():
        given[name] = make(given[name]) if callable(make) else make
    with pytest.raises(UsageError, match=said):
        case.model().from_maps(**given)


def test_what_a_user_gives_is_held_against_the_images():
    sizes = [(30, 41), (50, 20)]
    check_prompt(Points(torch.tensor([[41.0, 30.0], [0.0, 0.0]])), sizes)
    check_prompt(Captions(torch.zeros(2, 3), torch.tensor([[1, 1, 1], [1, 0, 0]])), sizes)
    with pytest.raises(UsageError, match=r"the point \(20.5, 3\) lies outside image 1, which is 20 wide and 50 high"):
        check_prompt(Scribbles(torch.tensor([[[1.0, 2.0]] * 2, [[3.0, 4.0], [20.5, 3.0]]])), sizes)
    with pytest.raises(UsageError, match="caption 1 has no tokens; write at least one word"):
        check_prompt(Captions(torch.zeros(2, 3), torch.tensor([[1, 1, 1], [0, 0, 0]])), sizes)
    with pytest.raises(UsageError, match="caption 0 has no tokens"):
        check_prompt(TextFeatures(torch.zeros(1, 2, 4), torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 4)), sizes[:1])


@pytest.mark.parametrize(("args", "said"), [
    (dict(num_feature_levels=2), "num_feature_levels is 2; the whole model has at least 3"),
    (dict(hidden_dim=24), "hidden_dim is 24; the whole model needs a multiple of 32"),
    (dict(train_trigger="text box"), "train_trigger is 'text box'; write one or more of the words text, scribble, point"),
    (dict(train_trigger=""), "train_trigger is ''; write one or more"),
    (dict(return_interm_indices=[1, 2, 3]), r"return_interm_indices is \(1, 2, 3\); it must be \(0, 1, 2, 3\)"),
    (dict(backbone="resnet50"), "backbone is 'resnet50'; choose one of swin_T_224_1k, "),
    (dict(text_encoder_type="gpt"), "text_encoder_type is 'gpt'; choose one of roberta, "),
    (dict(pe_temperatureH=0), "pe_temperatureH is 0; it must be at least"),
])
def test_arguments_that_cannot_work_are_one_sentence(args, said):
    with pytest.raises(UsageError, match=said):
        build_uniphd(Namespace(**args), backbone=Maps([12, 16, 24, 40]), text_encoder=Features(20))


@pytest.mark.parametrize("words", ["text point", " point,text ", ["text", "point"], {"point", "text"}, frozenset(["text", "point"])])
def test_prompts_are_a_set_of_words(words):
    assert UniphdArgs(train_trigger=words).train_trigger == {"text", "point"}


def test_every_choice_of_position_temperature_counts(case):
    """Upstream's names end in H for y and W for x."""
    plain = [each for each in case.model()._positions(case.padding[:, :14, :18])]
    tall = [each for each in Case.of("heads-tiny", pe_temperatureH=7).model()._positions(case.padding[:, :14, :18])]
    for one, other in zip(plain, tall, strict=True):
        assert not torch.equal(one[:16], other[:16]) and torch.equal(one[16:], other[16:])

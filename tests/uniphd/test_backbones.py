"""Every backbone: parameters, channels and strides of the published table, gradients, other sizes; EfficientFormerV2's bias tables."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch

from humar_bench.args import BACKBONES
from humar_bench.errors import UsageError
from humar_bench.uniphd.backbones import build_backbone
from humar_bench.uniphd.backbones.efficientformer import Attention, EfficientFormerV2, TalkingHeads, offset_index, stretched
from tests.tolerance import assert_close, chained_terms

with (Path(__file__).parent.parent / "data" / "variants.csv").open() as file:
    TABLE = {row["name"]: row for row in csv.DictReader(file) if row["kind"] == "backbone"}
SMALLEST = ("swin_T_224_1k", "segformer_mit_b0", "mobilevit_xxs", "efficientformerv2_s0", "poolformer_s12")  # of each family
SIZED = {  # the three whose attention bias grows with the image
    ("efficientformerv2_s0", (480, 640)): 3_261_968, ("efficientformerv2_s0", (640, 640)): 3_268_368,
    ("efficientformerv2_s1", (480, 640)): 5_751_176, ("efficientformerv2_s1", (640, 640)): 5_757_576,
    ("efficientformerv2_s2", (480, 640)): 12_155_632, ("efficientformerv2_s2", (640, 640)): 12_165_232,
}


def parameters(name: str, size: tuple[int, int]) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_backbone(name, size).parameters())


def test_every_name_is_in_the_table():
    assert set(TABLE) - set(BACKBONES) == {"efficientformer_l1 (V1)"}
    assert set(BACKBONES) <= set(TABLE)


@pytest.mark.parametrize("name", BACKBONES)
def test_parameters_channels_and_strides(name):
    row = TABLE[name]
    assert parameters(name, (224, 224)) == int(row["parameters"])
    with torch.device("meta"):
        backbone = build_backbone(name, (96, 160))
        maps = backbone.eval()(torch.empty(2, 3, 96, 160))
    channels = tuple(map(int, row["channels_or_width"].split("/")))
    strides = tuple(map(int, row["strides_or_sentence"].split("/")))
    assert backbone.channels == channels
    assert [tuple(x.shape) for x in maps] == [(2, c, 96 // s, 160 // s) for c, s in zip(channels, strides, strict=True)]


@pytest.mark.parametrize(("name", "size"), SIZED)
def test_parameters_that_depend_on_the_image_size(name, size):
    assert parameters(name, size) == SIZED[name, size]


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in SMALLEST else pytest.mark.slow) for name in BACKBONES])
def test_trains_and_takes_sizes_that_do_not_divide(name):
    torch.manual_seed(0)
    backbone = build_backbone(name, (64, 96))
    images = torch.randn(2, 3, 64, 96)
    sum(x.square().mean() for x in backbone(images)).backward()
    for path, parameter in backbone.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), path
    with torch.no_grad():
        maps = backbone.eval()(torch.randn(1, 3, 80, 112))  # multiples of 16, as batches are padded
    assert [tuple(x.shape[2:]) for x in maps] == [(math.ceil(80 / s), math.ceil(112 / s)) for s in (4, 8, 16, 32)]
    for x in maps:
        assert x.isfinite().all() and x.std() > 1e-3, "the maps of random weights are silent"


@pytest.mark.parametrize("name", [pytest.param("segformer_mit_b0", marks=pytest.mark.slow), "mobilevit_xxs"])
def test_exports(name):
    backbone, images = build_backbone(name, (64, 64)).eval().double(), torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        for x, y in zip(backbone(images), torch.export.export(backbone, (images,)).module()(images), strict=True):
            assert_close(y, x, terms=chained_terms(backbone))


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 96), (80, 112)])  # the second has maps with an odd side, which are stretched to whole patches
def test_mobilevit_gives_the_maps_of_transformers(size):
    torch.manual_seed(3)
    backbone, images = build_backbone("mobilevit_xxs").eval().double(), torch.randn(2, 3, *size, dtype=torch.float64)
    for layer in backbone.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 2.0)
            layer.weight.normal_(1.0, 0.1)
            layer.bias.normal_(std=0.1)
    before = images.clone()
    wanted = backbone.model(images, output_hidden_states=True).hidden_states
    maps = backbone(images)
    assert torch.equal(images, before)
    for x, y in zip(maps, wanted[1:], strict=True):
        assert_close(x, y, terms=chained_terms(backbone))
    single = build_backbone("mobilevit_xxs").eval()
    single.load_state_dict(backbone.state_dict())
    for x, y in zip(single(images.float()), wanted[1:], strict=True):
        assert_close(x, y, terms=chained_terms(backbone))


def test_mobilevit_keeps_its_gradients_in_evaluation():
    """Activations overwrite their input, and a frozen batch normalisation is still trained through."""
    torch.manual_seed(4)
    backbone, images = build_backbone("mobilevit_xxs").eval().double(), torch.randn(1, 3, 64, 128, dtype=torch.float64)
    gradients = []
    for maps in (backbone(images), backbone.model(images, output_hidden_states=True).hidden_states[1:]):
        gradients.append(torch.autograd.grad(sum(x.square().mean() for x in maps), list(backbone.parameters())))
    for (name, _), x, y in zip(backbone.named_parameters(), *gradients, strict=True):
        scale = 1e-3 if name.endswith("key.bias") else None  # a softmax does not see it: its gradient is what rounding leaves of 0
        assert_close(x, y, terms=chained_terms(backbone) ** 2, scale=scale, name=name)


@pytest.mark.slow
def test_compiles_as_one_graph():
    backbone, images = build_backbone("efficientformerv2_s0", (64, 64)).eval().double(), torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        for x, y in zip(backbone(images), torch.compile(backbone, fullgraph=True, backend="aot_eager")(images), strict=True):
            assert_close(y, x, terms=chained_terms(backbone))


def test_wrong_names_and_small_images_are_one_sentence():
    with pytest.raises(UsageError, match="backbone is 'resnet50'; choose one of swin_T_224_1k"):
        build_backbone("resnet50")
    with pytest.raises(UsageError, match="an image is 16x64 pixels; this backbone takes at least 32x32"):
        build_backbone("poolformer_s12")(torch.zeros(1, 3, 16, 64))


def test_offset_index_by_hand():
    height, width = 3, 4
    index = offset_index((height, width), 2, torch.device("cpu"))
    want = [
        [abs(y - v) * width + abs(x - u) for v in range(height) for u in range(width)]
        for y in range(0, height, 2) for x in range(0, width, 2)
    ]
    assert index.tolist() == want


def test_stretched_tables_keep_the_smallest_and_largest_offset():
    table = torch.randn(8, 3 * 5, dtype=torch.float64)
    assert stretched(table, (3, 5), (3, 5)) is table
    larger = stretched(table, (3, 5), (7, 9)).view(8, 7, 9)
    corners = table.view(8, 3, 5)[:, ::2, ::4]
    assert_close(larger[:, ::6, ::8], corners, terms=4)
    assert_close(stretched(larger.flatten(1), (7, 9), (3, 5)), table, terms=16)  # every old place is on the finer grid


@torch.no_grad()
@pytest.mark.parametrize("step", [1, 2])
def test_attention_by_hand(step):
    """Each query over every key, one at a time."""
    torch.manual_seed(2)
    size = (4, 6)
    attention = Attention(16, 10, key_width=4, built=size, step=step).eval().double()
    attention.attention_biases.normal_()
    x = torch.randn(1, 16, *size, dtype=torch.float64)
    q, k, v = (part(x)[0].unflatten(0, (8, -1)) for part in (attention.q, attention.k, attention.v))
    out = torch.empty(8, 16, *q.shape[2:], dtype=torch.float64)
    for head in range(8):
        for i in range(q.shape[2]):
            for j in range(q.shape[3]):
                scores = torch.empty(size, dtype=torch.float64)
                for y in range(size[0]):
                    for z in range(size[1]):
                        bias = attention.attention_biases[head, abs(step * i - y) * size[1] + abs(step * j - z)]
                        scores[y, z] = q[head, :, i, j] @ k[head, :, y, z] / 2 + bias  # 4 ** 0.5
                out[head, :, i, j] = (v[head] * scores.flatten().softmax(0).view(size)).sum(dim=(1, 2))
    want = out.flatten(0, 1)[None] + attention.v_local(attention.v(x))
    assert_close(attention.attend(x), want, terms=chained_terms(attention))


@torch.no_grad()
def test_heads_talk_before_and_after_the_softmax():
    mixer = TalkingHeads(16, built=(2, 2), stride=1).eval().double()
    scores = torch.randn(1, 8, 4, 4, dtype=torch.float64)
    first, second = (layer.weight[:, :, 0, 0] for layer in (mixer.talking_head1, mixer.talking_head2))
    mixed = torch.einsum("ab,nbqk->naqk", first, scores) + mixer.talking_head1.bias[:, None, None]
    want = torch.einsum("ab,nbqk->naqk", second, mixed.softmax(-1)) + mixer.talking_head2.bias[:, None, None]
    assert_close(mixer.mix(scores), want, terms=chained_terms(mixer))


@torch.no_grad()
def test_weights_of_another_image_size_load_stretched():
    """Square and of our own shape, the two whose map is known; the same map then comes from an image of the old size."""
    torch.manual_seed(0)
    for old in ((64, 64), (96, 128)):
        source, target = (EfficientFormerV2("efficientformerv2_s0", size).eval().double() for size in (old, (192, 256)))
        for name, parameter in source.named_parameters():
            if name.endswith("attention_biases"):
                parameter.normal_()
        target.load_state_dict(source.state_dict())
        key = "stages.3.downsample.attn.attention_biases"
        was, now = ((size[0] // 16, size[1] // 16) for size in (old, (192, 256)))
        assert_close(target.state_dict()[key], stretched(source.state_dict()[key], was, now), terms=4)
        images = torch.randn(1, 3, 192, 256, dtype=torch.float64)
        for x, y in zip(source(images), target(images), strict=True):  # the source stretches its own tables while it runs
            assert_close(y, x, terms=chained_terms(target))


def test_weights_of_an_unknown_map_do_not_load():
    source = EfficientFormerV2("efficientformerv2_s0", (96, 160))
    with pytest.raises(RuntimeError, match="size mismatch for stages.2.blocks.4.token_mixer.attention_biases"):
        EfficientFormerV2("efficientformerv2_s0", (128, 128)).load_state_dict(source.state_dict())

"""Swin-T against the one of `transformers`: the same maps from the same weights, whatever the image's size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from humar_bench.uniphd.backbones.swin import APART, DropPath, SwinTransformer, join_windows, shift_bias, split_windows
from tests.tolerance import assert_close, chained_terms

SMALL = {"width": 24, "depths": (2, 2, 3, 1), "heads": (1, 2, 2, 4)}
RENAMED = (
    (".norm1.", ".layernorm_before."), (".norm2.", ".layernorm_after."), (".attn.proj.", ".attention.o_proj."),
    (".attn.relative_position_bias_table", ".attention.relative_position_bias.relative_position_bias_table"),
    ("patch_embed.proj", "swin.embeddings.patch_embeddings.projection"), ("patch_embed.norm", "swin.embeddings.norm"),
)


def drawn(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter drawn anew, norms and biases too, so that nothing is 0 or 1 by chance."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.dim() == 2 else 0.2
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale + (parameter.dim() == 1 and "norm" in name))
    return module


def as_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under the names of SwinBackbone 5: qkv split, the indices left out."""
    renamed = {}
    for name, value in state.items():
        if name.endswith("relative_position_index"):
            continue
        if name.startswith("norm"):
            renamed[f"hidden_states_norms.stage{int(name[4]) + 1}{name[5:]}"] = value
            continue
        for ours, theirs in RENAMED:
            name = name.replace(ours, theirs)
        name = f"swin.encoder.{name}" if name.startswith("layers.") else name
        if ".attn.qkv." in name:
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                renamed[name.replace("attn.qkv", f"attention.{part}_proj")] = piece
        else:
            renamed[name] = value
    return renamed


@pytest.fixture(scope="module")
def pair() -> tuple[SwinTransformer, nn.Module]:
    from transformers import SwinBackbone, SwinConfig

    ours = drawn(SwinTransformer(**SMALL)).eval()
    config = SwinConfig(
        embed_dim=SMALL["width"], depths=list(SMALL["depths"]), num_heads=list(SMALL["heads"]), window_size=7,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    theirs = SwinBackbone(config).eval()
    left = theirs.load_state_dict(as_transformers(ours.state_dict()), strict=False)
    assert sorted(left.missing_keys) == ["swin.layernorm.bias", "swin.layernorm.weight"]  # its last norm, whose output is no map
    assert not left.unexpected_keys
    return ours.double(), theirs.double()


@pytest.mark.parametrize("size", [(224, 224), (97, 150), (160, 64), (33, 20)])
def test_maps_are_those_of_transformers(pair, size):
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        ours, theirs = pair[0](images), pair[1](images).feature_maps
    assert [tuple(x.shape) for x in ours] == [tuple(x.shape) for x in theirs]
    for x, y in zip(ours, theirs, strict=True):
        assert_close(x, y, terms=chained_terms(pair[0]))


def test_the_shift_sets_regions_apart():
    bias = shift_bias((7, 14), 7, 3, like=torch.zeros(()))
    assert bias.shape == (2, 1, 49, 49)
    own = bias[0, 0, 0].unflatten(0, (7, 7))  # of the first token of the first window: its four rows, every column
    assert (own[:4] == 0).all() and (own[4:] == APART).all()
    assert (bias[1, 0, 0].unflatten(0, (7, 7))[:4, :4] == 0).all() and (bias[1, 0, 0].unflatten(0, (7, 7))[:, 4:] == APART).all()


def test_padded_tokens_take_part_in_attention():
    """With keys alike and values of x, one token among 48 zeros of padding gives a 49th of itself."""
    model = SwinTransformer(**SMALL, drop_path=0.0).eval()
    attention, x = model.layers[0].blocks[0].attn, torch.randn(1, 1, 49, 24)
    x[:, :, 1:] = 0
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.zero_()
        attention.qkv.weight[48:].copy_(torch.eye(24))
        attention.proj.weight.copy_(torch.eye(24))
        assert_close(attention(x, None)[:, :, 0], x[:, :, 0] / 49, terms=49)


def test_windows_split_and_join():
    x = torch.randn(2, 14, 21, 5)
    assert torch.equal(join_windows(split_windows(x, 7), (14, 21), 7), x)
    assert torch.equal(split_windows(x, 7)[:, 1], x[:, :7, 7:14].flatten(1, 2))


def test_drop_path_keeps_the_mean_and_rests_in_evaluation():
    torch.manual_seed(0)
    path, x = DropPath(0.25), torch.ones(4000, 2, 3, 1)
    dropped = path(x)
    per_image = dropped.flatten(1)
    assert torch.equal(per_image.amin(1), per_image.amax(1)), "an image is dropped whole"
    assert per_image[:, 0].unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert dropped.mean() == pytest.approx(1, abs=0.05)
    assert torch.equal(path.eval()(x), x)


def test_drop_path_grows_linearly_over_the_blocks():
    model = SwinTransformer()
    rates = [block.drop_path.rate for stage in model.layers for block in stage.blocks]
    assert rates == pytest.approx([0.2 * i / 11 for i in range(12)])


def test_trains_compiles_and_exports():
    model = SwinTransformer(**SMALL, drop_path=0.0)
    images = torch.randn(2, 3, 50, 70)
    sum(x.square().mean() for x in model(images)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, name
    model.eval().double()
    images = images.double()
    with torch.no_grad():
        want = model(images)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(images)
        exported = torch.export.export(model, (images,)).module()(images)
    for x, y, z in zip(want, compiled, exported, strict=True):
        assert_close(y, x, terms=chained_terms(model))
        assert_close(z, x, terms=chained_terms(model))

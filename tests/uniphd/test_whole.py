"""From images and captions on: the golden file with a real Swin-T, the published state dict, checkpoint files."""

from __future__ import annotations

import csv
import functools
import json
import warnings
from argparse import Namespace

import numpy as np
import pytest
import torch
from torch import nn

from humar_bench.args import ModelArgs
from humar_bench.errors import UsageError
from humar_bench.subjects.checkpoint import load_checkpoint, load_into
from humar_bench.uniphd import Captions, Scribbles, UniPHD, build_uniphd, padded_batch
from humar_bench.uniphd.text_encoders import build_text_encoder
from tests.tolerance import assert_close, chained_terms
from tests.uniphd.recipe import DATA, Case, Features, Maps, agree, fill, normal, scribbles, with_inside

GOLDEN = np.load(DATA / "whole.npz")
CONFIG = json.loads(GOLDEN["config"].tobytes().decode())
TINY = {"vocab_size": 120, "hidden_size": CONFIG["text_dim"], "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
ENCODERS = {
    "text": ("roberta", {"max_position_embeddings": 34, "type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-5}),
    "text_mean": ("minilm", {"max_position_embeddings": 32, "type_vocab_size": 2, "pad_token_id": 0, "layer_norm_eps": 1e-12}),
}
ENDS = {"text": (0, 2, 1, 30), "text_mean": (5, 6, 0, 40)}  # first id, last id, padding, seed


@functools.cache
def whole(encoder: str) -> UniPHD:
    name, config = ENCODERS[encoder]
    return fill(build_uniphd(Namespace(**CONFIG["args"]), text_encoder=build_text_encoder(name, **TINY, **config))).eval().double()


def prompt(kind: str) -> Captions | Scribbles:
    if not kind.startswith("text"):
        drawn = Scribbles(scribbles(CONFIG["seed"] + 20, CONFIG["sizes"]))
        return drawn if kind == "scribble" else drawn.point()
    first, last, pad, seed = ENDS[kind]
    ids = torch.full((len(CONFIG["lengths"]), max(CONFIG["lengths"])), pad)
    for i, length in enumerate(CONFIG["lengths"]):
        between = np.random.RandomState(CONFIG["seed"] + seed + i).randint(8, 120, length - 2)
        ids[i, :length] = torch.tensor([first, *between.tolist(), last])
    return Captions(ids, (torch.arange(ids.shape[1]) < torch.tensor(CONFIG["lengths"])[:, None]).long())


def images() -> tuple:
    batch, padding, sizes = padded_batch([normal(CONFIG["seed"] + i, (3, *size)) for i, size in enumerate(CONFIG["sizes"])])
    return batch.double(), padding, sizes


@pytest.mark.parametrize("kind", ["text", "text_mean", "point", "scribble"])
def test_everything_from_images_on_is_reproduced(kind):
    model, (batch, padding, sizes) = whole("text_mean" if kind == "text_mean" else "text"), images()
    with torch.inference_mode():
        maps = model.backbone[0](batch)
        made = with_inside(model, maps, padding, prompt(kind), sizes)
        output = model(batch, padding, prompt(kind), sizes)
    assert torch.equal(output.pred_masks, made["pred_masks"]) and torch.equal(output.pred_boxes, made["pred_boxes"])
    for level, each in enumerate(maps):
        [key] = [key for key in GOLDEN.files if key.startswith(f"map_{level}@")]
        agree(key, each, GOLDEN[key], chained_terms(model))
    keys = [key for key in GOLDEN.files if key.startswith(f"{kind}/")]
    assert len(keys) == 12
    for key in keys:
        part = key.partition("/")[2]
        agree(part, made[part.partition("@")[0]], GOLDEN[key], chained_terms(model))


def test_the_published_variant_has_its_948_entries_and_184_million_parameters():
    with torch.device("meta"):
        model = build_uniphd(ModelArgs())
    assert sum(each.numel() for each in model.parameters()) == 184_031_828
    made = {name: ("x".join(map(str, each.shape)), each.dtype) for name, each in model.state_dict().items()}
    with (DATA / "state_dict.csv").open(newline="") as file:
        published = {row["name"]: (row["shape"], getattr(torch, row["dtype"])) for row in csv.DictReader(file)}
    assert made == published and len(published) == 948


@pytest.mark.parametrize(("args", "parameters"), [
    ({"text_encoder_type": "minilm"}, 81_902_804),
    ({"text_encoder_type": "albert"}, 54_755_732 - 11_029_588 + 27_343_636),
    ({"train_trigger": "scribble point"}, 184_031_828 - 124_645_632 - 394_752 - 263_168),
    ({"train_trigger": "text"}, 184_031_828 - 165_376 - 263_168),
    ({"no_mask": True}, 184_031_828 - 1_266_496 - 50_752),
    ({"kps_visi_trigger": False}, 184_031_828 - 1_542),
])
def test_each_part_has_its_published_size(args, parameters):
    with torch.device("meta"):
        assert sum(each.numel() for each in build_uniphd(Namespace(**args)).parameters()) == parameters


@pytest.fixture
def small() -> UniPHD:
    case = Case.of("heads-tiny")
    return build_uniphd(Namespace(**case.args), backbone=Maps(case.channels), text_encoder=Features(case.text_dim))


def test_a_whole_checkpoint_file_loads_and_its_counters_are_ignored(tmp_path, small):
    weights = {name: torch.randn_like(each) for name, each in small.state_dict().items()}
    for name in [name for name in weights if name.startswith("transformer.decoder.")]:
        weights[name] = weights.get(name.removeprefix("transformer.decoder."), weights[name])  # the same tensor under both names
    extra = {
        "total_ops": torch.zeros(1), "controller.layers.0.total_ops": torch.zeros(1),
        "transformer.encoder.layers.0.total_params": torch.zeros(1),
        "text_encoder.text_backbone.embeddings.position_ids": torch.arange(5)[None],
    }
    file = tmp_path / "checkpoint.pth"
    args = Namespace(lr=1e-4, train_trigger="text scribble point")
    torch.save({"model": {**weights, **extra}, "optimizer": {"state": {}}, "lr_scheduler": {}, "epoch": 19, "args": args}, file)
    assert load_into(small, file, prefix="") is small
    assert all(torch.equal(each, weights[name]) for name, each in small.state_dict().items())
    assert small.class_embed[0].weight is small.transformer.decoder.class_embed[0].weight
    assert set(load_checkpoint(file, prefix="")) == set(weights)
    assert not [name for name in load_checkpoint(file) if "total_" in name]


def test_a_checkpoint_of_another_backbone_is_refused_by_what_differs(tmp_path, small):
    torch.save({"model": small.state_dict()}, tmp_path / "checkpoint.pth")
    case = Case.of("heads-tiny")
    other = build_uniphd(Namespace(**case.args), backbone=Maps([12, 20, 24, 40]), text_encoder=Features(case.text_dim))
    with pytest.raises(UsageError, match=r"does not fit the model: it has input_proj.0.0.weight \[32, 16, 1, 1\] instead of \[32, 20,"):
        load_into(other, tmp_path / "checkpoint.pth", prefix="")


class Pyramid(nn.Module):
    """Maps of the right strides by one convolution each; Swin's own graph is tested beside Swin."""

    channels = (12, 16, 24, 40)

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, c, 3, stride=4 * 2**i, padding=1) for i, c in enumerate(self.channels))

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [conv(images) for conv in self.convs]


@pytest.mark.slow
def test_images_and_captions_compile_into_one_graph_and_export():
    torch.compiler.reset()
    case, (name, config) = Case.of("heads-edge"), ENCODERS["text"]
    encoder = build_text_encoder(name, **TINY, **config)
    model = fill(build_uniphd(Namespace(**case.args), "efficient", backbone=Pyramid(), text_encoder=encoder)).eval().double()
    images, padding = padded_batch([torch.randn(3, *size) for size in case.sizes])[:2]
    inputs = (images.double(), padding, prompt("text"), case.sizes)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about itself
        expected = model(*inputs, masks="best")
        exported = torch.export.export(model, inputs, {"masks": "best"}).module()(*inputs, masks="best")
        compiled = torch.compile(model, fullgraph=True, backend="eager")(*inputs, masks="best")
    for made in (exported, compiled):
        for name in ("pred_logits", "pred_boxes", "pred_keypoints", "pred_masks"):
            assert_close(getattr(made, name), getattr(expected, name), terms=chained_terms(model), name=name)


def test_images_of_another_shape_are_one_sentence(small):
    with pytest.raises(UsageError, match=r"images has shape \(2, 1, 32, 32\); it must be \[batch, 3, height, width\]"):
        small(torch.zeros(2, 1, 32, 32), torch.zeros(2, 32, 32, dtype=torch.bool), None, [(32, 32)] * 2)

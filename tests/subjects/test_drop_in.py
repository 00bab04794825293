"""A stand-in of the outer model, written after what `docs/drop-in.md` says of it: heads of its own, assigned where upstream assigns them.

Nothing is converted on either side: the arguments are an argparse namespace, the inputs are what a backbone and a text encoder would give.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from baselines import build_transformer
from efficient import build_efficient_conv_attention_transformer
from tests.models import shaken

ROOT = Path(__file__).resolve().parents[2]
BUILDERS = {"original": build_transformer, "efficient": build_efficient_conv_attention_transformer}
SIZES = ((12, 10), (6, 5), (3, 3), (2, 2))
BATCH = 2


def mlp(inputs: int, hidden: int, outputs: int, layers: int) -> nn.Sequential:
    """A head that is not of this repository's making."""
    widths = [inputs, *[hidden] * (layers - 1), outputs]
    parts = [part for before, after in zip(widths, widths[1:], strict=False) for part in (nn.Linear(before, after), nn.ReLU())]
    return nn.Sequential(*parts[:-1])


class OuterModel(nn.Module):
    """What stands around the transformer, without backbone, text encoder and mask head."""

    def __init__(self, transformer: nn.Module, args: argparse.Namespace) -> None:
        super().__init__()
        width, layers = args.hidden_dim, args.dec_layers
        self.transformer = transformer
        self.class_embed = nn.ModuleList(nn.Linear(width, args.num_classes) for _ in range(layers))
        self.bbox_embed = nn.ModuleList(mlp(width, width, 4, 3) for _ in range(layers))
        self.pose_embed = nn.ModuleList(mlp(width, width, 2, 3) for _ in range(layers))
        self.transformer.decoder.class_embed = self.class_embed
        self.transformer.decoder.bbox_embed = self.bbox_embed
        self.transformer.decoder.pose_embed = self.pose_embed
        self.transformer.enc_pose_embed = mlp(width, 2 * width, 2 * args.num_body_points, 4)
        self.transformer.enc_out_class_embed = nn.Linear(width, args.num_classes)

    def forward(self, srcs: list[Tensor], masks: list[Tensor], poses: list[Tensor], prompt: Tensor) -> dict[str, Tensor]:
        hs_pose, refpoint_pose, mix_refpoint, mix_embedding, memory_features = self.transformer(srcs, masks, poses, prompt)
        instances = [hs[:, :, 0] for hs in hs_pose]
        return {
            "logits": torch.stack([head(each) for head, each in zip(self.class_embed, instances, strict=True)]),
            "boxes": torch.stack([head(each).sigmoid() for head, each in zip(self.bbox_embed, instances, strict=True)]),
            "keypoints": torch.stack([points[..., 2:] for points in refpoint_pose[1:]]),
            "first_keypoints": mix_refpoint,
            "first_logits": self.transformer.enc_out_class_embed(mix_embedding),
            "mask_memory": torch.stack([each.mean((-1, -2)) for each in memory_features]),
            "hs_pose": torch.stack(hs_pose),
            "refpoint_pose": torch.stack(refpoint_pose),
            "mix_embedding": mix_embedding,
        }


def upstream_args() -> argparse.Namespace:
    """What a training script parses: upstream's names, and many that no transformer reads."""
    return argparse.Namespace(
        hidden_dim=32, nheads=4, dim_feedforward=64, enc_layers=2, dec_layers=3, enc_n_points=4, dec_n_points=4, num_feature_levels=4,
        num_queries=5, num_body_points=6, num_classes=2, dropout=0.0, transformer_activation="relu", pre_norm=False,
        within_type="attn_graph", learnable_tgt_init=False, two_stage_type="standard", return_intermediate_dec=True,
        pose_guide_trigger=True, late_within_attn_trigger=True, efficient_enc_layers=2, lr=1e-4, backbone="mobilevit_s", aux_loss=True,
    )


def inputs(args: argparse.Namespace) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
    """One prompt a query, as a text encoder's output is handed on: [B, Q, 1, C]."""
    torch.manual_seed(0)
    srcs = [torch.randn(BATCH, args.hidden_dim, *size) for size in SIZES]
    poses = [torch.randn(BATCH, args.hidden_dim, *size) for size in SIZES]
    masks = [torch.zeros(BATCH, *size, dtype=torch.bool) for size in SIZES]
    for mask in masks[:2]:
        mask[1, :, mask.shape[-1] // 2 + 1 :] = True
    prompt = torch.randn(BATCH, 1, 1, args.hidden_dim).expand(-1, args.num_queries, -1, -1)
    return srcs, masks, poses, prompt


@pytest.fixture(params=list(BUILDERS))
def outer(request) -> OuterModel:
    args = upstream_args()
    return OuterModel(BUILDERS[request.param](args), args)


def test_the_outer_model_runs_with_either_builder_and_converts_nothing(outer):
    args = upstream_args()
    outputs = outer(*inputs(args))
    batch, queries, keypoints, width, layers = BATCH, args.num_queries, args.num_body_points, args.hidden_dim, args.dec_layers
    assert {name: tuple(each.shape) for name, each in outputs.items()} == {
        "logits": (layers, batch, queries, 2),
        "boxes": (layers, batch, queries, 4),
        "keypoints": (layers, batch, queries, 2 * keypoints),
        "first_keypoints": (batch, queries, 2 * keypoints),
        "first_logits": (batch, queries, 2),
        "mask_memory": (3, batch, width),
        "hs_pose": (layers, batch, queries, keypoints + 1, width),
        "refpoint_pose": (layers + 1, batch, queries, 2 * keypoints + 2),
        "mix_embedding": (batch, queries, width),
    }
    assert all(each.isfinite().all() for each in outputs.values())


def test_memory_features_are_the_maps_of_all_levels_but_the_last(outer):
    args = upstream_args()
    features = outer.transformer(*inputs(args))[4]
    assert [tuple(each.shape) for each in features] == [(BATCH, args.hidden_dim, *size) for size in SIZES[:-1]]


def test_the_assigned_heads_are_the_ones_that_move_the_points(outer):
    args = upstream_args()
    before = outer(*inputs(args))
    with torch.no_grad():
        outer.pose_embed[0][-1].bias += 1.0
    after = outer(*inputs(args))
    assert torch.equal(before["first_keypoints"], after["first_keypoints"])
    assert (after["keypoints"][0] > before["keypoints"][0]).all()
    with torch.no_grad():
        outer.transformer.enc_pose_embed[-1].bias += 1.0
    assert (outer(*inputs(args))["first_keypoints"] > before["first_keypoints"]).all()


def test_every_parameter_of_the_outer_model_learns(outer):
    shaken(outer)  # deformable attention starts without a say for its queries
    outputs = outer.train()(*inputs(upstream_args()))
    names = ("logits", "boxes", "keypoints", "first_keypoints", "first_logits", "mask_memory")
    sum(outputs[name].square().sum() for name in names).backward()
    still = [name for name, parameter in outer.named_parameters() if parameter.grad is None or not parameter.grad.abs().sum() > 0]
    assert still == []


def test_the_same_heads_have_the_same_names_in_the_state_dict(outer):
    names = outer.state_dict()
    assert {f"transformer.decoder.pose_embed.0.{part}" for part in ("0.weight", "0.bias")} <= set(names)
    assert "transformer.enc_out_class_embed.weight" in names


def test_the_page_names_each_builder_as_it_is():
    page = (ROOT / "docs" / "drop-in.md").read_text(encoding="utf-8")
    for name, builder in BUILDERS.items():
        assert f"from {builder.__module__.partition('.')[0]} import {builder.__name__}" in page, name
        assert f"{builder.__name__}(args)" in page, name


def test_the_pages_code_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "drop-in.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 3
    for block in blocks[:2]:
        made: dict = {"args": upstream_args()}
        exec(block, made)
        assert isinstance(made["transformer"], nn.Module)


def test_the_pages_checkpoint_example_loads(tmp_path, monkeypatch):
    [*_, block] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "drop-in.md").read_text(encoding="utf-8"), re.DOTALL)
    model = build_transformer(upstream_args())
    torch.save({"model": {f"transformer.{name}": tensor for name, tensor in model.state_dict().items()}}, tmp_path / "checkpoint.pth")
    monkeypatch.chdir(tmp_path)
    exec(block, {"transformer": build_transformer(upstream_args())})

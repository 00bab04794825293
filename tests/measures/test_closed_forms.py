"""The counter against arithmetic: the built-in architectures, component by component, to 0 FLOP over random configurations."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch

from humar_bench.args import BUILT_IN, ModelArgs, Workload
from humar_bench.measures.flops import count_flops
from humar_bench.subjects.registry import load_builder
from humar_bench.subjects.transformer import make_inputs
from tests import closed_forms

CONFIGURATIONS, PARTS = 200, 10
FORMS = {  # the replacement's kernels save no multiplication
    "original-fused": "original_fused", "efficient-fused": "efficient", "efficient-accurate": "accurate",
}


def configuration(seed: int) -> tuple[ModelArgs, Workload]:
    """Everything that moves the count, small and mostly unequal."""
    draw = random.Random(seed)
    heads, efficient_heads = draw.choice([1, 2, 3, 4]), draw.choice([1, 2, 3])
    levels, dec_layers, blocks = draw.randint(1, 4), draw.randint(1, 3), draw.randint(1, 3)
    queries = draw.randint(1, 6)
    sizes = tuple((draw.randint(1, 9), draw.randint(1, 9)) for _ in range(levels))
    if sum(height * width for height, width in sizes) < queries:
        sizes = ((3, 2), *sizes[1:])
    samples, of_encoder = draw.random() < 0.5, draw.random() < 0.5
    keypoints = draw.choice([1, 2, 5, 8, 17])
    sample_heads = draw.choice([0, 1, 3, 4]) if samples or of_encoder else 0  # 0: as many as nheads
    args = ModelArgs(
        hidden_dim=12 * draw.randint(1, 3), nheads=heads, dim_feedforward=draw.randint(1, 40), enc_layers=draw.randint(1, 3),
        dec_layers=dec_layers, enc_n_points=draw.randint(1, 5), dec_n_points=draw.randint(1, 5), num_feature_levels=levels,
        num_queries=queries, num_body_points=keypoints, num_classes=draw.randint(1, 3), pre_norm=draw.random() < 0.5,
        transformer_activation=draw.choice(["relu", "gelu"]), within_type=draw.choice(["attn_graph", "attn"]),
        learnable_tgt_init=draw.random() < 0.5, efficient_nheads=efficient_heads, efficient_enc_layers=blocks,
        efficient_mlp_ratio=draw.randint(1, 3), efficient_decoder_mlp_ratio=draw.randint(0, 3),
        efficient_rank=draw.choice([0, 0, 3, 40]), efficient_encoder_sets=draw.randint(1, blocks),
        efficient_decoder_sets=draw.randint(1, dec_layers), efficient_encoder_stride=draw.randint(1, 3),
        efficient_memory_stride=draw.randint(1, 4), efficient_cross_tokens=draw.choice(["none", "instance", "all"]),
        efficient_look_mlp=draw.random() < 0.5, efficient_instance_iterations=draw.randint(0, 3),
        efficient_window=draw.choice([0, 0, 2, 3]), efficient_local_conv=draw.random() < 0.5, efficient_value_conv=draw.random() < 0.5,
        efficient_encoder_samples=of_encoder, efficient_point_samples=samples, efficient_graph_bias=draw.random() < 0.5,
        efficient_sample_heads=sample_heads,
        efficient_sample_points=draw.randint(1, 4) if samples or of_encoder else 1,
        efficient_across_tokens=draw.choice(["instance", "all"]),
        efficient_decoder=draw.choice(["own", "own", "own", "original"]),
        efficient_exit_below=draw.choice([0.0, 0.5]),  # counted without values: every iteration
        efficient_skeleton_hops=draw.randint(0, 3) if keypoints == 17 else 0,
    )  # fmt: skip
    return args, Workload("random", draw.randint(1, 3), queries, sizes, padded=draw.random() < 0.5)


def counted(name: str, args: ModelArgs, workload: Workload) -> dict[str, int]:
    with torch.device("meta"):
        model = load_builder(name)(args)
    count = count_flops(model, make_inputs(args, workload, device="meta"), strict=True)
    assert count.method == "meta"
    rows = {component: row["matmul_flops"] for component, row in count.components.items() if row["matmul_flops"]}
    assert sum(rows.values()) == count.matmul_flops
    return rows


def expected(name: str, args: ModelArgs, workload: Workload) -> dict[str, int]:
    form = getattr(closed_forms, FORMS.get(name, name))
    rows = form(dataclasses.asdict(args), workload.batch, workload.num_queries, list(workload.feature_sizes))
    return {component: flops for component, flops in rows.items() if flops}


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, PARTS))])
def test_the_count_equals_the_closed_form_to_0_flop_per_component(name: str, part: int) -> None:
    step = 5 if "-" in name else 1  # the same layers, counted as other operators
    for seed in range(part * CONFIGURATIONS // PARTS, (part + 1) * CONFIGURATIONS // PARTS, step):
        args, workload = configuration(seed)
        assert counted(name, args, workload) == expected(name, args, workload), f"seed {seed}: {args}, {workload}"


def test_the_random_configurations_reach_every_switch() -> None:
    drawn = [configuration(seed) for seed in range(CONFIGURATIONS)]
    for option in dataclasses.fields(ModelArgs):
        values = {getattr(args, option.name) for args, _ in drawn}
        fixed = ("dropout", "two_stage_type", "return_intermediate_dec", "pose_guide_trigger", "late_within_attn_trigger")
        assert (len(values) == 1) == (option.name in fixed), option.name
    assert {len(workload.feature_sizes) for _, workload in drawn} == {1, 2, 3, 4}
    assert {workload.batch for _, workload in drawn} == {1, 2, 3}
    assert len({(args, workload) for args, workload in drawn}) == CONFIGURATIONS


def test_the_closed_form_of_the_original_gives_the_published_total() -> None:
    rows = closed_forms.original(dataclasses.asdict(ModelArgs()), 2, 20, [(50, 50)] * 3)
    assert sum(rows.values()) == 285_795_409_920


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("workload", [Workload.speed_test(), Workload.uniphd(batch=1)], ids=lambda workload: workload.name)
def test_full_size_agrees_too(name: str, workload: Workload) -> None:
    args = ModelArgs(num_feature_levels=len(workload.feature_sizes), num_queries=workload.num_queries)
    assert counted(name, args, workload) == expected(name, args, workload)


def test_the_canvas_by_hand() -> None:
    # widths 4, 2, 1: the first fills a shelf; the other two share one, 2 + 1 free + 1; between the shelves a free row
    assert closed_forms.canvas([(3, 4), (2, 2), (1, 1)], 1) == (3 + 1 + 2, 4)
    assert closed_forms.canvas([(3, 4), (2, 2), (1, 1)], 2) == (2 + 1 + 1 + 1 + 1, 2)  # 2x2, 1x1, 1x1 cells, a shelf each

"""Parameters are counted once each, and the modules' own counts always add up."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from humar_bench.errors import MeasurementError
from humar_bench.measures.components import component_of
from humar_bench.measures.params import count_parameters


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.first = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))
        self.second = nn.Linear(5, 2, bias=False)


def test_a_small_model_by_hand() -> None:
    model = Small()
    model.second.weight.requires_grad_(False)
    count = count_parameters(model)
    assert count.total == 3 + (3 * 5 + 5) + (5 + 5) + 5 * 2 == 43
    assert (count.trainable, count.frozen) == (33, 10)
    assert count.buffers == 5 + 5 + 1  # running mean and variance, number of batches
    assert (count.param_bytes, count.buffer_bytes) == (43 * 4, 10 * 4 + 8)
    assert count.components == {"(top)": 3, "first": 30, "second": 10}
    assert {module.path: (module.depth, module.own, module.subtree) for module in count.modules} == {
        "": (0, 3, 43), "first": (1, 0, 30), "first.0": (2, 20, 20), "first.1": (2, 10, 10), "second": (1, 10, 10),
    }  # fmt: skip


def test_a_shared_module_and_a_tied_weight_count_once() -> None:
    model = nn.Module()
    model.a = nn.Linear(3, 4)
    model.b = model.a
    model.embedding = nn.Embedding(7, 6)
    model.output = nn.Linear(6, 7)
    model.output.weight = model.embedding.weight
    count = count_parameters(model)
    assert count.total == (3 * 4 + 4) + 7 * 6 + 7
    assert count.listed == count.total + 16 + 42
    assert count.shared == (("a.weight", "b.weight"), ("a.bias", "b.bias"), ("embedding.weight", "output.weight"))
    assert sum(module.own for module in count.modules) == count.total == count.modules[0].subtree


def test_two_parameters_on_one_storage_are_one_tensor_and_its_two_halves_are_two() -> None:
    model = nn.Module()
    model.one = nn.Parameter(torch.zeros(4, 6))
    model.same = nn.Parameter(model.one.data)
    model.left = nn.Parameter(torch.zeros(10)[:5])
    model.right = nn.Parameter(model.left.data.as_strided((5,), (1,), 5))
    count = count_parameters(model)
    assert count.total == 24 + 5 + 5
    assert count.shared == (("one", "same"),)


def test_the_same_count_on_meta_without_memory() -> None:
    with torch.device("meta"):
        on_meta = Small()
    assert all(tensor.is_meta for tensor in on_meta.state_dict().values())
    assert count_parameters(on_meta) == count_parameters(Small())


def test_mixed_number_types_give_their_own_bytes() -> None:
    model = nn.ModuleList([nn.Linear(3, 5), nn.Linear(3, 5).to(torch.bfloat16)])
    assert count_parameters(model).param_bytes == 20 * 4 + 20 * 2


def test_a_parameter_without_a_shape_is_refused_by_name() -> None:
    with pytest.raises(MeasurementError, match=r"parameter 0\.weight has no shape yet; let the builder run one forward"):
        count_parameters(nn.Sequential(nn.LazyLinear(3)))


def test_the_longest_prefix_names_the_component_and_only_whole_parts_match() -> None:
    model = nn.Module()
    model.components = (("decoder.pose", "heads"), ("decoder", "decoder"), ("", "frame"))
    assert component_of(model, "decoder.pose.0.weight") == "heads"
    assert component_of(model, "decoder.posed") == "decoder"
    assert component_of(model, "encoder.layers") == component_of(model, "") == "frame"
    assert component_of(nn.Module(), "encoder.layers.0") == "encoder"
    assert component_of(nn.Module(), "") == "(top)"


def test_a_part_that_names_its_own_parts_is_asked_where_the_model_around_it_says_nothing() -> None:
    inner, outer = nn.Module(), nn.Module()
    inner.components = (("decoder", "decoder"), ("decoder.pose", "heads"), ("", "frame"))
    outer.components = (("", "the rest"), ("backbone", "backbone"), ("transformer.norm", "norm"))
    outer.transformer, outer.backbone = inner, nn.Linear(2, 2)
    assert component_of(outer, "transformer.decoder.pose.0.weight") == "heads"
    assert component_of(outer, "transformer.encoder") == component_of(outer, "transformer") == "frame"
    assert component_of(outer, "transformer.norm") == "norm"  # the model around it comes first
    assert (component_of(outer, "backbone.weight"), component_of(outer, "other")) == ("backbone", "the rest")


def test_a_model_that_means_something_else_by_components_is_read_by_its_paths() -> None:
    model = nn.Module()
    model.components = nn.ModuleList([nn.Linear(2, 3)])
    assert count_parameters(model).components == {"components": 9}


def test_measured_holds_plain_values() -> None:
    measured = count_parameters(Small()).measured()
    assert measured["modules"][0] == {"path": "", "depth": 0, "own": 3, "subtree": 43}
    assert measured["shared"] == []


def test_the_original_has_the_published_number_of_parameters() -> None:
    from baselines.transformer import build_transformer
    from humar_bench.args import ModelArgs

    with torch.device("meta"):
        four, three = build_transformer(ModelArgs()), build_transformer(ModelArgs(num_feature_levels=3))
    assert count_parameters(four).total == 27_343_636
    assert count_parameters(three).total == 27_047_316
    assert sum(count_parameters(four).components.values()) == 27_343_636

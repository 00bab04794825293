"""What a forward carries for nothing is named; what it uses, in whatever way, is not."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from humar_bench.measures.dead_weight import find_dead_weight


class Wasteful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(3, 5)
        self.idle = nn.Conv2d(3, 7, 2)
        self.thrown = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4))

    def forward(self, x):
        y = self.used(x)
        for _ in range(2):
            self.thrown(y)
        return y


def names(dead) -> dict[str, int]:
    return dict(dead.never_read)


def test_idle_parameters_and_thrown_away_results_are_named() -> None:
    dead = find_dead_weight(Wasteful(), [torch.zeros(2, 3)])
    assert names(dead) == {"idle.weight": 7 * 3 * 2 * 2, "idle.bias": 7}
    rows = {(row.component, row.module, row.operator): (row.calls, row.matmul_flops) for row in dead.discarded}
    assert rows == {
        ("thrown", "thrown.0", "aten::addmm"): (2, 2 * 2 * 2 * 5 * 6),
        ("thrown", "thrown.1", "aten::relu"): (2, 0),
        ("thrown", "thrown.2", "aten::addmm"): (2, 2 * 2 * 2 * 6 * 4),
    }
    assert dead.discarded[0].shapes == ((6,), (2, 5), (5, 6))


def test_a_parameter_read_without_its_module_being_called_is_used() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.inner = nn.Embedding(4, 3), nn.Linear(3, 2)
            self.attention = nn.MultiheadAttention(4, 2)  # reads out_proj without calling it
            self.unused = nn.Parameter(torch.zeros(9))

        def forward(self, x):
            rows = x @ self.table.weight.t()
            self.unused.new_zeros(3), torch.zeros_like(self.unused)  # the shape is looked at, the numbers are not
            return F.linear(x, self.inner.weight, self.inner.bias), self.attention(rows, rows, rows)

    dead = find_dead_weight(Functional(), [torch.zeros(2, 3)])
    assert names(dead) == {"unused": 9}
    assert dead.discarded == ()


def test_scores_that_only_choose_rows_are_used_and_scores_that_choose_nothing_are_not() -> None:
    class Chooser(nn.Module):
        def __init__(self, use: bool) -> None:
            super().__init__()
            self.use, self.score = use, nn.Linear(3, 1)

        def forward(self, x):
            chosen = self.score(x).squeeze(-1).topk(2, dim=1).indices
            rows = x.gather(1, chosen.unsqueeze(-1).expand(-1, -1, 3))
            return rows if self.use else x * 2

    assert find_dead_weight(Chooser(True), [torch.zeros(2, 5, 3)]).discarded == ()
    wasted = find_dead_weight(Chooser(False), [torch.zeros(2, 5, 3)]).discarded
    assert [(row.module, row.operator) for row in wasted] == [("score", "aten::addmm")]


def test_writing_in_place_reaches_the_output_and_a_buffer_is_an_output() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f, self.g, self.norm = nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3)
            self.register_buffer("mean", torch.zeros(3))

        def forward(self, x):
            out = torch.zeros(4, 6, device=x.device)
            out[:, :3] += self.f(x)
            torch.mul(x, 2, out=out[:, 3:])
            self.mean.lerp_(self.g(x).mean(0), 0.1)
            return {"result": [out]}

    dead = find_dead_weight(InPlace(), [torch.zeros(4, 3)])
    assert dead.discarded == ()
    assert names(dead) == {"norm.weight": 3, "norm.bias": 3}


def test_a_value_the_host_reads_is_used() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Linear(3, 1)

        def forward(self, x):
            return x * 2 if self.gate(x).sum().item() > 0 else x * 3

    assert find_dead_weight(Reader(), [torch.zeros(2, 3)]).discarded == ()


def test_a_number_of_results_the_host_reads_is_used() -> None:
    class Finder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Linear(3, 1)

        def forward(self, x):
            return x * len(self.gate(x).nonzero())

    assert find_dead_weight(Finder(), [torch.ones(2, 3)]).discarded == ()


@torch.library.custom_op("humar_test::fill_with", mutates_args=("out",))
def fill_with(out: torch.Tensor, x: torch.Tensor) -> None:
    out.copy_(x)


@fill_with.register_fake
def _(out, x):
    return None


def test_an_operator_that_only_writes_to_an_argument_is_used_when_the_argument_is() -> None:
    class Filler(nn.Module):
        def __init__(self, use: bool) -> None:
            super().__init__()
            self.use, self.f = use, nn.Linear(3, 3)

        def forward(self, x):
            out = torch.empty_like(x)
            fill_with(out, self.f(x))
            return out if self.use else x * 2

    assert find_dead_weight(Filler(True), [torch.zeros(2, 3)]).discarded == ()
    rows = find_dead_weight(Filler(False), [torch.zeros(2, 3)]).discarded
    assert [row.operator for row in rows] == ["aten::addmm", "humar_test::fill_with"]


def test_host_tensors_that_join_the_device_carry_their_history() -> None:
    class Host(nn.Module):
        def forward(self, x):
            return x + torch.arange(3).mul(2).add(1)

    assert find_dead_weight(Host(), [torch.zeros(2, 3)]).discarded == ()


def test_tied_weights_are_read_when_one_name_is() -> None:
    model = nn.Module()
    model.a, model.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    model.b.weight = nn.Parameter(model.a.weight.data.t())
    model.forward = lambda x: F.linear(x, model.a.weight)
    assert names(find_dead_weight(model, [torch.zeros(2, 3)])) == {}
    model.b.weight = nn.Parameter(torch.zeros(3, 3))
    assert names(find_dead_weight(model, [torch.zeros(2, 3)])) == {"b.weight": 9}


def test_a_parameter_handed_out_as_it_is_is_not_dead() -> None:
    class Hands(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))

        def forward(self, x):
            return self.weight[1:]

    assert names(find_dead_weight(Hands(), [torch.zeros(1)])) == {}


def test_measured_holds_plain_values() -> None:
    measured = find_dead_weight(Wasteful(), [torch.zeros(2, 3)]).measured()
    assert measured["never_read"][0] == {"name": "idle.weight", "parameters": 84}
    assert measured["discarded"][0]["shapes"] == [[6], [2, 5], [5, 6]]


def test_the_original_carries_only_the_heads_the_outer_model_reads(tiny_args, tiny_workload) -> None:
    from baselines.transformer import build_transformer
    from humar_bench.subjects.transformer import make_inputs

    dead = find_dead_weight(build_transformer(tiny_args), make_inputs(tiny_args, tiny_workload))
    # asked for its attention weights, nn.MultiheadAttention averages them over the heads, and nobody looks
    assert dead.discarded == ()
    assert {".".join(name.split(".")[:2]) for name in names(dead)} == {"decoder.class_embed", "decoder.bbox_embed"}


def test_the_original_at_published_sizes_never_reads_798756_parameters() -> None:
    from baselines.transformer import build_transformer
    from humar_bench.args import ModelArgs, Workload
    from humar_bench.subjects.transformer import make_inputs

    args = ModelArgs()
    with torch.device("meta"):
        model = build_transformer(args)
    dead = find_dead_weight(model, make_inputs(args, Workload.tiny(), device="meta"))
    assert sum(names(dead).values()) == 798_756  # class and box heads of every decoder layer

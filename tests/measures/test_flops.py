"""FLOPs by hand: each rule on one small case with unequal sizes, the arithmetic spelled out. A multiply-add is 2."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from humar_bench.errors import MeasurementError, UsageError
from humar_bench.measures.flop_formulas import COEFFICIENTS
from humar_bench.measures.flops import count_flops, register_formula
from tests.small_modules import Calls, same, shapes, state


class BmmFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b):
        return torch.bmm(a, b)

    @staticmethod
    def backward(ctx, grad):
        raise NotImplementedError


@torch.library.custom_op("humar_test::product", mutates_args=())
def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a @ b


@product.register_fake
def _(a, b):
    return a.new_empty(a.shape[0], b.shape[1])


register_formula(product, lambda result, a, b: 2 * a.shape[0] * a.shape[1] * b.shape[1])


class TwoParents(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        linear = nn.Linear(3, 5, bias=False)
        self.a, self.b = Calls(lambda m, x: m.inner(x), inner=linear), Calls(lambda m, x: m.inner(x), inner=linear)

    def forward(self, x):
        return self.a(x) + self.b(x)


def mha(width: int, heads: int, **options) -> nn.MultiheadAttention:
    return nn.MultiheadAttention(width, heads, **options).eval()


def attention(batch: int, queries: int, keys: int, width: int) -> int:
    """Projections of Q, K, V and the output, then QK^T and AV."""
    return 2 * batch * (2 * queries * width**2 + 2 * keys * width**2 + 2 * queries * keys * width)


X, Q, KV = (2, 7, 3), (7, 2, 12), (11, 2, 12)  # sequence first for Q, KV
# what is computed, its module, the shapes it gets, headline FLOPs by hand
CASES = {
    "linear, 3-D input": (nn.Linear(3, 5), [X], 2 * 2 * 7 * 3 * 5),
    "conv 1x1": (nn.Conv2d(3, 5, 1), [(2, 3, 7, 4)], 2 * 2 * 7 * 4 * 3 * 5),
    "conv depthwise 3x3": (nn.Conv2d(6, 6, 3, padding=1, groups=6), [(2, 6, 7, 4)], 2 * 2 * 7 * 4 * 6 * 9),
    "a @ b, 4-D": (Calls(lambda m, a, b: a @ b), [(2, 3, 5, 7), (2, 3, 7, 4)], 2 * 2 * 3 * 5 * 7 * 4),
    "bmm": (Calls(lambda m, a, b: torch.bmm(a, b)), [(3, 5, 7), (3, 7, 4)], 2 * 3 * 5 * 7 * 4),
    "baddbmm": (Calls(lambda m, c, a, b: torch.baddbmm(c, a, b)), [(3, 5, 4), (3, 5, 7), (3, 7, 4)], 2 * 3 * 5 * 7 * 4),
    "mm": (Calls(lambda m, a, b: torch.mm(a, b)), [(5, 7), (7, 4)], 2 * 5 * 7 * 4),
    "addmm": (Calls(lambda m, c, a, b: torch.addmm(c, a, b)), [(4,), (5, 7), (7, 4)], 2 * 5 * 7 * 4),
    "einsum bhnd,bhnc->bhdc": (
        Calls(lambda m, a, b: torch.einsum("bhnd,bhnc->bhdc", a, b)), [(2, 3, 5, 7), (2, 3, 5, 4)], 2 * 2 * 3 * 5 * 7 * 4,
    ),
    "F.linear": (Calls(lambda m, x, w: F.linear(x, w)), [X, (5, 3)], 2 * 2 * 7 * 3 * 5),
    "F.conv2d, strided": (Calls(lambda m, x, w: F.conv2d(x, w, stride=2)), [(2, 3, 9, 7), (5, 3, 3, 3)], 2 * 2 * 5 * (4 * 3) * 3 * 9),
    "MHA cross, weights": (Calls(lambda m, q, k: m.attn(q, k, k), attn=mha(12, 4)), [Q, KV], attention(2, 7, 11, 12)),
    "MHA cross, no weights": (
        Calls(lambda m, q, k: m.attn(q, k, k, need_weights=False), attn=mha(12, 4)), [Q, KV], attention(2, 7, 11, 12),
    ),
    "MHA self, batch first": (
        Calls(lambda m, x: m.attn(x, x, x, need_weights=False), attn=mha(12, 4, batch_first=True)), [(2, 7, 12)], attention(2, 7, 7, 12),
    ),
    "scaled_dot_product_attention": (
        Calls(lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v)),
        [(2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 6)], 2 * 2 * 3 * 5 * 7 * (8 + 6),
    ),
    "TransformerEncoderLayer": (
        nn.TransformerEncoderLayer(12, 4, 20, batch_first=True).eval(), [(2, 7, 12)], attention(2, 7, 7, 12) + 2 * 2 * 7 * 12 * 20 * 2,
    ),
    "one linear called 3 times": (Calls(lambda m, x: m.f(m.f(m.f(x))), f=nn.Linear(3, 3)), [X], 3 * 2 * 2 * 7 * 3 * 3),
    "one linear under two parents": (TwoParents(), [X], 2 * 2 * 2 * 7 * 3 * 5),
    "autograd.Function": (Calls(lambda m, a, b: BmmFunction.apply(a, b)), [(3, 5, 7), (3, 7, 4)], 2 * 3 * 5 * 7 * 4),
    "custom operator with a formula": (Calls(lambda m, a, b: product(a, b)), [(5, 7), (7, 4)], 2 * 5 * 7 * 4),
    "direct forward call": (Calls(lambda m, x: m.f.forward(x), f=nn.Linear(3, 5)), [X], 2 * 2 * 7 * 3 * 5),
    "mv": (Calls(lambda m, a, b: a @ b), [(5, 7), (7,)], 2 * 5 * 7),
    "dot": (Calls(lambda m, a, b: torch.dot(a, b)), [(7,), (7,)], 2 * 7),
    "bilinear": (nn.Bilinear(3, 4, 5), [(2, 3), (2, 4)], 2 * 2 * 5 * (3 * 4 + 4)),
    "cdist by matrix product": (Calls(lambda m, a, b: torch.cdist(a, b)), [(30, 3), (28, 3)], 2 * 30 * 28 * (3 + 2)),
    # no adds here: one multiply per element, so the FLOPs are elementwise and the headline is 0
    "outer": (Calls(lambda m, a, b: torch.outer(a, b)), [(5,), (7,)], (0, 5 * 7)),
    "einsum without contraction": (Calls(lambda m, a, b: torch.einsum("bi,bj->bij", a, b)), [(2, 5), (2, 7)], (0, 2 * 5 * 7)),
}  # fmt: skip
MORE = {
    "conv grouped, dilated": (nn.Conv2d(6, 4, 3, groups=2, dilation=2), [(2, 6, 9, 8)], 2 * 2 * 4 * 5 * 4 * 3 * 9),
    "conv transposed": (nn.ConvTranspose2d(3, 5, 4, stride=2), [(2, 3, 7, 6)], 2 * 2 * 3 * 7 * 6 * 5 * 16),
    "conv transposed, grouped": (nn.ConvTranspose2d(6, 4, 3, groups=2), [(2, 6, 7, 5)], 2 * 2 * 6 * 7 * 5 * 2 * 9),
    "conv 1-D": (nn.Conv1d(3, 5, 3), [(2, 3, 9)], 2 * 2 * 5 * 7 * 3 * 3),
    "conv 3-D": (nn.Conv3d(2, 3, 2), [(1, 2, 4, 5, 6)], 2 * 3 * 3 * 4 * 5 * 2 * 8),
    "MHA own widths of K and V": (
        Calls(lambda m, q, k, v: m.attn(q, k, v), attn=mha(12, 4, kdim=5, vdim=6)), [Q, (11, 2, 5), (11, 2, 6)],
        2 * 2 * (7 * 12 * 12 * 2 + 11 * 12 * (5 + 6) + 2 * 7 * 11 * 12),
    ),
    "SDPA causal with groups": (
        Calls(lambda m, q, k: F.scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=True)),
        [(2, 4, 5, 8), (2, 2, 5, 8)], 2 * 2 * 4 * 5 * 5 * 16,
    ),
    "LSTM": (nn.LSTM(3, 5), [(4, 2, 3)], 2 * 4 * 2 * 4 * 5 * (3 + 5)),
    "tensordot": (Calls(lambda m, a, b: torch.tensordot(a, b, 1)), [(2, 3, 5), (5, 7)], 2 * 2 * 3 * 5 * 7),
    "1-D linear": (nn.Linear(3, 5), [(3,)], 2 * 3 * 5),
    "addbmm": (Calls(lambda m, c, a, b: torch.addbmm(c, a, b)), [(5, 4), (3, 5, 7), (3, 7, 4)], 2 * 3 * 5 * 7 * 4),
    "addmv": (Calls(lambda m, c, a, b: torch.addmv(c, a, b)), [(5,), (5, 7), (7,)], 2 * 5 * 7),
    "embedding": (nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 6)), [], 2 * 2 * 5 * 4 * 6),
}  # fmt: skip


@pytest.mark.parametrize("name", [*CASES, *MORE])
def test_each_case_counts_exactly_what_the_arithmetic_says(name: str) -> None:
    module, sizes, expected = {**CASES, **MORE}[name]
    inputs = shapes(*sizes) if sizes else [torch.zeros(2, 5, dtype=torch.long)]
    count = count_flops(module, inputs, strict=True)
    if isinstance(expected, tuple):
        assert (count.matmul_flops, count.second_tier_flops) == expected
    else:
        assert count.matmul_flops == expected
    assert count.method == "meta"
    for rows in (count.components.values(), count.modules.values()):
        assert sum(row["matmul_flops"] for row in rows) == count.matmul_flops
        assert sum(row["second_tier_flops"] for row in rows) == count.second_tier_flops
    assert sum(row.matmul_flops for row in count.operators) == count.matmul_flops == sum(count.origins.values())
    assert sum(row.second_tier_flops for row in count.operators) == count.second_tier_flops == sum(count.second_tier.values())


def test_there_are_twenty_seven_micro_cases() -> None:
    assert len(CASES) == 27


@pytest.mark.parametrize("name", [*CASES, *MORE])
def test_running_with_values_counts_the_same_as_meta(name: str) -> None:
    """The fall-back for models that cannot run on meta; on the CPU, attention takes its fused paths there."""
    module, sizes, expected = {**CASES, **MORE}[name]
    inputs = shapes(*sizes) if sizes else [torch.zeros(2, 5, dtype=torch.long)]

    def forward(m, *values):
        sum((each.sum() for each in m.inner.parameters()), values[0].sum()).item()  # forces it off meta
        return m.inner(*values)

    count = count_flops(Calls(forward, inner=module).eval(), inputs, strict=True)
    assert count.method == "values"
    assert count.matmul_flops == (expected[0] if isinstance(expected, tuple) else expected)


@pytest.mark.parametrize("name", [name for name in {**CASES, **MORE} if "custom" not in name])
def test_meta_built_grad_and_training_change_nothing(name: str) -> None:
    module, sizes, _ = {**CASES, **MORE}[name]
    inputs = shapes(*sizes) if sizes else [torch.zeros(2, 5, dtype=torch.long)]
    reference = count_flops(module, inputs).matmul_flops
    assert count_flops(copy.deepcopy(module).to("meta"), [value.to("meta") for value in inputs]).matmul_flops == reference
    training = copy.deepcopy(module).train()
    assert count_flops(training, inputs).matmul_flops == reference
    assert training.training
    with torch.no_grad():
        assert count_flops(module, inputs).matmul_flops == reference
    with torch.inference_mode():
        assert count_flops(module, inputs).matmul_flops == reference


SECOND_TIER = {
    "grid_sample": (lambda m, x, g: F.grid_sample(x, g, align_corners=False), [(2, 3, 7, 5), (2, 4, 6, 2)],
                    {"grid_sample": 7 * 2 * 3 * 4 * 6 + 18 * 2 * 4 * 6}),
    "softmax": (lambda m, x: x.softmax(-1), [X], {"softmax": 5 * 42}),
    "layer_norm": (lambda m, x: F.layer_norm(x, (3,)), [X], {"normalisation": 8 * 42}),
    "addition of a row": (lambda m, x, y: x + y, [X, (3,)], {"elementwise": 42}),
    "in place": (lambda m, x: x.clone().mul_(3).add_(1), [X], {"elementwise": 2 * 42}),
    "exp": (lambda m, x: x.exp(), [X], {"transcendental": 42}),
    "gelu": (lambda m, x: F.gelu(x), [X], {"transcendental": 42}),
    "mean": (lambda m, x: x.mean(1), [X], {"reduction": 42}),
    "max of two": (lambda m, x, y: torch.max(x, y), [X, X], {"elementwise": 42}),
    "max": (lambda m, x: x.max(-1).values, [X], {"reduction": 42}),
    "bias": (lambda m, c, a, b: torch.addmm(c, a, b), [(4,), (5, 7), (7, 4)], {"bias": 20}),
    "avg_pool": (lambda m, x: F.avg_pool2d(x, (2, 3)), [(1, 2, 4, 6)], {"pooling": 2 * 2 * 2 * 6}),
    "max_pool": (lambda m, x: F.max_pool2d(x, 2), [(1, 2, 4, 6)], {"pooling": 2 * 2 * 3 * 4}),
    "bilinear upsampling": (lambda m, x: F.interpolate(x, size=(5, 7), mode="bilinear"), [(1, 2, 3, 4)], {"interpolation": 7 * 2 * 35}),
    "nearest upsampling": (lambda m, x: F.interpolate(x, scale_factor=2), [(1, 2, 3, 4)], {}),
    "batch_norm": (lambda m, x: F.batch_norm(x, x[0, :, 0], x[0, :, 0], training=False), [X], {"normalisation": 8 * 42}),
    "rms_norm": (lambda m, x: F.rms_norm(x, (3,)), [X], {"normalisation": 8 * 42}),
    "group_norm": (lambda m, x: F.group_norm(x, 1), [X], {"normalisation": 8 * 42}),
    "copies and views": (lambda m, x: torch.cat((x, x.flip(0))).transpose(0, 1).reshape(-1)[2:], [X], {}),
    "selection": (lambda m, x: torch.where(x.isnan(), x, x).topk(2, dim=1).indices, [X], {}),
    "attention": (lambda m, q, k: F.scaled_dot_product_attention(q, k, k), [(2, 3, 5, 8), (2, 3, 7, 8)],
                  {"softmax": 5 * 6 * 35, "elementwise": 6 * 35}),
}  # fmt: skip


@pytest.mark.parametrize("name", SECOND_TIER)
def test_the_second_tier_follows_its_coefficient_table(name: str) -> None:
    function, sizes, expected = SECOND_TIER[name]
    count = count_flops(Calls(function), shapes(*sizes), strict=True)
    assert count.second_tier == expected
    assert set(expected) <= set(COEFFICIENTS)


@torch.library.custom_op("humar_test::mystery", mutates_args=())
def mystery(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


@mystery.register_fake
def _(x):
    return torch.empty_like(x)


def test_an_operator_without_a_formula_is_listed_or_an_error_that_names_it() -> None:
    model = Calls(lambda m, x: mystery(mystery(x)))
    assert count_flops(model, shapes(X)).uncounted == (("humar_test::mystery", 2),)
    with pytest.raises(MeasurementError, match=r"operator humar_test::mystery in module '\(top\)' has no FLOP formula"):
        count_flops(model, shapes(X), strict=True)


def test_a_formula_can_only_be_registered_for_an_operator() -> None:
    with pytest.raises(UsageError, match="is not an operator; give"):
        register_formula(torch.mm, lambda *_: 0)


def test_a_formula_may_name_its_categories() -> None:
    @torch.library.custom_op("humar_test::both", mutates_args=())
    def both(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    both.register_fake(lambda x: torch.empty_like(x))
    register_formula(both, lambda result, x: {"matmul": 10, "softmax": 5 * x.numel()})
    count = count_flops(Calls(lambda m, x: both(x)), shapes(X), strict=True)
    assert (count.matmul_flops, count.second_tier) == (10, {"softmax": 5 * 42})


class Shouting(nn.Module):
    """Writes to itself, its buffer, its input and the random state; then raises if told to."""

    def __init__(self, fail: bool) -> None:
        super().__init__()
        self.fail, self.seen = fail, []
        self.linear, self.norm = nn.Linear(3, 5), nn.BatchNorm1d(5)
        self.register_buffer("steps", torch.zeros(1))
        self.linear.register_forward_hook(lambda module, inputs, output: output * 2)

    def forward(self, x):
        self.seen.append(x)
        self.last = x
        self.steps += 1
        x.mul_(2)
        torch.rand(3)
        y = self.norm(self.linear(x))
        if self.fail:
            raise ValueError("no luck today.")
        return y


@pytest.mark.parametrize("fail", [False, True])
@pytest.mark.parametrize("values", [False, True])
def test_the_model_and_the_inputs_are_as_before_also_when_forward_raises(fail: bool, values: bool) -> None:
    model, x = Shouting(fail), torch.ones(4, 3)
    if values:
        model.forward_values = None
        model.norm.register_forward_pre_hook(lambda module, inputs: inputs[0].sum().item() and None)
    before = state(model)
    if fail:
        with pytest.raises(MeasurementError, match="the forward of Shouting raised ValueError: no luck today; correct the model"):
            count_flops(model, [x])
    else:
        assert count_flops(model, [x]).method == ("values" if values else "meta")
    assert same(state(model), before)
    assert model.seen == [] and not hasattr(model, "last") and torch.equal(x, torch.ones(4, 3))


def test_a_model_on_meta_that_cannot_run_there_is_one_sentence() -> None:
    model = Calls(lambda m, x: x[: int(x.sum())])
    with pytest.raises(MeasurementError, match="the forward of Calls does not run on the meta device .*; correct it, or give weights"):
        count_flops(model, [torch.zeros(3, device="meta")])


def test_shared_modules_are_attributed_to_the_parent_that_called() -> None:
    count = count_flops(TwoParents(), shapes(X))
    assert {path: row["matmul_flops"] for path, row in count.modules.items() if row["matmul_flops"]} == {"a.inner": 420, "b.inner": 420}
    assert count.components["a"]["matmul_flops"] == count.components["b"]["matmul_flops"] == 420


def test_a_direct_forward_call_is_attributed_to_its_module() -> None:
    count = count_flops(Calls(lambda m, x: m.f.forward(x) + m.g(x), f=nn.Linear(3, 5), g=nn.Linear(3, 5)), shapes(X))
    assert {path: row["matmul_flops"] for path, row in count.modules.items() if path} == {"f": 420, "g": 420}
    assert count.modules[""]["second_tier_flops"] == 2 * 7 * 5


def test_level_sizes_kept_in_tensors_stay_readable_on_meta() -> None:
    """As published deformable transformers do: sizes in a tensor on the device, read one by one."""

    def forward(m, x):
        sizes = torch.as_tensor([(3, 2), (1, 1)], dtype=torch.long, device=x.device)
        starts = torch.cat((sizes.new_zeros((1,)), sizes.prod(1).cumsum(0)[:-1]))
        assert (sizes[:, 0] * sizes[:, 1]).sum() == x.shape[1]
        parts = x.split([h * w for h, w in sizes.tolist()], dim=1)
        rows = [torch.linspace(0.5, h - 0.5, h, device=x.device) for h, _ in sizes]
        return m.f(parts[0]), m.f(x[:, int(starts[1]) :]), rows

    model = Calls(forward, f=nn.Linear(3, 5))
    count = count_flops(model, shapes(X), strict=True)
    assert count.method == "meta"
    assert count.matmul_flops == 2 * 2 * 6 * 3 * 5 + 2 * 2 * 1 * 3 * 5
    assert count.synchronisations > 4  # the copy to the device, and each value read back


def test_kernels_are_the_calls_that_move_data() -> None:
    def forward(m, x):
        y = x.transpose(0, 1)[1:].unsqueeze(0)  # views
        return (y + 1).reshape(-1).contiguous().clone()  # an addition, a copy of the transposed sum, a clone

    count = count_flops(Calls(forward), shapes(X))
    assert (count.kernels, count.synchronisations) == (3, 0)
    assert count_flops(Calls(lambda m, q: F.scaled_dot_product_attention(q, q, q)), shapes((2, 3, 5, 8))).kernels == 1


def test_a_weight_reached_through_a_closure_is_counted_without_its_values() -> None:
    outside = nn.Linear(3, 5)
    assert count_flops(Calls(lambda m, x: outside(x)), shapes(X), strict=True).matmul_flops == 420


def test_padding_masks_and_weight_norm_of_torch_count_on_meta() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(12, 4, 20, batch_first=True), 2, enable_nested_tensor=True).eval()
    model = Calls(lambda m, x: m.f(x, src_key_padding_mask=torch.zeros(2, 7, dtype=torch.bool, device=x.device)), f=encoder)
    count = count_flops(model.eval(), shapes((2, 7, 12)), strict=True)
    assert (count.method, count.matmul_flops) == ("meta", 2 * (attention(2, 7, 7, 12) + 2 * 2 * 7 * 12 * 20 * 2))
    assert torch.backends.mha.get_fastpath_enabled()
    normed = torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 5))
    assert count_flops(normed, shapes(X), strict=True).matmul_flops == 420


def test_a_layer_without_a_shape_yet_is_one_sentence() -> None:
    with pytest.raises(MeasurementError, match=r"0\.weight has no shape yet; let the builder run one forward of the model"):
        count_flops(nn.Sequential(nn.LazyLinear(4)), shapes(X))


def test_nothing_is_allocated_however_large_the_model() -> None:
    """Four terabytes of weights, a quarter of one of inputs."""
    model = nn.Sequential(nn.Linear(2**20, 2**20, device="meta"), nn.ReLU())
    x = torch.empty(2**16, 2**20, device="meta")
    assert count_flops(model, [x], strict=True).matmul_flops == 2 * 2**16 * 2**20 * 2**20


def test_measured_holds_what_the_record_needs() -> None:
    measured = count_flops(nn.Linear(3, 5), shapes(X)).measured()
    assert measured["macs"] * 2 == measured["matmul_flops"] == 420
    assert measured["batch"] == 2
    assert measured["operators"][0] == {
        "operator": "aten::addmm", "calls": 1, "category": "matmul", "matmul_flops": 420, "second_tier_flops": 70,
    }  # fmt: skip
    assert measured["coefficients"]["softmax"] == "5 per element"


def test_the_original_has_the_published_flops() -> None:
    from baselines.transformer import build_transformer
    from humar_bench.args import ModelArgs, Workload
    from humar_bench.subjects.transformer import make_inputs

    args = ModelArgs(num_feature_levels=3)
    with torch.device("meta"):
        model = build_transformer(args)
    count = count_flops(model, make_inputs(args, Workload("test", 2, 20, ((50, 50),) * 3), device="meta"), strict=True)
    assert count.matmul_flops == 285_795_409_920
    assert count.second_tier["grid_sample"] == 2 * 1_095_621_120
    assert (count.method, count.uncounted, count.synchronisations) == ("meta", (), 0)


def test_dropout_in_eval_is_no_kernel_as_it_is_none_in_eager_torch() -> None:
    count = count_flops(Calls(lambda m, x: F.dropout(F.relu(x), 0.5, training=False)), shapes((3, 4)))
    assert (count.kernels, count.second_tier_flops) == (1, 12)

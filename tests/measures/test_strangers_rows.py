"""Models that run and whose rows were lost: sparse and jagged tensors, flex_attention, cond, complex numbers. Counts are made by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from humar_bench.measures.exact import count_exactly
from humar_bench.measures.flops import count_flops

N, C, D = 6, 5, 7


def sparse_matrix(rows=9, columns=N):
    """[rows, columns] with 11 entries, unevenly over rows and columns."""
    places = [(0, 0), (0, 3), (1, 3), (2, 1), (2, 2), (2, 3), (5, 0), (5, 5), (7, 4), (8, 0), (8, 3)]
    dense = torch.zeros(rows, columns)
    for index, (row, column) in enumerate(places):
        dense[row, column] = index + 1.0
    return dense


class Does(nn.Module):
    def __init__(self, does, **weights):
        super().__init__()
        self.does = does
        for name, weight in weights.items():
            self.register_buffer(name, weight)

    def forward(self, x):
        return self.does(self, x)


def flops_of(does, x, **weights):
    count = count_flops(Does(does, **weights), (x,))
    assert count.uncounted == ()
    return count


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.parametrize(("form", "product"), [
    ("to_sparse_coo", torch.sparse.mm), ("to_sparse_csr", torch.matmul), ("to_sparse_csc", torch.matmul), ("to_sparse_coo", torch.matmul),
])
def test_strangers_a_sparse_matrix_is_counted_by_what_it_stores(form, product):
    weight = getattr(sparse_matrix(), form)()
    count = flops_of(lambda self, x: product(self.weight, x), torch.randn(N, C), weight=weight)
    assert count.matmul_flops == 2 * 11 * C and count.method == "values"


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_strangers_a_sparse_matrix_made_in_the_forward_is_too():
    count = flops_of(lambda self, x: x.where(x > 1, 0).to_sparse_csr() @ x.T, torch.tensor([[0.0, 2, 3], [5, 0, 0]]))
    assert count.matmul_flops == 2 * 3 * 2


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_strangers_a_product_of_two_sparse_matrices_is_counted_by_the_pairs_that_meet():
    a = sparse_matrix()
    pairs = sum(int((a[:, k] != 0).sum() * (a.T[k] != 0).sum()) for k in range(N))
    for form in ("to_sparse_coo", "to_sparse_csr"):
        count = flops_of(lambda self, x: (self.weight @ self.other).to_dense() + x, torch.randn(1), weight=getattr(a, form)(),
                         other=getattr(a.T, form)())
        assert count.matmul_flops == 2 * pairs == 2 * (9 + 1 + 1 + 16 + 1 + 1)


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
def test_strangers_a_sparse_layer_beside_a_dense_one():
    weight = sparse_matrix().to_sparse_csr()
    count = flops_of(lambda self, x: F.linear(x, self.dense) @ torch.ones(3, 1) + F.linear(x, self.weight).sum(), torch.randn(4, N),
                     weight=weight, dense=torch.randn(3, N))
    assert count.matmul_flops == 2 * 4 * N * 3 + 2 * 4 * 3 + 2 * 11 * 4


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_strangers_jagged_tensors_are_counted_by_the_tokens_that_are_there():
    linear = nn.Linear(C, D)

    class Jagged(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = linear

        def forward(self, x):
            parts = torch.nested.nested_tensor([x[:2], x[1:6], x[:3]], layout=torch.jagged)
            return self.linear(parts).relu().values()

    exact = count_exactly(Jagged(), (torch.randn(N, C),))
    assert exact.flops.matmul_flops == 2 * (2 + 5 + 3) * C * D and exact.flops.uncounted == ()
    assert exact.dead_weight.never_read == ()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_strangers_a_jagged_output_is_an_output():
    class Jagged(nn.Module):
        def forward(self, x):
            return torch.nested.nested_tensor([x[:2], x[1:6]], layout=torch.jagged) * 2

    exact = count_exactly(Jagged(), (torch.randn(N, C),))
    assert exact.dead_weight.discarded == () and exact.flops.second_tier["elementwise"] == 7 * C


def heads(x):
    return x.unflatten(2, (2, 8)).transpose(1, 2)


@pytest.mark.filterwarnings("ignore:flex_attention called without:UserWarning")
@pytest.mark.parametrize("compiled", [None, {}, {"fullgraph": True}], ids=["eager", "compiled", "one graph"])
def test_strangers_flex_attention_is_two_products_over_all_scores(compiled):
    from torch.nn.attention.flex_attention import flex_attention

    attend = flex_attention if compiled is None else torch.compile(flex_attention, **compiled)

    def causal(score, batch, head, query, key):
        return torch.where(query >= key, score, -float("inf"))

    for more in ({}, {"score_mod": causal}):
        count = flops_of(lambda self, x, more=more: attend(heads(x), heads(x), heads(x), **more), torch.randn(3, 11, 16))
        assert count.matmul_flops == 2 * 2 * 3 * 2 * 11 * 11 * 8


def test_strangers_a_branch_is_what_is_taken():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.narrow = nn.Linear(C, 40, bias=False), nn.Linear(C, D, bias=False)

        def forward(self, x):
            return torch.cond(x.sum() > 0, lambda t: self.wide(t).mean(1), lambda t: self.narrow(t).mean(1), (x,))

    model = Branches()
    for x, width, idle in ((torch.ones(N, C), 40, "narrow.weight"), (-torch.ones(N, C), D, "wide.weight")):
        exact = count_exactly(model, (x,))
        assert exact.flops.matmul_flops == 2 * N * C * width and exact.flops.method == "values" and exact.flops.uncounted == ()
        assert [name for name, _ in exact.dead_weight.never_read] == [idle]


def test_strangers_a_loop_is_counted_as_often_as_it_goes_round():
    from torch._higher_order_ops.while_loop import while_loop

    def loop(self, x):
        return while_loop(lambda i, t: i < 3, lambda i, t: (i + 1, t @ t), (torch.tensor(0), x))[1]

    assert flops_of(loop, torch.randn(C, C)).matmul_flops == 3 * 2 * C**3


@pytest.mark.parametrize(("product", "multiply_adds"), [
    (lambda a: a @ a.mT, N * N * C), (lambda a: torch.einsum("nc,mc->nm", a, a), N * N * C), (lambda a: a @ a[0], N * C),
    (lambda a: torch.baddbmm(a[None, :, :N], a[None], a.mT[None, :, :C].expand(1, C, C)), N * C * C),
    (lambda a: F.linear(a, a, a[:, 0]), N * N * C), (lambda a: torch.vdot(a[0], a[1]), C),
])
def test_strangers_a_complex_multiply_add_is_8(product, multiply_adds):
    count = flops_of(lambda self, x: product(x), torch.randn(N, C, dtype=torch.complex64))
    assert count.matmul_flops == 8 * multiply_adds and count.method == "meta"


def test_strangers_complex_layers_are_counted_and_their_weights_read():
    class Complex(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(C, D, dtype=torch.complex64)
            self.conv = nn.Conv1d(C, 3, 2, dtype=torch.complex64)

        def forward(self, x):
            z = torch.complex(x, x)
            return self.linear(z).abs(), self.conv(z.mT).abs()

    exact = count_exactly(Complex(), (torch.randn(2, N, C),))
    assert exact.flops.matmul_flops == 8 * 2 * N * C * D + 8 * 2 * 3 * (N - 1) * C * 2
    assert exact.flops.uncounted == () and exact.dead_weight.never_read == ()

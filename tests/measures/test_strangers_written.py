"""What a forward writes to: tensors it made on the host, what it is given as `out`, what the model keeps, pickles. Nothing of that is
thrown away, unwritten or a weight. B items, T tokens of C numbers."""

from __future__ import annotations

import io
import pickle
import statistics

import pytest
import torch
from torch import nn

from humar_bench.measures.exact import count_exactly
from tests.small_modules import Calls

B, T, C = 2, 6, 8
LAYER = 2 * B * T * C * C  # FLOP of one layer without bias


def layer():
    return nn.Linear(C, C, bias=False)


def exactly(function, **held):
    model = Calls(function, layer=layer())
    for name, value in held.items():
        setattr(model, name, value)
    return count_exactly(model.eval(), (torch.randn(B, T, C),))


def row_by_row(self, x):
    made = torch.empty(B, T, C)
    for at in range(T):
        made[:, at] = self.layer(x[:, at])
    return made


def added_to_nodes(self, x):
    return torch.zeros(T, C).index_add_(0, torch.arange(B * T) % T, self.layer(x).reshape(-1, C)) * 2


def into_a_view(self, x):
    all_of_it = torch.zeros(3, B, T, C)
    one = all_of_it[1]
    one.copy_(self.layer(x))
    return all_of_it.sum(0)


def into_an_empty_out(self, x):
    made = torch.empty(0)
    return torch.mm(x.reshape(-1, C), self.layer.weight.T, out=made)


def into_what_grew(self, x):
    return torch.empty(0).resize_(B, T, C).copy_(self.layer(x))


def kept_for_later(self, x):
    y = self.layer(x)
    self.mean = 0.5 * self.mean + y.mean()
    return y


@pytest.mark.parametrize("does", [row_by_row, added_to_nodes, into_a_view, into_an_empty_out, into_what_grew, kept_for_later])
def test_strangers_what_a_forward_writes_to_is_used(does):
    exact = exactly(does, mean=0.0)
    assert exact.flops.method == "meta" and exact.flops.matmul_flops == LAYER and exact.flops.uncounted == ()
    assert exact.dead_weight.discarded == () and exact.dead_weight.never_read == () and exact.dead_weight.unregistered == ()
    assert exact.outputs.is_meta or bool(torch.isfinite(exact.outputs).all())


def test_strangers_an_empty_out_has_the_shape_of_what_was_written_to_it():
    def forward(self, x):
        made = torch.empty(0)
        torch.mm(x.reshape(-1, C), self.layer.weight.T, out=made)
        return made

    assert exactly(forward).outputs.shape == (B * T, C)


def test_strangers_what_is_written_over_is_no_weight():
    def forward(self, x):
        torch.mm(x.reshape(-1, C), self.layer.weight.T, out=self.place)
        return self.place

    assert exactly(forward, place=torch.empty(B * T, C)).dead_weight.unregistered == ()


def test_strangers_what_was_written_to_a_parameter_alone_leaves_it_unread():
    def forward(self, x):
        self.unread.copy_(x[0, 0])
        return self.layer(x)

    assert exactly(forward, unread=nn.Parameter(torch.zeros(C))).dead_weight.never_read == (("unread", C),)


@pytest.mark.parametrize("times", [1, 3])
def test_strangers_a_number_on_the_host_that_depends_on_inputs_is_read_from_a_real_run(times):
    def forward(self, x):
        count = torch.zeros((), dtype=torch.long)
        count += (x.abs() >= 0).sum() // (B * T * C) * times
        for _ in range(int(count)):
            x = self.layer(x)
        return x

    exact = exactly(forward)
    assert exact.flops.method == "values" and exact.flops.matmul_flops == times * LAYER


def test_strangers_a_number_on_the_host_that_depends_on_shapes_alone_needs_none():
    def forward(self, x):
        lengths = torch.zeros(B, dtype=torch.long)
        lengths[0] = x.shape[1]
        for _ in range(int((lengths > 1).sum()) + 1):
            x = self.layer(x)
        return x

    exact = exactly(forward)
    assert exact.flops.method == "meta" and exact.flops.matmul_flops == 2 * LAYER


# Outside ------------------------------------------------------------------------------------------------------------------------------


def pickled(self, x):
    return pickle.loads(pickle.dumps(self.layer(x))) * 2


def saved(self, x):
    place = io.BytesIO()
    torch.save(self.layer(x), place)
    place.seek(0)
    return torch.load(place, weights_only=True) * 2


@pytest.mark.parametrize("does", [pickled, saved])
def test_strangers_what_went_through_a_pickle_left_torch_and_came_back(does):
    reduce = torch.Tensor.__reduce_ex__
    exact = exactly(does)
    assert exact.flops.method == "values" and exact.flops.outside == 1 and exact.flops.matmul_flops == LAYER
    assert exact.dead_weight.discarded == () and exact.dead_weight.unregistered == () and torch.Tensor.__reduce_ex__ is reduce


def test_strangers_one_number_that_python_made_of_many_is_noticed():
    def centred(self, x):
        return self.layer(x) - statistics.median(x.flatten().tolist())

    def scaled(self, x):
        low, high = torch.stack((x.min(), x.max())).tolist()
        return self.layer(x).clamp(low, high) * 0.5

    assert [exactly(each).flops.outside for each in (centred, scaled)] == [1, 0]

"""What an operator makes on the meta device is the same whether it is worked out or remembered."""

from __future__ import annotations

import pytest
import torch
from torch.utils._pytree import tree_leaves

from humar_bench.args import BUILT_IN, Workload
from humar_bench.measures import meta, trace, trace_meta, trace_watch
from humar_bench.measures.flops import count_flops
from humar_bench.measures.meta import result_on_meta
from humar_bench.measures.nested import tensors_in
from humar_bench.subjects.registry import build
from humar_bench.subjects.transformer import make_inputs

aten = torch.ops.aten


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def look(tensor: torch.Tensor) -> tuple:
    return tensor.shape, tensor.stride(), tensor.dtype


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch):
    monkeypatch.setattr(meta, "_made", {})


@pytest.mark.parametrize(("op", "first", "second"), [
    (aten.add.Tensor, (empty(2, 3), empty(2, 3)), (empty(2, 3), empty(2, 3).double())),
    (aten.add.Tensor, (empty(2, 3), empty(3)), (empty(2, 3), empty(3, 2).t())),
    (aten.mul.Tensor, (empty(2, 3, dtype=torch.int64), 2), (empty(2, 3, dtype=torch.int64), 2.0)),
    (aten.sum.dim_IntList, (empty(2, 3), [0]), (empty(2, 3), [1])),
    (aten.cat.default, ([empty(2, 3), empty(2, 3)], 0), ([empty(2, 3), empty(2, 3)], 1)),
    (aten.native_layer_norm.default, (empty(2, 3), [3], None, None, 1e-5), (empty(2, 3).half(), [3], None, None, 1e-5)),
], ids=str)
def test_a_remembered_result_looks_as_the_one_that_was_worked_out_and_each_call_has_its_own(op, first, second):
    for args in (first, second, first, second):
        wanted, got = op(*args), result_on_meta(op, args, {})
        assert type(got) is type(wanted)
        pairs = list(zip(got, wanted, strict=True)) if isinstance(wanted, tuple) else [(got, wanted)]
        assert all(look(one) == look(other) for one, other in pairs)
    assert len(meta._made) == 2
    one, other = (result_on_meta(op, first, {}) for _ in range(2))
    assert tree_leaves(one)[0].untyped_storage()._cdata != tree_leaves(other)[0].untyped_storage()._cdata


def test_a_view_shares_its_memory_also_when_its_schema_does_not_say_so_and_what_is_written_to_is_written_to():
    for op in (aten.view.default, aten._unsafe_view.default):
        for _ in range(2):
            base = empty(2, 3)
            assert result_on_meta(op, (base, [6]), {}).untyped_storage()._cdata == base.untyped_storage()._cdata
    for _ in range(2):
        base = empty(2, 3)
        assert result_on_meta(aten.add_.Tensor, (base, 1.0), {}) is base
    assert not meta._made


def test_wrong_shapes_are_refused_every_time():
    for _ in range(2):
        with pytest.raises(RuntimeError):
            result_on_meta(aten.mm.default, (empty(2, 3), empty(2, 3)), {})


def test_the_default_number_type_is_part_of_what_is_remembered():
    dtypes = []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        dtypes.append(result_on_meta(aten.div.Tensor, (empty(2, dtype=torch.int64), 2), {}).dtype)
    torch.set_default_dtype(torch.float32)
    assert dtypes == [torch.float32, torch.float64]


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_whole_forward_counts_the_same_operators_on_the_same_shapes(name, tiny_args, monkeypatch):
    model, inputs = build(name, tiny_args, device="meta"), make_inputs(tiny_args, Workload.tiny(), device="meta")
    seen: list[list[tuple]] = [[], [], []]

    def watched(run):
        class All(trace_watch.Observer):
            def add(self, call):
                tensors = tensors_in((call.args, call.kwargs, call.result))
                run.append((call.name, call.path, [(tuple(each.shape), each.stride(), each.dtype) for each in tensors]))

        trace.observe_forward(model, inputs, All)

    watched(seen[0])
    watched(seen[1])  # now much is known
    assert meta._made
    monkeypatch.setattr(trace_meta, "result_on_meta", lambda op, args, kwargs: meta._RULES.get(op, op)(*args, **kwargs))
    watched(seen[2])
    assert seen[0] == seen[1] == seen[2] and len(seen[0]) > 300
    assert count_flops(model, inputs, strict=True).matmul_flops > 0

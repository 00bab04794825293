"""Do outputs agree with an eager float32 forward of the same weights on the same inputs? No speed without equality.

The call both architectures share selects the best Q of thousands of proposals, and near ties fall out differently in another number
format. So the selection is compared first, as a set of rows; then the values of the rows both selected; and the memory maps, which come
before the selection, always. What the decoder makes of a selection is compared for the images where it is the same in the same order,
since its rows look at each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from humar_bench.errors import MeasurementError
from humar_bench.measures.call import called
from humar_bench.measures.conditions import plain_float32

# The largest difference of one number that is accepted, as a share of the root mean square of its part of the outputs.
# Measured on both architectures at default arguments with random weights: float16 0.007, bfloat16 0.06 (memory maps and, where the
# selection is the same, all parts), int8 0.15 (torch's dynamic quantisation; onnxruntime's 0.09) with 80 % of 20 rows in common; a
# forward without its last encoder layer is off by more than 0.5 (tests/measures/test_agreement.py). Float32 through other runtimes: 2e-5.
# TF32 has float16's 10 bits of mantissa in each factor and float32's sums; some slack, since it was not measured.
TOLERANCES = {"float32": 1e-3, "tf32": 5e-2, "float16": 3e-2, "bfloat16": 2e-1, "int8": 3e-1}
MIN_COMMON = {"float32": 1.0, "tf32": 0.8, "float16": 0.8, "bfloat16": 0.5, "int8": 0.5}  # of the selected rows, in every image
# Of a coordinate between 0 and 1: the same proposal.
POINT_TOLERANCES = {"float32": 1e-3, "tf32": 1e-3, "float16": 5e-3, "bfloat16": 2e-2, "int8": 2e-2}


@dataclass(frozen=True)
class Agreement:
    """How far outputs are from the expected ones. `max_error` is in shares of the part's root mean square, `worst` names the part;
    `common_share` is that of the image with the fewest rows in common. `border_cells` says which cells on the threshold of the proposals'
    validity had to be let in for the selections to be held against each other (`knife_edge.py`)."""

    max_error: float
    worst: str
    tolerance: float
    same_selection: bool
    common_share: float
    min_common: float
    border_cells: str = ""
    selects: bool = True  # whether there is a selection at all
    whole_numbers: bool = False  # whether the worst part is of whole numbers: then its error is the share of them that differ

    @property
    def fault(self) -> str:
        """What is wrong, as part of a sentence; empty where nothing is."""
        if self.common_share < self.min_common:
            return f"it selected other proposals ({100 * self.common_share:.0f} % in common, {100 * self.min_common:.0f} % are due)"
        if not self.max_error <= self.tolerance and self.whole_numbers:
            return f"{self.worst} differs in {100 * self.max_error:.2g} % of its numbers (tolerance {100 * self.tolerance:g} %)"
        if not self.max_error <= self.tolerance:
            return f"{self.worst} is off by {self.max_error:.2g} of its root mean square (tolerance {self.tolerance:g})"
        return ""

    def worse(self, other: Agreement | None) -> Agreement:
        """The worse of two, so that one stands for both."""
        return self if other is None else max(self, other, key=lambda each: (bool(each.fault), -each.common_share, each.max_error))


class Parts(NamedTuple):
    """Outputs as agreement reads them. Of B images and Q rows; the rows are what the model selected."""

    points: Tensor  # [B, Q, ...], where in the image a row's proposal lies, from 0 to 1
    embedding: Tensor  # [B, Q, C], what tells proposals of one place apart
    rows: dict[str, Tensor]  # [B, Q, ...], held for the rows that both selected
    later: dict[str, Tensor]  # [B, Q, ...], held where the selection is the same in the same order
    whole: dict[str, Tensor] = {}  # held whatever was selected
    some: dict[str, tuple[Tensor, Tensor]] = {}  # [B, M, ...] of the rows [B, M]: as `later`, where both are of the same row


def shared_call(outputs: Any) -> Parts:
    """The five outputs of a pose transformer (`subjects/transformer.py`)."""
    hs_pose, refpoint_pose, mix_refpoint, mix_embedding, memory = outputs
    rows = {"refpoint_pose[0]": refpoint_pose[0], "mix_refpoint": mix_refpoint, "mix_embedding": mix_embedding}
    later = {f"hs_pose[{at}]": each for at, each in enumerate(hs_pose)}
    later |= {f"refpoint_pose[{at}]": each for at, each in enumerate(refpoint_pose) if at}
    whole = {f"memory_features[{level}]": each for level, each in enumerate(memory)}
    return Parts(refpoint_pose[0], mix_embedding, rows, later, whole)


def agree(got: Any, want: Any, dtype: str, *, tf32: bool = False, parts: Callable[[Any], Parts] = shared_call) -> Agreement:
    """Hold outputs against expected ones; both are whole and finite (`Subject.check`), and `parts` reads them. Raises MeasurementError
    where a part is missing or has another shape.

    With `tf32`, float32 may be TF32 inside. Whole numbers and flags agree where no larger share of them differs than numbers may.
    """
    got, want = (tree_map_only(Tensor, _float32, parts(each)) for each in (got, want))
    dtype = "tf32" if tf32 and dtype == "float32" else dtype
    tolerance, min_common = TOLERANCES[dtype], MIN_COMMON[dtype]
    errors: dict[str, float] = {}
    if found := next((name for name in {**want.whole, **got.whole} if _look(got.whole, name) != _look(want.whole, name)), None):
        raise MeasurementError(f"{found} is {_look(got.whole, found)} where {_look(want.whole, found)} is due.")

    def hold(name: str, one: Tensor, other: Tensor, whole: Tensor) -> None:
        if other.numel() and not other.is_floating_point():
            errors[name] = max(errors.get(name, 0.0), float((one != other).double().mean()))
        elif other.numel():
            scale = whole.square().mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny)
            errors[name] = max(errors.get(name, 0.0), float((one - other).abs().max() / scale))

    for name, other in want.whole.items():
        hold(name, got.whole[name], other, other)
    same, shares = True, []
    for image in range(len(want.embedding)):
        mine, theirs = _common_rows(got.points[image], want.points[image], got.embedding[image], want.embedding[image], dtype)
        shares.append(len(mine) / len(want.embedding[image]))
        in_order = shares[-1] == 1 and torch.equal(mine, theirs)
        same &= shares[-1] == 1
        for name, other in {**want.rows, **(want.later if in_order else {})}.items():
            one = (got.rows if name in got.rows else got.later)[name]
            hold(name, one[image][mine], other[image][theirs], other)
        for name, (other, rows) in want.some.items() if in_order else ():
            one, own = got.some[name]
            both = own[image] == rows[image]
            hold(name, one[image][both], other[image][both], other)
    worst = max(errors, key=errors.get, default="")
    counted = worst in want.whole and not want.whole[worst].is_floating_point()
    return Agreement(
        errors.get(worst, 0.0), worst, tolerance, same, min(shares, default=1.0), min_common, selects=bool(shares), whole_numbers=counted
    )


def _look(whole: dict[str, Tensor], name: str) -> str:
    return f"of shape {list(whole[name].shape)}" if name in whole else "missing"


def _common_rows(points: Tensor, want_points: Tensor, embedding: Tensor, want_embedding: Tensor, dtype: str) -> tuple[Tensor, Tensor]:
    """Indices of the rows of one image that both selected: the same point and, of several there (levels overlap), the nearest embedding.

    Pairs are those that are each other's nearest, then those among what is left: proposals outside the valid image are all equal, and
    both sides may have selected several. points [Q, 2N], embedding [Q, C].
    """
    near = torch.cdist(points, want_points, p=torch.inf) <= POINT_TOLERANCES[dtype]
    apart = torch.cdist(embedding, want_embedding, compute_mode="donot_use_mm_for_euclid_dist").masked_fill(~near, torch.inf)
    mine, pairs = torch.arange(len(points), device=points.device), torch.full((len(points),), -1, device=points.device)
    while bool(torch.isfinite(apart).any()):
        there, back = apart.argmin(1), apart.argmin(0)
        found = torch.isfinite(apart).any(1) & (back[there] == mine)
        pairs[found] = there[found]
        apart[found] = torch.inf
        apart[:, there[found]] = torch.inf
    common = pairs >= 0
    return mine[common], pairs[common]


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def expected_outputs(build: Callable[[], nn.Module], model: nn.Module, inputs: Any, *, as_given: bool = False) -> Any:
    """Outputs of a float32 model that `build` makes, with the parameters of `model`, on a copy of its inputs, in its first forward. With
    `as_given`, inputs keep their number types: they were made for the model as it is built.

    Built anew and called once: whatever `model` remembers of earlier calls, in its buffers or elsewhere, this one does not.
    """
    fresh = build().eval()
    with torch.inference_mode():  # weights made in inference mode can be written to in no other
        fresh.load_state_dict(dict(model.named_parameters(remove_duplicate=False)), strict=False)
    return fresh_outputs(fresh, inputs, as_given=as_given)


def fresh_outputs(model: nn.Module, inputs: Any, *, as_given: bool = False) -> Any:
    """Outputs of a model on a copy of its inputs, in float32 unless `as_given`, with neither TF32 nor autocast."""
    with plain_float32():
        return called(model.eval(), float32_copy(inputs, as_given=as_given))


def float32_copy(inputs: Any, *, as_given: bool = False) -> Any:
    """Inputs in memory of their own, floating-point ones in float32 unless `as_given`."""
    def made(tensor: Tensor) -> Tensor:
        return tensor.detach().clone().float() if tensor.is_floating_point() and not as_given else tensor.detach().clone()

    return tree_map_only(Tensor, made, inputs)

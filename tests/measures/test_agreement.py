"""Outputs against a float32 forward: what is equal passes, what is wrong in any part or only for inputs it has seen is named."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from baselines import build_transformer
from efficient import build_efficient_conv_attention_transformer
from humar_bench.errors import MeasurementError
from humar_bench.measures.agreement import MIN_COMMON, TOLERANCES, agree, expected_outputs
from humar_bench.measures.conditions import conditions, plain_float32, watch_inside
from humar_bench.running.arm import Arm
from humar_bench.running.new_inputs import NewInputs
from humar_bench.subjects.registry import build
from humar_bench.subjects.transformer import TransformerSubject, make_inputs
from tests.models import shaken

CUDNN = torch.backends.cudnn
BUILDERS = {"original": build_transformer, "efficient": build_efficient_conv_attention_transformer}


def forward(model, inputs):
    with torch.inference_mode():
        return model(*inputs)


@pytest.fixture
def outputs(tiny_args, tiny_workload):
    return forward(shaken(build("original", tiny_args)), make_inputs(tiny_args, tiny_workload))


def changed(outputs, part: int, change, at: int | None = None):
    """The outputs with one part changed."""
    parts = [list(each) if isinstance(each, (list, tuple)) else each.clone() for each in outputs]
    if at is None:
        parts[part] = change(parts[part])
    else:
        parts[part][at] = change(parts[part][at].clone())
    return parts


def test_equal_outputs_have_no_error(outputs):
    found = agree(outputs, outputs, "float32")
    assert (found.max_error, found.same_selection, found.common_share, found.fault) == (0.0, True, 1.0, "")


@pytest.mark.parametrize(("part", "at", "name"), [(0, 2, "hs_pose[2]"), (1, 1, "refpoint_pose[1]"), (2, None, "mix_refpoint"),
                                                  (3, None, "mix_embedding"), (4, 1, "memory_features[1]")])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_an_error_in_any_part_is_found_by_its_name(outputs, part, at, name, dtype):
    def off(tensor):
        tensor = tensor.contiguous()
        tensor.view(-1)[3] += 2 * TOLERANCES[dtype] * float(tensor.square().mean().sqrt()) + 1e-6
        return tensor

    found = agree(changed(outputs, part, off, at), outputs, dtype)
    assert found.worst == name and found.max_error == pytest.approx(2 * TOLERANCES[dtype], rel=0.02) and name in found.fault


def test_the_same_proposals_in_another_order_are_the_same_selection(outputs):
    def turned(part):
        return [each.flip(1) for each in part] if isinstance(part, (list, tuple)) else part.flip(1)

    parts = [*map(turned, outputs[:4]), outputs[4]]
    found = agree(parts, outputs, "float32")
    assert found.same_selection and found.max_error == 0 and not found.fault


def test_other_proposals_are_told_from_wrong_values(outputs):
    other = changed(outputs, 1, lambda points: (points + 0.3), at=0)
    found = agree(other, outputs, "float32")
    assert not found.same_selection and found.common_share == 0 and "selected other proposals (0 % in common" in found.fault
    one_row = changed(outputs, 1, lambda points: torch.cat((points[:, :1] + 0.3, points[:, 1:]), 1), at=0)
    found = agree(one_row, outputs, "bfloat16")
    assert found.common_share == 0.8 >= MIN_COMMON["bfloat16"] and not found.same_selection and not found.fault
    assert agree(one_row, outputs, "float32").fault


def test_equal_proposals_that_both_selected_are_common(outputs):
    """As those outside the valid image are."""
    def tripled(part):
        return [tripled(each) for each in part] if isinstance(part, (list, tuple)) else part[:, [0, 0, 0, *range(3, part.shape[1])]]

    same = [*map(tripled, outputs[:4]), outputs[4]]
    found = agree(same, same, "float32")
    assert found.common_share == 1 and found.same_selection and found.max_error == 0 and not found.fault


def test_a_proposal_selected_twice_counts_once(outputs):
    def doubled(part):
        return [doubled(each) for each in part] if isinstance(part, (list, tuple)) else part[:, [0, 0, *range(2, part.shape[1])]]

    found = agree([*map(doubled, outputs[:4]), outputs[4]], outputs, "float32")
    assert found.common_share == 0.8 and "80 % in common" in found.fault


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_agrees_and_a_missing_encoder_layer_does_not(tiny_args, tiny_workload, name, dtype):
    half = getattr(torch, dtype)
    inputs = make_inputs(tiny_args, tiny_workload, dtype=half)
    model = build(name, tiny_args, dtype=half)
    expected = expected_outputs(lambda: build(name, tiny_args), model, inputs)
    found = agree(forward(model, inputs), expected, dtype)
    assert found.max_error < TOLERANCES[dtype] / 2 and found.common_share >= MIN_COMMON[dtype]
    fewer = dataclasses.replace(tiny_args, enc_layers=1, efficient_enc_layers=1)
    less = build(name, fewer, dtype=half)
    less.load_state_dict(model.state_dict(), strict=False)
    assert agree(forward(less, inputs), expected, dtype).fault


def test_the_expected_outputs_come_from_a_model_that_has_seen_nothing(tiny_args, tiny_workload):
    inputs = make_inputs(tiny_args, tiny_workload)
    model = shaken(build("efficient", tiny_args))
    built = []
    expected = expected_outputs(lambda: built.append(1) or build("efficient", tiny_args), model, inputs)
    assert built == [1] and agree(forward(model, inputs), expected, "float32").max_error == 0


# Models that cheat, in the arm of a real process ------------------------------------------------------------------------------------


class Cheat(torch.nn.Module):
    """A real model behind a forward that does something else; `calls` counts."""

    def __init__(self, inner, does):
        super().__init__()
        self.inner, self.does, self.seen, self.calls = inner, does, {}, 0

    def forward(self, *inputs):
        self.calls += 1
        return self.does(self, *inputs)


def honest(cheat, *inputs):
    return cheat.inner(*inputs)


def memoised(cheat, *inputs):
    """The first answer, whatever is asked later."""
    return cheat.seen.setdefault("all", cheat.inner(*inputs))


def by_pointer(cheat, *inputs):
    key = inputs[0][0].data_ptr()
    if key not in cheat.seen:
        cheat.seen[key] = cheat.inner(*inputs)
    return cheat.seen[key]


def drifting(cheat, *inputs):
    outputs = cheat.inner(*inputs)
    return (*outputs[:3], outputs[3] * (1 + 0.01 * cheat.calls), outputs[4])


def lazy_later(cheat, *inputs):
    outputs = cheat.inner(*inputs)
    return outputs if cheat.calls < 4 else (*outputs[:4], [torch.zeros_like(each) for each in outputs[4]])


def wrong(cheat, *inputs):
    outputs = cheat.inner(*inputs)
    return (*outputs[:3], outputs[3] * 1.01, outputs[4])


def wrong_where_timed(cheat, *inputs):
    """Right for everything but the inputs it is timed with."""
    outputs = cheat.inner(*inputs)
    known = cheat.seen.setdefault("known", inputs[0][0].data_ptr())
    return outputs if inputs[0][0].data_ptr() != known else (*outputs[:3], outputs[3] * 1.01, outputs[4])


def in_place(cheat, *inputs):
    """Always the same tensors, overwritten: as a captured graph does, and no fault."""
    outputs = cheat.inner(*inputs)
    kept = cheat.seen.setdefault("out", outputs[3].clone())
    kept.copy_(outputs[3] if cheat.calls < 4 else outputs[3] * 2)
    return (*outputs[:3], kept, outputs[4])


def an_arm(args, workload, does, *, control=False, **more) -> Arm:
    model = Cheat(build("efficient", args), does)
    inputs = make_inputs(args, workload)
    new = NewInputs(lambda other: make_inputs(args, workload, seed=other), TransformerSubject(args, workload).renewed)
    # the expected outputs come from the honest model: its names are the cheat's without their prefix
    expect = None if control else lambda given: expected_outputs(lambda: build("efficient", args), model.inner, given)
    return Arm("x", model, inputs, new, expect=expect, check_s=float("inf"), **more)


def run(arm: Arm) -> Arm:
    arm()
    arm.check_first()
    for _ in range(3):
        arm()
        arm.new_inputs.renew()
        arm.on_new()
    arm.check_last()
    return arm


@pytest.mark.parametrize(("does", "said"), [
    (memoised, "differ from a float32 eager forward"), (by_pointer, "differ from a float32 eager forward"),
    (drifting, "differ|changed between its first call and its last"), (lazy_later, "changed between its first call and its last"),
    (wrong, "differ from a float32 eager forward of the same weights: mix_embedding"),
    (wrong_where_timed, "differ from a float32 eager forward of the same weights: mix_embedding"), (in_place, "changed between"),
])
def test_a_model_that_cheats_is_caught(tiny_args, tiny_workload, does, said):
    with pytest.raises(MeasurementError, match=said):
        run(an_arm(tiny_args, tiny_workload, does))


def test_an_honest_model_passes_and_says_how_far_it_was(tiny_args, tiny_workload):
    arm = run(an_arm(tiny_args, tiny_workload, honest))
    found = arm.measured()["agreement"]
    assert found == {"checked": "before and after", "skipped": "", "max_error": 0.0, "worst": found["worst"], "tolerance": 1e-3,
                     "same_selection": True, "common_share": 1.0}


def test_a_control_is_held_against_its_own_first_call(tiny_args, tiny_workload):
    arm = run(an_arm(tiny_args, tiny_workload, honest, control=True))
    assert arm.measured()["agreement"]["checked"] == "" and "its own first call" in arm.measured()["agreement"]["skipped"]
    with pytest.raises(MeasurementError, match="changed between"):
        run(an_arm(tiny_args, tiny_workload, lazy_later, control=True))


def test_a_slow_model_is_checked_without_another_forward_and_outside_the_first_process_not_at_all(tiny_args, tiny_workload):
    arm = an_arm(tiny_args, tiny_workload, honest)
    arm()
    arm.slow = True
    arm.check_first()
    arm()
    arm()
    arm.on_new()
    calls = arm.model.calls
    arm.check_last()
    assert arm.model.calls == calls and arm.measured()["agreement"]["checked"] == "before and after"
    later = an_arm(tiny_args, tiny_workload, wrong)
    later.check_s = 0.0
    run(later)
    assert later.measured()["agreement"] == {"checked": "", "skipped": "too slow for every process; the first one is checked"}


def test_what_would_be_the_same_computation_is_held_once_after_the_timing(tiny_args, tiny_workload):
    arm = an_arm(tiny_args, tiny_workload, honest, same=True)
    asked = []
    arm.expect, inner = lambda given: asked.append(given) or inner(given), arm.expect
    assert run(arm).measured()["agreement"]["checked"] == "after" and len(asked) == 1 and asked[0] is arm.new_inputs.current
    with pytest.raises(MeasurementError, match="differ from a float32 eager forward"):
        run(an_arm(tiny_args, tiny_workload, wrong, same=True))


def test_without_a_float32_forward_nothing_is_claimed(tiny_args, tiny_workload):
    def no_memory(given):
        raise MemoryError

    arm = an_arm(tiny_args, tiny_workload, honest)
    arm.expect = no_memory
    assert run(arm).measured()["agreement"] == {"checked": "", "skipped": "no float32 forward: out of memory"}


def test_new_inputs_are_new_each_time_and_lie_elsewhere(tiny_args, tiny_workload):
    inputs = make_inputs(tiny_args, tiny_workload)
    new = NewInputs(
        lambda other: make_inputs(tiny_args, tiny_workload, seed=other), TransformerSubject(tiny_args, tiny_workload).renewed
    )
    seen = {(float(inputs.srcs[0].double().sum()), float(inputs.srcs[0].view(-1)[0]))}
    pointers = set()
    for turn in range(1, 7):
        new.renew()
        seen.add(tuple(new.current.srcs[0].view(-1)[:4].tolist()))
        pointers.add(new.current.srcs[0].data_ptr())
        assert len(seen) == turn + 1
        assert [each.shape for each in new.current.srcs] == [each.shape for each in inputs.srcs]
    assert len(pointers) == 2 and inputs.srcs[0].data_ptr() not in pointers


# Conditions -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "turn", "back"), [
    ("float32 matmul precision", lambda: torch.set_float32_matmul_precision("high"), lambda: torch.set_float32_matmul_precision("highest")),
    ("grad mode", lambda: torch.set_grad_enabled(False), lambda: torch.set_grad_enabled(True)),
    ("threads", lambda: torch.set_num_threads(2), lambda: torch.set_num_threads(1)),
    ("cudnn.benchmark", lambda: setattr(CUDNN, "benchmark", True), lambda: setattr(CUDNN, "benchmark", False)),
    ("default dtype", lambda: torch.set_default_dtype(torch.float64), lambda: torch.set_default_dtype(torch.float32)),
    ("autocast on cpu", lambda: torch.set_autocast_enabled("cpu", True), lambda: torch.set_autocast_enabled("cpu", False)),
    ("deterministic algorithms", lambda: torch.use_deterministic_algorithms(True), lambda: torch.use_deterministic_algorithms(False)),
])
def test_every_switch_shows_in_the_conditions(name, turn, back):
    before = conditions()
    try:
        turn()
        after = conditions()
    finally:
        back()
    assert name in [key for key in before if before[key] != after[key]] and conditions() == before


def test_training_and_weights_are_conditions_of_the_model():
    model = torch.nn.Linear(2, 2)
    assert conditions(model)["training"] is True and conditions(model.eval())["training"] is False
    assert conditions(model.half())["weights"] == ["float16"]


def test_what_a_forward_turns_on_and_off_again_is_seen_inside_it():
    class Sly(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 4)

        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.layer(x)

    seen: dict = {}
    with watch_inside(seen), torch.inference_mode():
        Sly()(torch.ones(1, 4))
    assert seen == {"autocast on cpu": "bfloat16"}
    seen.clear()
    with watch_inside(seen), torch.inference_mode():
        torch.nn.Linear(4, 4)(torch.ones(1, 4))
    assert seen == {}


def test_the_plain_forward_leaves_the_process_as_it_was():
    torch.set_float32_matmul_precision("high")
    try:
        before = conditions()
        with plain_float32():
            assert conditions()["float32 matmul precision"] == "highest" and not torch.is_grad_enabled()
        assert conditions() == before
    finally:
        torch.set_float32_matmul_precision("highest")

"""No speed without equality, and no verdict while it is open whether a model knows its inputs."""

from __future__ import annotations

import itertools
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from humar_bench.errors import MeasurementError
from humar_bench.judging.faults import hold_varied
from humar_bench.judging.verdicts import judge
from humar_bench.measures.agreement import Parts, expected_outputs, fresh_outputs
from humar_bench.measures.conditions import conditions
from humar_bench.measures.speed import Block, Varied, time_architectures
from humar_bench.measures.speed_sample import TimingPlan
from humar_bench.records.contradictions import contradictions
from humar_bench.running.arm import AGAIN_BUILT, ITSELF, Arm, _without_gradients
from humar_bench.running.new_inputs import MOST_NEW, NEW_BYTES, NewInputs
from humar_bench.running.speed_worker import _copies
from humar_bench.subjects.making import made
from humar_bench.subjects.transformer import TransformerSubject, make_inputs
from tests.data.foreign_models import SmallPose
from tests.judging.test_speeds import a_run, feet
from tests.measures.test_speed import MS, VirtualCpu


def small(args, seed=0):
    torch.manual_seed(seed)
    return SmallPose(args.hidden_dim, args.num_body_points, args.dec_layers).eval()


# What outputs are held against -----------------------------------------------------------------------------------------------------


def in_inference_mode(args):
    with torch.inference_mode():
        return small(args)


def int8(args):
    return torch.ao.quantization.quantize_dynamic(small(args), {torch.nn.Linear}, dtype=torch.qint8)


def an_arm(args, workload, build, *, again=None, forward=None):
    model = build(args)
    new = NewInputs(lambda other: make_inputs(args, workload, seed=other), TransformerSubject(args, workload).renewed)
    otherwise = {
        AGAIN_BUILT: lambda inputs: fresh_outputs((again or build)(args), inputs), ITSELF: lambda inputs: fresh_outputs(model, inputs),
    }
    arm = Arm("x", model, make_inputs(args, workload), new, check_s=float("inf"), otherwise=otherwise,
              expect=lambda inputs: expected_outputs(lambda: build(args), model, inputs))
    arm.forward = forward or model
    return arm


def checked(arm):
    arm()
    arm.check_first()
    arm()
    arm.new_inputs.renew()
    arm.on_new()
    arm.check_last()
    return arm.measured()["agreement"]


def test_strangers_weights_of_inference_mode_are_held_against_a_float32_forward(tiny_args, tiny_workload):
    found = checked(an_arm(tiny_args, tiny_workload, in_inference_mode))
    assert found["checked"] == "before and after" and found["max_error"] == 0 and "against" not in found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_strangers_int8_modules_are_held_against_a_second_build_else_against_themselves(tiny_args, tiny_workload):
    found = checked(an_arm(tiny_args, tiny_workload, int8))
    assert found["checked"] and found["against"].startswith(f"{AGAIN_BUILT}, for there is no float32 forward: it raised ")
    seeds = itertools.count(1)
    drawn_anew = an_arm(tiny_args, tiny_workload, int8, again=lambda args: small(args, next(seeds)))
    assert checked(drawn_anew)["against"].startswith(f"{ITSELF}, for there is no float32 forward: it raised ")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_strangers_what_differs_from_itself_has_no_speed(tiny_args, tiny_workload):
    arm = an_arm(tiny_args, tiny_workload, int8, again=lambda args: small(args, 1))

    def half(*inputs):
        outputs = arm.model(*inputs)
        return (*outputs[:3], outputs[3] * 1.5, outputs[4])

    arm.forward = half
    with pytest.raises(MeasurementError, match="the outputs of x differ from its own in eager mode on the same inputs: mix_embedding"):
        checked(arm)


def test_strangers_what_was_compared_with_nothing_has_no_verdict():
    nothing = {"checked": "", "skipped": "no float32 forward: it raised KeyError: 'w'"}
    said = "were compared with nothing (no float32 forward: it raised KeyError: 'w'): no speed without equality."
    row = judge(a_run({"name": "b", "seconds": 0.05, "agreement": nothing}), "a").rows["b"].detected
    assert row.verdict == "invalid" and row.reason == f"the outputs of b {said}"
    row = judge(a_run({"name": "b", "seconds": 0.05}, agreement=nothing), "a").rows["b"].detected
    assert row.verdict == "invalid" and row.reason == f"the outputs of a {said}"
    slow = {"checked": "", "skipped": "too slow for every process; the first one is checked"}
    assert judge(a_run({"name": "b", "seconds": 0.05, "agreement": slow}), "a").rows["b"].detected.verdict == "faster"


def test_strangers_it_is_said_what_outputs_were_held_against():
    held = {"checked": "before and after", "skipped": "", "max_error": 0.0, "worst": "", "tolerance": 1e-3, "same_selection": True,
            "common_share": 1.0, "against": "its own eager forward alone, for there is no float32 forward: it raised KeyError"}
    assert "b: outputs as those of its own eager forward alone, for there is no float32 forward: it raised KeyError, the same proposals " \
        "selected" in feet(a_run({"name": "b", "seconds": 0.05, "agreement": held}))


# What torch compiles or exported ---------------------------------------------------------------------------------------------------


class Branches(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda t: self.one(t).relu(), lambda t: self.other(t), (x,))


class Repeats(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.step = torch.nn.Linear(4, 4)

    def forward(self, x):
        from torch._higher_order_ops.scan import scan

        return scan(lambda carry, each: (self.step(carry) + each, carry * each), torch.zeros_like(x[0]), x)[1]


@pytest.mark.parametrize("kind", [Branches, Repeats])
def test_strangers_modules_in_what_torch_compiles_by_itself_are_timed(kind):
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(3, 4)
    arm = Arm("x", model, (x,), NewInputs(lambda other: (x + other,), lambda one: None), check_s=float("inf"),
              expect=lambda inputs: fresh_outputs(model, inputs), parts=lambda outputs: Parts(None, [], {}, {}, {"output": outputs}))
    found = checked(arm)
    assert found["checked"] == "before and after" and found["max_error"] < 1e-6
    torch.compiler.reset()


def test_strangers_an_exported_model_is_in_the_mode_it_was_exported_in():
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(4))
    for training in (False, True):
        model = made("x", lambda training=training: torch.export.export(net.train(training), (torch.randn(3, 4),)).module())
        assert conditions(model)["training"] is training


# Whether it knows its inputs -------------------------------------------------------------------------------------------------------


def varied(ratios, seconds):
    """One process: what a round on new inputs takes of one on the same input, round by round."""
    return {"varied_rounds": list(range(len(ratios))), "varied_wall_s": [seconds * each for each in ratios],
            "varied_cpu_s": [seconds * each for each in ratios]}


def judged(*, faster_by, ratios, base=None):
    """The verdict on b, `faster_by` times as fast as a; `ratios` are those of b (with `base`, of a), one list a process."""
    run = a_run({"name": "b", "seconds": 0.1 / faster_by}, control=None)
    who, seconds = ("a", 0.1) if base else ("b", 0.1 / faster_by)
    for record in run:
        if record.architecture == who:
            record.measured.update(varied(ratios[record.process], seconds))
    found = judge(run, "a")
    return found.rows["b"].detected, found.varied[who]


UNSURE = [[1.0], [400.0], [1.1], [900.0], [1.0]]  # on some inputs it was as slow as an honest one, on some it knew them after all


def test_strangers_a_memo_whose_check_is_undecided_is_not_faster():
    found, check = judged(faster_by=748, ratios=UNSURE)
    assert check.verdict == "undecided" and found.verdict == "undecided"
    assert "b took" in found.reason and "on inputs it had not seen" in found.reason and found.reason.endswith("more processes would tell.")
    one, check = judged(faster_by=748, ratios=[[30.0], [], [], [], []])
    assert check.verdict == "undecided" and check.low is None and one.verdict == "undecided"


def test_strangers_an_honest_model_on_a_busy_machine_is_still_faster():
    noisy = [[1.04], [0.97], [1.02], [0.95], [1.05]]
    found, check = judged(faster_by=2, ratios=noisy)
    assert check.verdict == "undecided" and found.verdict == "faster"
    few, check = judged(faster_by=2, ratios=[[1.04], [], [], [], []])
    assert check.verdict == "undecided" and few.verdict == "faster"
    close, _ = judged(faster_by=1.03, ratios=noisy)
    assert close.verdict == "undecided"


def test_strangers_a_reference_that_may_know_its_inputs_makes_nobody_slower():
    found, check = judged(faster_by=1 / 500, ratios=UNSURE, base=True)
    assert check.verdict == "undecided" and found.verdict == "undecided" and found.reason.startswith("a took")


@pytest.mark.parametrize(("call_s", "more_s", "verdict"), [
    (1e-5, 6e-7, "agrees"), (3e-6, 9e-7, "agrees"), (1e-5, 5e-6, "differs"), (1e-2, 1e-3, "differs"), (1e-2, 6e-7, "agrees"),
])
def test_strangers_what_another_input_costs_a_short_forward_is_no_sign_of_knowing_it(call_s, more_s, verdict):
    processes = [{"cpu_s": [call_s] * 8, "wall_s": [call_s] * 8, **varied([1 + more_s / call_s] * 8, call_s)} for _ in range(3)]
    found = hold_varied(processes)
    assert found.verdict == verdict and found.ratio == pytest.approx(1 + more_s / call_s)


# One new input a call --------------------------------------------------------------------------------------------------------------


class Memo:
    """Knows every input by its sum, in the double precision of the model in which it was found."""

    def __init__(self):
        self.known, self.misses = set(), 0

    def __call__(self, inputs):
        key = float(inputs.srcs[0].double().sum())
        self.misses += key not in self.known
        self.known.add(key)


def new_inputs(args, workload):
    return NewInputs(lambda other: make_inputs(args, workload, seed=other), TransformerSubject(args, workload).renewed)


def test_strangers_every_call_of_a_short_block_gets_an_input_that_its_sum_does_not_give_away(tiny_args, tiny_workload):
    new, memo = new_inputs(tiny_args, tiny_workload), Memo()
    calls = 0
    for _ in range(5):
        allowed = new.renew({"memo": Block(500, 2e-6)})["memo"]
        assert 10 < allowed <= MOST_NEW
        for inputs in itertools.islice(new.upcoming(), allowed):
            memo(inputs)
        calls += allowed
    assert memo.misses == calls


def test_strangers_alternating_inputs_of_one_call_are_new_every_time_too(tiny_args, tiny_workload):
    new, memo = new_inputs(tiny_args, tiny_workload), Memo()
    for _ in range(40):
        assert new.renew({"slow": Block(1, 0.5)}) == {"slow": 1}
        memo(new.current)
    assert memo.misses == 40 and len(new.sets) == 2


def test_strangers_a_call_that_another_input_would_slow_down_keeps_one(tiny_args, tiny_workload):
    new = new_inputs(tiny_args, tiny_workload)
    size = sum(each.numel() * each.element_size() for part in new.make(1) for each in (part if isinstance(part, list) else [part]))
    fetch_s = size / 2e10
    found = new.renew({"reads": Block(40, 3 * fetch_s), "long": Block(3, 100 * fetch_s), "shorter": Block(40, fetch_s / 2)})
    assert found == {"reads": 1, "long": 3, "shorter": min(40, MOST_NEW, NEW_BYTES // size)}


def test_strangers_a_block_on_new_inputs_has_as_many_calls_as_there_are_inputs():
    device, calls = VirtualCpu(clock_read_s=3e-7), {"timed": 0, "new": 0}

    def call(kind):
        calls[kind] += 1
        device.host(0.1 * MS)

    asked = []

    def renew(blocks):
        asked.append(blocks["a"])
        return {"a": 7}

    plan = TimingPlan(min_runs=8, max_runs=8, warmup_window_s=0.01)
    sample = time_architectures({"a": lambda: call("timed")}, device, plan, varied=Varied({"a": lambda: call("new")}, renew))["a"]
    assert sample.calls_per_block > 7 and calls["new"] == 2 * 7 and sample.varied_calls == [7, 7]
    assert asked[0] == Block(sample.calls_per_block, pytest.approx(0.1 * MS, rel=0.01))
    assert sample.varied_wall_s == pytest.approx([0.1 * MS] * 2, rel=0.01)
    measured = {**sample.measured(), "batch": 2}
    assert not contradictions("fps", measured, {"batch": 2}, {}), "fewer calls in a block are no wrong divisor"


def steps_of_python(do):
    """Bytecode instructions of the timed path, `arm.py` and `new_inputs.py`, that are run."""
    count = 0

    def look(frame, event, _):
        nonlocal count
        if not frame.f_code.co_filename.endswith(("arm.py", "new_inputs.py")):
            return None
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        do()
    finally:
        sys.settrace(before)
    return count


def test_strangers_a_short_forward_takes_as_many_steps_on_new_inputs_as_on_the_same(tiny_args, tiny_workload):
    new = new_inputs(tiny_args, tiny_workload)
    arm = Arm("x", lambda *inputs: None, make_inputs(tiny_args, tiny_workload), new)
    arm.took_s = 1e-5
    new.renew({"x": Block(20, 1e-5)})
    arm.on_new()
    same, other = steps_of_python(arm), steps_of_python(arm.on_new)
    assert 0 < same and other <= same + 24, "a hundred steps are a microsecond, by which an honest model would seem to know its inputs"


def test_strangers_a_forward_in_a_thread_of_its_own_is_told_what_to_do(tiny_args, tiny_workload):
    class Threaded(SmallPose):
        def forward(self, *inputs):
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(super().forward, *inputs).result()

    model = Threaded(tiny_args.hidden_dim, tiny_args.num_body_points, tiny_args.dec_layers).eval()
    arm = Arm("x", model, make_inputs(tiny_args, tiny_workload), new_inputs(tiny_args, tiny_workload))
    arm()
    with pytest.raises(MeasurementError, match=r"such as in a thread of its own.*inside torch.inference_mode\(\), or detach"):
        arm.check_first()


def test_strangers_an_arm_takes_the_new_inputs_one_after_the_other(tiny_args, tiny_workload):
    seen = []
    new = new_inputs(tiny_args, tiny_workload)
    arm = Arm("x", lambda *inputs: seen.append(inputs[0][0].data_ptr()), make_inputs(tiny_args, tiny_workload), new)
    for _ in range(2):
        allowed = new.renew({"x": Block(5, 1e-6)})["x"]
        for _ in range(allowed):
            arm.on_new()
    assert allowed == 5 and seen[:5] == seen[5:] and len(set(seen)) == 5


# What it is called with ------------------------------------------------------------------------------------------------------------


def test_strangers_who_writes_into_its_inputs_is_refused_and_the_others_get_them_as_they_were(tiny_args, tiny_workload):
    inputs = make_inputs(tiny_args, tiny_workload)
    pristine = _copies(inputs)
    was = inputs[0][0].clone()
    new = new_inputs(tiny_args, tiny_workload)
    arm = Arm("x", lambda *given: given[0][0].add_(1), inputs, new, check_s=float("inf"), pristine=pristine)
    arm()
    with pytest.raises(MeasurementError, match="x writes into what it is called with"):
        arm.check_first()
    assert torch.equal(inputs[0][0], was)


def test_strangers_a_parameter_that_is_handed_out_was_made_by_no_graph():
    weight = torch.nn.Parameter(torch.ones(2))
    _without_gradients("x", [weight])
    with pytest.raises(MeasurementError, match="require gradients"):
        _without_gradients("x", [weight * 2])

"""The protocol of `fps` from end to end: arms in one process on a virtual clock, and the bench that decides how many processes run."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

import humar_bench.running.bench as module
from humar_bench.args import ModelArgs, RunArgs, Workload
from humar_bench.errors import UsageError
from humar_bench.judging.faults import hold_varied
from humar_bench.judging.verdicts import judge
from humar_bench.measures.speed import Varied, spent_by_payer, time_architectures
from humar_bench.measures.speed_sample import TimingPlan
from humar_bench.records.record import AGAIN, Run
from humar_bench.report.comparison import compare
from humar_bench.running.bench import benchmark
from humar_bench.running.children import Child
from tests.measures.test_speed import MS, Model, VirtualCpu

DATA = Path(__file__).parents[1] / "data"
FAKE = (sys.executable, str(DATA / "fake_worker.py"))


def plan(**more) -> TimingPlan:
    return TimingPlan(**{"min_runs": 12, "max_runs": 12, "budget_s": 1e9, "warmup_window_s": 0.0, **more})


# New inputs -----------------------------------------------------------------------------------------------------------------------


class Memo:
    """A model that knows the input it was timed with: `known` costs nothing the second time, `new` is never known."""

    def __init__(self, device, seconds, *, remembers):
        self.device, self.seconds, self.remembers, self.calls = device, seconds, remembers, 0

    def known(self):
        self.calls += 1
        self.device.host(self.seconds if self.calls == 1 or not self.remembers else self.seconds / 50)

    def new(self):
        self.device.host(self.seconds)


def timed(remembers: bool, **more):
    device = VirtualCpu()
    models = {"a": Memo(device, 10 * MS, remembers=remembers), "b": Memo(device, 10 * MS, remembers=False)}
    renewed = []
    varied = Varied({name: model.new for name, model in models.items()}, lambda blocks: renewed.append(device.now_s()) or {})
    samples = time_architectures({name: model.known for name, model in models.items()}, device, plan(**more), varied=varied)
    return samples, renewed


def test_one_round_in_four_also_runs_on_inputs_that_are_made_anew_before_it():
    samples, renewed = timed(False)
    assert {tuple(sample.varied_rounds) for sample in samples.values()} == {(0, 4, 8)} and len(renewed) == 3
    assert samples["a"].varied_wall_s == pytest.approx([10 * MS] * 3) and samples["a"].varied_cpu_s == pytest.approx([10 * MS] * 3)
    assert samples["a"].rounds == 12  # the ordinary rounds are all there
    assert timed(False, varied_every=0)[0]["a"].varied_rounds == []


def test_processes_of_one_round_share_the_rounds_with_new_inputs():
    rounds = [timed(False, min_runs=1, max_runs=1, first_round=process)[0]["a"].varied_rounds for process in range(8)]
    assert rounds == [[0], [], [], [], [0], [], [], []]


def test_a_model_that_remembers_its_input_is_found_out_and_an_honest_one_is_not():
    for remembers, verdict in ((True, "differs"), (False, "agrees")):
        processes = [timed(remembers)[0]["a"].measured() for _ in range(3)]
        assert hold_varied(processes).verdict == verdict


def test_new_inputs_are_timed_in_the_shuffled_order_of_the_others():
    device, log = VirtualCpu(), []
    models = {name: Model(device, 10 * MS, log, name) for name in ("a", "b", "a new", "b new")}
    varied = Varied({"a": models["a new"], "b": models["b new"]}, lambda blocks: {})
    time_architectures({"a": models["a"], "b": models["b"]}, device, plan(min_runs=40, max_runs=40, varied_every=1), varied=varied)
    firsts = {log[at] for at in range(len(log) - 160, len(log), 4)}
    assert firsts == {"a", "b", "a new", "b new"}


def test_an_architecture_that_raises_on_new_inputs_fails_and_the_others_go_on():
    device = VirtualCpu()
    bad = Model(device, MS, after=(0, ValueError("only what I know")))
    varied = Varied({"a": bad, "b": Model(device, MS)}, lambda blocks: {})
    samples = time_architectures({"a": Model(device, MS), "b": Model(device, MS)}, device, plan(), varied=varied)
    assert "only what I know" in samples["a"].error and samples["b"].rounds == 12


# Control and budget ---------------------------------------------------------------------------------------------------------------


def test_the_control_is_timed_in_the_budget_of_its_architecture():
    def rounds(payers):
        device = VirtualCpu()
        calls = {name: Model(device, 50 * MS) for name in ("a", f"a{AGAIN}", "b")}
        return time_architectures(calls, device, plan(min_runs=1, max_runs=1000, budget_s=2.0), payers=payers)["b"].rounds

    assert rounds({}) in (40, 41) and rounds({f"a{AGAIN}": "a"}) in (20, 21)
    assert spent_by_payer({"a": 1.0, f"a{AGAIN}": 2.0, "b": 4.0}, {f"a{AGAIN}": "a"}) == {"a": 3.0, "b": 4.0}


def test_new_inputs_are_charged_to_the_budget_too():
    samples, _ = timed(False, min_runs=1, max_runs=1000, budget_s=1.0)
    assert samples["a"].spent_s == pytest.approx(1.0, abs=0.03) and samples["a"].rounds == 80


# Conditions -----------------------------------------------------------------------------------------------------------------------


def watched(at: int, back: bool = False):
    """Two arms; `b` turns a switch in its call number `at`, and back in the same call where `back`."""
    device, state, calls = VirtualCpu(), {"switch": "off"}, [0]

    def b():
        device.host(10 * MS)
        calls[0] += 1
        if calls[0] == at and not back:
            state["switch"] = "on"

    return time_architectures({"a": Model(device, 10 * MS), "b": b}, device, plan(), observe=lambda name: dict(state))


@pytest.mark.parametrize("at", [1, 2, 9])
def test_an_arm_that_changes_the_process_is_named_whenever_it_does(at):
    samples = watched(at)
    assert samples["b"].changed == {"switch": ["off", "on"]} and samples["a"].changed == {}


def test_the_conditions_of_every_block_are_kept_once_each():
    assert watched(99)["a"].conditions == [{"switch": "off"}]
    assert watched(9)["b"].conditions == [{"switch": "off"}, {"switch": "on"}]


def test_the_first_call_is_checked_before_the_warm_up_and_the_check_is_not_timed():
    device, log = VirtualCpu(), []

    def check(name):
        log.append("check")
        device.host(5.0)

    sample = time_architectures({"a": Model(device, 10 * MS, log, "run")}, device, plan(min_runs=1, max_runs=1), first_done=check)["a"]
    assert log == ["run", "check", "run", "run", "run"]
    assert sample.first_call_s == pytest.approx(10 * MS) and sample.steady and max(sample.wall_s) == pytest.approx(10 * MS)


def test_an_architecture_whose_first_outputs_are_refused_is_not_timed():
    device = VirtualCpu()

    def refuse(name):
        if name == "a":
            raise ValueError("wrong")

    samples = time_architectures({"a": Model(device, MS), "b": Model(device, MS)}, device, plan(), first_done=refuse)
    assert samples["a"].error and samples["a"].rounds == 0 and samples["b"].rounds == 12


# How many processes run -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def children(monkeypatch) -> list[dict]:
    """Children without torch; the requests they were given. `wider` takes 2 s, all others 1 s."""
    requests = []

    def fake(request, **more):
        requests.append(request)
        return Child(request, **more, command=FAKE)

    monkeypatch.setattr(module, "Child", fake)
    return requests


def bench(*builders: str, **more) -> Run:
    asked = {name: more.pop(name) for name in ("reference", "done") if name in more}
    run = RunArgs(**{"device": "cpu", **more})
    specs = [f"{each}={DATA}/foreign_models.py:{each}" for each in builders]
    return benchmark(specs, ModelArgs(), Workload.tiny(), ["fps"], run, **asked)


def names(request: dict) -> list[str]:
    return [each["name"] for each in request["architectures"]]


def test_a_comparison_that_is_decided_stops_at_its_first_look(children):
    run = bench("build", "wider", budget=60.0)
    assert len(children) == 3 and compare(run).speeds["wider"].verdict == "slower"
    assert compare(run).speeds.look.level == pytest.approx(0.005 / 4)


def test_the_first_look_may_be_asked_for_later(children):
    assert len(bench("build", "wider", budget=60.0, first_look=6).select(architecture="build")) == len(children) == 6


def test_one_that_is_not_goes_on_to_the_last_process(children, monkeypatch):
    real = module.judge
    monkeypatch.setattr(module, "judge", lambda *given: _undecided(real(*given)))
    bench("build", "wider", budget=28.0)
    assert len(children) == 7


def test_a_budget_that_is_used_up_ends_it_after_the_early_looks(children, monkeypatch):
    real = module.judge
    monkeypatch.setattr(module, "judge", lambda *given: _undecided(real(*given)))
    run = bench("build", "wider", processes=12, budget=6.0)  # `wider` takes 2 s a process
    assert len(children) == 5 and judge(run, "build").look.final


def _undecided(judged):
    def undecided(row):
        return dataclasses.replace(row, detected=dataclasses.replace(row.detected, verdict="undecided"))

    return dataclasses.replace(judged, rows={name: undecided(row) for name, row in judged.rows.items()})


def test_the_reference_is_built_again_in_every_process_under_its_own_name(children):
    run = bench("build", "wider", processes=2)
    assert [names(each) for each in children] == [["build", "wider", f"build{AGAIN}"]] * 2
    assert [record.control_of for record in run] == ["", "", "build"] * 2 and run.architectures == ("build", "wider")
    assert compare(run).speeds.control_of == "build"
    children.clear()
    bench("build", "wider", processes=1, reference="wider")
    assert names(children[0]) == ["build", "wider", f"wider{AGAIN}"]
    children.clear()
    bench("build", "wider", processes=1, control=False)
    assert names(children[0]) == ["build", "wider"]


def test_a_reference_that_fails_takes_its_control_with_it(children):
    run = bench("raises", "wider", processes=3)
    assert names(children[1]) == ["wider"] and {each.architecture for each in run.failed} == {"raises", f"raises{AGAIN}"}
    children.clear()
    run = bench("not_finite", "wider", processes=3)  # the control alone would have been fine
    assert names(children[1]) == ["wider"] and {each.architecture for each in run.failed} == {"not_finite"}


def test_a_resumed_run_looks_where_the_first_one_did(children):
    whole = bench("build", "wider", budget=60.0)
    children.clear()
    assert bench("build", "wider", budget=60.0, done=whole) == whole and not children
    part = Run([record for record in whole if record.process < 1])
    assert bench("build", "wider", budget=60.0, done=part).architectures == whole.architectures
    assert [each["process"] for each in children] == [1, 2]


@pytest.mark.parametrize(("builders", "more", "said"), [
    (("build",), {"reference": "other"}, "reference is 'other'; choose one of the architectures measured: build."),
    ((f"x{AGAIN}",), {}, "ends like a control's"),
])
def test_a_reference_or_name_that_cannot_be_is_refused(children, builders, more, said):
    with pytest.raises(UsageError, match=said):
        if more:
            bench(*builders, **more)
        else:
            benchmark([f"{builders[0]}=original"], ModelArgs(), Workload.tiny(), ["fps"], RunArgs(device="cpu"))
    assert not children

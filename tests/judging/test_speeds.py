"""Speed records become verdicts and sentences: what decides, what stands beside it, what makes a table invalid, when a run may stop."""

from __future__ import annotations

import dataclasses
import math
import random

import numpy as np
import pytest
from scipy import stats

from humar_bench.args import ModelArgs, RunArgs, Workload
from humar_bench.errors import UsageError
from humar_bench.judging.faults import hold_varied
from humar_bench.judging.statistics import ALPHA, LookPlan
from humar_bench.judging.verdicts import _rows, judge, look_at, spent_s
from humar_bench.records.record import AGAIN, Record, Run
from humar_bench.report.comparison import compare
from humar_bench.report.data import to_json

RUN = RunArgs(device="cpu", processes=5)
STATE = {"threads": 2, "grad mode": True, "TF32 in matmul": False, "training": False, "weights": ["float32"]}


def fps(
    name: str, process: int, seconds=0.1, *, cpu=None, device=None, run: RunArgs = RUN, kind="cpu", rounds=10, noise=0.002, **more
) -> Record:
    """One process of one architecture: `seconds` a round with a little noise, `cpu` of CPU time, `device` of device time."""
    chance = random.Random(f"{name}/{process}/{more.pop('salt', '')}")

    def times(base):
        return [base * (1 + noise * chance.gauss(0, 1)) for _ in range(rounds)]

    measured = {
        "process": process, "child": f"c{process}", "wall_s": times(seconds), "cpu_s": times(seconds if cpu is None else cpu),
        "device_s": None if device is None else times(device), "preempted": [False] * rounds, "batch": 2, "steady": True,
        "first_call_s": seconds, "spent_s": rounds * seconds, "conditions": [STATE], "changed": {}, "inside": {}, "varied_rounds": [],
        "varied_wall_s": [], "varied_cpu_s": [],
        "agreement": {"checked": "before and after", "skipped": "", "max_error": 0.0, "worst": "hs_pose[0]", "tolerance": 1e-3,
                      "same_selection": True, "common_share": 1.0},
    }
    return Record(
        measure="fps", architecture=name, spec="x", foreign=False, process=process, asked=dataclasses.asdict(ModelArgs()),
        workload=dataclasses.asdict(Workload.tiny()), run=dataclasses.asdict(run), environment={"device": kind},
        measured={**measured, **more},
    )


def a_run(*arms, processes: int = 5, control: float | None = 1.0, **shared) -> Run:
    """`arms` are keywords of `fps` each; `control` is how many times as long the second measurement of `a` takes, None for none."""
    arms = [{"name": "a"}, *arms]
    if control is not None:
        arms.append({"name": f"a{AGAIN}", "seconds": 0.1 * control})
    return Run([fps(arm["name"], process, **{**shared, **{key: each for key, each in arm.items() if key != "name"}})
                for process in range(processes) for arm in arms])


def feet(run: Run) -> str:
    return "\n".join(next(table for table in compare(run).tables if table.name == "fps").notes)


# What decides ---------------------------------------------------------------------------------------------------------------------


def test_on_a_cpu_cpu_time_decides_and_wall_time_stands_beside_it():
    noisy = a_run({"name": "b", "seconds": 0.5, "cpu": 0.05}, noise=0.002)
    speed = compare(a_run({"name": "b", "seconds": 0.07, "cpu": 0.05})).speeds["b"]
    assert (speed.verdict, speed.metric) == ("faster", "CPU time")
    assert speed.ratio == pytest.approx(2, rel=0.01) and speed.wall_ratio == pytest.approx(0.1 / 0.07, rel=0.01)
    assert speed.wall_ratio_low < speed.wall_ratio < speed.wall_ratio_high
    assert speed.words == "1.43x faster" and speed.fps == pytest.approx(2 / 0.07, rel=0.01)
    assert compare(noisy).speeds["b"].verdict == "undecided"  # CPU time and wall time contradict each other


def test_wall_time_that_a_neighbour_disturbs_does_not_hide_what_cpu_time_finds():
    loud = random.Random(1)
    records = [
        fps(name, process, cpu=cpu, wall_s=[0.3 * loud.lognormvariate(0, 0.5) for _ in range(10)])
        for process in range(5) for name, cpu in (("a", 0.1), ("b", 0.11), (f"a{AGAIN}", 0.1))
    ]
    speed = compare(Run(records)).speeds["b"]
    assert speed.verdict == "slower" and speed.ratio == pytest.approx(1 / 1.1, rel=0.01)
    assert speed.words.endswith("slower") or speed.words == "1.10x slower by CPU time"


def test_what_only_waits_is_slower_although_its_cpu_time_is_the_same():
    def sleeps(process):  # every tenth round
        return [0.1 * (1 + 0.001 * index) + (0.2 if index == process % 10 else 0) for index in range(10)]

    run = Run([*a_run(), *(fps("b", process, cpu=0.1, wall_s=sleeps(process)) for process in range(5))])
    speed = compare(run).speeds["b"]
    assert speed.verdict == "slower" and "sees waiting" in speed.why
    assert speed.wall_ratio == pytest.approx(1, abs=0.02)  # by medians it is not


def test_on_a_device_with_events_device_time_decides_and_the_host_is_told_apart():
    run = a_run({"name": "b", "seconds": 0.1, "device": 0.02}, device=0.09, kind="cuda:0", control=None)
    speeds = compare(run).speeds
    assert (speeds["b"].verdict, speeds["b"].metric) == ("faster", "device time")
    assert speeds["b"].ratio == pytest.approx(4.5, rel=0.01) and speeds["b"].wall_ratio == pytest.approx(1, abs=0.01)
    assert speeds["b"].wall_per_device == pytest.approx(5, rel=0.01)
    assert speeds["b"].words == "4.50x faster by device time" or speeds["b"].words.endswith("faster")
    assert "b is launch-bound: its wall time is 5.0" in feet(run) and "a is launch-bound: its wall time is 1.1" in feet(run)
    calm = a_run({"name": "b", "device": 0.095}, device=0.095, kind="cuda:0")
    assert "launch-bound" not in feet(calm)


def test_rounds_whose_gate_opened_too_early_are_said():
    run = a_run({"name": "b", "device": 0.05, "gate_held": [True] * 8 + [False] * 2}, device=0.09, kind="cuda:0")
    assert "b: in 20 % of its rounds launch cost may have entered the device time." in feet(run)


def test_preempted_rounds_are_dropped_for_both_arms_and_only_with_a_quorum():
    def hit(rounds):
        return [index in rounds for index in range(10)]

    def wall(rounds, seconds):
        return [seconds * (3 if index in rounds else 1) for index in range(10)]

    def run(hurt, other):
        return Run([
            record for process in range(5) for record in (
                fps("a", process, wall_s=wall(hurt, 0.1), preempted=hit(hurt)), fps("b", process, cpu=0.05, wall_s=wall(other, 0.05),
                                                                                   preempted=hit(other)),
            )
        ])

    speed = compare(run({0, 1}, {1, 2})).speeds["b"]
    assert speed.clean_rounds == 5 * 7 and speed.clean_ratio == pytest.approx(2)
    few = compare(run({0, 1, 2}, {3, 4, 5})).speeds["b"]
    assert few.clean_rounds == 5 * 4 and few.clean_ratio is None
    assert compare(a_run({"name": "b"})).speeds["b"].clean_ratio is None  # nothing was preempted: nothing to add


# Control --------------------------------------------------------------------------------------------------------------------------


def test_a_control_that_differs_makes_every_row_invalid():
    arms = ({"name": "b", "seconds": 0.05}, {"name": "c", "seconds": 0.1})
    good, bad = compare(a_run(*arms)), compare(a_run(*arms, control=1.05))
    assert [good.speeds[name].verdict for name in "bc"] == ["faster", "same"]
    assert [bad.speeds[name].verdict for name in "bc"] == ["invalid", "invalid"]
    assert "the reference measured a second time, came out 5 % slower" in bad.speeds["b"].why
    assert bad.speeds["b"].words.startswith("invalid")


def test_the_control_is_no_row_of_its_own_and_a_foot_says_what_it_measured():
    run = a_run({"name": "b", "seconds": 0.05})
    comparison = compare(run)
    assert list(comparison.speeds) == ["a", "b"] == list(run.architectures) and comparison.architectures == ("a", "b")
    assert [record.control_of for record in run][:3] == ["", "", "a"]
    found = next(line for line in feet(run).splitlines() if line.startswith("Control"))
    assert found.startswith("Control: a built and timed a second time came out at 1.00x (") and found.endswith(" by CPU time: same.")
    assert AGAIN not in to_json(comparison)


def test_without_a_control_the_table_says_so_and_one_that_failed_says_why():
    assert "No control arm was timed" in feet(a_run({"name": "b"}, control=None))
    broken = [dataclasses.replace(each, status="failed", kind="out of memory", reason="it ran out.", measured=None, id="")
              if each.control_of else each for each in a_run({"name": "b"})]
    assert "The control arm, a a second time, was not measured: it ran out." in feet(Run(broken))
    assert compare(Run(broken)).speeds["b"].verdict == "same"


def test_one_architecture_alone_has_a_control_too():
    run = a_run()
    assert "Control: a built and timed a second time" in feet(run) and judge(run, "a").finished


# Looks ----------------------------------------------------------------------------------------------------------------------------


def test_the_level_of_a_look_follows_from_the_records_alone():
    plan, run = LookPlan(3, 15), RunArgs(device="cpu", budget=60.0)
    assert (run.most_processes, run.looks_from) == (15, 3)
    for processes in (3, 4, 5, 14, 15):
        look = look_at(a_run({"name": "b"}, processes=processes, run=run, rounds=3))
        assert (look.processes, look.first, look.last, look.final) == (processes, 3, 15, processes == 15)
        assert look.level == pytest.approx(plan.level(processes)) and look.early == (processes < 5)
    assert look_at(a_run(processes=2, run=run)).level == ALPHA  # never looked at before its first look
    assert look_at(a_run(processes=1, run=RunArgs(device="cpu", processes=1))) is None


def test_records_from_before_there_was_a_choice_are_looked_at_as_they_were_then():
    run = a_run({"name": "b", "seconds": 0.05}, processes=5, run=RunArgs(device="cpu", budget=60.0))
    old = Run(tuple(dataclasses.replace(each, run={name: value for name, value in each.run.items() if name != "first_look"}, id="")
                    for each in run))
    assert (look_at(old).first, look_at(old).level) == (5, pytest.approx(0.00025)) and "at level 0.00025" in feet(old)
    assert (look_at(run).first, look_at(run).level) == (3, pytest.approx(0.00125 / 11)) and "at level 0.00011" in feet(run)


def test_an_early_look_decides_what_is_large_and_the_control_whatever_it_shows():
    run = RunArgs(device="cpu", budget=60.0)
    arms = ({"name": "b", "seconds": 0.05}, {"name": "c", "seconds": 0.11}, {"name": "d", "seconds": 0.1})
    early = judge(a_run(*arms, processes=3, run=run, noise=1e-4), "a")
    assert [early.rows[name].detected.verdict for name in "bcd"] == ["faster", "undecided", "undecided"] and not early.finished
    usual = judge(a_run(*arms, processes=5, run=run, noise=1e-4), "a")
    assert [usual.rows[name].detected.verdict for name in "bcd"] == ["faster", "slower", "same"] and usual.finished
    waiting = a_run({"name": "b", "seconds": 0.05, "cpu": 0.1}, {"name": "c", "cpu": 0.05}, processes=3, run=run, noise=1e-4)
    assert [judge(waiting, "a").rows[name].detected.verdict for name in "bc"] == ["undecided", "undecided"]  # one clock alone
    for spread, said in ((1e-4, "faster"), (0.4, "undecided")):  # the other clock shows it too, but not as surely
        base = dict.fromkeys(range(3), {"cpu_s": [1.0], "wall_s": [1.0]})
        own = {at: {"cpu_s": [0.5], "wall_s": [0.5 * math.exp(spread * (at - 1))]} for at in range(3)}
        assert _rows({"b": own}, base, 0.02, LookPlan(3, 15).level(3), True)["b"].detected.verdict == said
    uncontrolled = judge(a_run(arms[0], processes=3, run=run, noise=1e-4, control=1.1), "a")
    assert uncontrolled.control.detected.verdict == "slower" and uncontrolled.rows["b"].detected.verdict == "invalid"


def test_a_budget_that_is_used_up_makes_the_look_the_last():
    run = RunArgs(device="cpu", budget=60.0)
    records = a_run({"name": "b", "seconds": 0.1}, processes=7, run=run, seconds=0.5, rounds=10)
    assert spent_s(records) == pytest.approx(7 * (10 * 0.5 + 10 * 0.1), rel=0.01)  # the reference and its control share a budget
    assert not look_at(records).final
    more = a_run({"name": "b"}, processes=7, run=run, seconds=1.0)
    assert look_at(more).final and look_at(more).level == pytest.approx(LookPlan(3, 15).level(7, final=True))
    slow = a_run({"name": "b"}, processes=3, run=run, seconds=10.0)
    assert spent_s(slow) > run.budget and look_at(slow).early and not look_at(slow).final  # equals are given two more processes


def test_a_run_stops_when_every_verdict_is_made_and_not_before():
    run = RunArgs(device="cpu", budget=60.0)
    clear = a_run({"name": "b", "seconds": 0.05}, processes=3, run=run)
    assert judge(clear, "a").finished and "Looked at after 3 processes, of at most 15; at level 0.0013, so" in feet(clear)
    close = a_run({"name": "b", "seconds": 0.05}, {"name": "c", "seconds": 0.102, "noise": 0.05}, processes=5, run=run)
    assert not judge(close, "a").finished
    invalid = a_run({"name": "b", "changed": {"threads": [2, 1]}}, processes=5, run=run)
    assert judge(invalid, "a").finished  # more processes would not make it valid


def test_a_difference_that_would_do_at_the_end_does_not_do_at_an_early_look():
    drawn = [0.100, 0.1005, 0.0995, 0.1008, 0.0992]

    def made(run):
        return Run([fps(name, process, seconds=seconds, noise=0, run=run) for process in range(5)
                    for name, seconds in (("a", 0.1), ("b", 1.025 * drawn[process]))])

    assert compare(made(RunArgs(device="cpu", processes=5))).speeds["b"].verdict == "slower"
    assert compare(made(RunArgs(device="cpu", processes=15))).speeds["b"].verdict == "undecided"


@pytest.mark.parametrize(("asked", "most"), [({}, 15), ({"budget": 20.0}, 5), ({"budget": 40.0}, 10), ({"budget": 1.0}, 5),
                                             ({"processes": 3}, 3), ({"processes": 30}, 30), ({"min_runs": 2, "max_runs": 2}, 2)])
def test_processes_follow_from_the_budget_unless_they_are_asked_for(asked, most):
    assert RunArgs(**asked).most_processes == most and RunArgs(**asked).looks_from == min(3, most)
    assert RunArgs(**asked, first_look=5).looks_from == min(5, most)


# New inputs -----------------------------------------------------------------------------------------------------------------------


def varied(factor: float, spread: float = 0.002):
    chance = random.Random(3)
    return {"varied_rounds": [0, 4, 8], "varied_cpu_s": [0.1 * factor * (1 + spread * chance.gauss(0, 1)) for _ in range(3)]}


def test_a_model_that_is_slower_on_inputs_it_has_not_seen_is_invalid():
    run = a_run({"name": "b", **varied(1.2)}, {"name": "c", **varied(1.0)})
    speeds = compare(run).speeds
    assert (speeds["b"].verdict, speeds["b"].varied, speeds["c"].verdict, speeds["c"].varied) == ("invalid", "differs", "same", "agrees")
    assert "b takes 1.2 times as long on inputs it has not seen" in speeds["b"].why
    both = compare(Run([dataclasses.replace(each, measured={**each.measured, **varied(1.2)}, id="") if each.architecture == "a" else each
                        for each in run]))
    assert [both.speeds[name].verdict for name in "bc"] == ["invalid", "invalid"]  # the reference itself cheats


@pytest.mark.parametrize(("factor", "spread", "said"), [(1.02, 0.002, "agrees"), (1.04, 0.002, "differs"), (0.9, 0.002, "differs"),
                                                        (1.03, 0.01, "undecided"), (1.1, 0.3, "undecided")])
def test_three_percent_count_only_when_the_whole_interval_is_beyond_them(factor, spread, said):
    chance = random.Random(5)
    records = [
        fps(name, process, varied_rounds=[0, 4, 8], varied_cpu_s=[0.1 * factor * (1 + spread * chance.gauss(0, 1)) for _ in range(3)])
        for process in range(6) for name in "ab"
    ]
    assert compare(Run(records)).speeds["b"].varied == said


@pytest.mark.parametrize(("factor", "processes", "said"), [(0.84, 2, "undecided"), (0.84, 5, "differs"), (1.2, 2, "differs")])
def test_two_processes_that_were_faster_on_new_inputs_may_be_chance(factor, processes, said):
    """As seen of an honest model: .836 and .839 in the two processes that had time for a pair."""
    logs = [{"cpu_s": [0.1], "varied_rounds": [0], "varied_cpu_s": [0.1 * factor * (1 + 0.001 * process)]} for process in range(processes)]
    assert hold_varied(logs).verdict == said


def test_new_inputs_that_were_not_timed_are_said():
    assert "Not timed on new inputs, for lack of budget: a, b." in feet(a_run({"name": "b"}))


def test_on_a_device_with_events_new_inputs_are_compared_by_wall_time():
    more = {"varied_rounds": [0, 4], "varied_wall_s": [0.5, 0.5], "varied_cpu_s": [0.1, 0.1]}
    run = a_run({"name": "b", "device": 0.09, **more}, device=0.09, kind="cuda:0")
    assert compare(run).speeds["b"].varied == "differs"


# Conditions -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fact", "value", "shown"), [
    ("TF32 in matmul", True, "True"), ("grad mode", False, "False"), ("threads", 1, "1"), ("training", True, "True"),
    ("weights", ["bfloat16", "float32"], "bfloat16 and float32"),
])
def test_arms_under_other_conditions_are_not_compared(fact, value, shown):
    run = a_run({"name": "b", "seconds": 0.05, "conditions": [{**STATE, fact: value}]}, {"name": "c", "seconds": 0.05})
    speeds = compare(run).speeds
    assert speeds["b"].verdict == "invalid" and speeds["c"].verdict == "faster"
    assert speeds["b"].why.startswith(f"{fact} is {shown} for b and ")


def test_an_arm_that_changes_the_process_makes_all_rows_invalid_and_is_named():
    run = a_run({"name": "b", "changed": {"threads": [2, 1]}}, {"name": "c", "seconds": 0.05})
    speeds = compare(run).speeds
    assert [speeds[name].verdict for name in "bc"] == ["invalid"] * 2
    assert speeds["c"].why == "b changes threads from 2 to 1 while it runs; what is timed beside it runs under other conditions."


def test_what_is_turned_on_inside_a_forward_counts_too():
    run = a_run({"name": "b", "inside": {"autocast on cpu": "bfloat16"}}, {"name": "c"})
    speeds = compare(run).speeds
    assert speeds["b"].verdict == "invalid" and speeds["c"].verdict == "same"
    assert speeds["b"].why.startswith("autocast on cpu is bfloat16 for b inside its forward and as around it for a")


# Outputs --------------------------------------------------------------------------------------------------------------------------


def test_the_worst_error_of_all_processes_is_shown_with_its_tolerance():
    def found(record):
        found = {**record.measured["agreement"], "max_error": 1e-4 * record.process, "same_selection": record.process < 4}
        return dataclasses.replace(record, measured={**record.measured, "agreement": found}, id="")

    run = [found(each) for each in a_run({"name": "b"})]
    speed = compare(Run(run)).speeds["b"]
    assert (speed.max_error, speed.tolerance, speed.same_selection) == (4e-4, 1e-3, False)
    assert "b: outputs as a float32 eager forward's, not quite the same proposals selected; largest error 0.0004" in feet(Run(run))


def test_outputs_that_were_not_held_against_anything_are_said():
    skipped = {"checked": "", "skipped": "no float32 forward: out of memory"}
    assert "b: outputs were not held against a float32 forward: no float32 forward: out of memory." in feet(
        a_run({"name": "b", "agreement": skipped})
    )


# Certificates ---------------------------------------------------------------------------------------------------------------------

FOUND = {"alarms": 0, "of": 10, "at_most": 0.2589, "effect": 0.04, "found": 0.998, "processes": 15}
CITED = {"cited": "1a2b3c4d5e6f", "threads": 1, "by": {"cpu_s": FOUND, "wall_s": {**FOUND, "alarms": 3, "effect": None, "found": None}}}


def under(run: Run, *certificates) -> Run:
    """The same records, measured in turn under each of the certificates (None for none)."""
    told = [{} if each is None else {"certificate": each} for each in certificates]
    return Run([dataclasses.replace(record, environment={**record.environment, **told[at % len(told)]}, id="")
                for at, record in enumerate(run)])


def test_the_table_cites_the_certificate_that_its_records_carry():
    said = "Calibrated: certificate 1a2b3c4d5e6f (CPU time, 1 thread): false alarms 0 of 10 (at most 25.9 %), +4 % found in 100 % of " \
        "comparisons over 15 processes."
    run = under(a_run({"name": "b"}), CITED)
    assert said in feet(run).splitlines()
    assert said in feet(Run([Record.from_json(each.to_json()) for each in run])).splitlines()
    wall = under(Run([dataclasses.replace(each, measured={**each.measured, "cpu_s": None}, id="") for each in a_run({"name": "b"})]), CITED)
    assert "(wall time, 1 thread): false alarms 3 of 10 (at most 25.9 %), no planted effect was found in 90 % of" in feet(wall)
    assert "alibrated" not in feet(a_run({"name": "b"}))


def test_a_certificate_that_says_nothing_of_what_decides_or_not_of_every_process_is_not_relied_on():
    device = a_run({"name": "b"}, device=0.1, kind="cuda:0")
    assert "Not calibrated: certificate 1a2b3c4d5e6f says nothing about device time." in feet(under(device, CITED))
    mixed = feet(under(a_run({"name": "b"}), CITED, None, {**CITED, "cited": "ffff"}))
    assert "Its processes were timed under different certificates (1a2b3c4d5e6f, none, ffff), so none is cited." in mixed
    assert "false alarms 0 of" not in mixed


# Machines -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fact", "values"), [("torch", ("2.12", "2.13")), ("cores", (2, 4)), ("driver", ("570", "580"))])
def test_processes_of_different_machines_or_versions_are_no_replicates(fact, values):
    run = a_run({"name": "b", "seconds": 0.2})
    mixed = Run([dataclasses.replace(each, environment={"device": "cpu", fact: values[each.process > 2]}, id="") for each in run])
    row = judge(mixed, "a").rows["b"].detected
    assert (row.verdict, row.reason) == (
        "invalid", f"its processes were measured with {fact} {values[0]} and {values[1]}: different machines or versions are no replicates."
    )
    assert f"b: invalid: its processes were measured with {fact} {values[0]}" in feet(mixed)
    assert f"These records are of different machines or versions: they differ in {fact}." in compare(mixed).conditions
    unknown = Run([dataclasses.replace(each, environment={"device": "cpu", **({fact: 1} if each.process else {})}, id="") for each in run])
    assert judge(unknown, "a").rows["b"].detected.verdict == "slower"
    assert not any("different machines" in line for line in compare(run).conditions)


def test_other_work_beside_the_timing_is_said_where_it_was_more_than_a_little():
    for shares, said in (((0.02, 0.5, 0.48), "48 % of its cores"), ((0.02, 0.09, 0.9), ""), ((None, None, None), "")):
        arms = [fps(name, at, others_share=shares[at]) for at in range(3) for name in "ab"]
        lines = [line for line in compare(Run(arms)).essentials if line.startswith("Busy machine")]
        assert [said in line for line in lines] == ([True] if said else [])


# Error rates of the whole row -----------------------------------------------------------------------------------------------------


def first_verdicts(cpu: float, wall: float, start_sd: float, wait_sd: float, trials: int) -> dict[str, float]:
    """Shares of what is said by the first look that decides: one candidate whose CPU and wall time are longer by these shares.

    A start shifts both clocks by `start_sd` and the wall clock alone by `wait_sd`, as logarithms. Looks as a default run has them.
    """
    random, plan, told = np.random.default_rng(0), LookPlan(3, 15), []
    for _ in range(trials):
        shared, own = random.normal(0, start_sd, plan.last), random.normal(0, wait_sd, plan.last)
        arm = {(at, "c"): {"cpu_s": [(1 + cpu) * math.exp(shared[at])], "wall_s": [(1 + wall) * math.exp(shared[at] + own[at])]}
               for at in range(plan.last)}
        base = dict.fromkeys(arm, {"cpu_s": [1.0], "wall_s": [1.0]})
        said = "undecided"
        for processes in range(plan.first, plan.last + 1):
            seen = {key: arm[key] for key in list(arm)[:processes]}
            said = _rows({"b": seen}, base, 0.02, plan.level(processes), plan.early(processes))["b"].detected.verdict
            if said != "undecided":
                break
        told.append(said)
    return {verdict: told.count(verdict) / trials for verdict in ("slower", "same", "undecided", "faster")}


@pytest.mark.parametrize(("cpu", "wall_sd"), [
    pytest.param(1.0, 0.0, marks=pytest.mark.slow), (1.0, 0.3), pytest.param(3.0, 0.05, marks=pytest.mark.slow),
])
def test_early_looks_keep_their_level_however_noisy_the_processes_are(cpu, wall_sd, say):
    """At noise of this size the floor of 1.2x keeps hardly anything out; what is left is the level that both clocks have to pass."""
    random, plan, trials = np.random.default_rng(4), LookPlan(3, 15), 2_000
    said = []
    for _ in range(trials):
        shared, own = random.normal(0, cpu, 4), random.normal(0, wall_sd, 4)
        arm = {(at, "c"): {"cpu_s": [math.exp(shared[at])], "wall_s": [math.exp(shared[at] + own[at])]} for at in range(4)}
        rows = (_rows({"b": {key: arm[key] for key in list(arm)[:seen]}}, dict.fromkeys(arm, {"cpu_s": [1.0], "wall_s": [1.0]}), 0.02,
                      plan.level(seen), True)["b"].detected.verdict for seen in (3, 4))
        said.append(any(each != "undecided" for each in rows))
    say(f"early looks, processes {cpu:.0%} apart: {np.mean(said):.2%} false alarms, {plan.level(3) + plan.level(4):.2%} allowed")
    assert np.sum(said) <= stats.binom.ppf(0.9999, trials, plan.level(3) + plan.level(4))


@pytest.mark.parametrize(("start_sd", "wait_sd"), [
    (0.004, 0.004), pytest.param(0.008, 0.01, marks=pytest.mark.slow), pytest.param(0.012, 0.03, marks=pytest.mark.slow),
])
def test_a_difference_of_the_margin_is_hardly_ever_called_the_same_whichever_clock_shows_it(start_sd, wait_sd, say):
    rates = {name: first_verdicts(cpu, wall, start_sd, wait_sd, 150) for name, cpu, wall in (
        ("+2.0 % of work", 0.02, 0.02), ("+2.0 % of waiting", 0.0, 0.02), ("+5.0 % of waiting", 0.0, 0.05), ("nothing", 0.0, 0.0))}
    for name, rate in rates.items():
        said = ", ".join(f"{verdict} {share:.1%}" for verdict, share in rate.items())
        say(f"{name}, starts {start_sd:.1%}, waiting {wait_sd:.1%} apart: {said}")
    nothing = rates.pop("nothing")
    assert max(rate["same"] for rate in rates.values()) <= 0.01 and max(rate["faster"] for rate in rates.values()) == 0
    assert nothing["faster"] + nothing["slower"] <= 0.01 and (nothing["same"] > 0.9 or wait_sd > 0.02)
    assert rates["+2.0 % of work"]["slower"] > 0.9


def test_the_same_by_cpu_time_is_not_the_same_while_waiting_may_hide_a_difference():
    run = Run([*a_run(), *(fps("b", at, cpu=0.1, wall_s=[0.103 + 0.003 * (-1) ** at] * 10) for at in range(5))])
    row = judge(run, "a").rows["b"].detected
    assert row.verdict == "undecided" and row.reason.startswith("by CPU time it is the same, and by mean wall time, which also sees wait")


# Backends -------------------------------------------------------------------------------------------------------------------------


def through(backend: str, *, prepare_s=(30.0, 4.0), **more) -> Run:
    """Two architectures in two processes through one backend."""
    records = []
    for name, seconds in (("original", 0.2), ("efficient", 0.1)):
        for process, took_s in enumerate(prepare_s):
            record = fps(name, process, seconds, run=dataclasses.replace(RUN, backend=backend))
            measured = {**record.measured, "backend": {"name": backend, "prepare_s": took_s}, "emulated": "", **more}
            records.append(dataclasses.replace(record, measured=measured, id=""))
    return Run(tuple(records))


def test_what_a_backend_took_to_prepare_is_a_column_and_for_eager_there_is_none():
    shown = compare(through("openvino"), "original")
    titles = [column.heading for column in shown.tables[0].columns]
    assert titles[titles.index("preparation [s]") + 1] == "first call [ms]"
    assert shown.speeds["efficient"].prepare_s == 30.0, "the longest: later processes may find it in a cache"
    assert [column.key for column in shown.data["fps"].columns][-2:] == ["backend", "prepare_s"]
    assert any("backend openvino" in line for line in shown.conditions)
    eager = compare(through("eager"), "original")
    assert "preparation [s]" not in [column.heading for column in eager.tables[0].columns]
    assert "backend" not in [column.key for column in eager.data["fps"].columns]
    assert not any("backend" in line for line in eager.conditions)


def test_two_backends_are_never_in_one_table():
    mixed = Run((*through("eager"), *through("compile")))
    with pytest.raises(UsageError, match="mixes measurements with backend eager and compile"):
        compare(mixed, "original")


def test_emulated_number_types_and_border_cells_are_said_below_the_table():
    agreement = {"checked": "before", "skipped": "", "max_error": 0.0, "worst": "", "tolerance": 1e-3, "same_selection": True,
                 "common_share": 1.0, "border_cells": "high"}
    feet = " ".join(compare(through("onnxruntime", emulated="this CPU has no such thing", agreement=agreement), "original").tables[0].feet)
    assert "efficient: this CPU has no such thing; this says nothing about hardware" in feet
    assert "efficient: it rounds border cells" in feet

"""`humar-bench search`: what is searched, which designs stand for the front, how they are timed and trained, going on, proving."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from humar_bench.args import ModelArgs, RunArgs, Workload
from humar_bench.cli import main
from humar_bench.errors import EXIT_DONE, EXIT_USAGE, MeasurementError, UsageError
from humar_bench.judging.early import MORE
from humar_bench.records.record import BEFORE_OPTIM, TRAINING, Run, load
from humar_bench.records.writer import RecordWriter
from humar_bench.report.study import read_study, study_json, study_markdown, study_texts, write_study
from humar_bench.running.children import Outcome
from humar_bench.running.costs import exact_records
from humar_bench.running.plan import Plan, parse_settings
from humar_bench.saved.verify import verify
from humar_bench.studies import MAKERS, files_of
from humar_bench.studies.accuracy.made_up import World
from humar_bench.studies.accuracy.plan import Asked
from humar_bench.studies.accuracy.presets import PRESETS
from humar_bench.studies.search.explore import explore
from humar_bench.studies.search.fitted import settings_in
from humar_bench.studies.search.front import better_half, on_front, ranks, rungs, spread
from humar_bench.studies.search.halving import trainings_of
from humar_bench.studies.search.search import PLACES, SearchPlan, as_many, fitted_points, measure_search, pick
from humar_bench.studies.search.space import NAMED_ALONE, name_of, space_of, typed
from humar_bench.studies.search.storage import JOURNAL, OBJECTIVES, Seen, open_shared, seen_in
from humar_bench.studies.switches import DEFAULT
from humar_bench.subjects.registry import Architecture, build
from humar_bench.subjects.transformer import check_outputs, make_inputs
from tests.faults.harness import in_this_process
from tests.studies.made_up_study import Made, train_here
from tests.studies.test_ablate import FakeBench, exact

WORK = Workload.tiny(1)
ARGS = ModelArgs(hidden_dim=32, dec_layers=2, efficient_enc_layers=2, num_queries=WORK.num_queries)
OVER = ("hidden_dim=16,32,48", "dec_layers=1,2,3", "efficient_graph_bias=true,false", "efficient_decoder_sets=1,2,3",
        "efficient_memory_stride=1,2", "efficient_sample_heads=0,2", "efficient_point_samples=true,false")
SPACE = space_of(ARGS, OVER)


# What is searched -----------------------------------------------------------------------------------------------------------------


def test_the_usual_space_has_every_switch_the_width_and_the_layers():
    space = space_of(ModelArgs())
    assert {"hidden_dim", "dec_layers"} < space.values.keys()
    switches = {each.name for each in dataclasses.fields(ModelArgs) if each.name.startswith("efficient_")}
    assert switches - NAMED_ALONE < space.values.keys() and space.start is not None
    assert {"efficient_nheads", "hidden_dim"}.isdisjoint(space_of(ModelArgs(), fixed=("efficient_nheads", "hidden_dim")).values)


def test_a_point_that_says_the_same_twice_is_one_design():
    point = {"hidden_dim": 32, "dec_layers": 2, "efficient_graph_bias": True, "efficient_decoder_sets": 3, "efficient_memory_stride": 1,
             "efficient_sample_heads": 2, "efficient_point_samples": False}
    assert SPACE.design(point).efficient_sample_heads == 2  # the encoder's have heads too
    space = space_of(dataclasses.replace(ARGS, efficient_encoder_samples=False), OVER)
    design = space.design(point)
    assert design.efficient_decoder_sets == 1 and design.efficient_sample_heads == 0  # of two iterations one is of the instance token alone
    assert space.design({**point, "efficient_decoder_sets": 2, "efficient_sample_heads": 0}) == design
    usual = space_of(ModelArgs())
    design = usual.design({**usual.start, "dec_layers": 4, "efficient_sample_heads": 4})
    for same in ({"efficient_instance_iterations": 2}, {"efficient_instance_iterations": 3}):
        assert usual.design({**usual.start, "dec_layers": 4, "efficient_sample_heads": 4, **same}) == design
    assert usual.changes(design) == {"dec_layers": 4, "efficient_sample_heads": 4}
    untied = {**usual.start, "efficient_decoder_sets": 6}
    apart = usual.design({**untied, "efficient_decoder_sets": 2})
    assert usual.design(untied) == usual.design({**untied, "efficient_decoder_sets": 3}) != apart
    assert usual.design({**usual.start, "efficient_mlp_ratio": 3, "efficient_decoder_mlp_ratio": 3}) == usual.design(
        {**usual.start, "efficient_mlp_ratio": 3})
    four = space_of(ModelArgs(nheads=4))
    assert four.design({**four.start, "efficient_sample_heads": 4}) == four.args
    assert space_of(ARGS, ("efficient_nheads=2,4", "hidden_dim=24,32")).design({"efficient_nheads": 5, "hidden_dim": 32}) is None


def test_a_design_is_a_line_to_type():
    changes = {"hidden_dim": 128, "efficient_graph_bias": False, "efficient_cross_tokens": "all"}
    line = typed(changes)
    assert line == "--set hidden_dim=128 --set efficient_graph_bias=false --set efficient_cross_tokens=all"
    assert parse_settings(line.split()[1::2]) == changes
    assert name_of({}) == DEFAULT and name_of(changes) == name_of(dict(reversed(changes.items()))) != name_of({"hidden_dim": 128})


@pytest.mark.parametrize(("over", "said"), [
    ("dim_feedforward=1,2", "--over is 'dim_feedforward=1,2'; write FIELD=VALUE,VALUE,... once a field, of hidden_dim, dec_layers and the"),
    ("hidden_dim", "write FIELD=VALUE,VALUE"), ("hidden_dim=a,b", "--set hidden_dim is 'a'; it must be a whole number"),
    ("hidden_dim=33,64", "does not divide hidden_dim 33"), ("hidden_dim=32", "nothing is left to search"),
    ("efficient_sample_heads=" + ",".join(map(str, range(200))), "names 200 values; at most 100 work"),
])
def test_what_cannot_be_searched_is_one_sentence(over, said):
    with pytest.raises(UsageError) as caught:
        space_of(ARGS, [over])
    assert said in str(caught.value)


# Fronts and rungs -----------------------------------------------------------------------------------------------------------------


def beaten(costs: np.ndarray, at: int) -> bool:
    return any((other <= costs[at]).all() and (other < costs[at]).any() for other in costs)


def test_the_front_is_what_nothing_beats():
    random = np.random.default_rng(0)
    for columns in (2, 3, 5):
        costs = random.integers(0, 6, (60, columns)).astype(float)
        assert on_front(costs).tolist() == [not beaten(costs, at) for at in range(60)]
        rank = ranks(costs)
        assert (rank == 0).tolist() == on_front(costs).tolist()
        left = costs[rank > 0]
        assert (rank[rank > 0] == 1).tolist() == on_front(left).tolist()
    assert on_front(np.array([[1.0, 1.0], [1.0, 1.0]])).all() and on_front(np.zeros((0, 3))).tolist() == []


def test_few_that_stand_for_many_lie_far_apart():
    points = np.exp(np.array([[0.0, 0], [0.1, 0], [5, 0], [5, 5], [0, 5], [2.5, 2.5]]))
    assert spread(points, 5)[0] == 5 and set(spread(points, 5)[1:]) >= {2, 3, 4} and len(spread(points, 5)) == 5
    assert spread(points, 2, first=[0]) == [0, 3]
    assert len(spread(points, 99)) == 6 and spread(points[:0], 3) == []


def test_each_rung_has_half_of_the_designs_and_twice_the_pictures():
    assert rungs(8, 14_400, 40) == [(8, 3600), (4, 7200), (2, 14_400)] and rungs(2, 400, 40) == [(2, 400)] and rungs(1, 400) == [(1, 400)]
    assert rungs(5, 100, 40) == [(5, 40), (3, 40), (2, 80)]


def test_the_better_half_is_of_cost_and_accuracy_together():
    cost, accuracy = np.array([1.0, 2, 3, 4]), np.array([0.2, 0.5, 0.4, 0.6])
    assert better_half(cost, accuracy, 3) == [3, 1, 0] and better_half(cost, accuracy, 4)[-1] == 2


# Looking --------------------------------------------------------------------------------------------------------------------------


def looked(tmp_path, designs: int, process: int = 0, bounds=None, space=SPACE):
    return explore(str(tmp_path / JOURNAL), space, WORK, designs, bounds=bounds or {}, process=process)


def test_processes_share_what_they_looked_at_and_go_on(tmp_path):
    first = looked(tmp_path, 30)
    assert first.trials == 30 and 0 < first.sketched <= 30
    assert looked(tmp_path, 30).trials == 0
    assert looked(tmp_path, 50, process=1).trials == 20
    seen = seen_in(open_shared(tmp_path / JOURNAL, SPACE, WORK, {}), SPACE, tmp_path / JOURNAL)
    assert seen[0].design == ARGS and len({each.design for each in seen}) == len(seen) <= 50
    model = build("efficient", seen[5].design, device="meta")
    assert seen[5].values[OBJECTIVES.index("parameters")] == sum(each.numel() for each in model.parameters())


def test_the_same_seed_looks_at_the_same_designs(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        looked(tmp_path / name, 25)
    one, other = (seen_in(open_shared(tmp_path / name / JOURNAL, SPACE, WORK, {}), SPACE, tmp_path) for name in ("a", "b"))
    assert one == other


def test_what_is_beyond_a_bound_is_looked_at_and_not_allowed(tmp_path):
    looked(tmp_path, 40, bounds={"parameters": 40_000.0})
    seen = seen_in(open_shared(tmp_path / JOURNAL, SPACE, WORK, {"parameters": 40_000.0}), SPACE, tmp_path)
    most = OBJECTIVES.index("parameters")
    assert {each.allowed for each in seen} == {True, False}
    assert all(each.allowed == (each.values[most] <= 40_000) for each in seen)
    assert all(each.allowed for each in pick(seen, SPACE, 5)[1:])


def test_a_small_space_is_looked_through_and_ends(tmp_path):
    space = space_of(ARGS, ("efficient_graph_bias=true,false",))
    assert looked(tmp_path, 30, space=space).sketched == 2


@pytest.mark.parametrize(("change", "said"), [
    (lambda path: path.write_text("mine\n"), "is no journal of a search: it begins with b.mine"),
    (lambda path: path.write_text('{"op_code":0}\n' * 3), "is no journal of a search"),
    (lambda path: path.write_bytes(path.read_bytes() + b"[" * 100_000 + b"\n"), "is no journal of a search .RecursionError"),
    (lambda path: (path.unlink(), path.symlink_to(path.with_name("mine"))), "is a link, as no search leaves it"),
    (lambda path: (path.unlink(), path.mkdir()), "is a folder, as no search leaves it"),
])
def test_a_journal_that_is_none_is_refused(tmp_path, change, said):
    looked(tmp_path, 5)
    change(tmp_path / JOURNAL)
    with pytest.raises(UsageError, match=said):
        open_shared(tmp_path / JOURNAL, SPACE, WORK, {})


@pytest.mark.parametrize("asked", [
    (space_of(ARGS, OVER[:3]), WORK, {}), (SPACE, Workload.tiny(2), {}), (SPACE, WORK, {"parameters": 1e6}),
])
def test_a_journal_of_another_search_is_refused(tmp_path, asked):
    looked(tmp_path, 5)
    with pytest.raises(UsageError, match="is of a search with another (space|workload|bounds); ask for the same"):
        open_shared(tmp_path / JOURNAL, *asked)


def test_a_line_that_was_cut_short_is_cut_away_and_the_search_goes_on(tmp_path):
    looked(tmp_path, 10)
    path = tmp_path / JOURNAL
    path.write_bytes(path.read_bytes()[:-30])
    assert looked(tmp_path, 10, process=1).trials == 1
    assert len(seen_in(open_shared(path, SPACE, WORK, {}), SPACE, path)) <= 10


KILLED_WHILE_WRITING = """
import os, signal
from humar_bench.args import ModelArgs, Workload
from humar_bench.studies.search.space import space_of
from humar_bench.studies.search.storage import JOURNAL, open_shared
os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
open_shared(JOURNAL, space_of(ModelArgs(hidden_dim=32)), Workload.tiny(1), {})
"""


def test_a_process_killed_while_it_writes_leaves_no_lock_that_others_wait_for(tmp_path):
    def give_up(*_):
        raise TimeoutError("still waiting for a process that is gone")

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING], cwd=tmp_path, env=environment, timeout=60)
    assert killed.returncode == -signal.SIGKILL and [path.name for path in tmp_path.iterdir()] == [JOURNAL]
    (tmp_path / JOURNAL).unlink()
    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(20)
    try:
        assert looked(tmp_path, 5).trials == 5
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_figures_that_cannot_be_are_not_believed(tmp_path):
    looked(tmp_path, 5)
    path = tmp_path / JOURNAL
    lines = path.read_text().splitlines()
    told = json.loads(lines[-1])
    told["values"][0] = -1.0
    path.write_text("\n".join([*lines[:-1], json.dumps(told)]) + "\n")
    with pytest.raises(UsageError, match="holds figures of a design that cannot be"):
        seen_in(open_shared(path, SPACE, WORK, {}), SPACE, path)


# Timing -------------------------------------------------------------------------------------------------------------------------------


def test_a_narrower_and_shorter_design_is_itself_behind_the_call_of_a_wider_one():
    small = dataclasses.replace(ARGS, hidden_dim=16, dec_layers=1, efficient_graph_bias=False)
    points = [dataclasses.replace(each, architecture=Architecture(f"{at}", "efficient", foreign=False)) for at, each in enumerate(
        [exact_point(ARGS), exact_point(small)])]
    wide, narrow = fitted_points(points)
    assert wide.args == narrow.args and (wide.args.hidden_dim, wide.args.dec_layers) == (32, 2)
    assert settings_in(narrow.architecture.spec)["hidden_dim"] == 16
    inputs = make_inputs(wide.args, WORK)
    with torch.inference_mode():
        outputs = build(narrow.architecture, narrow.args).eval()(*inputs)
        srcs, pos_embeds = ([each[:, :16] for each in maps] for maps in (inputs.srcs, inputs.pos_embeds))
        alone = build("efficient", small).eval()(srcs, inputs.masks, pos_embeds, inputs.query_embed[..., :16])
    check_outputs(outputs, narrow.args, WORK)
    torch.testing.assert_close(outputs[0][0][..., :16], alone[0][0])
    torch.testing.assert_close(outputs[1][-1], alone[1][-1])
    assert not outputs[0][0][..., 16:].any() and not outputs[4][0][:, 16:].any()


def exact_point(args: ModelArgs):
    from humar_bench.running.costs import Point

    return Point(Architecture("x", "efficient", foreign=False), args, WORK)


# All of it ------------------------------------------------------------------------------------------------------------------------


class Wide(Made):
    """Wider designs are more accurate."""

    def measured(self, role, options):
        found = super().measured(role, dataclasses.replace(options, arch=f"width {options.model.hidden_dim}"))
        return found


def trained_plan(pictures=400, level=None, **more):
    asked = Asked(arch=(), seeds=2, pictures=pictures, level=level, evaluation_pictures=200, warm=0)
    return trainings_of(PRESETS["cpu"], asked, designs=more.pop("designs", 4), **more)


def costly(points, run, **more):
    """Counts that rise with width and depth, as real ones do."""
    def amount(record) -> int:
        asked = record.asked
        size = asked["hidden_dim"] ** 2 * (asked["dec_layers"] + asked["efficient_decoder_sets"])
        return size + 10**4 // asked["efficient_memory_stride"]

    values = {"params": "total", "flops": "matmul_flops", "memory": "predicted_bytes"}
    return [dataclasses.replace(each, measured={**each.measured, values[each.measure]: amount(each)}, id="") for each in exact(points, run)]


def costly_otherwise(points, run, **more):
    """The same with the counts of operations the other way round."""
    turned = {each.architecture: each.measured["matmul_flops"] for each in costly(points, run) if each.measure == "flops"}
    other = dict(zip(sorted(turned, key=turned.get), sorted(turned.values(), reverse=True), strict=True))
    return [dataclasses.replace(each, measured={**each.measured, "matmul_flops": other[each.architecture]}, id="")
            if each.measure == "flops" else each for each in costly(points, run)]


def search(
    tmp_path, made: Made | None = None, *, designs: int = 40, timed: bool = True, exact=exact, trainings=None, number: int = 6, **more
):
    plan = Plan((Architecture("efficient", "efficient", False),), "efficient", ARGS, WORK, RunArgs(device="cpu"))
    asked = SearchPlan(plan, SPACE, designs, {}, number, 1, trainings)
    bench = FakeBench()
    given = {"look": in_this_process, "exact": exact, "bench": bench, "now": lambda: bench.clock_s, "budget_s": 300, "timed": timed}
    if made is not None:
        given |= {"children": made.children, "now": made.now}
    return measure_search(asked, tmp_path, **{**given, **more})


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory):
    """The journal of 60 designs, for what comes after looking."""
    folder = tmp_path_factory.mktemp("looked")
    search(folder, designs=60, timed=False)
    return folder / JOURNAL


def test_designs_of_the_front_are_counted_timed_and_shown_as_lines(tmp_path):
    found = search(tmp_path)
    rows = {row["design"]: row for row in found.rows}
    assert next(iter(rows)) == DEFAULT and 1 < len(rows) <= 7 and rows[DEFAULT]["settings"] == ""
    for name, row in rows.items():
        assert name_of(parse_settings(row["settings"].split()[1::2])) == name and row["seconds"] > 0 and row["parameters"]
    assert any(row["pareto"] for row in rows.values())
    text = study_markdown(found)
    assert "designs were looked at" in text and "a minute" in text and "--set " in text and "Searched: hidden_dim 16, 32, 48" in text
    assert found.plot.scatter and [panel.x_label for panel in found.plot.panels] == ["seconds of a forward", "parameters"]
    json.loads(study_json(found))


def test_no_design_that_keeps_within_the_bounds_is_one_sentence():
    with pytest.raises(MeasurementError, match="keeps within the bounds; allow more"):
        pick([Seen(ARGS, (1.0,) * 5, False)], SPACE, 3)


def test_trainings_halve_until_two_are_left_and_the_default_is_in_every_rung(looked_at, tmp_path):
    shutil.copy(looked_at, tmp_path)
    made = Wide(world=World(spread=0.004, accuracy=0.4), retention={"width 96": 1.5}, front_end=lambda options: "")
    found = search(tmp_path, made, trainings=trained_plan(), number=12, designs=60, timed=False, exact=costly)
    told = found.settings["rungs"]
    assert [len(each["designs"]) for each in told] == [5, 3] and [each["pictures"] for each in told] == [200, 400]
    assert all(each["designs"][0] == DEFAULT for each in told) and set(told[1]["designs"]) <= set(told[0]["designs"])
    runs = Counter((each["options"]["pictures"], each["options"]["seed"]) for each in made.asked if each["role"] == "run")
    assert runs == {(200, 0): 5, (400, 1): 3, (400, 2): 3} and found.settings["missing"] == 0
    rows = {row["design"]: row for row in found.rows}
    assert rows[DEFAULT]["pictures"] == 400 and rows[DEFAULT]["ap_runs"] == 2
    for name in told[1]["designs"][1:]:
        wide = "hidden_dim=48" in rows[name]["settings"]
        assert (rows[name]["ap_verdict"] == MORE) == wide
    assert any("hidden_dim=48" in rows[name]["settings"] for name in told[1]["designs"])
    widths = {each["options"]["model"]["hidden_dim"] for each in made.asked if each["role"] == "run"}
    assert widths <= {32, 64, 96} and 64 in widths  # the small model is twice as wide as the default here
    assert "AP is of the longest" in study_markdown(found)


def as_written_before_an_option_came(run: Run) -> Run:
    """The records of trainings without what `BEFORE_OPTIM` fills in."""
    def earlier(record):
        optim = {name: value for name, value in record.workload["optim"].items() if name not in BEFORE_OPTIM}
        return dataclasses.replace(record, workload=record.workload | {"optim": optim}, id="")

    return Run(tuple(earlier(each) if each.measure == TRAINING else each for each in run.records))


def test_what_was_trained_stays_chosen_when_times_come_out_otherwise(looked_at, tmp_path):
    shutil.copy(looked_at, tmp_path)

    given = {"trainings": trained_plan(), "number": 12, "designs": 60, "timed": False}
    made = Wide(world=World(spread=0.004, accuracy=0.4), front_end=lambda options: "")
    first = search(tmp_path, made, exact=costly, **given)
    fresh = search(tmp_path, Wide(world=made.world, front_end=lambda options: ""), exact=costly_otherwise, **given)
    assert [set(each["designs"]) for each in fresh.settings["rungs"]] != [set(each["designs"]) for each in first.settings["rungs"]]
    again = Wide(world=made.world, front_end=lambda options: "")
    resumed = search(tmp_path, again, exact=costly_otherwise, done=as_written_before_an_option_came(first.run), **given)
    assert [each["role"] for each in again.asked] == [] and resumed.settings["missing"] == 0
    assert [set(each["designs"]) for each in resumed.settings["rungs"]] == [set(each["designs"]) for each in first.settings["rungs"]]


def test_what_was_trained_on_other_pictures_chooses_nothing(looked_at, tmp_path):
    shutil.copy(looked_at, tmp_path)
    made = Wide(world=World(spread=0.004, accuracy=0.4), front_end=lambda options: "")
    given = {"number": 12, "designs": 60, "timed": False}
    first = search(tmp_path, made, exact=costly, trainings=trained_plan(), **given)
    fresh, resumed = (
        search(tmp_path, dataclasses.replace(made), exact=costly_otherwise, trainings=trained_plan(level=1), **given, **more)
        for more in ({}, {"done": first.run})
    )
    assert [each["designs"] for each in resumed.settings["rungs"]] == [each["designs"] for each in fresh.settings["rungs"]]


def test_rungs_of_one_length_halve_by_accuracy_when_resumed(looked_at, tmp_path):
    shutil.copy(looked_at, tmp_path)
    made = Wide(world=World(spread=0.004, accuracy=0.4), retention={"width 96": 1.5}, front_end=lambda options: "")
    given = {"number": 12, "designs": 60, "timed": False, "exact": costly, "trainings": trained_plan(designs=8, pictures=40)}
    first = search(tmp_path, made, **given)
    assert {each["pictures"] for each in first.settings["rungs"]} == {40} and len(first.settings["rungs"]) == 3
    again = search(tmp_path, dataclasses.replace(made), done=first.run, **given)
    assert [set(each["designs"]) for each in again.settings["rungs"]] == [set(each["designs"]) for each in first.settings["rungs"]]


def test_more_designs_on_the_front_add_no_rung_to_trainings_that_were_begun():
    rungs_of = trained_plan(designs=12).rungs_of
    before = [SimpleNamespace(architecture=name, workload={"pictures": 200}, process=0) for name in "ab"]
    assert [rungs_of(number)[0][1] for number in (2, 3, 4, 5)] == [400, 200, 200, 80]
    assert as_many("abcdef", 2, before, rungs_of) == ["a", "b", "c", "d"] and as_many("abc", 2, before, rungs_of) == ["a", "b", "c"]
    assert as_many("abcdef", 0, [], rungs_of) == [*"abcdef"] and as_many("ab", 2, before, rungs_of) == ["a", "b"]


def test_designs_of_one_width_share_the_weights_they_begin_with(looked_at, tmp_path):
    shutil.copy(looked_at, tmp_path)
    asked = Asked(arch=(), seeds=2, pictures=400, evaluation_pictures=200, warm=80)
    made = Wide(world=World(spread=0.004, accuracy=0.4))
    search(tmp_path, made, trainings=trainings_of(PRESETS["cpu"], asked, designs=4), number=8, designs=60)
    begun = {each["options"]["model"]["hidden_dim"]: each["options"]["front_end"] for each in made.asked if each["role"] == "run"}
    warmed = [each["options"]["model"]["hidden_dim"] for each in made.asked if each["role"] == "warm"]
    assert sorted(warmed) == sorted(begun) and len(set(begun.values())) == len(begun)
    assert all(path.endswith(f"width-{width}/front_end.safetensors") for width, path in begun.items())


def test_the_folder_is_proved_and_gone_on_with(in_process, looked_at, tmp_path):
    shutil.copy(looked_at, tmp_path)
    made = Wide(world=World(spread=0.004, accuracy=0.4), front_end=lambda options: "", cost_s=10.0)
    given = {"timed": False, "exact": exact_records, "trainings": trained_plan(designs=2), "number": 2}
    with RecordWriter(tmp_path / "records.jsonl") as sink:
        first = search(tmp_path, made, sink=sink, time_limit_s=35.0, **given)
        assert first.settings["missing"] and "runs are missing" in study_markdown(first)
    with RecordWriter(tmp_path / "records.jsonl") as sink:
        again = Wide(world=made.world, front_end=lambda options: "")
        found = search(tmp_path, again, sink=sink, done=load(tmp_path), **given)
    assert len(again.asked) == first.settings["missing"] and found.settings["a_minute"] == first.settings["a_minute"] > 0
    write_study(found, tmp_path)
    assert verify(tmp_path).proved and {each.name for each in tmp_path.iterdir()} <= {"records.jsonl", *PLACES, *files_of("search")}
    assert study_texts(read_study(tmp_path, load(tmp_path), MAKERS)) == study_texts(found)
    page = tmp_path / "designs.csv"
    page.write_text(page.read_text().replace("hidden_dim=", "hidden_dim=1", 1))
    assert not verify(tmp_path).proved


def test_a_child_that_dies_is_one_sentence(tmp_path):
    def dying(children, *, at_once):
        for tag, _ in children:
            yield tag, Outcome(None, "crash", "it crashed.")

    with pytest.raises(MeasurementError, match="designs could not be looked at: it crashed.*--resume goes on"):
        search(tmp_path, look=dying)


# The command ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("typed_options", "said"), [
    (("--designs", "0"), "--designs is 0; it must be from 1 to 1,000,000."), (("--most-gflop", "-1"), "--most-gflop is -1; it must be"),
    (("--over", "nothing=1,2"), "--over is 'nothing=1,2'"), (("--preset", "refhuman"), "--preset is 'refhuman'; choose cpu or gpu."),
    (("--rate", "2"), "--rate is 2; it must be above 0 and below 1."), (("--seeds", "1"), "--seeds is 1; it must be from 2 to 1000"),
    (("--time-limit", "0"), "--time-limit is 0"), (("--at-once", "-1"), "--at-once is -1"),
])
def test_what_cannot_be_asked_is_one_sentence(typed_options, said, capsys):
    assert main(["search", *typed_options]) == EXIT_USAGE
    captured = capsys.readouterr()
    assert said in " ".join(captured.err.split()) and captured.out == ""


def test_without_optuna_one_sentence_asks_for_the_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    assert main(["search", "-o", str(tmp_path / "out")]) == EXIT_USAGE
    said = 'humar-bench: search needs the package optuna, which is not installed; run pip install "humar-bench[search]".\n'
    assert capsys.readouterr().err == said and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", PLACES)
def test_a_folder_of_somebodys_is_refused_untouched(tmp_path, name, capsys):
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine.txt").write_text("mine")
    assert main(["search", "--no-train", "-o", str(tmp_path)]) == EXIT_USAGE
    assert f"already holds {name}" in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.rglob("*")] == [name, "mine.txt"]


TINY = ("--workload", "tiny", "--set", "efficient_nheads=4", "--over", "hidden_dim=64,128,256", "--over", "dec_layers=1,2,6")


@pytest.mark.slow
def test_a_small_search_is_looked_timed_trained_and_proved_for_real(tmp_path, monkeypatch, capsys):
    train_here(monkeypatch, measure_search, "children", in_this_process)
    folder = tmp_path / "out"
    sizes = ("--designs", "24", "--timed", "3", "--budget", "8", "--trained", "2", "--pictures", "64", "--val", "24", "--size", "64")
    assert main(["search", *TINY, *sizes, "--warm", "80", "--seeds", "2", "-o", str(folder)]) == EXIT_DONE
    text = capsys.readouterr().out
    assert "Designs that stand for the front" in text and "--set hidden_dim=" in text and verify(folder).proved
    before = load(folder)
    assert main(["search", *TINY, *sizes, "--warm", "80", "--seeds", "2", "--resume", str(folder)]) == EXIT_DONE
    after = load(folder)  # a process that the budget did not reach is timed, and nothing else is made again
    assert all(each.measure == "fps" for each in after.records[len(before):]) and verify(folder).proved

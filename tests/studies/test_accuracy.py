"""The study of accuracy: which runs are made, what is concluded from them, going on, proving. Runs are made up (`made_up_study`)."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from humar_bench.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INVALID,
    EXIT_REGRESSION,
    EXIT_UNDECIDED,
    InvalidMeasurement,
    MeasurementError,
    UsageError,
)
from humar_bench.judging.retention import KEEPS, LOSES
from humar_bench.judging.statistics import INVALID, UNDECIDED
from humar_bench.records.record import Record, load
from humar_bench.records.writer import RecordWriter
from humar_bench.report.study import read_study, study_json, study_texts, write_study
from humar_bench.running.children import Outcome
from humar_bench.saved.verify import verify
from humar_bench.studies import MAKERS, files_of
from humar_bench.studies.accuracy.kept import PLACES
from humar_bench.studies.accuracy.made_up import World
from humar_bench.studies.accuracy.plan import FLOOR, RATE, RUN
from humar_bench.studies.accuracy.rates import chosen_of
from humar_bench.studies.accuracy.scores import Scores
from tests.studies.made_up_study import VAL, Made, measured, plan

ORIGINAL, EFFICIENT = "original", "efficient"


def roles(made: Made) -> list[str]:
    return [each["role"] for each in made.asked]


# Which runs are made --------------------------------------------------------------------------------------------------------------


def test_every_architecture_is_trained_alike(tmp_path):
    measured(made := Made(), tmp_path)
    runs = [each["options"] for each in made.asked if each["role"] == RUN]
    assert len(runs) == 9  # three seeds of both, and of the control
    by_seed = {}
    for each in runs:
        by_seed.setdefault(each["seed"], []).append(each)
    assert sorted(by_seed) == [1, 2, 3, 4, 5, 6] and sorted(map(len, by_seed.values())) == [1, 1, 1, 2, 2, 2]
    for seed, (one, *others) in by_seed.items():
        assert one["data_seed"] == seed
        for other in others:  # nothing but the architecture differs
            assert {**other, "arch": one["arch"]} == one and other["arch"] != one["arch"]
    assert {each["data_seed"] for each in runs} == set(range(1, 7))
    assert len({json.dumps({**each, "arch": "", "seed": 0, "data_seed": 0}) for each in runs}) == 1
    assert {each["evaluation_seed"] for each in runs} == {0}


def test_how_fast_learns_what_was_trained_ahead_is_said(tmp_path):
    for share, said in ((None, None), (0.03, "learns with 0.03 of the learning rate."), (0.0, "stays as it was trained ahead.")):
        lines = measured(Made(), tmp_path / str(share), plan(front_share=share)).own_conditions
        slowed = [line.removeprefix("What stands before the transformer ") for line in lines if "trained ahead once" not in line]
        assert [line for line in slowed if line.startswith(("learns", "stays"))] == ([said] if said else [])


def test_learning_rates_are_chosen_from_one_grid_on_a_seed_that_is_not_used_again(tmp_path):
    found = measured(made := Made(best={EFFICIENT: 1e-3}), tmp_path)
    tried = [each["options"] for each in made.asked if each["role"] == RATE]
    assert {each["seed"] for each in tried} == {0}
    grid = {arch: sorted(each["optim"]["lr"] for each in tried if each["arch"] == arch) for arch in (ORIGINAL, EFFICIENT)}
    assert grid[ORIGINAL] == grid[EFFICIENT] == [2.5e-4, 5e-4, 1e-3]
    assert {name: rate for name, (rate, _) in found.chosen.items()} == {ORIGINAL: 5e-4, EFFICIENT: 1e-3}
    assert {each["options"]["arch"]: each["options"]["optim"]["lr"] for each in made.asked if each["role"] == RUN} == {
        ORIGINAL: 5e-4, EFFICIENT: 1e-3,
    }


@pytest.mark.parametrize(("best", "beyond"), [(2e-3, [2e-3, 4e-3]), (1.25e-4, [6.25e-5, 1.25e-4])])
def test_the_grid_is_widened_for_all_where_the_reference_does_best_at_its_edge(tmp_path, best, beyond):
    found = measured(made := Made(best={ORIGINAL: best}), tmp_path)
    tried = {arch: {each["options"]["optim"]["lr"] for each in made.asked if each["role"] == RATE and each["options"]["arch"] == arch}
             for arch in (ORIGINAL, EFFICIENT)}
    assert tried[ORIGINAL] == tried[EFFICIENT] == {2.5e-4, 5e-4, 1e-3, *beyond}
    assert found.chosen[ORIGINAL] == (best, False) and found.exit_code == EXIT_DONE


def test_a_reference_whose_best_rate_stays_at_the_edge_makes_the_study_invalid(tmp_path):
    found = measured(Made(best={ORIGINAL: 8e-3}), tmp_path)
    assert len(found.rates[ORIGINAL]) == 5
    assert found.retention[EFFICIENT].verdict == INVALID and "edge of its grid" in found.retention[EFFICIENT].reason
    assert found.exit_code == EXIT_INVALID


def test_all_runs_begin_with_the_front_end_that_was_trained_once(tmp_path):
    measured(made := Made(), tmp_path)
    assert roles(made).count("warm") == 1 and roles(made).index("warm") == 1  # before the first run
    own = {each["options"]["front_end"] for each in made.asked if each["role"] in (RATE, RUN)}
    assert own == {str(tmp_path / "front_end.safetensors")}
    measured(again := Made(), tmp_path)
    assert "warm" not in roles(again) and len(again.asked) == len(made.asked) - 1
    measured(none := Made(front_end=lambda options: ""), tmp_path, plan(warm=0))  # what lies there is not used unasked
    assert {each["options"]["front_end"] for each in none.asked} == {""} and "warm" not in roles(none)


@pytest.mark.parametrize("change", [
    lambda folder: (folder / "front_end.safetensors").write_bytes(b"others"),
    lambda folder: (folder / "front_end.json").write_text("[]"),
    lambda folder: (folder / "front_end.json").write_text((folder / "front_end.json").read_text().replace("16000", "800")),
])
def test_weights_that_are_not_the_studys_own_are_refused(tmp_path, change):
    measured(Made(), tmp_path)
    change(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="is not what this study trained ahead"):
        measured(made := Made(), tmp_path)
    assert roles(made) == [FLOOR] and before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_weights_from_before_the_replacement_had_a_field_are_still_the_studys_own(tmp_path):
    measured(Made(), tmp_path)
    told = json.loads((tmp_path / "front_end.json").read_text())
    told["options"]["model"] |= {"efficient_gone": 3, "efficient_nheads": 7}
    told["options"]["optim"] = {"front_end_share": 0.5}  # of the runs: training ahead has an optimiser of its own
    (tmp_path / "front_end.json").write_text(json.dumps(told))
    measured(made := Made(), tmp_path)
    assert "warm" not in roles(made)


def test_weights_that_were_not_finished_are_trained_anew(tmp_path):
    (tmp_path / "front_end.safetensors").write_bytes(b"half")
    measured(made := Made(), tmp_path)
    assert roles(made).count("warm") == 1 and (tmp_path / "front_end.safetensors").read_bytes() == b"weights"


def test_runs_that_began_with_other_weights_stop_the_study_before_anything_is_trained(tmp_path):
    with RecordWriter(tmp_path / "records.jsonl") as sink:
        measured(Made(front_end=lambda options: "0" * 16, cost_s=10.0), tmp_path, sink=sink, time_limit_s=150.0)
    with pytest.raises(InvalidMeasurement, match="began with the weights 0000000000000000 before the transformer"):
        measured(made := Made(), tmp_path, done=load(tmp_path))
    assert RUN not in roles(made)


@pytest.mark.parametrize("name", ["runs", "rendered", "front_end.safetensors"])
def test_a_place_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    folder, other = tmp_path / "study", tmp_path / "mine"
    folder.mkdir()
    other.mkdir()
    (other / "kept").write_text("mine")
    (folder / name).symlink_to(other)
    with pytest.raises(UsageError, match=f"{name} is a link, as no study writes it"):
        measured(Made(), folder)
    assert (other / "kept").read_text() == "mine" and [each.name for each in folder.iterdir()] == [name]


def test_only_people_that_were_drawn_are_taken_away_at_the_end(tmp_path):
    drawn = tmp_path / "rendered" / "people-v1-train-level0-seed5-64x64-n6"
    drawn.mkdir(parents=True)
    (drawn / "area.npy").write_bytes(b"")
    measured(Made(), tmp_path)
    assert not (tmp_path / "rendered").exists()
    drawn.mkdir(parents=True)
    (tmp_path / "rendered" / "holiday").mkdir()
    measured(Made(), tmp_path)
    assert [each.name for each in (tmp_path / "rendered").iterdir()] == ["holiday"]


def test_as_many_runs_side_by_side_as_asked(tmp_path):
    measured(made := Made(), tmp_path, plan(at_once=7))
    assert made.at_once == {1, 7}  # the shared front end is trained alone


# What is concluded ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("retention", "spread", "verdict", "code"), [
    (1.0, 0.004, KEEPS, EXIT_DONE),
    (0.85, 0.004, LOSES, EXIT_REGRESSION),
    (0.95, 0.03, UNDECIDED, EXIT_UNDECIDED),
])
def test_the_verdict_and_the_exit_code(tmp_path, retention, spread, verdict, code):
    found = measured(Made(retention={EFFICIENT: retention}, world=World(spread=spread, accuracy=0.7)), tmp_path)
    kept = found.retention[EFFICIENT]
    assert (kept.verdict, found.exit_code) == (verdict, code), kept
    assert kept.low < retention < kept.high
    assert found.retention["original (again)"].verdict in (KEEPS, UNDECIDED)
    assert kept.reference_runs == 6 and kept.runs == 3


def test_a_curve_that_climbs_is_invalid(tmp_path):
    found = measured(Made(world=World(spread=0.004, accuracy=0.7, rate=2.0)), tmp_path)
    assert found.exit_code == EXIT_INVALID and "still climbing" in found.retention[EFFICIENT].reason


def test_an_architecture_below_the_mean_pose_is_invalid(tmp_path):
    found = measured(Made(retention={EFFICIENT: 0.2}, floor=0.4), tmp_path)
    assert found.floor == pytest.approx(0.4, abs=0.05)
    assert found.exit_code == EXIT_INVALID and "learned nothing about poses" in found.retention[EFFICIENT].reason


def test_the_worst_verdict_counts_and_the_unscaled_ring_does_not(tmp_path):
    asked = plan(("original", "efficient", "other=efficient-fused"), ring="both")
    assert [(arm.name, arm.counts) for arm in asked.arms] == [
        ("original, ring scaled", True), ("original", False), ("efficient", True), ("other", True),
    ]
    found = measured(Made(retention={ORIGINAL: 0.5}), tmp_path, asked)
    assert found.retention[ORIGINAL].verdict == LOSES and found.exit_code == EXIT_DONE
    found = measured(Made(retention={ORIGINAL: 0.5, "efficient-fused": 0.5}), tmp_path / "other", asked)
    assert found.exit_code == EXIT_REGRESSION


def test_runs_with_different_front_ends_are_not_compared(tmp_path):
    found = measured(Made(front_end=lambda options: f"{options.arch}"), tmp_path)
    with pytest.raises(InvalidMeasurement, match="began with different weights before the transformer"):
        _ = found.exit_code


# What goes wrong ------------------------------------------------------------------------------------------------------------------


def test_a_learning_rate_that_diverges_is_a_result(tmp_path):
    made = Made(fails=lambda options: ("not finite", "it diverged.") if options.optim.lr > 9e-4 else None)
    found = measured(made, tmp_path)
    assert found.rates[ORIGINAL][1e-3] == 0 and found.failures == () and found.exit_code == EXIT_DONE


def test_a_run_that_fails_leaves_the_others_and_no_verdict(tmp_path):
    wrong = lambda options: ("crash", "efficient crashed.") if options.arch == EFFICIENT and options.seed == 2 else None  # noqa: E731
    found = measured(Made(fails=wrong), tmp_path)
    assert found.exit_code == EXIT_FAILED and found.retention == {} and found.missing == 1
    assert found.failures == ("training of efficient failed: efficient crashed.",)
    assert len(found.runs[EFFICIENT]) == 2 and "runs are missing" in study_texts(found)["accuracy.md"]


def test_a_child_that_cannot_be_asked_stops_the_study(tmp_path):
    class Refusing(Made):
        def reply(self, request):
            return {"usage_error": "device is cuda and there is none."}

    with pytest.raises(UsageError, match="device is cuda"):
        measured(Refusing(), tmp_path)


def test_a_front_end_that_cannot_be_trained_is_said(tmp_path):
    class Dying(Made):
        def children(self, children, *, at_once):
            for tag, child in children:
                yield tag, Outcome(self.reply(child.request)) if child.request["role"] == FLOOR else Outcome(None, "crash", "it crashed.")

    with pytest.raises(MeasurementError, match="the shared front end could not be trained: it crashed"):
        measured(Dying(), tmp_path)


def test_a_reply_that_contradicts_itself_is_a_failure(tmp_path):
    class Wrong(Made):
        def measured(self, role, options):
            found = super().measured(role, options)
            if role == RUN and options.seed == 1:
                found["curve"][-1]["oks"] = 0.123
            return found

    found = measured(Wrong(), tmp_path)
    assert found.exit_code == EXIT_FAILED and "contradict themselves: the OKS of its pictures have the mean" in found.failures[0]


# Time and going on ----------------------------------------------------------------------------------------------------------------


def test_no_run_is_begun_that_would_end_after_the_limit(tmp_path):
    made = Made(cost_s=10.0)
    found = measured(made, tmp_path, time_limit_s=150.0)
    assert made.clock_s <= 150 and found.missing > 0
    assert found.exit_code == EXIT_UNDECIDED and found.retention == {}


def test_what_earlier_runs_took_is_known(tmp_path):
    with RecordWriter(tmp_path / "records.jsonl") as sink:
        measured(Made(), tmp_path, sink=sink)  # 10 s each by their records: those for learning rates, of fewer pictures, were the slowest
    found = measured(made := Made(cost_s=10.0), tmp_path, plan(seeds=4), done=load(tmp_path), time_limit_s=40.0)
    assert made.asked == [] and found.missing == 3
    measured(made, tmp_path, plan(seeds=4), done=load(tmp_path), time_limit_s=50.0)
    assert len(made.asked) == 1


def test_what_has_a_record_is_not_trained_again(tmp_path):
    with RecordWriter(tmp_path / "records.jsonl") as sink:
        first = measured(made := Made(cost_s=10.0), tmp_path, sink=sink, time_limit_s=150.0)
    begun = len(made.asked)
    with RecordWriter(tmp_path / "records.jsonl") as sink:
        second = measured(again := Made(), tmp_path, sink=sink, done=load(tmp_path))
    assert 0 < len(again.asked) == 16 + 1 - begun and first.missing == len(again.asked)  # and the front end, once
    assert second.complete and len(load(tmp_path)) == 16
    third = measured(nothing := Made(), tmp_path, done=load(tmp_path))
    assert nothing.asked == [] and study_texts(third) == study_texts(second)


def test_a_failed_run_is_made_again(tmp_path):
    wrong = lambda options: ("crash", "it crashed.") if options.seed == 2 else None  # noqa: E731
    with RecordWriter(tmp_path / "records.jsonl") as sink:
        measured(Made(fails=wrong), tmp_path, sink=sink)
        found = measured(again := Made(), tmp_path, sink=sink, done=load(tmp_path))
    assert [each["options"]["seed"] for each in again.asked if each["role"] == RUN] == [2, 2] and found.exit_code == EXIT_DONE


def test_other_options_are_other_runs(tmp_path):
    with RecordWriter(tmp_path / "records.jsonl") as sink:
        measured(Made(), tmp_path, sink=sink)
    measured(made := Made(), tmp_path, plan(pictures=800), done=load(tmp_path))
    assert roles(made).count(RUN) == 9


# Showing and proving --------------------------------------------------------------------------------------------------------------


def kept(folder, made: Made | None = None):
    with RecordWriter(folder / "records.jsonl") as sink:
        found = measured(made or Made(), folder, sink=sink, command="humar-bench accuracy")
    write_study(found, folder)
    return found


def test_the_folder_is_proved_and_a_changed_number_is_not(tmp_path):
    found = kept(tmp_path)
    assert verify(tmp_path).proved
    own = {"records.jsonl", *PLACES, *files_of("accuracy")}
    assert {path.name for path in tmp_path.iterdir()} <= own
    again = read_study(tmp_path, load(tmp_path), MAKERS)
    assert study_texts(again) == study_texts(found) and again.exit_code == found.exit_code
    page = tmp_path / "retention.csv"
    page.write_text(page.read_text().replace("keeps", "loses", 1))
    assert not verify(tmp_path).proved


def test_a_record_that_was_changed_is_found_out(tmp_path):
    kept(tmp_path)
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    changed = json.loads(lines[-1])
    changed["measured"]["oks"][0] = 1.0
    lines[-1] = json.dumps(changed)
    (tmp_path / "records.jsonl").write_text("\n".join(lines) + "\n")
    proof = verify(tmp_path)
    assert not proof.proved and "changed after it was measured" in str(proof.differences[0])
    del changed["id"]
    lines[-1] = dataclasses.replace(Record(**changed)).to_json()  # with an id made anew
    (tmp_path / "records.jsonl").write_text("\n".join(lines) + "\n")
    assert not verify(tmp_path).proved


def test_the_tables_say_what_they_are_of(tmp_path):
    found = measured(Made(retention={EFFICIENT: 0.99}), tmp_path)
    text = study_texts(found)["accuracy.md"]
    assert "early accuracy on small models" in text and "procedural:0" in text
    assert "The mean pose at the right place and scale scores 0.1" in text
    assert "original (again) is the control" in text and "asks for 95" in text
    for row in found.retention_rows[1:]:
        assert f"{row['architecture']}: {row['verdict']}." in text


def test_curves_are_drawn_over_pictures_and_over_seconds(tmp_path):
    found = measured(Made(), tmp_path)
    plot = found.plot
    assert plot.linear and [panel.x_label for panel in plot.panels] == ["pictures seen", "CPU seconds"]
    assert {series.name for series in plot.panels[0].series} == {ORIGINAL, "original (again)", EFFICIENT}
    assert plot.panels[0].series[0].x == (80, 160, 240, 320, 400)
    assert plot.panels[1].series[0].x[-1] == pytest.approx(9.0)


def test_the_document_is_json_and_complete(tmp_path):
    document = json.loads(study_json(measured(Made(), tmp_path)))
    assert {"title", "retention", "runs", "curves", "rates", "floor", "exit_code"} <= document.keys()
    assert len(document["runs"]) == 16 and len(document["curves"]) == 45 and math.isclose(document["margin"], 0.95)
    assert all(VAL >= 1 for _ in document["runs"])


def test_progress_goes_from_nothing_to_all(tmp_path):
    told = []
    measured(Made(), tmp_path, progress=lambda share, text: told.append((share, text)))
    shares = [share for share, _ in told]
    assert shares == sorted(shares) and shares[0] < 0.1 and 0.9 < shares[-1] <= 1
    assert any("choosing the learning rate of efficient" in text for _, text in told)


# The better ring ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scaled_keeps", "reference", "beaten"), [
    (1.3, "original, ring scaled", ORIGINAL), (0.7, ORIGINAL, "original, ring scaled"),
])
def test_of_two_rings_the_better_one_stands_for_the_original(tmp_path, scaled_keeps, reference, beaten):
    asked = plan(ring="better")
    spec = asked.reference.architecture.spec
    found = measured(made := Made(retention={spec: scaled_keeps}, world=World(spread=0.004, accuracy=0.6)), tmp_path, asked)
    assert found.arms == (reference, EFFICIENT) and found.settings["beaten"] == {beaten: reference}
    assert {each["options"]["arch"] for each in made.asked if each["role"] == RATE} == {spec, ORIGINAL, EFFICIENT}
    assert roles(made).count(RUN) == 9 and roles(made).count(RATE) == 9
    text = study_texts(found)["accuracy.md"]
    assert f"{reference} was better than {beaten} here" in text
    rows = {row["architecture"] for row in found.rate_rows}
    assert rows == {"original, ring scaled", ORIGINAL, EFFICIENT}


def test_what_was_kept_at_the_shorter_budget_stands_below_the_learning_rates(tmp_path):
    found = measured(Made(retention={EFFICIENT: 0.8}), tmp_path)
    assert "what is kept depends on how long is trained" in study_texts(found)["accuracy.md"]


def test_the_error_of_a_rate_is_that_of_its_own_pictures():
    """.33 and .32 are apart where pictures hardly differ, and not where half are found and half are not."""
    def of(oks):
        return Scores({"score": [0.5] * 400, "oks": oks})

    lower, alike, unlike = of([0.6] * 400), of([0.66] * 400), of([0.95] * 136 + [0.1] * 264)
    assert chosen_of({1e-4: None, 5e-4: lower, 1e-3: alike, 2e-3: None}) == (1e-3, False)
    near = of([0.95] * 130 + [0.1] * 270)
    assert chosen_of({1e-4: None, 5e-4: near, 1e-3: unlike, 2e-3: None}) == (5e-4, False)

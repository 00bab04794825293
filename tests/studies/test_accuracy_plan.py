"""Which runs a study of accuracy asks for, and what is refused; the ring of the original; what a record makes of an evaluation."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from humar_bench.args import ModelArgs
from humar_bench.data.people import ProceduralPeople
from humar_bench.errors import UsageError
from humar_bench.records.audit import faults
from humar_bench.records.contradictions import contradictions
from humar_bench.records.record import TRAINING, load
from humar_bench.studies.accuracy import rings
from humar_bench.studies.accuracy.plan import EVALUATIONS, Asked, Job, plan_of
from humar_bench.studies.accuracy.presets import PRESETS
from humar_bench.studies.accuracy.scores import Scores
from humar_bench.studies.accuracy.worker import can_go_on, mean_pose, mean_pose_scores, of_pictures, placed
from humar_bench.subjects.registry import Architecture, load_builder, parse_architecture
from humar_bench.training.average_precision import BEST_ROWS, COCO_ROWS
from humar_bench.training.picture_statistics import PictureStatistics, draws
from humar_bench.training.run_folder import as_safetensors
from humar_bench.training.train_args import TrainArgs
from tests.studies.made_up_study import ENVIRONMENT, Made, plan

CPU = PRESETS["cpu"]
RESULTS = Path(__file__).resolve().parents[2] / "results"


# Asked ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "said"), [
    ({"arch": ("original",)}, "only original would be trained; name at least two"),
    ({"reference": "other"}, "reference is 'other'; choose one of the architectures trained: original, efficient"),
    ({"seeds": 1}, "--seeds is 1; it must be from 2 to 1000"),
    ({"rates": (1e-3, 2e-3)}, "name at least three different learning rates"),
    ({"rates": (1e-3, 1e-3, 2e-3)}, "name at least three different learning rates"),
    ({"keeps": 0.0}, "--keeps is 0; it must be a share above 0"),
    ({"keeps": 1.5}, "--keeps is 1.5"),
    ({"level": 7}, "--level is 7; choose level 0"),
    ({"level": -1}, "--level is -1; choose level 0"),
    ({"level": None, "data": "procedural:0-3"}, "--data is procedural:0-3; choose level 0"),
    ({"level": None, "data": "procedural:1-0"}, "the data is 'procedural:1-0'; write procedural:LEVEL"),
    ({"arch": ("original", "a.b=efficient", "a-b=efficient")}, "two rows would be 'a.b' and 'a-b', whose runs have one folder; give one"),
    ({"arch": ("original", "original (again)=efficient")}, r"two rows would be 'original \(again\)' and 'original \(again\)'"),
    ({"data": "somewhere", "level": 0}, "--data is somewhere and --level is 0; give one of the two"),
    ({"data": "somewhere", "level": None, "pictures": 0}, "say with --pictures"),
    ({"ring": "square"}, "--ring is 'square'; choose one of better, both, published, scaled"),
    ({"arch": ("original", "efficient[hidden_dim=32]")}, "sets hidden_dim, which all architectures share"),
    ({"arch": ("original", "efficient[efficient_speed=3]")}, "has no field 'efficient_speed'"),
    ({"evaluation_pictures": 5}, "--val is 5; at least 20"),
    ({"at_once": -1}, "--at-once is -1"),
    ({"warm": -1}, "--warm is -1"),
    ({"front_share": -0.1}, r"--front-share is -0.1; it must be from 0 \(what was trained ahead stays as it is\) to 1"),
    ({"front_share": 1.5}, "--front-share is 1.5"),
    ({"front_share": 0.0, "warm": 0}, "--front-share is 0 and nothing is trained ahead; say on how many pictures with --warm"),
    ({"size": 7}, "size is 7; it must be at least 32"),
    ({"arch": ("original", "nothing.at.all:build")}, "there is no module 'nothing.at.all'"),
])
def test_what_cannot_be_is_refused(asked, said):
    given = {"arch": ("original", "efficient"), "level": 0} | asked
    with pytest.raises(UsageError, match=said):
        plan_of(CPU, Asked(**given))


def test_refhuman_needs_its_folder_and_its_length():
    with pytest.raises(UsageError, match="needs the folder .* name it with --data"):
        plan_of(PRESETS["refhuman"], Asked(("original", "efficient")))
    made = plan_of(PRESETS["refhuman"], Asked(("original", "efficient"), data="people", pictures=100_000))
    assert made.base.data == "people" and [arm.name for arm in made.arms] == ["original", "efficient"]


@pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
def test_every_preset_makes_a_plan(preset):
    more = {} if preset.base.is_procedural else {"data": "people", "pictures": 1000}
    made = plan_of(preset, Asked(("original", "efficient"), **more))
    jobs = made.run_jobs({arm.name: made.rates[1] for arm in made.arms})
    assert len(jobs) == (len(made.arms) + 1) * made.seeds and len({job.key for job in jobs}) == len(jobs)
    assert len({job.folder for job in jobs}) == len(jobs)
    assert made.seeds >= 3 and preset.title and preset.minutes


def test_the_cpu_preset_is_called_what_it_is():
    assert CPU.title == "early accuracy on small models" and CPU.minutes <= 60 and CPU.base.device == "cpu" and CPU.base.threads == 1


def test_the_seed_of_learning_rates_and_of_the_runs_are_different():
    made = plan()
    rate_seeds = {job.options.seed for job in made.rate_jobs(made.rates)}
    run_seeds = {job.options.seed for job in made.run_jobs({"original": 1e-3, "efficient": 1e-3})}
    assert rate_seeds == {0} and run_seeds == {1, 2, 3, 4, 5, 6}
    again = [job for job in made.run_jobs({"original": 1e-3, "efficient": 1e-3}) if job.name == made.again]
    assert {job.options.seed for job in again} == {4, 5, 6} and {job.options.arch for job in again} == {"original"}


@pytest.mark.parametrize(("seeds", "own", "control"), [
    (2, {1, 2}, {4, 5}), (3, {1, 2, 3}, {4, 5, 6}), (4, {1, 2, 3, 7}, {4, 5, 6, 10}),
    (8, {1, 2, 3, 7, 8, 9, 13, 14}, {4, 5, 6, 10, 11, 12, 16, 17}),
])
def test_more_seeds_keep_every_run_there_is(seeds, own, control):
    jobs = plan(seeds=seeds).run_jobs({"original": 1e-3, "efficient": 1e-3})
    assert {job.options.seed for job in jobs if job.name == "efficient"} == own
    assert {job.options.seed for job in jobs if job.name == plan().again} == control


def test_what_was_trained_ahead_learns_by_the_share_that_is_asked_for():
    for asked, share in ((None, CPU.base.optim.front_end_share), (0.02, 0.02), (0.0, 0.0)):
        made = plan(front_share=asked)
        jobs = [*made.rate_jobs(made.rates), *made.run_jobs({"original": 1e-3, "efficient": 1e-3})]
        assert {job.options.optim.front_end_share for job in jobs} == {share}
        assert {job.options.optim.lr for job in jobs} == {*made.rates, 1e-3}


def test_another_core_draws_for_the_training_ahead():
    assert [plan(warm=warm).warm_options.workers for warm in (None, 80)] == [1, 1] and plan(warm=0).warm_options is None
    assert {job.options.workers for job in plan().rate_jobs((1e-3,))} == {0}  # as many runs as cores stand side by side


def test_evaluations_come_at_every_fifth_of_the_schedule():
    for asked in (400, 1003, 8000):
        made = plan(pictures=asked)
        options = made.run_jobs({"original": 1e-3, "efficient": 1e-3})[0].options
        assert options.pictures % (EVALUATIONS * options.optim.batch_size) == 0
        assert options.pictures == EVALUATIONS * options.evaluate_every


def test_a_wider_grid_goes_on_as_it_goes():
    made = plan()
    assert made.wider((2.5e-4, 5e-4, 1e-3), lower=True) == pytest.approx(1.25e-4)
    assert made.wider((2.5e-4, 5e-4, 1e-3), lower=False) == pytest.approx(2e-3)


# The ring -------------------------------------------------------------------------------------------------------------------------


def offsets(spec: str) -> torch.Tensor:
    args = ModelArgs(hidden_dim=32, nheads=8, dim_feedforward=32, enc_layers=1, dec_layers=1, num_feature_levels=2, num_queries=2)
    torch.manual_seed(0)
    model = load_builder(parse_architecture(spec))(args)
    return torch.cat([each.sampling_offsets.bias.detach() for each in model.modules() if hasattr(each, "sampling_offsets")])


def test_a_scaled_ring_is_the_published_one_times_a_factor_and_all_else_is_equal():
    published, scaled = offsets("original"), offsets(rings.ring_spec(0.23))
    assert published.abs().max() == 4 and torch.equal(scaled, published * 0.23)


def test_the_ring_is_the_share_of_a_map_that_it_is_on_the_published_models():
    assert rings.ring_of((480, 640)) == 1 and rings.ring_of((1280, 1280)) == 1
    assert rings.ring_of((128, 128)) == pytest.approx(16 / (60 * 80) ** 0.5)
    assert rings.ring_spec(rings.ring_of((128, 128))).endswith(":ring_0_23")


def test_on_small_maps_both_rings_are_tried_and_on_large_ones_the_published():
    def names(**asked):
        return [(arm.name, bool(arm.rivals)) for arm in plan_of(CPU, Asked(("original", "efficient"), level=0, **asked)).arms]

    assert names(size=128) == [("original, ring scaled", True), ("original", True), ("efficient", False)]
    assert names(size=256) == [("original", False), ("efficient", False)]
    assert names(size=128, ring="scaled") == [("original, ring scaled", False), ("efficient", False)]
    assert names(size=128, ring="published") == [("original", False), ("efficient", False)]


def test_an_arm_may_have_fields_of_its_own():
    asked = ("original", "deep=efficient[efficient_cross_tokens=all,efficient_decoder_sets=3]", "efficient[efficient_local_conv=false]")
    arms = plan_of(CPU, Asked(asked, level=0, ring="published")).arms
    assert [arm.name for arm in arms] == ["original", "deep", "efficient[efficient_local_conv=false]"]
    built = load_builder(parse_architecture(arms[1].architecture.spec))(CPU.base.model).built
    assert (built["efficient_cross_tokens"], built["efficient_decoder_sets"]) == ("all", 3)


def test_which_builders_are_the_originals():
    assert rings.is_original("original") and rings.is_original(rings.ring_spec(0.5))
    assert not rings.is_original("efficient") and not rings.is_original("original-fused")
    with pytest.raises(AttributeError):
        _ = rings.ring_too_wide


# From an evaluation to a record ---------------------------------------------------------------------------------------------------


def statistics_of(random: np.random.Generator, entries: int = 60, nobody: int = -1) -> PictureStatistics:
    """An evaluation of made-up detections: three an entry, whose OKS are known; entry `nobody`, if there is one, has nobody to find."""
    from humar_bench.training.average_precision import Found, Matched

    entry = np.repeat(np.arange(entries), 3)
    score = -np.sort(-random.uniform(0, 1, (entries, 3)), axis=1)
    oks = random.uniform(0.3, 1, (entries, 3))
    there = np.arange(entries) != nobody
    oks[~there] = -1
    size = np.full(3 * entries, 50.0**2)
    found = Found(entry, score.ravel(), size, oks.ravel(), np.full(entries, 50.0**2), there, np.zeros(entries, bool))
    areas = {"all": (0, 1e10), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
    picture = np.arange(entries) // 2
    ratios = ("best/mean OKS", "best/PCKh")
    above = np.stack((np.where(there, oks[:, 0], 0), np.zeros(entries)), axis=1)
    return PictureStatistics(picture, {"keypoints": Matched.of(found, areas)}, ratios, above, np.stack((there, there), 1).astype(float))


def test_a_record_keeps_enough_to_make_the_accuracy_of_any_draw_again():
    statistics = statistics_of(np.random.default_rng(3))
    scores = Scores(json.loads(json.dumps(of_pictures(statistics))))
    [ap, oks] = statistics.values(["best/AP", "best/mean OKS"])
    assert scores.accuracy() == pytest.approx(ap, abs=1e-4) and scores.oks == pytest.approx(oks, abs=1e-5)
    assert scores.pictures == statistics.pictures
    for made, weights in zip(scores.drawn(20), draws(statistics.pictures, 20, 0), strict=True):
        assert made == pytest.approx(statistics.values(["best/AP"], weights)[0], abs=1e-4)


def test_entries_of_one_picture_are_drawn_together_and_others_need_no_number():
    statistics = statistics_of(np.random.default_rng(3))
    assert of_pictures(statistics)["picture"] is not None and len(of_pictures(statistics)["oks"]) == 60
    assert len(of_pictures(statistics_of(np.random.default_rng(3), nobody=7))["oks"]) == 59
    alone = dataclasses.replace(statistics, picture=np.arange(60))
    assert of_pictures(alone)["picture"] is None


def test_the_average_precision_is_cocos_of_one_detection_an_entry():
    assert BEST_ROWS[0].name == "AP" and BEST_ROWS[0].most == 1 and COCO_ROWS["keypoints"][0].most == 20


# The mean pose --------------------------------------------------------------------------------------------------------------------


def test_the_mean_pose_lies_in_the_middle_of_the_box_at_its_size():
    people = [ProceduralPeople("train", 0)[index] for index in range(60)]
    pose = mean_pose(iter(people))
    head, feet = pose[:5, 1].mean(), pose[15:, 1].mean()
    assert pose.shape == (17, 2) and head < -0.3 and feet > 0.3  # y goes down; sizes of the box
    box = people[0].boxes[0]
    moved = placed(pose, box + np.array([10, 20, 10, 20]))
    assert moved == pytest.approx(placed(pose, box) + np.array([10, 20]))


def test_the_mean_pose_scores_something_and_far_from_all(monkeypatch):
    monkeypatch.setattr("humar_bench.studies.accuracy.worker.POSES", 300)  # drawing two thousand takes ten seconds
    options = plan(evaluation_pictures=60).floor_job.options
    found = mean_pose_scores(options, lambda event: None)
    assert len(found["oks"]) == 60 and 0.2 < np.mean(found["oks"]) < 0.75
    assert Scores(found).accuracy() < 0.5


def test_the_true_pose_in_its_own_box_scores_all(monkeypatch):
    from humar_bench.studies.accuracy import worker

    example = ProceduralPeople("train", 0)[0]
    points = example.keypoints[0]
    assert worker.oks_of(points[:, :2], points, float(example.area[0]), np.full(17, 0.05)) == pytest.approx(1)
    assert worker.oks_of(points[:, :2] + 50, points, float(example.area[0]), np.full(17, 0.05)) < 0.01


# Records --------------------------------------------------------------------------------------------------------------------------


def record(**changes):
    made = plan()
    job = made.run_jobs({"original": 5e-4, "efficient": 5e-4})[0]
    measured = Made().measured("run", job.options) | changes
    return job.record({"status": "ok", "kind": "", "reason": "", "built": {}, "measured": measured}, ENVIRONMENT)


def test_a_sound_record_is_sound_and_of_this_machines_paths_nothing_is_in_it():
    sound = record()
    assert faults(sound) == []
    assert not {"front_end", "rendered", "device", "threads"} & sound.workload.keys()


@pytest.mark.parametrize(("changes", "said"), [
    ({"score": [0.5]}, "it lists 1 scores and 200 OKS"),
    ({"pictures": 320}, "its curve ends after 400 pictures and it was trained on 320"),
    ({"curve": []}, "has no curve"),
    ({"picture": [0, 1]}, "it numbers 2 pictures for 200 entries"),
    ({"oks": [0.5] * 300, "score": [0.5] * 300}, "it lists 300 pictures and was to be evaluated on 200"),
    ({"oks": [0.5] * 200}, "the OKS of its pictures have the mean 0.5"),
])
def test_a_record_that_contradicts_itself_is_found_out(changes, said):
    assert any(said in fault for fault in faults(record(**changes))), faults(record(**changes))


def test_times_of_a_curve_go_on_and_fit_the_cores():
    curve = [dict(each) for each in record().measured["curve"]]
    curve[2]["wall_s"] = 0.5
    assert any("wall_s of its curve go back" in fault for fault in faults(record(curve=curve)))
    curve = [{**each, "cpu_s": 100 * each["cpu_s"]} for each in record().measured["curve"]]
    assert any("on 2 cores" in fault for fault in faults(record(curve=curve)))


def test_values_that_no_run_has_are_refused():
    assert contradictions("training", {**record().measured, "oks": [1.5]}, record().workload)
    broken = dataclasses.replace(record(), workload={"role": "run"}, id="")
    assert any("workload: it lacks data" in fault for fault in faults(broken))


# Going on -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in RESULTS.glob("*accuracy*/records.jsonl")))
def test_an_option_that_came_later_makes_no_other_run_of_a_published_one(folder):
    for run in load(RESULTS / folder).select(measure=TRAINING):
        options = TrainArgs.of_json({**run.workload, **run.run, "model": run.asked})
        own = Architecture(run.architecture, run.spec, run.foreign)
        work = Job(run.workload["role"], run.architecture, own, options).work
        assert dataclasses.replace(run, workload=work, id="").key == run.key


def test_a_run_goes_on_only_where_it_is_the_same_run(tmp_path):
    options = plan().run_jobs({"original": 5e-4, "efficient": 5e-4})[0].options
    (tmp_path / "run.json").write_text(json.dumps({"format": 1, "options": options.to_json(), "environment": {}}))
    assert can_go_on(tmp_path, options)
    assert not can_go_on(tmp_path, dataclasses.replace(options, seed=99))
    values = {"log_bytes": 0, "pictures": 40, "wall_s": 1.0, "cpu_s": 1.0, "evaluation": {}, "schedule": {}}
    (tmp_path / "checkpoint.json").write_text(json.dumps({**values, "step": 5, "file": "checkpoint-00000005.safetensors"}))
    assert not can_go_on(tmp_path, options)  # its weights are gone
    weights, whole = tmp_path / "checkpoint-00000005.safetensors", as_safetensors({"model.weight": torch.ones(64)})
    weights.mkdir()
    assert not can_go_on(tmp_path, options)
    weights.rmdir()
    weights.write_bytes(whole[:-8])
    assert not can_go_on(tmp_path, options)  # they are not whole
    weights.write_bytes(whole)
    assert can_go_on(tmp_path, options)
    (tmp_path / "run.json").write_text("{")
    assert not can_go_on(tmp_path, options)

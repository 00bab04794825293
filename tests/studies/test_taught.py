"""Arms of a study of accuracy that also imitate the reference's run of the same seed. Runs are made up (`made_up_study`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from humar_bench.errors import EXIT_DONE, EXIT_FAILED, EXIT_UNDECIDED, EXIT_USAGE, UsageError
from humar_bench.records.record import load
from humar_bench.records.writer import RecordWriter
from humar_bench.report.study import study_texts, write_study
from humar_bench.saved.verify import verify
from humar_bench.studies.accuracy.made_up import World
from humar_bench.studies.accuracy.plan import RATE, RUN, Asked, plan_of
from humar_bench.studies.accuracy.presets import PRESETS
from tests.studies.made_up_study import PICTURES, Made, measured, plan

TAUGHT = "efficient, taught"
SEEDS = (1, 2, 3)


@dataclasses.dataclass
class Taught(Made):
    """Runs that teach leave weights; one that is taught needs its teacher's, and keeps a tenth more for them."""

    drift: float = 0.0  # of a run that is made again

    def reply(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if request["role"] == RUN:
            folder, teacher = Path(request["folder"]), request["options"]["teacher"]
            assert not teacher or (Path(teacher) / "checkpoint-1.safetensors").exists()
            assert not teacher or request["teacher_arch"] == "original"
            if request["teaches"]:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "checkpoint-1.safetensors").write_bytes(b"weights")
        return super().reply(request)

    def measured(self, role, options):
        world = self.world
        if options.teacher:
            world = dataclasses.replace(world, accuracy=world.accuracy * 1.1)
        if self.drift and options.arch == "original":
            world = dataclasses.replace(world, accuracy=world.accuracy * (1 + self.drift))
        return dataclasses.replace(self, world=world, drift=0.0).plain(role, options)

    def plain(self, role, options):
        return super().measured(role, dataclasses.replace(options, teacher=""))


def taught_plan(**asked):
    return plan(taught=("efficient",), **asked)


def runs_of(made: Made) -> list[dict[str, Any]]:
    return [each for each in made.asked if each["role"] == RUN]


def test_students_come_after_their_teachers_and_differ_from_the_untaught_in_nothing_else(tmp_path):
    found = measured(made := Taught(), tmp_path, taught_plan())
    runs = runs_of(made)
    students = [each for each in runs if each["options"]["teacher"]]
    assert len(runs) == 12 and runs[-3:] == students and sorted(each["options"]["seed"] for each in students) == [*SEEDS]
    for each in students:
        seed = each["options"]["seed"]
        [teacher] = [run for run in runs if run["options"]["seed"] == seed and run["options"]["arch"] == "original"]
        [untaught] = [run for run in runs[:-3] if run["options"]["seed"] == seed and run["options"]["arch"] == "efficient"]
        assert each["options"]["teacher"] == str(Path(teacher["folder"]).resolve()) and teacher["teaches"]
        assert {**each["options"], "teacher": ""} == untaught["options"] and each["folder"] != untaught["folder"]
    assert sum(each["teaches"] for each in runs) == 3  # not the control's
    assert {each["name"] for each in made.asked if each["role"] == RATE} == {"original", "efficient"}
    rows = {row["architecture"]: row for row in found.retention_rows}
    assert rows[TAUGHT]["learning_rate"] == rows["efficient"]["learning_rate"] and not found.rates[TAUGHT]
    assert rows[TAUGHT]["retention"] == pytest.approx(1.1 * rows["efficient"]["retention"], rel=0.03) and found.exit_code == EXIT_DONE


def kept(folder: Path, made: Made, asked=None, **more: Any):
    done = load(folder) if (folder / "records.jsonl").exists() else None
    with RecordWriter(folder / "records.jsonl") as sink:
        found = measured(made, folder, asked or taught_plan(), sink=sink, done=done, command="humar-bench accuracy", **more)
    write_study(found, folder)
    return found


def test_the_folder_says_what_was_imitated_is_proved_and_names_no_place_of_this_machine(tmp_path):
    found = kept(tmp_path, Taught())
    assert verify(tmp_path).proved and str(tmp_path) not in (tmp_path / "records.jsonl").read_text()
    text = study_texts(found)["accuracy.md"]
    assert "every run also imitates the run of original with the same seed: keypoints, class, tokens, weighted 5, 1, 1." in text
    assert "learning rate" in text and "not the teacher's own training" in text
    assert measured(nothing := Taught(), tmp_path, taught_plan(), done=load(tmp_path)).complete and nothing.asked == []


def test_an_arm_that_is_taught_can_be_added_later(tmp_path):
    kept(tmp_path, first := Taught(), plan())
    assert not any(each["teaches"] for each in runs_of(first))
    before = len(load(tmp_path))
    found = kept(tmp_path, again := Taught())
    runs = runs_of(again)
    assert [each["options"]["arch"] for each in runs] == ["original"] * 3 + ["efficient"] * 3  # teachers anew, for their weights
    assert all(each["teaches"] for each in runs[:3]) and found.complete
    assert len({record.key for record in load(tmp_path)}) == before + 3 == len(found.run)
    assert verify(tmp_path).proved


def ends_of(records) -> dict[int, float]:
    """Seed -> where the reference's run ended."""
    own = [each for each in records if each.workload["role"] == RUN and each.architecture == "original"]
    return {each.process: each.measured["curve"][-1]["ap"] for each in own}


def test_a_teacher_that_is_made_again_stands_for_the_run_before(tmp_path):
    """So that the record is of the weights that taught: on another machine they are others."""
    kept(tmp_path, Taught(), plan())
    before = ends_of(load(tmp_path))
    found = kept(tmp_path, Taught(drift=0.05))
    now = ends_of(found.runs["original"])
    assert now.keys() == before.keys() and all(now[seed] > 1.02 * before[seed] for seed in now) and verify(tmp_path).proved
    assert now == ends_of(load(tmp_path))


def test_nobody_is_taught_by_a_run_that_failed_or_was_not_reached(tmp_path):
    wrong = lambda options: ("crash", "it crashed.") if options.seed == 2 and options.arch == "original" else None  # noqa: E731
    found = measured(made := Taught(fails=wrong), tmp_path / "failed", taught_plan())
    assert [each["options"]["seed"] for each in runs_of(made) if each["options"]["teacher"]] == [1, 3] and found.exit_code == EXIT_FAILED
    found = measured(made := Taught(cost_s=10.0), tmp_path / "late", taught_plan(), time_limit_s=150.0)
    assert found.exit_code == EXIT_UNDECIDED and found.missing and made.clock_s <= 150


def test_without_its_arm_a_study_is_proved_and_with_it_nothing_is_made_again(tmp_path):
    kept(tmp_path, Taught())
    found = kept(tmp_path, without := Taught(), plan())
    assert without.asked == [] and TAUGHT not in found.runs and found.complete and verify(tmp_path).proved
    assert kept(tmp_path, again := Taught()).complete and again.asked == [] and verify(tmp_path).proved


def test_a_run_whose_folder_is_a_link_is_refused(tmp_path):
    kept(folder := tmp_path / "study", Taught(), plan())
    (mine := tmp_path / "mine").mkdir()
    name = next(job.folder for job in taught_plan().run_jobs({"original": 5e-4, "efficient": 5e-4, TAUGHT: 5e-4}) if job.teaches)
    (folder / "runs").mkdir(exist_ok=True)
    (folder / "runs" / name).symlink_to(mine)
    with pytest.raises(UsageError, match=f"{name} is a link, as no study writes it"):
        kept(folder, again := Taught())
    assert again.asked == [] and not any(mine.iterdir())


def test_a_teacher_that_diverged_is_not_trained_again(tmp_path):
    wrong = lambda options: ("not finite", "it diverged.") if options.seed == 2 and options.arch == "original" else None  # noqa: E731
    kept(tmp_path, Taught(fails=wrong))
    found = kept(tmp_path, again := Taught(fails=wrong))
    assert again.asked == [] and found.missing == 2 and found.exit_code == EXIT_FAILED


def test_a_student_is_not_begun_that_would_end_after_the_limit(tmp_path):
    """Before one of them has ended, its time is that of its own training and of its teacher's together."""
    class Timed(Taught):
        def reply(self, request):
            self.clock_s += 0.0 if request["role"] == "floor" else request["options"]["pictures"] / 100
            return super().reply(request)

    measured(whole := Timed(), tmp_path / "whole", taught_plan(warm=0))
    students_s = 3 * PICTURES / 100
    found = measured(made := Timed(), tmp_path / "late", taught_plan(warm=0), time_limit_s=whole.clock_s - students_s + 3)
    assert found.missing == 3 and made.clock_s == pytest.approx(whole.clock_s - students_s)
    found = measured(made := Timed(), tmp_path / "in_time", taught_plan(warm=0), time_limit_s=whole.clock_s - students_s + 9)
    assert found.missing == 1 and made.clock_s == pytest.approx(whole.clock_s - students_s + 8)


@pytest.mark.parametrize(("arch", "more", "said"), [
    (("original", "efficient", "efficient, taught=efficient"), {}, "two rows would be 'efficient, taught' and 'efficient, taught'"),
    (("original", "efficient", "efficient--taught=efficient"), {}, "two rows would be 'efficient--taught' and 'efficient, taught'"),
    (("efficient", "original"), {"taught": ("original",)}, "--taught is 'original', which is trained with another ring here; add --ring"),
    (("efficient", "original"), {"taught": ("original",), "ring": "scaled"}, "--taught is 'original', which is trained with another ring"),
    (("efficient", "original"), {"taught": ("original",), "ring": "both"}, "--taught is 'original', which is trained with another ring"),
])
def test_a_study_that_could_not_end_is_refused(arch, more, said):
    with pytest.raises(UsageError) as caught:
        plan_of(PRESETS["cpu"], Asked(arch, **{"level": 0, "taught": ("efficient",), **more}))
    assert said in str(caught.value)


@pytest.mark.parametrize(("taught", "said"), [
    (("original",), "--taught is 'original'; name architectures trained that are not the reference: efficient."),
    (("other",), "--taught is 'other'; name architectures trained that are not the reference: efficient."),
    (("efficient", "efficient"), "--taught is 'efficient'; name once each: efficient."),
])
def test_who_cannot_be_taught_is_one_sentence(taught, said):
    with pytest.raises(UsageError) as caught:
        plan_of(PRESETS["cpu"], Asked(("original", "efficient"), level=0, taught=taught))
    assert str(caught.value) == said


def test_the_better_ring_teaches(tmp_path):
    asked = taught_plan(ring="better")
    assert [arm.name for arm in asked.arms] == ["original, ring scaled", "original", "efficient", TAUGHT]

    class Rings(Taught):
        def reply(self, request):
            if request["role"] == RUN and request["options"]["teacher"]:
                arches.append(request["teacher_arch"])
                request = {**request, "teacher_arch": "original"}
            return super().reply(request)

    arches: list[str] = []
    found = measured(Rings(world=World(spread=0.004, accuracy=0.6)), tmp_path, asked)
    assert set(arches) == {next(arm["spec"] for arm in found.settings["arms"] if arm["name"] == found.reference)} and len(arches) == 3


def test_the_command_passes_it_on(tmp_path, capsys):
    from humar_bench.cli import main

    assert main(["accuracy", "--taught", "nobody", "-o", str(tmp_path / "out")]) == EXIT_USAGE
    assert "--taught is 'nobody'; name architectures trained" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()

"""Calibration: the budget on a virtual clock, processes that fail, the certificate and its stamp, the command; one real child."""

from __future__ import annotations

import contextlib
import json
import os
import random

import pytest

from humar_bench import cli
from humar_bench.errors import HumarBenchError, InvalidMeasurement, MeasurementError, UsageError
from humar_bench.records.appending import OutputLost
from humar_bench.running.children import Child, Outcome, run_children
from humar_bench.saved.verify import verify
from humar_bench.studies.calibrate import calibrate as room
from humar_bench.studies.calibrate.calibrate import (
    ARMS,
    Clock,
    RawWriter,
    Settings,
    calibrate,
    citation,
    cite,
    cited_here,
    difference,
    make_certificate,
    stamp,
    stamped,
    verify_certificate,
    written,
)
from humar_bench.studies.calibrate.tables import calibration_markdown, calibration_tables, conditions, write_calibration
from humar_bench.subjects.sources import child_command
from tests.studies.test_error_rates import made_up

ENVIRONMENT = {"device": "cpu", "device_label": "a CPU", "cores": 2, "torch": "2.13", "commit": "abc", "dirty": False, "load_1min": 0.5}


class VirtualTime:
    """A clock, and children that take as long as they are told and reply with made-up raw data."""

    def __init__(self, *took_s: float, replies=()):
        self.now_s, self.took_s, self.replies, self.started = 100.0, took_s, dict(replies), []
        self.raw = made_up(processes=60, rounds=12)

    def now(self):
        return self.now_s

    def run(self, children):
        for process, child in children:
            assert child.request["process"] == process
            self.started.append(self.now_s)
            self.now_s += self.took_s[min(process, len(self.took_s) - 1)]
            reply = {"environment": ENVIRONMENT, "raw": self.raw[process]}
            yield process, self.replies.get(process) or Outcome(reply)

    def calibrate(self, budget=600.0, **more):
        return calibrate(Settings(budget=budget), run=self.run, now=self.now, **more)


@pytest.fixture(scope="module", autouse=True)
def few_replays():
    """Fewer draws than a certificate of a machine has: each certificate here is made in a second, and made again to verify it."""
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(room, "REPLAYS", 30)
        yield


@pytest.fixture(scope="module")
def document(few_replays):
    raw = made_up(processes=12, rounds=100, layout=0.001)
    return make_certificate(raw, Settings(), ENVIRONMENT, elapsed_s=99.5, command="humar-bench calibrate")


# The budget


@pytest.mark.parametrize(("budget", "took", "processes"), [(600, 14.0, 42), (600, 39.0, 15), (60, 9.0, 5), (60, 25.9, 2)])
def test_as_many_processes_as_the_budget_has_room_for_analysis_included(budget, took, processes):
    time = VirtualTime(took)
    made = time.calibrate(budget)
    assert len(time.started) == made["results"]["processes"] == processes
    assert time.now_s - 100 + room.ANALYSIS_S <= budget < (processes + 1) * took + room.ANALYSIS_S


def test_a_budget_of_600_s_on_a_slow_machine_holds_at_least_15_processes():
    start_s = 20.0  # torch imported from a cold disk, warm-up of five arms
    time = VirtualTime(start_s + len(ARMS) * Settings(budget=600).arm_s)
    assert time.calibrate(600)["results"]["processes"] >= 15


def test_processes_that_get_slower_overrun_the_budget_by_one_process_at_most():
    time = VirtualTime(10.0, 10.0, 10.0, 45.0)
    time.calibrate(60)
    assert len(time.started) == 4
    assert time.started[-1] - 100 < 60


def test_the_first_process_always_runs_and_one_is_not_enough():
    time = VirtualTime(500.0)
    with pytest.raises(MeasurementError, match="1 processes fitted into 30 s and a comparison needs 2; give a longer --budget"):
        time.calibrate(30)


def test_a_slow_start_is_forgotten_after_five_processes():
    clock = Clock(600, now=lambda: 0.0)
    clock.took_s = [590.0, 10, 10, 10, 10]
    assert not Clock.another(clock) or clock.elapsed_s + 590 + room.ANALYSIS_S <= 600
    clock.took_s.append(10)
    assert clock.another()


@pytest.mark.parametrize(("budget", "arm_s"), [(600, 1.5), (60, 0.8), (195, 1.4), (3600, 1.5)])
def test_a_short_budget_makes_shorter_processes(budget, arm_s):
    assert Settings(budget=budget).arm_s == pytest.approx(arm_s)
    assert Settings(budget=budget).request(3)["plan"]["budget_s"] == pytest.approx(arm_s)


def test_every_process_has_orders_of_its_own():
    plans = [Settings(seed=1).request(process)["plan"] for process in (0, 1)]
    assert plans[0].pop("seed") != plans[1].pop("seed")
    assert plans[0] == plans[1]


@pytest.mark.parametrize(("wrong", "sentence"), [
    ({"budget": 29.0}, "budget is 29; it must be at least 30"), ({"threads": 0}, "threads is 0"), ({"device": "tpu"}, "device is 'tpu'"),
    ({"budget": float("nan")}, "budget is nan"), ({"seed": -1}, "seed is -1"),
])
def test_wrong_settings_are_refused(wrong, sentence):
    with pytest.raises(UsageError, match=sentence):
        Settings(**wrong)


# Processes that fail


def test_a_process_that_fails_is_named_and_the_others_count():
    crash = Outcome(None, "crash", "process 1 crashed its process with SIGSEGV.")
    time, events = VirtualTime(20.0, replies={1: crash}), []
    made = time.calibrate(120, progress=events.append)
    assert [each["process"] for each in made["raw"]] == [0, 2, 3, 4]
    assert made["failures"] == [crash.reason] == [event["reason"] for event in events if event["reason"]]
    assert [round(event["share"], 2) for event in events] == [0.17, 0.33, 0.5, 0.67, 0.83]
    assert "failed: process 1 crashed its process with SIGSEGV." in conditions(made)


def test_three_failures_end_it_with_the_last_reason():
    wrong = {process: Outcome({"environment": {}, "error": f"the stack 10{process} is wrong."}) for process in (0, 1, 2)}
    time = VirtualTime(1.0, replies=wrong)
    with pytest.raises(MeasurementError, match="3 processes failed; the last one: the stack 102 is wrong"):
        time.calibrate()
    assert len(time.started) == 3


def test_a_device_that_is_not_there_is_an_error_at_once():
    time = VirtualTime(1.0, replies={0: Outcome({"usage_error": "device is 'cuda' and there is none."})})
    with pytest.raises(UsageError, match="there is none"):
        time.calibrate()


def test_raw_data_are_on_disk_before_the_next_process_begins(tmp_path):
    path, time = tmp_path / "raw.jsonl", VirtualTime(20.0)
    seen = []
    time.calibrate(120, sink=RawWriter(path), progress=lambda event: seen.append(len(path.read_text().splitlines())))
    assert seen == [1, 2, 3, 4, 5]
    assert [json.loads(line)["process"] for line in path.read_text().splitlines()] == [0, 1, 2, 3, 4]
    assert json.loads(path.read_text().splitlines()[2])["took_s"] == 20.0


def test_raw_data_that_cannot_be_written_are_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written: .*; name another output folder"):
        RawWriter(tmp_path / "file" / "raw.jsonl")
    with pytest.raises(UsageError, match="is a device, and what is appended to one is lost"):
        RawWriter(os.devnull)


def test_a_calibration_whose_folder_is_meddled_with_stops_and_keeps_what_it_has(tmp_path):
    time, folder = VirtualTime(20.0), tmp_path / "run"
    sink = RawWriter(folder / "raw.jsonl")
    made = time.calibrate(120, sink=sink, progress=lambda event: event["process"] == 2 and folder.rename(tmp_path / "other"))
    assert len(time.started) == 4 == made["results"]["processes"] and made["failures"] == [str(sink.lost)]
    assert "was removed or renamed while the run went on" in str(sink.lost) and sink.lost.kept == tmp_path / "other" / "raw.jsonl"
    assert len(sink.lost.kept.read_text().splitlines()) == 4
    sink = RawWriter(folder / "raw.jsonl")
    (folder / "raw.jsonl").unlink()
    with pytest.raises(OutputLost):  # one process is no calibration
        VirtualTime(20.0).calibrate(120, sink=sink)


def test_a_calibration_that_lost_its_folder_is_shown_and_ends_with_1(tmp_path, capsys, monkeypatch):
    def meddled(settings, sink, **more):
        for process in made_up(processes=3, rounds=9)[:2]:
            sink(process)
        (tmp_path / "run" / "raw.jsonl").unlink()
        with contextlib.suppress(OutputLost):
            sink(made_up(processes=3, rounds=9)[2])
        return make_certificate(made_up(processes=3, rounds=9), settings, ENVIRONMENT, failures=[str(sink.lost)])

    monkeypatch.setattr(room, "calibrate", meddled)
    assert cli.main(["calibrate", "-o", str(tmp_path / "run"), "--json", str(tmp_path / "all.json")]) == 1
    printed = capsys.readouterr()
    assert "False alarms" in printed.out and "all that was measured is in " in printed.err and (tmp_path / "all.json").exists()
    assert not (tmp_path / "run" / "certificate.json").exists()


# The certificate


def test_a_certificate_that_was_written_is_verified_in_one_piece_and_beside_its_raw_data(document, tmp_path):
    path = tmp_path / "one.json"
    path.write_text(written(document))
    assert verify_certificate(path) == document
    beside = write_calibration(document, tmp_path)
    assert verify_certificate(tmp_path / "certificate.json") == beside
    assert cite(beside) == beside["sha256"][:12] != cite(document)
    assert len((tmp_path / "raw.jsonl").read_text().splitlines()) == 12
    assert (tmp_path / "calibration.md").read_text() == calibration_markdown(beside)


def test_any_changed_byte_is_found(document, tmp_path):
    content, path, draw = written(document).encode(), tmp_path / "certificate.json", random.Random(0)
    places = [draw.randrange(len(content)) for _ in range(60)] + [0, len(content) - 1, content.index(b'"sha256": "') + 12]
    for place in places:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(HumarBenchError):
            verify_certificate(path, again=False)
    path.write_bytes(content)
    verify_certificate(path, again=False)


def test_a_blank_more_is_found_although_json_means_the_same(document, tmp_path):
    path = tmp_path / "certificate.json"
    path.write_text(written(document) + " ")
    with pytest.raises(InvalidMeasurement, match="not spelled as it was written"):
        verify_certificate(path)


def test_a_result_that_was_improved_and_stamped_anew_is_found_because_results_are_made_again(document, tmp_path):
    better = json.loads(json.dumps(document))
    better["results"]["false_alarms"][0]["resampled_rate"] += 0.25
    path = tmp_path / "certificate.json"
    path.write_text(written(stamped(better)))
    with pytest.raises(InvalidMeasurement, match=r"results\.false_alarms\[0\]\.resampled_rate is 0.25 and should be 0.0"):
        verify_certificate(path)
    assert verify_certificate(path, again=False)["sha256"] == stamp(better)


def test_raw_data_beside_that_were_changed_or_are_gone_are_found(document, tmp_path):
    write_calibration(document, tmp_path)
    raw = tmp_path / "raw.jsonl"
    content = raw.read_bytes()
    raw.write_bytes(content.replace(b"1", b"2", 1))
    with pytest.raises(InvalidMeasurement, match="raw.jsonl was changed"):
        verify_certificate(tmp_path / "certificate.json")
    raw.unlink()
    with pytest.raises(UsageError, match="raw data .* cannot be read"):
        verify_certificate(tmp_path / "certificate.json")


@pytest.mark.parametrize(("content", "error", "sentence"), [
    ("{", InvalidMeasurement, "is no JSON"), ("[]", UsageError, "is no calibration certificate"),
    ('{"kind": "humar-bench calibration", "format": 99}', UsageError, "has format 99; this version reads 1"),
])
def test_what_is_no_certificate_is_said_in_a_sentence(content, error, sentence, tmp_path):
    path = tmp_path / "certificate.json"
    path.write_text(content)
    with pytest.raises(error, match=sentence):
        verify_certificate(path)
    with pytest.raises(UsageError, match="cannot be read"):
        verify_certificate(tmp_path / "none.json")


def test_verify_proves_a_calibrations_folder_and_any_changed_byte_of_any_file_ends_with_5(tmp_path, capsys):
    cited = cite(write_calibration(make_certificate(made_up(processes=3, rounds=9), Settings(), ENVIRONMENT), tmp_path))
    (tmp_path / "notes.txt").write_text("mine")
    assert cli.main(["verify", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("proved: ") and f"of 3 files made again from 3 processes of certificate {cited}.\n" in said
    draw = random.Random(1)
    for name in ("certificate.json", "raw.jsonl", "calibration.md"):
        path = tmp_path / name
        content = path.read_bytes()
        for place in [0, len(content) - 1, *(draw.randrange(len(content)) for _ in range(1 if name.endswith(".md") else 20))]:
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            assert cli.main(["verify", str(tmp_path)]) == 5
            assert capsys.readouterr().out.startswith("certificate.json: " if name != "calibration.md" else "calibration.md, ")
        path.write_bytes(content)
    (tmp_path / "calibration.md").rename(tmp_path / "old.md")
    assert [str(each) for each in verify(tmp_path).differences] == [
        "calibration.md: it is missing; put the file back.", "old.md: no record accounts for this file; take it out of the folder."
    ]


def test_a_certificate_with_a_number_too_large_or_a_part_that_is_gone_is_no_proof(document, tmp_path):
    path = tmp_path / "certificate.json"
    path.write_text(written(document).replace('"elapsed_s": 99.5', '"elapsed_s": 1e999'))
    with pytest.raises(InvalidMeasurement, match="holds the number 1e999, which no double can hold"):
        verify_certificate(path)
    path.write_text(written(stamped({key: value for key, value in document.items() if key != "settings"})))
    [difference] = verify(tmp_path).differences
    assert str(difference) == "certificate.json: it cannot be read: KeyError: 'settings'."


def test_the_stamp_covers_everything_but_itself_and_not_the_order_of_keys(document):
    assert stamp({**document, "sha256": "other"}) == document["sha256"]
    assert stamp(dict(reversed(document.items()))) == document["sha256"]
    assert stamp({**document, "command": "another"}) != document["sha256"]


def test_numbers_that_differ_in_the_last_digit_are_the_same_result():
    assert difference({"a": [0.1 + 0.2, 1]}, {"a": [0.3, 1]}) == ""
    assert difference({"a": [0.1, 1]}, {"a": [0.1, 2]}) == ".a[1] is 1 and should be 2"
    assert difference({"a": 1}, {"b": 1}).startswith(" is {'a': 1} and should be {'b': 1}")
    assert difference([0.1], [0.1001]) == "[0] is 0.1 and should be 0.1001"


def test_the_certificate_says_how_it_was_made(document):
    settings = document["settings"]
    assert (settings["alpha"], settings["margin"], settings["arms"]) == (0.005, 0.02, ARMS)
    assert document["environment"] == ENVIRONMENT and document["format"] == 1
    cuda = make_certificate(made_up(processes=3, rounds=9), Settings(device="auto"), {"device": "cuda:1"})
    assert cuda["settings"]["margin"] == 0.01


# Citing it

HERE = {**ENVIRONMENT, "load_1min": 7.0, "threads": 2, "commit": "def"}


def test_a_certificate_of_this_machine_is_cited_with_its_bound_and_the_smallest_effect_found(document, tmp_path):
    beside = write_calibration(document, tmp_path)
    for place in (tmp_path, tmp_path / "certificate.json"):
        cited = cited_here(place, HERE)
    assert cited == json.loads(json.dumps(cited)) == citation(beside)
    results = document["results"]
    alarms = [row for row in results["false_alarms"] if row["metric"] == "wall_ns"]
    wall = cited["by"]["wall_s"]
    assert cited["cited"] == cite(beside) and cited["threads"] == 1 and sorted(cited["by"]) == ["cpu_s", "wall_s"]
    assert wall["of"] == max(row["independent"] for row in alarms) == 2 and wall["alarms"] == 0
    assert wall["at_most"] == pytest.approx(1 - 0.05 ** (1 / 2)) and wall["effect"] == results["smallest_found"]["wall_ns"]
    assert wall["found"] >= 0.9 and wall["processes"] == results["comparison_processes"]


@pytest.mark.parametrize(("fact", "value"), [("cores", 4), ("torch", "2.14"), ("device_label", "another CPU")])
def test_a_certificate_of_another_machine_or_version_is_refused(document, tmp_path, fact, value):
    write_calibration(document, tmp_path)
    with pytest.raises(UsageError, match=f"was made with {fact} {ENVIRONMENT[fact]} and {value} is measured with here; humar-bench"):
        cited_here(tmp_path, {**HERE, fact: value})


def test_a_certificate_that_decides_otherwise_was_changed_or_speaks_against_the_machine_is_refused(document, tmp_path):
    path = tmp_path / "certificate.json"
    path.write_text(written(stamped({**document, "settings": {**document["settings"], "alpha": 0.05}})))
    with pytest.raises(UsageError, match="made with level 0.05 and 0.005 is measured with here"):
        cited_here(path, HERE)
    path.write_text(written({**document, "elapsed_s": 1.0}))
    with pytest.raises(InvalidMeasurement, match="was changed"):
        cited_here(path, HERE)
    worse = json.loads(json.dumps(document))
    worse["results"]["sizes"][0]["verdict"] = "slower"
    path.write_text(written(stamped(worse)))
    with pytest.raises(InvalidMeasurement, match="tells identical stacks apart"):
        cited_here(path, HERE)


def test_where_no_planted_effect_was_found_none_is_cited(document):
    blind = json.loads(json.dumps(document))
    blind["results"]["smallest_found"] = {"cpu_ns": None, "wall_ns": None}
    assert citation(blind)["by"]["cpu_s"]["effect"] is citation(blind)["by"]["cpu_s"]["found"] is None


# Tables


def test_the_tables_hold_the_certificates_numbers(document):
    tables = {table.name: table for table in calibration_tables(document)}
    assert list(tables) == ["false_alarms", "effects", "power", "rules_cpu_ns", "rules_wall_ns"]
    results = document["results"]
    for row, cells in zip(results["false_alarms"], tables["false_alarms"].cells(), strict=True):
        assert cells[1:5] == [f"{row['processes']}", f"{row['independent']}", "0", f"{100 * row['independent_bound']:.1f}"]
    for row, cells in zip(results["sizes"], tables["effects"].cells(), strict=True):
        assert cells[2] == f"{100 * row['recovered']:.2f}"
    rules = tables["rules_cpu_ns"].cells()
    mine, fps = rules[:2]
    assert mine[1] == "humar-bench" and len(rules) == 11
    row = next(row for row in results["rules"] if row["rule"] == fps[0])
    assert fps[3] == f"{100 * row['alarm_rate']:.1f}" and fps[5] == f"{100 * row['right 101']:.0f} / {100 * row['wrong 101']:.0f}"
    assert any("reuse the same 12 processes" in note for note in tables["false_alarms"].notes)


def test_the_markdown_cites_the_certificate_and_names_the_smallest_effect(document):
    text = calibration_markdown(document)
    assert f"certificate {document['sha256'][:12]}," in text
    assert document["results"]["smallest_found"]["wall_ns"] == pytest.approx(0.02)
    assert "; wall time: +2 %" in text
    assert "## Decision rules on the same data: wall time" in text


# The command


def test_the_command_writes_a_certificate_that_verifies(monkeypatch, capsys, tmp_path, document):
    asked = []

    def measured(settings, *, sink, progress, command):
        asked.append((settings, command))
        for process in document["raw"]:
            sink(process)
        return document

    monkeypatch.setattr(room, "calibrate", measured)
    out, single = tmp_path / "out", tmp_path / "one.json"
    assert cli.main(["calibrate", "--budget", "45", "--threads", "2", "-o", str(out), "--json", str(single)]) == 0
    said = capsys.readouterr().out
    assert asked[0][0] == Settings(budget=45, threads=2) and "--threads 2" in asked[0][1]
    assert "False alarms" in said and f"certificate {cite(verify_certificate(out / 'certificate.json'))}" in said
    assert verify_certificate(single) == document
    assert cli.main(["calibrate", "-o", str(out)]) == 2
    assert "already holds" in capsys.readouterr().err
    assert len(asked) == 1


def test_formats_on_standard_output_have_it_to_themselves(monkeypatch, capsys, document):
    monkeypatch.setattr(room, "calibrate", lambda settings, **more: document)
    assert cli.main(["calibrate", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == document
    assert cli.main(["calibrate", "--markdown", "-"]) == 0
    assert capsys.readouterr().out == calibration_markdown(document)


def test_a_machine_that_tells_identical_stacks_apart_ends_with_exit_code_5(monkeypatch, capsys):
    effect = {"100": 0, "100 again": 0.1, "101": 0.01, "102": 0.02, "104": 0.04}
    made = make_certificate(made_up(processes=8, rounds=15, effect=effect), Settings(), ENVIRONMENT)
    monkeypatch.setattr(room, "calibrate", lambda settings, **more: made)
    assert cli.main(["calibrate", "-q"]) == 5
    assert "tells identical stacks apart" in capsys.readouterr().err


# A real child


def test_a_real_child_times_its_stacks_in_shuffled_order_and_says_where():
    arms = {"3": 3, "3 again": 3, "4": 4}
    request = {**Settings().request(5), "arms": arms}
    request["plan"] |= {"budget_s": 0.05, "min_runs": 4, "warmup_window_s": 0.01}
    children = [
        (device, Child({**request, "device": device}, timeout_s=120, hear=lambda event: None,
                       command=child_command("humar_bench.studies.calibrate.worker"))) for device in ("cpu", "cuda:99")
    ]
    outcomes = dict(run_children(iter(children), at_once=2))
    raw, environment = outcomes["cpu"].reply["raw"], outcomes["cpu"].reply["environment"]
    assert sorted(raw["order"]) == sorted(arms) and raw["process"] == 5
    assert environment["threads"] == 1 and environment["device"] == "cpu"
    for arm in raw["arms"].values():
        assert len(arm["wall_ns"]) == len(arm["cpu_ns"]) == len(arm["preempted"]) == len(raw["arms"]["3"]["wall_ns"]) >= 4
        assert all(isinstance(each, int) and each > 0 for each in arm["wall_ns"])
    assert "cuda" in outcomes["cuda:99"].reply["usage_error"]

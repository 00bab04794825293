"""Records survive a round trip, a kill and a full disk, and never hold a number that is none."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from humar_bench.args import ModelArgs, RunArgs, Workload
from humar_bench.errors import MeasurementError, UsageError
from humar_bench.records.record import RECORDS_NAME, Record, Run, load, plain
from humar_bench.records.writer import RecordWriter


def a_record(architecture="original", measure="params", **changes) -> Record:
    values = dict(
        measure=measure, architecture=architecture, spec=architecture, foreign=False, asked=dataclasses.asdict(ModelArgs()),
        workload=dataclasses.asdict(Workload.tiny()), run=dataclasses.asdict(RunArgs()), measured={"total": 27343636},
        environment={"torch": "2"}, command="humar-bench params",
    )
    return Record(**{**values, **changes})


def a_failure(**changes) -> Record:
    return a_record(**{"status": "failed", "kind": "timeout", "reason": "It took longer than 1 s.", "measured": None, **changes})


def test_a_record_comes_back_from_its_line_unchanged():
    record = a_record(measured={"wall_s": [0.1, 1 / 3, 5e-324], "name": "Ä\nb"})
    assert "\n" not in record.to_json()
    assert Record.from_json(record.to_json()) == record


def test_a_record_names_its_format_time_and_content():
    record = a_record()
    assert json.loads(record.to_json())["format"] == 1
    assert record.time.endswith("+00:00") and record.id == record.digest
    assert a_record(measured={"total": 1}, time=record.time).id != record.id
    assert dataclasses.replace(record, measured={"total": 1}).digest != record.id


def test_numbers_that_are_not_finite_are_never_written_as_numbers():
    record = a_record(measured={"a": math.nan, "b": [1.0, math.inf], "c": {"d": -math.inf}})
    assert record.measured == {"a": None, "b": [1.0, None], "c": {"d": None}}
    assert "NaN" not in record.to_json() and "Infinity" not in record.to_json()
    with pytest.raises(ValueError, match="NaN"):
        Record.from_json(record.to_json().replace("null", "NaN", 1))


def test_an_object_without_a_json_form_is_refused():
    with pytest.raises(TypeError, match="a object cannot be stored"):
        plain({"model": object()})


def test_a_failed_record_has_a_kind_and_no_values_and_an_ok_record_the_reverse():
    assert not a_failure().ok and a_record().ok
    for wrong in ({"status": "failed"}, {"kind": "crash"}, {"measured": None}, {"status": "failed", "kind": "crash"}):
        with pytest.raises(ValueError, match="status"):
            a_record(**wrong)
    for wrong in ({"measure": "speed"}, {"status": "fine"}, {"kind": "bad luck"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            a_record(**wrong)


def test_what_is_written_is_loaded_in_order_from_the_file_and_from_its_folder(tmp_path):
    records = [a_record(), a_record("efficient"), a_failure(measure="fps", process=2)]
    with RecordWriter(tmp_path / "new" / RECORDS_NAME) as writer:
        for record in records:
            writer.write(record)
            assert load(writer.path).records[-1] == record  # on disk before write returns
    assert load(tmp_path / "new").records == load(tmp_path / "new" / RECORDS_NAME).records == tuple(records)


def test_a_run_selects_by_measure_architecture_status_and_process():
    run = Run((a_record(), a_record("efficient"), a_record(measure="fps", process=1), a_failure(measure="fps", process=2)))
    assert len(run.select(measure="params")) == 2
    assert [each.architecture for each in run.select(measure="params", architecture="efficient")] == ["efficient"]
    assert [each.process for each in run.select(measure="fps", status="ok")] == [1]
    assert run.failed.records == (run[3],) == run.select(process=2).records
    assert run.architectures == ("original", "efficient")
    assert len(run.plus([a_record()])) == 5


def test_a_torn_last_line_is_left_out_with_a_note_and_removed_by_the_next_writer(tmp_path):
    path, first, second = tmp_path / RECORDS_NAME, a_record(), a_record("efficient")
    whole = first.to_json().encode() + b"\n"
    line = second.to_json().encode()
    for cut in (1, 20, len(line) // 2, len(line) - 1):
        path.write_bytes(whole + line[:cut])
        run = load(path)
        assert run.records == (first,) and "line 2 was cut short" in run.notes[0]
        with RecordWriter(path) as writer:
            writer.write(second)
        assert load(path) == Run((first, second))


def test_a_whole_last_line_without_its_end_is_kept(tmp_path):
    path, first, second = tmp_path / RECORDS_NAME, a_record(), a_record("efficient")
    path.write_bytes(first.to_json().encode())
    assert load(path).records == (first,)
    with RecordWriter(path) as writer:
        writer.write(second)
    assert load(path).records == (first, second)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "column"),
        ("[1]", "it holds a list, not an object"),
        ('{"format": 2}', "its format is 2; this version reads format 1"),
        ('{"format": 1}', "it lacks 'measure'"),
        ("plain text", "column 1"),
    ],
)
def test_any_other_bad_line_is_an_error_that_names_it(tmp_path, line, said):
    path = tmp_path / RECORDS_NAME
    path.write_text(a_record().to_json() + "\n" + line + "\n" + a_record().to_json() + "\n")
    with pytest.raises(UsageError, match="line 2 is not a record") as error:
        load(path)
    assert said in str(error.value)


def test_fields_of_the_wrong_kind_unknown_fields_and_bytes_that_are_no_text_are_bad_lines(tmp_path):
    path = tmp_path / RECORDS_NAME
    for change, said in (({"asked": 3}, "asked is not an object"), ({"extra": 1}, "'extra' is unknown"), ({"measured": 2}, "measured is")):
        path.write_text(json.dumps({**json.loads(a_record().to_json()), **change}) + "\n")
        with pytest.raises(UsageError, match=said):
            load(path)
    path.write_bytes(b"\xff\n")
    with pytest.raises(UsageError, match="line 1 .* byte 0 is not UTF-8"):
        load(path)


def test_a_missing_file_and_an_unwritable_folder_are_one_sentence(tmp_path):
    with pytest.raises(UsageError, match="does not exist; name a run's folder"):
        load(tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written: .*; name another output folder"):
        RecordWriter(tmp_path / "file" / RECORDS_NAME)


def test_a_second_writer_on_the_same_file_is_refused(tmp_path):
    with RecordWriter(tmp_path / RECORDS_NAME), pytest.raises(UsageError, match="written by another humar-bench"):
        RecordWriter(tmp_path / RECORDS_NAME)
    RecordWriter(tmp_path / RECORDS_NAME).close()


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    said = "No space left on device; the records before it are kept"
    with RecordWriter(tmp_path / RECORDS_NAME) as writer:
        monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(MeasurementError, match=said):
            writer.write(a_record())
    assert (tmp_path / RECORDS_NAME).read_bytes() == b""


@pytest.mark.parametrize("kind", ["pipe", "socket", os.devnull, "/dev/zero"])
def test_what_is_no_regular_file_takes_no_records(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to(kind)
    if kind == "pipe":
        os.mkfifo(kind)
    listening = socket.socket(socket.AF_UNIX)
    with contextlib.closing(listening):
        listening.bind("socket")
        for path in (kind, "link"):
            with pytest.raises(UsageError, match=f"{path} is a (pipe|socket|device), and what is appended to one is lost; name a file."):
                RecordWriter(path)


def test_a_half_written_record_is_taken_back_when_the_disk_fills_up(tmp_path, monkeypatch):
    real = os.write

    def fills_up(file, data):
        if len(data) < 100:
            raise OSError(28, "No space left on device")
        return real(file, bytes(data)[: len(data) // 2])

    with RecordWriter(tmp_path / RECORDS_NAME) as writer:
        writer.write(a_record())
        monkeypatch.setattr(os, "write", fills_up)
        with pytest.raises(MeasurementError, match="No space left"):
            writer.write(a_record("efficient"))
        monkeypatch.undo()
        writer.write(a_record("third"))
    assert load(tmp_path) == Run(load(tmp_path).records) and load(tmp_path).architectures == ("original", "third")


def test_reading_and_writing_records_does_not_import_torch():
    code = "import sys, humar_bench.records.record; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_last_record_of_a_measurement_replaces_the_earlier_ones():
    first, other = a_failure(measure="fps", process=1), a_record(measure="fps", process=2)
    again = a_record(measure="fps", process=1)
    assert first.key == again.key != other.key
    assert Run((first, other, again)).latest().records == (other, again)


def test_two_records_are_of_the_same_measurement_when_all_it_depends_on_is_the_same():
    run = dataclasses.asdict(RunArgs())
    assert a_record(run={**run, "budget": 1.0, "timeout": 3.0}).key == a_record().key
    assert a_record(measure="fps", run={**run, "timeout": 3.0}).key == a_record(measure="fps").key
    for changes in (
        {"run": {**run, "dtype": "float16"}}, {"asked": dataclasses.asdict(ModelArgs(enc_layers=1))}, {"spec": "a.b:c"}, {"process": 1},
        {"workload": dataclasses.asdict(Workload.tiny(batch=1))}, {"architecture": "efficient"}, {"measure": "flops"},
    ):
        assert a_record(**changes).key != a_record().key
    assert a_record(measure="fps", run={**run, "budget": 1.0}).key != a_record(measure="fps").key


def test_a_record_from_before_an_argument_was_there_is_of_what_was_done_then():
    asked = dataclasses.asdict(ModelArgs(efficient_look_mlp=False, efficient_instance_iterations=0))
    now = a_record("efficient", spec="efficient", asked=asked)
    fields = ("efficient_sample_heads", "efficient_look_mlp", "efficient_instance_iterations", "efficient_sample_points",
              "efficient_across_tokens", "efficient_decoder_mlp_ratio", "efficient_rank", "efficient_decoder", "efficient_skeleton_hops",
              "efficient_window", "efficient_exit_below")
    earlier = a_record("efficient", spec="efficient", asked={name: value for name, value in asked.items() if name not in fields})
    assert earlier.key == now.key != a_record("efficient", spec="efficient", asked=asked | {"efficient_sample_heads": 8}).key


def test_a_record_from_before_the_encoder_sampled_is_one_without_samples():
    asked = dataclasses.asdict(ModelArgs())
    without, now = (a_record("efficient", spec="efficient", asked=asked | {"efficient_encoder_samples": on}) for on in (False, True))
    earlier = {name: value for name, value in asked.items() if name != "efficient_encoder_samples"}
    assert a_record("efficient", spec="efficient", asked=earlier).key == without.key != now.key


def test_a_training_from_before_what_was_trained_ahead_could_be_slowed_is_one_in_which_it_was_not():
    earlier, now, slowed = (a_record(workload={"optim": {"lr": 5e-4, **more}}) for more in (
        {}, {"front_end_share": 1.0}, {"front_end_share": 0.1},
    ))
    assert earlier.key == now.key != slowed.key
    assert a_record(workload={"optim": [1]}).key != now.key


@pytest.mark.parametrize("spec", ["original", "original-fused", "humar_bench.studies.accuracy.rings:ring_0_17"])
def test_another_default_of_the_replacement_is_no_other_measurement_of_the_original(spec):
    asked = dataclasses.asdict(ModelArgs())
    plain, other = (a_record(spec=spec, asked=each) for each in (asked, asked | {"efficient_cross_tokens": "all"}))
    assert plain.key == other.key != a_record(spec=spec, asked=asked | {"enc_n_points": 2}).key
    assert a_record(spec="a.b:c", asked=asked).key != a_record(spec="a.b:c", asked=asked | {"efficient_cross_tokens": "all"}).key


def test_records_written_together_are_there_together_or_not_at_all(tmp_path, monkeypatch):
    real, both = os.write, [a_record(), a_record("efficient")]
    with RecordWriter(tmp_path / RECORDS_NAME) as writer:
        calls = []
        monkeypatch.setattr(os, "write", lambda file, data: calls.append(1) or real(file, data))
        writer.write(*both)
        assert len(calls) == 1  # a kill between two writes would leave one without the other
        first = len(both[0].to_json().encode()) + 1

        def fills_up(file, data):
            if len(data) < first:
                raise OSError(28, "No space left on device")
            return real(file, bytes(data)[: first + 10])

        monkeypatch.setattr(os, "write", fills_up)
        with pytest.raises(MeasurementError, match="the params record of original and efficient could not be written"):
            writer.write(*both)
    assert load(tmp_path).records == tuple(both)


def test_each_record_is_flushed_to_the_disk_itself(tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(os, "fsync", lambda file: sizes.append(os.fstat(file).st_size))
    with RecordWriter(tmp_path / RECORDS_NAME) as writer:
        del sizes[:]
        writer.write(a_record())
        writer.write(a_record("efficient"))
    lines = (tmp_path / RECORDS_NAME).read_bytes().splitlines(keepends=True)
    assert sizes == [len(lines[0]), len(lines[0]) + len(lines[1])]


def test_a_record_from_before_backends_is_the_same_measurement_as_an_eager_one():
    new = a_record(measure="fps", run=dataclasses.asdict(RunArgs()))
    old = a_record(measure="fps", run={name: value for name, value in dataclasses.asdict(RunArgs()).items() if name != "backend"})
    other = a_record(measure="fps", run=dataclasses.asdict(RunArgs(backend="compile")))
    assert old.key == new.key != other.key and old.asked_run("backend") == "eager"
    counted = [a_record(measure="params", run=dataclasses.asdict(RunArgs(backend=name))).key for name in ("eager", "compile")]
    assert counted[0] == counted[1]

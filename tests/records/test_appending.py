"""A file that a run appends to: nothing of somebody else's is cut, and whatever happens to it while the run goes on is noticed."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from humar_bench.errors import MeasurementError, UsageError
from humar_bench.records.appending import Appender, OutputLost
from humar_bench.records.record import BEGINS, RECORDS_NAME, is_torn, load, records_in
from humar_bench.records.writer import RecordWriter
from tests.golden.records import fps, params

ONE, TWO, THREE = params("original"), params("efficient"), fps("original", 0)
LINE = ONE.to_json().encode() + b"\n"

# What is no records file, or not to its end: none of it may change by a byte.
NOT_OURS = {
    "a note": b"note", "a note with an end": b"note\n", "two lines": b"one\ntwo", "JSON": b'{"a": 1}', "JSON cut short": b'{"a": 1',
    "a brace": b"{", "a list": b"[1, 2]\n", "a blank line first": b"\n" + LINE, "bytes": bytes(range(256)), "zeros": b"\0" * 50,
    "half a beginning": BEGINS[:-3], "another format": LINE.replace(b'"format": 1', b'"format": 2'),
    "another format without its end": LINE.replace(b'"format": 1', b'"format": 2')[:-1],
    "a note after records": LINE + b"note", "a note between records": LINE + b"note\n" + LINE,
    "JSON after records": LINE + b'{"measure": "x"}',
    "a record cut short with an end": LINE[:-100] + b"\n", "large": b"x" * 10_000_000,
}


@pytest.mark.parametrize("content", NOT_OURS.values(), ids=NOT_OURS)
@pytest.mark.parametrize("through", ["its name", "a link", "a hard link"])
def test_a_file_that_is_none_of_records_is_refused_and_left_as_it_is(tmp_path, content, through):
    path = named = tmp_path / "note.txt"
    path.write_bytes(content)
    if through != "its name":
        named = tmp_path / "other"
        (named.symlink_to if through == "a link" else named.hardlink_to)(path)
    before = path.stat()
    with pytest.raises(UsageError, match="(is no records file, its first line is|line [12] is not a record).*it is left as it is") as error:
        RecordWriter(named)
    assert len(str(error.value)) < 400 and path.read_bytes() == content and path.stat().st_mtime_ns == before.st_mtime_ns


def test_the_first_line_of_what_is_refused_is_shown_with_its_control_characters_escaped(tmp_path):
    (tmp_path / "a").write_bytes(b"\x1b]52;c;bad\x07 " + b"long " * 100 + b"\nmore")
    with pytest.raises(UsageError, match=r"its first line is '\\x1b\]52;c;bad\\x07 long .*\.\.\.'; it is left") as error:
        RecordWriter(tmp_path / "a")
    assert "\x1b" not in str(error.value) and "more" not in str(error.value)


def test_a_record_torn_anywhere_is_cut_and_nothing_before_it(tmp_path):
    path, last = tmp_path / RECORDS_NAME, TWO.to_json().encode()
    for cut in (*range(1, 30), len(last) // 2, len(last) - 1):
        for zeros in (0, 7):
            path.write_bytes(LINE + last[:cut] + b"\0" * zeros)
            assert "was cut short" in load(path).notes[0]
            with RecordWriter(path):
                assert path.read_bytes() == LINE
    for cut in (len(BEGINS), len(LINE) - 2):  # the very first record
        path.write_bytes(LINE[:cut])
        RecordWriter(path).close()
        assert path.read_bytes() == b""
    assert not is_torn(b"", alone=True) and is_torn(b"", alone=False)  # what is left of zeros


def test_reading_takes_no_note_for_a_torn_record(tmp_path):
    for name in ("a note", "JSON cut short", "a note after records"):
        (tmp_path / "a").write_bytes(NOT_OURS[name])
        with pytest.raises(UsageError, match="line [12] is not a record"):
            load(tmp_path / "a")


# While a run goes on ----------------------------------------------------------------------------------------------------------------


def removed(folder: Path) -> None:
    (folder / RECORDS_NAME).unlink()


def folder_removed(folder: Path) -> None:
    shutil.rmtree(folder)


def renamed(folder: Path) -> None:
    (folder / RECORDS_NAME).rename(folder / "elsewhere.jsonl")


def folder_renamed(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def replaced(folder: Path) -> None:
    (folder / "new").write_bytes(LINE)
    (folder / "new").rename(folder / RECORDS_NAME)


def folder_replaced(folder: Path) -> None:
    folder_renamed(folder)
    folder.mkdir()
    (folder / RECORDS_NAME).write_bytes(LINE)


def truncated(folder: Path) -> None:
    os.truncate(folder / RECORDS_NAME, 10)


def emptied(folder: Path) -> None:
    (folder / RECORDS_NAME).write_bytes(b"")


def written_into(folder: Path) -> None:
    with open(folder / RECORDS_NAME, "ab") as file:
        file.write(b"mine\n")


HAPPENS = {
    removed: "was removed or renamed", folder_removed: "was removed or renamed", renamed: "was removed or renamed",
    folder_renamed: "was removed or renamed", replaced: "was replaced by another file", folder_replaced: "was replaced by another file",
    truncated: "was cut", emptied: "was cut", written_into: "was written into by something else",
}


@pytest.mark.parametrize("happen", HAPPENS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("when", ["before a write", "at the end", "in a resumed run"])
def test_whatever_happens_to_the_file_is_noticed_and_everything_is_kept(tmp_path, happen, when):
    folder = tmp_path / "run"
    expected = [ONE] if when == "at the end" else [ONE, TWO]
    if when == "in a resumed run":
        expected.insert(0, THREE)
        with RecordWriter(folder / RECORDS_NAME) as writer:
            writer.write(THREE)
    said = f"{HAPPENS[happen]}.* while the run went on"
    with pytest.raises(OutputLost, match=said) as error, RecordWriter(folder / RECORDS_NAME) as writer:
        writer.write(ONE)
        happen(folder)
        if when != "at the end":
            writer.write(TWO)
            pytest.fail("nothing was noticed right after the next write")
    lost = error.value
    assert lost.exit_code == 1 and str(lost.kept) in str(lost)
    assert records_in(lost.content).records == tuple(expected) == load(lost.kept).records


@pytest.mark.parametrize("error", [MeasurementError, UsageError])
def test_a_run_that_fails_because_its_folder_is_gone_says_that(tmp_path, error):
    said = "was removed or renamed.*all that was measured is in.* The run had failed: search.journal cannot be written"
    with pytest.raises(OutputLost, match=said) as found, RecordWriter(tmp_path / "run") as writer:
        writer.write(ONE)
        folder_renamed(tmp_path / "run")
        raise error("search.journal cannot be written: No such file or directory")
    assert load(found.value.kept).records == (ONE,)
    with pytest.raises(error, match="something else"), RecordWriter(tmp_path / "other") as writer:
        raise error("something else")


def test_where_nothing_was_measured_no_empty_file_is_left(tmp_path):
    with pytest.raises(OutputLost, match="nothing had been measured.$") as error, RecordWriter(tmp_path / "run" / RECORDS_NAME):
        folder_removed(tmp_path / "run")
    assert error.value.kept is None and not list(tmp_path.iterdir()) and not records_in(error.value.content).records


def test_a_folder_that_cannot_be_written_into_sends_the_copy_to_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    real = open

    def no_room(path, *more, **named):
        if Path(str(path)).parent == tmp_path / "run":
            raise OSError(28, "No space left on device")
        return real(path, *more, **named)

    with pytest.raises(OutputLost) as error, RecordWriter(tmp_path / "run" / RECORDS_NAME) as writer:
        writer.write(ONE)
        truncated(tmp_path / "run")
        monkeypatch.setattr("builtins.open", no_room)
    assert error.value.kept.parent == tmp_path / "tmp" and load(error.value.kept).records == (ONE,)


def test_where_nothing_can_be_written_the_content_is_still_there(tmp_path, monkeypatch):
    with pytest.raises(OutputLost, match="all that was measured could be written nowhere else") as error, RecordWriter(tmp_path) as writer:
        writer.write(ONE)
        removed(tmp_path)
        monkeypatch.setattr(Appender, "_copied", lambda self: None)
    assert records_in(error.value.content).records == (ONE,)


def test_a_file_that_is_left_alone_is_not_lost(tmp_path):
    with RecordWriter(tmp_path) as writer:
        writer.write(ONE)
        os.utime(tmp_path / RECORDS_NAME)
        (tmp_path / "beside").write_text("x")
        (tmp_path / "link").symlink_to(tmp_path / RECORDS_NAME)
        writer.write(TWO)
    assert load(tmp_path).records == (ONE, TWO)


@pytest.mark.skipif(sys.platform != "linux", reason="needs the kernel's limit on file sizes")
def test_an_error_of_the_run_itself_is_not_hidden_by_a_lost_file(tmp_path):
    with pytest.raises(MeasurementError, match="was removed.* The run had failed: the child$"), RecordWriter(tmp_path) as writer:
        writer.write(ONE)
        removed(tmp_path)
        raise MeasurementError("the child")

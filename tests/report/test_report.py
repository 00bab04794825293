"""One set of rows, several writers: what each writes is held against golden files."""

from __future__ import annotations

import csv
import io
import json
import os

import pytest

from humar_bench.errors import EXIT_FAILED, HumarBenchError, UsageError
from humar_bench.records.record import Run, load
from humar_bench.records.writer import RecordWriter
from humar_bench.report import (
    check_folder,
    check_writable,
    make_console,
    print_comparison,
    print_table,
    to_csv,
    to_json,
    to_markdown,
    write_report,
    write_text,
)
from humar_bench.report.comparison import compare
from humar_bench.table import Column, Table
from tests.golden import check_golden
from tests.golden.records import COMPONENTS, FLOPS, component_time, failed, flops, fps, made_up_run, memory, params


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def screen(run: Run, width: int | None = None, stream: io.StringIO | None = None) -> str:
    stream = stream or io.StringIO()
    print_comparison(compare(run), make_console(stream, width=width))
    return stream.getvalue()


def lines(text: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def broken_run() -> Run:
    return Run((
        params("original"), failed("params", "theirs", "error", "the builder of theirs raised ValueError: no."), flops("original"),
        flops("theirs", uncounted=("their::op",), checks=False), *(fps("original", process) for process in range(5)),
        failed("fps", "theirs", "not finite", "theirs returned hs_pose[0] with 3 of 9 numbers NaN or infinite."),
        component_time("original"), failed("component_time", "theirs", "error", "theirs raised ValueError: no."), memory("original"),
        failed("memory", "theirs", "out of memory", "torch could not allocate 9 GiB."),
    ))


@pytest.mark.parametrize(("name", "run", "width"), [
    ("terminal.txt", made_up_run(), None), ("terminal-80.txt", made_up_run(), 80), ("terminal-failed.txt", broken_run(), None),
    ("terminal-three.txt", made_up_run("original", "efficient", "theirs"), 100),
    ("terminal-six.txt", made_up_run("original", "original-fused", "efficient", "efficient-fused", "theirs", "a"), 120),
])
def test_the_screen_is_as_it_was(name, run, width):
    text = screen(run, width)
    assert all(len(line) <= (width or 160) for line in text.splitlines())
    check_golden(name, lines(text))


def test_the_last_screen_is_as_it_was():
    stream = io.StringIO()
    print_comparison(compare(made_up_run()), make_console(stream, width=80), details=False, folder="results/local/20260102-030405")
    check_golden("terminal-summary.txt", lines(stream.getvalue()))


def test_markdown_is_as_it_was():
    check_golden("report.md", to_markdown(compare(made_up_run())))
    check_golden("report-failed.md", to_markdown(compare(broken_run())))


@pytest.mark.parametrize("measure", ["params", "flops", "fps", "component_time", "memory"])
def test_csv_is_as_it_was(measure):
    check_golden(f"{measure}.csv", to_csv(compare(made_up_run()).data[measure]))
    check_golden(f"{measure}-failed.csv", to_csv(compare(broken_run()).data[measure]))


def test_csv_is_one_header_row_and_rows_of_its_length():
    for data in compare(broken_run()).data.values():
        rows = list(csv.reader(io.StringIO(to_csv(data))))
        assert len({len(row) for row in rows}) == 1 and len(set(rows[0])) == len(rows[0])


def test_csv_components_add_up_to_the_total():
    rows = list(csv.DictReader(io.StringIO(to_csv(compare(made_up_run()).data["params"]))))
    for name in COMPONENTS:
        *parts, total = [int(row[name]) for row in rows if row[name]]
        assert sum(parts) == total == sum(COMPONENTS[name].values())


def test_csv_keeps_every_digit():
    columns = (Column("a"), Column("b", digits=1, scale=10), Column("c"), Column("d"))
    text = to_csv(Table("t", "t", columns, ({"a": 0.1 + 0.2, "b": 12345678901234567890, "c": None, "d": 'x, "y"'},)))
    assert text == 'a,b,c,d\n0.30000000000000004,12345678901234567890,,"x, ""y"""\n'


def test_json_holds_the_raw_numbers_of_each_architecture():
    document = json.loads(to_json(compare(made_up_run())))
    assert document["flops"]["original"]["matmul_flops"] == sum(FLOPS["original"].values())
    assert document["flops"]["efficient"]["uncounted"] == []
    assert {"components", "operators"} <= document["flops"]["efficient"].keys()
    assert document["fps"]["efficient"]["verdict"] == "faster" and len(document["fps"]["efficient"]["records"]) == 5
    assert document["params"]["original"]["status"] == "ok"
    assert document["reference"] == "original" and document["asked"]["enc_layers"] == 6


def test_json_of_a_failure_says_so():
    document = json.loads(to_json(compare(broken_run())))
    assert document["params"]["theirs"] == {"status": "failed", "reason": "the builder of theirs raised ValueError: no."}
    assert len(document["failures"]) == 4


def test_names_that_look_like_markup_stay_text():
    run = Run((params("[red]a|b[/red]"), params("*<b>*")))
    assert "[red]a|b[/red]" in screen(run)
    markdown = to_markdown(compare(run))
    assert "[red]a\\|b[/red]" in markdown and "\\*&lt;b>\\*" in markdown
    assert all(line.count("|") - line.count("\\|") == 8 for line in markdown.splitlines() if line.startswith("| [red]"))


def test_colour_is_only_for_a_terminal_without_no_color(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" not in screen(made_up_run())
    assert not make_console(io.StringIO()).is_terminal
    assert "\x1b[32m5.81x fewer" in screen(made_up_run(), 120, Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in screen(made_up_run(), 120, Terminal())


def test_a_screen_that_knows_only_ascii_gets_ascii():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print_table(compare(made_up_run()).tables[0], make_console(stream))
    stream.flush()
    assert b"5.81x fewer" in stream.buffer.getvalue()


def test_a_report_is_made_again_from_its_records_byte_for_byte(tmp_path):
    with RecordWriter(tmp_path / "records.jsonl") as writer:
        for record in made_up_run():
            writer.write(record)
    first = {path.name: path.read_bytes() for path in write_report(load(tmp_path), tmp_path)}
    assert set(first) == {"params.csv", "flops.csv", "fps.csv", "component_time.csv", "memory.csv", "report.md"}
    for path in write_report(load(tmp_path), tmp_path):
        assert path.read_bytes() == first[path.name]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*first, "records.jsonl"])


def test_a_file_that_can_be_written_is_left_as_it_was(tmp_path):
    (tmp_path / "old.csv").write_text("old")
    check_writable(tmp_path / "new.csv", "--csv")
    check_writable(tmp_path / "old.csv", "--csv")
    assert [path.name for path in tmp_path.iterdir()] == ["old.csv"] and (tmp_path / "old.csv").read_text() == "old"


@pytest.mark.parametrize(("path", "why"), [
    ("missing/x.csv", "No such file or directory"), (".", "it is a folder"), ("file/x.csv", "Not a directory"),
])
def test_a_path_that_cannot_be_written_is_refused_before_anything_runs(tmp_path, path, why):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=f"--csv .* cannot be written: {why}; name a file that can."):
        check_writable(tmp_path / path, "--csv")


def test_a_folder_is_made_where_it_is_missing_and_refused_where_a_file_stands(tmp_path):
    assert check_folder(tmp_path / "a" / "b", "-o").is_dir()
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="-o .*file' cannot be written into: File exists; name a folder that can."):
        check_folder(tmp_path / "file", "-o")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "x.csv").write_text("old")
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(HumarBenchError, match="x.csv could not be written: No space left on device; make room") as refused:
        write_text(tmp_path / "x.csv", "new")
    assert refused.value.exit_code == EXIT_FAILED
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"] and (tmp_path / "x.csv").read_text() == "old"


def test_a_link_is_followed_and_stays_a_link(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"

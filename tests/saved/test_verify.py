"""A report is proved from its records; whatever is changed in it is found and named."""

from __future__ import annotations

import csv
import io
import json
import random
import subprocess
import sys

import pytest

from humar_bench import cli
from humar_bench.errors import UsageError
from humar_bench.records.record import RECORDS_NAME, Run
from humar_bench.records.writer import RecordWriter
from humar_bench.report import write_report
from humar_bench.saved.verify import Difference, compare_file, verify
from humar_bench.studies.calibrate import equal_pairs
from tests.golden.records import failed, flops, fps, made_up, made_up_run, memory, params


def a_run() -> Run:
    """Three architectures, a failure, cells with bars, quotes and commas; every record its own time, as in a real run."""
    records = [
        *made_up_run("original", "efficient", 'a|"b", *c*'),
        failed("memory", "theirs", "out of memory", 'torch could not allocate 9 GiB, it said "no" | and \\ again.'),
        failed("params", "theirs"),
    ]
    stamped = [
        made_up(
            each.measure, each.architecture, each.measured, process=each.process, status=each.status, kind=each.kind, reason=each.reason,
            time=f"2026-01-02T03:04:05.{number:06d}+00:00",
        )
        for number, each in enumerate(records)
    ]
    return Run(tuple(stamped))


def write(folder, run=None, reference=None):
    run = run or a_run()
    with RecordWriter(folder / RECORDS_NAME) as writer:
        for record in run:
            writer.write(record)
    write_report(run, folder, reference)
    return folder


@pytest.fixture(params=[25, pytest.param(100, marks=pytest.mark.slow)])
def mutations(request) -> int:
    """How many things are changed, one at a time; each of them has to be found."""
    return request.param


@pytest.fixture
def report(tmp_path):
    return write(tmp_path)


def found(folder) -> list[tuple[str, str, str]]:
    return [(each.file, each.row, each.column) for each in verify(folder).differences]


def test_a_workload_that_has_other_sizes_by_now_is_proved_with_the_sizes_it_was_measured_with(tmp_path):
    old = [[100, 134], [50, 67], [25, 34], [13, 17]]  # what `uniphd` was before it was 480x640
    run = Run(tuple(made_up(each.measure, each.architecture, each.measured, process=each.process,
                            workload={**each.workload, "name": "uniphd", "batch": 2, "feature_sizes": old}) for each in made_up_run()))
    folder = write(tmp_path, run)
    assert verify(folder).proved and "Workload uniphd: batch 2, 20 queries, feature maps 100x134, 50x67, 25x34, 13x17." in (
        folder / "report.md"
    ).read_text()


@pytest.mark.parametrize("reference", [None, "original", "efficient", 'a|"b", *c*', "theirs"])
def test_a_report_is_proved_whatever_its_reference(tmp_path, reference):
    proof = verify(write(tmp_path, reference=reference))
    assert proof.proved and proof.reference == (reference or "original") and proof.records == len(a_run())
    assert proof.files == ("params.csv", "flops.csv", "fps.csv", "component_time.csv", "memory.csv", "report.md")
    rows = [list(csv.reader(io.StringIO((tmp_path / name).read_text()))) for name in proof.files[:-1]]
    assert proof.cells > sum(len(row) for each in rows for row in each)


def changed(cell: str, chance: random.Random) -> str:
    """The cell with something else in it: a digit, a sign, a blank, nothing, a neighbour's character."""
    ways = [
        cell + "0", cell + " ", "-" + cell, "", cell[:-1], cell[::-1], cell.replace(".", ","), cell.upper(), cell.replace("1", "7"),
        cell + "\u00e4", "0", "nan", cell[: len(cell) // 2] + chance.choice("0123456789") + cell[len(cell) // 2 + 1 :],
    ]
    return chance.choice([each for each in ways if each != cell and "\n" not in each and " | " not in f" {each} "])


def csv_mutations(folder, chance):
    for path in sorted(folder.glob("*.csv")):
        rows = list(csv.reader(io.StringIO(path.read_text())))
        for row in range(len(rows)):
            for column in range(len(rows[0])):
                def mutate(path=path, row=row, column=column):
                    rows = list(csv.reader(io.StringIO(path.read_text())))
                    heading = rows[0][column]
                    rows[row][column] = changed(rows[row][column], chance)
                    text = io.StringIO()
                    csv.writer(text, lineterminator="\n").writerows(rows)
                    path.write_text(text.getvalue())
                    return path, row + 1, heading
                yield mutate


def markdown_mutations(folder, chance):
    path = folder / "report.md"
    lines = path.read_text().split("\n")
    for number, line in enumerate(lines):
        if not line.startswith("| ") or line.startswith("| ---"):
            continue
        top = number
        while lines[top - 1].startswith("| "):
            top -= 1
        headings = lines[top][2:-2].split(" | ")
        for column, heading in enumerate(headings):
            def mutate(number=number, column=column, heading=heading):
                lines = path.read_text().split("\n")
                cells = lines[number][2:-2].split(" | ")
                cells[column] = changed(cells[column], chance)
                lines[number] = f"| {' | '.join(cells)} |"
                path.write_text("\n".join(lines))
                return path, number + 1, heading
            yield mutate


@pytest.mark.parametrize("make", [csv_mutations, markdown_mutations])
def test_every_changed_cell_is_found_and_named(report, make, mutations):
    chance = random.Random(20260102)
    every = list(make(report, chance))
    assert len(every) >= mutations
    for mutate in chance.sample(every, mutations):
        before = {path: path.read_bytes() for path in report.iterdir()}
        path, row, heading = mutate()
        assert path.read_bytes() != before[path]
        [difference] = verify(report).differences
        assert (difference.file, difference.column) == (path.name, heading)
        assert difference.row == f"row {row}" or difference.row.startswith(f"row {row} (")
        assert difference.was != difference.should_be and difference.should_be in before[path].decode().replace('""', '"')
        path.write_bytes(before[path])
    assert verify(report).proved


def test_every_changed_byte_in_any_table_is_found(report, mutations):
    chance = random.Random(7)
    paths = sorted(path for path in report.iterdir() if path.name != RECORDS_NAME)
    for _ in range(mutations):
        path = chance.choice(paths)
        before = path.read_bytes()
        place = chance.randrange(len(before))
        other = chance.choice([b"", b"\r", b"\xff", b"9,", b'"', bytes([before[place] ^ 1])])
        path.write_bytes(before[:place] + other + before[place + 1 :])
        if path.read_bytes() != before:
            assert {each.file for each in verify(report).differences} == {path.name}
        path.write_bytes(before)
    assert verify(report).proved


def leaves(value, place=()):
    if isinstance(value, dict):
        for key, each in value.items():
            yield from leaves(each, (*place, key))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from leaves(each, (*place, index))
    else:
        yield place


def test_every_changed_raw_value_is_found_and_its_record_is_named(report, mutations):
    """Also where no table depends on the value: the record's id is a digest of the rest."""
    chance = random.Random(3)
    path = report / RECORDS_NAME
    content = path.read_text()
    lines = content.splitlines()
    for _ in range(mutations):
        number = chance.randrange(len(lines))
        values = json.loads(lines[number])
        place = chance.choice([each for each in leaves(values) if each != ("format",)])
        inside = values
        for key in place[:-1]:
            inside = inside[key]
        old = inside[place[-1]]
        inside[place[-1]] = {bool: not old, int: (old or 0) + 1 if not isinstance(old, str) else 0, float: 1.1 * (old or 1)
                             if isinstance(old, (int, float)) else 0.0, str: f"{old}x", type(None): 1}[type(old)]
        path.write_text("\n".join([*lines[:number], json.dumps(values), *lines[number + 1 :]]) + "\n")
        damage = [each for each in verify(report).differences if each.file == RECORDS_NAME]
        assert any(each.row.startswith(f"line {number + 1}") for each in damage), place
    path.write_text(content)
    assert verify(report).proved


def test_every_changed_byte_in_the_records_is_found(report, mutations):
    chance = random.Random(5)
    path = report / RECORDS_NAME
    content = path.read_bytes()
    for _ in range(mutations):
        place = chance.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ chance.choice([1, 2, 4, 16])]) + content[place + 1 :])
        assert not verify(report).proved, place
    path.write_bytes(content)
    assert verify(report).proved


def test_a_record_that_stands_twice_is_taken_out_or_is_cut_short_is_named(report):
    path = report / RECORDS_NAME
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[2]]))
    assert "it is the record of line 3 a second time" in str(verify(report).differences[0])
    path.write_text("".join(lines[1:]))
    assert ("params.csv" in {each.file for each in verify(report).differences})
    path.write_text("".join(lines)[:-20])
    assert "it was cut short" in str(verify(report).differences[0])
    path.write_text(f"{lines[0]}nonsense\n{lines[1]}")
    assert str(verify(report).differences[0]).startswith("records.jsonl, line 2: it is not a record: ")
    path.write_text("nonsense\n")
    assert [str(each).partition(": ")[2] for each in verify(report).differences][1] == "it holds no record; nothing can be proved."
    path.write_text("".join(lines).replace('", "', '","', 1))
    assert [each.said for each in verify(report).differences] == ["the line was written anew by something else; its values are the same."]


def test_files_that_are_missing_or_that_no_record_accounts_for_are_named(report):
    (report / "fps.csv").rename(report / "old.csv")
    (report / "notes.txt").write_text("mine")
    assert [str(each) for each in verify(report).differences] == [
        "fps.csv: it is missing; humar-bench report --resume makes the tables again.",
        "old.csv: no record accounts for this file; take it out of the folder.",
    ]


def test_rows_that_are_missing_or_added_are_named_and_the_others_are_not(report):
    path = report / "params.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2] + lines[3:] + ["one,more\n"]))
    said = [str(each) for each in verify(report).differences]
    assert len(said) == 2 and "row 3: it is missing" in said[0] and "no record accounts for it: 'one,more'" in said[1]


def test_other_line_ends_and_quoting_are_found_though_every_cell_reads_the_same(report):
    path = report / "params.csv"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\n", b"\r\n"))
    assert found(report) == [("params.csv", "line 1", "")]
    path.write_bytes(content.replace(b"component", b'"component"', 1))
    assert found(report) == [("params.csv", "line 1", "")]
    path.write_bytes(content[:-1])
    assert found(report) == [("params.csv", "its end", "")]


def test_a_text_line_of_the_markdown_is_named_by_its_number(report):
    path = report / "report.md"
    path.write_text(path.read_text().replace("2 of 2 cores", "2 of 64 cores"))
    [difference] = verify(report).differences
    assert difference.row.startswith("line ") and difference.column == "" and "64 cores" in difference.was


def test_what_was_measured_again_replaces_what_had_failed(tmp_path):
    run = Run((params("original"), failed("params", "efficient"), params("efficient"), flops("original"), flops("efficient")))
    assert verify(write(tmp_path, run)).proved
    assert "failed" not in (tmp_path / "params.csv").read_text()


def test_records_that_no_table_can_be_made_from_are_said_to_be_so(tmp_path):
    write(tmp_path, Run((fps("original", 0), fps("efficient", 0), memory("original"))))
    path = tmp_path / RECORDS_NAME
    path.write_text(path.read_text().replace('"wall_s": [', '"wall_s": ["x", ', 1))
    said = [str(each) for each in verify(tmp_path).differences]
    assert len(said) == 2 and "was changed after it was measured" in said[0] and "no tables can be made from these records" in said[1]


def test_a_folder_without_records_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read: No such file or directory; name the folder"):
        verify(tmp_path / "nothing")


def test_a_difference_shortens_long_cells_and_names_its_place():
    long = Difference("a.csv", "row 2 ('x')", "b", "1" * 100, "2")
    assert str(long) == f"a.csv, row 2 ('x'), column b: '{'1' * 57}...', should be '2'"


def test_a_file_that_is_no_csv_at_all_is_a_difference(tmp_path):
    (tmp_path / "a.csv").write_text('"' + "x" * 200_000)
    assert compare_file(tmp_path / "a.csv", "a,b\n1,2\n")[0].said.startswith("it is not CSV: field larger")


def test_verify_on_the_command_line_ends_with_0_or_names_all_and_ends_with_5(report, capsys):
    assert cli.main(["verify", str(report)]) == 0
    assert capsys.readouterr().out.startswith("proved: ")
    (report / "fps.csv").write_text((report / "fps.csv").read_text().replace("faster", "slower", 1))
    assert cli.main(["verify", str(report)]) == 5
    printed = capsys.readouterr()
    assert "fps.csv, row 3 ('efficient'), column verdict: 'slower', should be 'faster'\n" in printed.out
    assert printed.err.startswith("humar-bench: not proved: 1 difference") and printed.err.count("\n") == 1
    assert cli.main(["verify", str(report / "nothing")]) == 2


def test_verifying_does_not_import_torch():
    code = "import sys, humar_bench.saved.verify; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_comparisons_of_an_architecture_with_itself_prove_their_page(tmp_path):
    row = dict.fromkeys(equal_pairs.COLUMNS, "1.0") | {"verdict": "undecided", "machine": "a CPU"}
    lines = [",".join(equal_pairs.COLUMNS), *[",".join(row.values())] * 3]
    (tmp_path / equal_pairs.NAME).write_text("\n".join(lines) + "\n")
    page = tmp_path / equal_pairs.PAGE
    page.write_text(equal_pairs.summary(equal_pairs.read_rows(tmp_path)))
    proof = verify(tmp_path)
    assert proof.proved and proof.said.endswith("made again from 3 comparisons")
    page.write_text(page.read_text().replace("0 of 3", "1 of 3"))
    assert not verify(tmp_path).proved

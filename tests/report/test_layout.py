"""Tables on narrow screens: nothing wider than the screen, no word broken, ratios apart where they do not fit beside the values."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest

from humar_bench.records.record import AGAIN, Run, load
from humar_bench.report import make_console, print_comparison, print_table
from humar_bench.report.comparison import compare
from humar_bench.report.layout import laid_out, least, natural, total
from humar_bench.report.study import read_study
from humar_bench.studies import MAKERS
from humar_bench.table import SUMMARY, Column, Table
from tests.golden.records import failed, fps, made_up_run, memory, params

SIX = ("original", "original-fused", "efficient", "efficient-fused", "theirs-with-a-name", "six")
STRANGERS = (  # as people call them
    "resnet18", "mobilenet_v3_large", "EfficientNetB0", "convnext-tiny", "nets:Net(64, depth=2)", "my-own-network-wide", "regnet_y_400mf",
    "torchmodels.vision.vit:build_small", "DeiT", "x",
)
RESULTS = Path(__file__).resolve().parents[2] / "results"


def printed(table: Table, width: int) -> list[str]:
    stream = io.StringIO()
    print_table(table, make_console(stream, width=width))
    return stream.getvalue().splitlines()


def words(table: Table) -> set[str]:
    """But that of the corner, which a table on its side has no place for."""
    texts = [column.heading for column in table.columns[1:]] + [cell for row in table.cells() for cell in row]
    return {word for text in texts for word in text.split()}


@pytest.mark.parametrize("names", [
    SIX[:2], SIX[:3], SIX, (*SIX, *(f"another{index}" for index in range(6))), STRANGERS[:6], STRANGERS,
], ids=lambda names: f"{len(names)} from {names[0]}")
def test_no_table_is_wider_than_the_screen_and_no_word_is_broken(names):
    for table in compare(made_up_run(*names), all_operators=True).tables:
        for width in (72, 80, 100, 120, 160):
            lines = printed(table, width)
            assert max(map(len, lines)) <= width, table.name
            shown = {word for line in lines for word in line.split()}
            assert words(table) <= shown, (table.name, width, words(table) - shown)


def test_a_table_that_fits_is_left_as_it_is():
    table = compare(made_up_run()).tables[0]
    [sheet] = laid_out(table, total(natural(table)))
    assert sheet.table == table and list(sheet.widths) == natural(table)


def test_six_architectures_have_their_ratios_in_a_table_of_their_own():
    table = next(each for each in compare(made_up_run(*SIX)).tables if each.name == "params_components")
    values, ratios = [[column.key for column in sheet.table.columns] for sheet in laid_out(table, 120)]
    assert values == ["part", *(f"={name}" for name in SIX)] and ratios == ["part", *(f"~{name}" for name in SIX[1:])]
    assert len(laid_out(table, 60)) > 2  # a few at a time
    cells = {cell for sheet in laid_out(table, 60) for row in sheet.table.cells() for cell in row[1:] if cell}
    assert cells == {cell for row in table.cells() for cell in row[1:] if cell}


def test_what_is_said_of_a_row_beside_its_name_is_said_once():
    table = next(each for each in compare(made_up_run(*STRANGERS)).tables if each.name == "flops_second_tier")
    for width in (80, 120):
        first, *others = [[column.key for column in sheet.table.columns] for sheet in laid_out(table, width)]
        assert first[:2] == ["part", "rule"]
        assert len(others) > 1 and not any("rule" in keys for keys in others) and all(keys[0] == first[0] for keys in others)
        shown = {key for keys in (first, *others) for key in keys}
        assert shown == {column.key for column in table.columns}


def test_an_architectures_columns_stay_together():
    table = next(each for each in compare(made_up_run(*SIX)).tables if each.name == "component_time")
    sheets = laid_out(table, 120)
    assert len(sheets) == 2
    for sheet in sheets:
        assert {column.key[1:] for column in sheet.table.columns if column.key[0] == "="} == {
            column.key[1:] for column in sheet.table.columns if column.key[0] == "%"
        }


def test_headings_give_way_before_cells_and_cells_before_words():
    table = Table("t", "t", (Column("a", "some words in a heading", text=True), Column("b", "other")), ({"a": "two words", "b": 1},))
    assert [natural(table), least(table)] == [[23, 5], [7, 5]]
    assert [sheet.widths for sheet in laid_out(table, 30)] == [(22, 5)]
    assert [sheet.widths for sheet in laid_out(table, 17)] == [(9, 5)] and [sheet.widths for sheet in laid_out(table, 15)] == [(7, 5)]
    wordy = Table("t", "t", (Column("a", text=True), Column("b", "a heading that is long")), ({"a": "a cell of some words", "b": 1},))
    assert [sheet.widths for sheet in laid_out(wordy, 35)] == [(20, 12)]  # its own 21 of 20 + 3 + 21
    assert total(laid_out(table, 9)[0].widths) == 9  # too narrow for its words, and still no wider than the screen


@pytest.mark.parametrize("folder", [path.parent for path in sorted(RESULTS.glob("*/study.json"))], ids=lambda path: path.name)
def test_no_studys_table_breaks_a_word_on_a_screen_of_80(folder):
    for table in read_study(folder, load(folder), MAKERS).tables:
        lines = printed(table, 80)
        assert max(map(len, lines)) <= 80
        shown = {word for line in lines for word in line.split()}
        assert words(table) <= shown, (table.name, words(table) - shown)


def test_what_says_nothing_without_the_column_before_stays_with_it():
    columns = (Column("a", text=True), Column("one", "parameters"), Column("x1", "x"), Column("two", "operators"), Column("x2", "x"))
    sheets = laid_out(Table("t", "t", columns, ({"a": "row", "one": 1, "x1": 2, "two": 3, "x2": 4},)), 24)
    assert [[column.key for column in sheet.table.columns] for sheet in sheets] == [["a", "one", "x1"], ["a", "two", "x2"]]


# The last screen ------------------------------------------------------------------------------------------------------------------


def last_screen(run: Run, reference: str | None = None) -> list[str]:
    stream = io.StringIO()
    print_comparison(compare(run, reference), make_console(stream, width=80), details=False, folder="results/local/20260102-030405")
    return stream.getvalue().splitlines()


def an_undecided_run() -> Run:
    """The candidate as fast as the reference in some processes and not in others, and a control arm."""
    own = [fps(name, process) for process in range(5) for name in ("original", "theirs")]
    again = [dataclasses.replace(fps("original", process), architecture="original (again)", id="") for process in range(5)]
    for record in own[1::2]:
        record.measured["cpu_s"] = [(1 + record.process / 2) * each for each in record.measured["cpu_s"]]
    return Run((params("original"), params("theirs"), *own, *again, memory("original"), memory("theirs")))


def the_usual_two(run: Run) -> Run:
    """What a report measures unless it is asked for more."""
    return Run(tuple(each for each in run if each.architecture.removesuffix(AGAIN) in ("original", "efficient")), run.notes)


@pytest.mark.parametrize("run", [
    made_up_run(), made_up_run(processes=1), an_undecided_run(),
    *(the_usual_two(load(path.parent)) for path in sorted(RESULTS.glob("*/fps.csv"))),
])
def test_summary_and_verdicts_fit_24_lines_of_80_characters(run):
    lines = last_screen(run)
    assert len(lines) <= 23 and max(map(len, lines)) <= 80  # and a prompt below
    assert lines[0] == "Summary" and any(line.startswith("Workload ") for line in lines)
    assert any(line.startswith(("Control: original against itself", "No control arm")) for line in lines)
    assert lines[-1] == "Every table: results/local/20260102-030405/report.md, or --details."


def test_a_failure_is_on_the_last_screen_too():
    lines = last_screen(Run((params("original"), failed("params", "theirs"), memory("original"), memory("theirs"))))
    assert "params of theirs failed: crash: the process ended with signal 11." in lines


def test_with_details_the_summary_is_still_the_last_thing():
    stream = io.StringIO()
    print_comparison(compare(made_up_run()), make_console(stream, width=100))
    shown = stream.getvalue()
    assert shown.count("Summary") == 1 and shown.index("Made by: ") < shown.index("Summary") < shown.index("5.81x fewer", shown.index("Su"))
    assert shown.index("Memory of one forward") < shown.index("Summary")


def test_without_a_folder_the_summary_says_how_to_see_and_keep_the_rest():
    stream = io.StringIO()
    print_comparison(compare(made_up_run()), make_console(stream), details=False)
    assert stream.getvalue().splitlines()[-1] == "--details shows every table, -o DIR keeps them."


# Two references -------------------------------------------------------------------------------------------------------------------


def test_a_summary_holds_the_others_against_the_references_best_form_too():
    comparison = compare(made_up_run("original", "original-fused", "efficient"))
    summary = next(table for table in comparison.tables if table.name == SUMMARY)
    assert [column.heading for column in summary.columns[4:]] == [
        "original-fused against original", "efficient against original", "efficient against original-fused",
    ]
    speed = next(cells for cells in summary.cells() if cells[0] == "speed [images/s]")
    assert speed[4:] == ["1.80x faster", "3.00x faster", "1.67x faster"]
    assert comparison.best_speeds["efficient"].ratio == pytest.approx(0.5 / 0.3)
    lines = last_screen(comparison.run)
    assert any(line.startswith("efficient against original-fused: 1.67x faster; CPU time ratio 1.67x") for line in lines)
    assert not any(line.startswith("original against") for line in lines)


def test_only_the_published_reference_has_a_best_form():
    assert compare(made_up_run()).best == "" == compare(made_up_run("original", "original-fused"), "original-fused").best
    assert len(compare(made_up_run()).best_speeds) == 0

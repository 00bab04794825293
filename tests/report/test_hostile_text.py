"""Names, reasons and commands come from anybody: no writer passes on what a terminal, a spreadsheet or a Markdown reader would act on."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from types import SimpleNamespace

import pytest
from markdown_it import MarkdownIt

from humar_bench import cli
from humar_bench.records.record import Record, Run, json_text
from humar_bench.records.writer import RecordWriter
from humar_bench.report import make_console, print_comparison, to_csv, to_json, to_markdown, write_report
from humar_bench.report.comparison import compare, records_table
from humar_bench.report.data import harmless
from humar_bench.report.markdown import escape
from humar_bench.report.study import print_study, study_csv, study_json, study_markdown
from humar_bench.saved.verify import verify
from humar_bench.table import Column, Table, is_unseen, visible, well_formed
from tests.golden.records import failed, flops, fps, memory, params

HOSTILE = (
    "\x1b]52;c;aGFjaw==\x07", "\x1b[2Ja\x1b[31m", "\x9b2J", "\x00", "\x7f\x08", "\u202egnp.exe", "\u2066x\u2069", "a\nb", "a\r=1",
    "\u2028x", "\ud800", "\udcff tail", "x\u200b", "\U000e0041",
    "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\uff1d1", "x;=cmd|' /C calc'!A0", "x; -1+1",
    "![x](http://evil.example/p.png)", "[x](javascript:alert(1))", "[x]: http://evil.example", "[x][y]", "[x] (http://evil.example)",
    "<img src=x onerror=alert(1)>", "<script>", "<http://evil.example>", "www.evil.example", "https://evil.example", "me@evil.example",
    "&lt;b&gt;", "&#x3c;b&#x3e;", "$x$", "a|b", "\\", "\\![x](y)", "**bold**", "]( [", "!\\[x](y)",
)
READER = MarkdownIt("commonmark").enable("table")
FORMULA = tuple("=+-@\t\r\uff1d\uff0b\uff0d\uff20")


def hostile_run() -> Run:
    """Every hostile text as a name, as a reason and in a command."""
    records = []
    for text in HOSTILE:
        records += [params(text, command=f"humar-bench {text}"), failed("flops", text, reason=f"{text} raised {text}"), memory(text)]
        records += [fps(text, process) for process in range(2)] if text in HOSTILE[:3] else []  # judging takes time
    return Run((params("original"), flops("original"), fps("original", 0), fps("original", 1), memory("original"), *records))


@pytest.fixture(scope="module")
def hostile():
    return compare(hostile_run())


def unseen(text: str) -> set[str]:
    return {each for each in text if is_unseen(each)} - {"\n"}


def test_text_is_shown_with_escapes_and_plain_text_as_it_is():
    assert [visible(each) for each in ("\x1b[2J", "a\nb\t", "\u202e", "\ud800", "\x9b", "\U000e0041")] == [
        "\\x1b[2J", "a\\nb\\t", "\\u202e", "\\ud800", "\\x9b", "\\U000e0041"
    ]
    for text in ("plain", "na\u00efve caf\u00e9", "\u65e5\u672c\u8a9e", "\u00b5s \u00d7 \u2264", "\U0001f680", "a\u00a0b"):
        assert visible(text) == text


def test_no_writer_passes_on_what_a_screen_would_act_on(hostile):
    stream = io.StringIO()
    print_comparison(hostile, make_console(stream))
    texts = [stream.getvalue(), to_markdown(hostile), to_json(hostile), *(to_csv(table) for table in hostile.data.values())]
    study = SimpleNamespace(
        tables=hostile.tables, data=hostile.data, conditions=HOSTILE, document={text: text for text in HOSTILE}, name="x", run=hostile.run
    )
    stream = io.StringIO()
    print_study(study, make_console(stream))
    texts += [stream.getvalue(), study_markdown(study), study_csv(study), study_json(study)]
    for text in texts:
        assert unseen(text) == set() and "\\x1b]52;c;aGFjaw==\\x07" in text.replace("\\\\", "\\").replace("\\u00", "\\x")
        text.encode("utf-8")


def test_json_is_escaped_and_reads_back_the_same(hostile):
    assert {well_formed(each) for each in HOSTILE} < set(json.loads(to_json(hostile))["params"])
    document = {"a": [*HOSTILE, "caf\u00e9", -1.5, None], "\x9b": True}
    assert json_text(document) == json.dumps(document) or json.loads(json_text(document)) == document
    assert json_text({"a": "\u00e9", "b": [1, 2.5]}) == '{"a": "\u00e9", "b": [1, 2.5]}'


def test_a_record_of_any_text_is_one_line_that_reads_back_the_same():
    for text in HOSTILE:
        record = params(text, command=text)
        line = record.to_json()
        assert "\n" not in line and unseen(line) == set() and Record.from_json(line.encode("utf-8").decode()) == record


# Spreadsheets


def test_no_cell_and_no_heading_begins_a_formula(hostile):
    for table in hostile.data.values():
        for row in csv.reader(io.StringIO(to_csv(table))):
            for cell in row:
                assert not cell.startswith(FORMULA) and not re.search(r";\s*[=+@-]", cell), cell
    heads = Table("t", "t", tuple(Column(text) for text in HOSTILE), ())
    assert not [cell for cell in next(csv.reader(io.StringIO(to_csv(heads)))) if cell.lstrip().startswith(FORMULA)]


def test_numbers_stay_numbers_also_negative_ones():
    row = {"a": -1.5, "b": -3, "c": 1e-9, "d": True, "e": None, "f": "-1.5", "g": "plain, quoted"}
    table = Table("t", "t", tuple(map(Column, row)), (row,))
    assert to_csv(table) == "a,b,c,d,e,f,g\n-1.5,-3,1e-09,true,,'-1.5,\"plain, quoted\"\n"
    assert harmless("a - b = c; d") == "a - b = c; d" and harmless("x;=1") == "x;'=1" and harmless(" @a") == "' @a"


# Markdown


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("where", ["- {}\n", "## {}\n", "| a |\n| --- |\n| {} |\n", "- [M] x\n- {}\n", "| a [M] |\n| --- |\n| {} |\n"])
def test_markdown_shows_text_and_loads_or_links_nothing(text, where):
    made = READER.render(where.format(escape(text)))
    tags = set(re.findall(r"</?(\w+)", made))
    assert tags <= {"ul", "li", "h2", "table", "thead", "tbody", "tr", "th", "td"}, made
    shown = html.unescape(re.sub(r"<[^>]*>", "", made))
    assert " ".join(visible(text).split()) in " ".join(shown.split())


@pytest.mark.parametrize("text", HOSTILE)
def test_what_markdown_readers_make_links_of_by_themselves_is_broken(text):
    made = escape(text)
    assert not re.search(r"://|\bwww\.|\S@\S|!\[|\]\(|\]:", made.replace("&#64;", ""))


def test_own_sentences_are_left_as_they_are():
    for text in ("matmul and conv [GFLOP]", "2 of 2 cores, torch 2.13.0+cpu", "Xeon(R) CPU @ 2.20GHz (a & b)", "a: [across batch]"):
        assert escape(text) == text
    assert escape("a|b <c> *d* \\e") == "a\\|b &lt;c> \\*d\\* \\\\e"


# Reports and commands


def test_a_report_of_hostile_names_is_proved_and_each_file_is_harmless(tmp_path):
    run = hostile_run()
    with RecordWriter(tmp_path) as writer:
        writer.write(*run)
    write_report(run, tmp_path)
    assert verify(tmp_path).proved
    for path in tmp_path.iterdir():
        assert unseen(path.read_text(encoding="utf-8")) == set(), path


def test_what_commands_say_is_harmless(tmp_path, capsys):
    """verify, compare and an error sentence, of somebody else's records."""
    run = hostile_run()
    with RecordWriter(tmp_path) as writer:
        writer.write(*run)
    for argv in (["verify", str(tmp_path)], ["compare", str(tmp_path), str(tmp_path)], ["params", "--arch", "\x1b[2J\udcff=x"],
                 ["verify", "\x1b[2J\u202e\udcff"], ["params", "--csv", "\x1b[2J/x"], ["\x1b[2J"], ["params", "--\x1b[2J"]):
        cli.main(argv)
        printed = capsys.readouterr()
        assert unseen(printed.out) == unseen(printed.err) == set(), argv
        assert printed.out or printed.err


def test_the_rows_of_a_lost_study_are_harmless():
    stream = io.StringIO()
    from humar_bench.report import print_table

    print_table(records_table(hostile_run()), make_console(stream))
    assert unseen(stream.getvalue()) == set()


def test_a_plot_of_hostile_names_is_drawn(tmp_path):
    plot = pytest.importorskip("humar_bench.report.plot")
    pytest.importorskip("matplotlib")
    names = ("\x1b[2J", "$\\frac{1}{0}$", "a$b$c", "\ud800", "<b>&amp;", "x\x00y")
    series = tuple(plot.Series(name, name, (1.0, 2.0), (1.0, index + 2.0)) for index, name in enumerate(names))
    panel = plot.Panel("$x$\x07", "y$\\bad$", series)
    drawn = plot.Plot("t\x1b", "x$y$", (panel,), "n$o\\te$")
    for suffix in ("svg", "png"):
        plot.write_plot(drawn, str(tmp_path / f"x.{suffix}"))
    text = (tmp_path / "x.svg").read_text(encoding="utf-8")
    assert unseen(text) == set() and "a$b$c" in text
    assert unseen(plot.block_plot(drawn).plain) == set()

"""Proof of a report, a study or a calibration: every CSV and Markdown file made again from what was measured and held against what is
there, byte for byte.

A record's `id` is a digest of everything else in it, so a raw value that was changed by accident or by hand shows even where no table
depends on it. Whoever changes a record and makes its id anew is found out where its values no longer add up (`contradictions.py`), and not
otherwise. A calibration's certificate carries its own stamp, and every result in it is made again from its raw times. No torch, nothing is
written.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import difflib
import io
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from humar_bench import __version__
from humar_bench.errors import HumarBenchError, UsageError
from humar_bench.reading import read_bytes, read_lines
from humar_bench.records.audit import faults
from humar_bench.records.record import RECORDS_NAME, Record, Run, is_torn, load, records_path
from humar_bench.report import report_texts
from humar_bench.report.files import REPORT_NAME, encoded
from humar_bench.report.study import STUDY_NAME, read_study, study_texts
from humar_bench.studies import MAKERS
from humar_bench.studies.calibrate import equal_pairs
from humar_bench.studies.calibrate.calibrate import CERTIFICATE_NAME, MARKDOWN_NAME, RAW_NAME, cite, verify_certificate
from humar_bench.studies.calibrate.tables import calibration_markdown

CHECKED = (".csv", ".md")  # files of these kinds in a report's folder have to come from its records
MOST_REFERENCES = 3  # that are tried with all records
WIDEST = 60  # characters of a cell that a sentence shows
_UNREADABLE = (HumarBenchError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)  # of values that are none


@dataclass(frozen=True)
class Difference:
    """One place that is not what the records say. `row` and `column` are empty where a whole file or line is meant; `said` replaces the
    two values where a sentence tells more."""

    file: str
    row: str = ""
    column: str = ""
    was: str = ""
    should_be: str = ""
    said: str = ""
    torn: bool = False  # a last record that its writer did not finish

    def __str__(self) -> str:
        place = ", ".join(filter(None, (self.file, self.row, self.column and f"column {self.column}")))
        return f"{place}: {self.said or f'{_short(self.was)}, should be {_short(self.should_be)}'}"


@dataclass(frozen=True)
class Proof:
    """What `verify` found. Proved when there is no difference; `notes` say what may explain one. `records` counts what the tables were
    made again from, in a calibration its processes, and `certificate` is how that one is cited."""

    folder: str
    reference: str
    files: tuple[str, ...]
    cells: int
    records: int
    differences: tuple[Difference, ...]
    notes: tuple[str, ...] = ()
    certificate: str = ""
    kind: str = "records"

    @property
    def proved(self) -> bool:
        return not self.differences

    @property
    def said(self) -> str:
        """What was held against what, as a sentence without its end."""
        found = len(self.differences)
        counted = "" if self.proved else f"{found} difference{'s' if found > 1 else ''} in "
        against = f", reference {self.reference}" if self.reference else ""
        kind = f"processes of certificate {self.certificate}" if self.certificate else self.kind
        return f"{counted}{self.cells:,} cells and lines of {len(self.files)} files made again from {self.records} {kind}{against}"


def verify(directory: str | Path) -> Proof:
    """Hold a report's folder against its records, a calibration's against its certificate.

    The reference is not stored: of those that the files look most like, the one whose tables differ in the fewest places is meant, at once
    where most files are as they should be. Raises UsageError when there are no records and no certificate.
    """
    path = records_path(directory)
    folder = path.parent
    if path.name == RECORDS_NAME and not os.path.exists(path) and os.path.exists(folder / CERTIFICATE_NAME):
        return _hold_certificate(folder / CERTIFICATE_NAME)
    if path.name == RECORDS_NAME and not os.path.exists(path) and os.path.exists(folder / equal_pairs.NAME):
        return _hold_pairs(folder)
    return _hold_run(path, *read_records(path))


def _hold_run(path: Path, run: Run, damage: list[Difference]) -> Proof:
    """The tables beside a records file against what was read of it."""
    folder = path.parent
    if not len(run):
        return Proof(str(folder), "", (), 0, 0, (*damage, Difference(path.name, said="it holds no record; nothing can be proved.")))
    if os.path.exists(folder / STUDY_NAME):
        return _hold_study(folder, run, damage)
    best: Proof | None = None
    for reference in _likely_references(folder, run)[:MOST_REFERENCES]:
        proof = _hold(folder, run, reference, damage)
        if best is None or len(proof.differences) < len(best.differences):
            best = proof
        wrong = {difference.file for difference in proof.differences}
        if 2 * len(wrong.intersection(proof.files)) < len(proof.files):
            break
    return best


def _likely_references(folder: Path, run: Run) -> list[str]:
    """Every architecture, those first whose small tables, of it and one other, have the fewest cells that the folder's report lacks."""
    names = run.architectures
    if len(names) <= MOST_REFERENCES:
        return list(names or ("",))
    measure = next((each.measure for each in run if each.ok and each.architecture in names), run[0].measure)
    own = {name: run.select(measure=measure, architecture=name).records for name in names}
    with contextlib.suppress(OSError):
        there = _all_cells(read_bytes(folder / REPORT_NAME).decode("utf-8", errors="replace"))

        def missing(reference: str) -> float:
            other = names[0] if reference != names[0] else names[1]
            with contextlib.suppress(*_UNREADABLE):
                return len(_all_cells(report_texts(Run((*own[other], *own[reference])), reference)[REPORT_NAME]) - there)
            return math.inf

        return sorted(names, key=missing)
    return list(names)


def _all_cells(markdown: str) -> set[str]:
    return {cell for line in markdown.split("\n") for cell in _split(line)}


def _hold(folder: Path, run: Run, reference: str, damage: Sequence[Difference]) -> Proof:
    """The tables against one reference."""
    try:
        texts = report_texts(run, reference)
    except _UNREADABLE as error:
        said = f"no tables can be made from these records: {type(error).__name__}: {error}"
        texts, damage = {}, [*damage, Difference(RECORDS_NAME, said=said)]
    found = _held_files(folder, texts, "humar-bench report --resume makes the tables again")
    cells = sum(_cells(name, text) for name, text in texts.items())
    differences = (*damage, *found)
    return Proof(str(folder), reference, tuple(texts), cells, len(run), differences, _notes(run) if differences else ())


def _hold_study(folder: Path, run: Run, damage: Sequence[Difference]) -> Proof:
    """A study's tables against its settings and records."""
    try:
        texts = study_texts(read_study(folder, run, MAKERS))
    except _UNREADABLE as error:
        said = str(error) if isinstance(error, HumarBenchError) else f"no tables can be made from it: {type(error).__name__}: {error}"
        texts, damage = {}, [*damage, Difference(STUDY_NAME, said=said)]
    differences = (*damage, *_held_files(folder, texts, "make the study again"))
    cells = sum(_cells(name, text) for name, text in texts.items())
    return Proof(str(folder), "", tuple(texts), cells, len(run), differences, _notes(run) if differences else ())


def _held_files(folder: Path, texts: dict[str, str], remake: str) -> list[Difference]:
    """Every file against its text, and every other table in the folder."""
    found = [difference for name, text in texts.items() for difference in compare_file(folder / name, text, remake)]
    strays = [each.name for each in sorted(folder.iterdir()) if texts and each.suffix.lower() in CHECKED and each.name not in texts]
    return found + [Difference(name, said="no record accounts for this file; take it out of the folder.") for name in strays]


def _hold_certificate(path: Path) -> Proof:
    """The certificate against its stamp, its raw data and its results made again, and its tables against the certificate."""
    folder, files = path.parent, (CERTIFICATE_NAME, RAW_NAME, MARKDOWN_NAME)
    try:
        document = verify_certificate(path)
        text = calibration_markdown(document)
        processes = document["results"]["processes"]
    except _UNREADABLE as error:
        said = str(error) if isinstance(error, HumarBenchError) else f"it cannot be read: {type(error).__name__}: {error}."
        return Proof(str(folder), "", files, 0, 0, (Difference(path.name, said=said),))
    found = _held_files(folder, {MARKDOWN_NAME: text}, "put the file back")
    return Proof(str(folder), "", files, _cells(MARKDOWN_NAME, text), processes, tuple(found), (), cite(document))


def _hold_pairs(folder: Path) -> Proof:
    """The page of comparisons of an architecture with itself against their lines: all that is kept of them."""
    try:
        rows = equal_pairs.read_rows(folder)
        text = equal_pairs.summary(rows)
    except _UNREADABLE as error:
        said = f"no page can be made from it: {type(error).__name__}: {error}"
        return Proof(str(folder), "", (equal_pairs.PAGE,), 0, 0, (Difference(equal_pairs.NAME, said=said),))
    found = compare_file(folder / equal_pairs.PAGE, text, "make it again with benchmarks/equal_pairs.py")
    return Proof(str(folder), "", (equal_pairs.PAGE,), _cells(equal_pairs.PAGE, text), len(rows), tuple(found), kind="comparisons")


def _notes(run: Run) -> tuple[str, ...]:
    packages = [record.environment.get("packages") for record in run]
    found = {str(each.get("humar-bench", __version__)) for each in packages if isinstance(each, dict)}
    versions = found - {__version__}
    return tuple(
        f"measured with humar-bench {version}, and this is {__version__}: its tables may look different." for version in sorted(versions)
    )


# Records --------------------------------------------------------------------------------------------------------------------------


def read_audited(path: str | Path) -> tuple[Run, list[str]]:
    """A run, and everything that `verify` finds wrong with its records or, given a folder, with the tables made from them.

    Tables that were written by another version of humar-bench may look different and are not held. Raises UsageError as `load` does.
    """
    place = records_path(path)
    run, found = read_once(place)
    if not found and os.path.isdir(path) and any(each.suffix.lower() in CHECKED for each in place.parent.iterdir()):
        proof = _hold_run(place, run, found)
        found = [] if proof.notes else list(proof.differences)
    return run, [str(each) for each in found]


def read_once(path: Path) -> tuple[Run, list[Difference]]:
    """What `load` gives of a records file, and what `read_records` finds wrong in it. Raises UsageError as `load` does."""
    try:
        run, damage = read_records(path)
    except UsageError:
        load(path)  # says why in its own words
        raise
    return (load(path) if damage else run), damage


def read_records(path: Path) -> tuple[Run, list[Difference]]:
    """The records that can be read, and a difference for every line that is damaged or stands twice. Raises UsageError without a file."""
    records: list[Record] = []
    damage: list[Difference] = []
    seen: dict[str, int] = {}
    try:
        for number, line in enumerate(read_lines(path), 1):
            if line != b"\n":
                _read_line(path.name, number, line, records, damage, seen)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; name the folder that `humar-bench report -o` wrote.") from None
    return Run(tuple(records)), damage


def _read_line(
    name: str, number: int, ended: bytes, records: list[Record], damage: list[Difference], seen: dict[str, int]
) -> None:
    """Add the record of one line, and what is wrong with it."""
    raw = ended.removesuffix(b"\n").removeprefix(codecs.BOM_UTF8 if number == 1 else b"")
    line = f"line {number}"
    try:
        record = Record.from_json(raw.decode("utf-8"))
        digest, text = record.digest, record.to_json()
    except (ValueError, TypeError) as error:
        torn = not ended.endswith(b"\n") and is_torn(raw, alone=not records)
        said = "it was cut short, that measurement has to be made again." if torn else f"it is not a record: {error}."
        damage.append(Difference(name, line, said=said, torn=torn))
        return
    row = f"{line} ({record.measure} of {record.architecture}, process {record.process})"
    if record.id != digest:
        damage.append(Difference(name, row, "id", record.id, digest, "the record was changed after it was measured: its values "
                                 f"have the digest {digest}, and its id is {_short(record.id)}."))
    elif text.encode() != raw:
        damage.append(Difference(name, row, said="the line was written anew by something else; its values are the same."))
    if record.id == digest:
        damage += [Difference(name, row, said=f"{fault}.") for fault in faults(record)]
    if record.id in seen:
        damage.append(Difference(name, row, said=f"it is the record of line {seen[record.id]} a second time."))
    seen.setdefault(record.id, number)
    records.append(record)


# Files ----------------------------------------------------------------------------------------------------------------------------


def compare_file(path: Path, text: str, remake: str = "") -> list[Difference]:
    """Every cell and line of a file that is not as in `text`; empty when the bytes are equal."""
    name, wanted = path.name, encoded(text)
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        return [Difference(name, said=f"it is missing{remake and '; '}{remake}.")]
    except OSError as error:
        return [Difference(name, said=f"it cannot be read: {error.strerror}.")]
    if content == wanted:
        return []
    found = content.decode("utf-8", errors="backslashreplace")
    differences = list((_csv_differences if path.suffix == ".csv" else _markdown_differences)(name, found, text))
    return differences or [_first_line(name, content, wanted)]


def _first_line(name: str, content: bytes, wanted: bytes) -> Difference:
    """Every cell reads the same and the bytes differ: quoting, line ends."""
    pairs = enumerate(zip(content.split(b"\n"), wanted.split(b"\n"), strict=False), 1)
    number, was, should_be = next(((number, *pair) for number, pair in pairs if pair[0] != pair[1]), (0, b"", b""))
    return Difference(name, f"line {number}" if number else "its end", "", repr(was)[1:], repr(should_be)[1:])


def _csv_differences(name: str, found: str, text: str) -> Iterator[Difference]:
    wanted = list(csv.reader(io.StringIO(text)))
    try:
        rows = list(csv.reader(io.StringIO(found)))
    except csv.Error as error:
        yield Difference(name, said=f"it is not CSV: {error}.")
        return

    def cells(index: int, was: Sequence[str], should_be: Sequence[str]) -> Iterator[Difference]:
        row = _row(index + 1, should_be)
        for column in range(max(len(was), len(should_be))):
            pair = [each[column] if column < len(each) else None for each in (was, should_be)]
            if pair[0] != pair[1]:
                heading = wanted[0][column] if column < len(wanted[0]) else f"{column + 1}"
                yield Difference(name, row, heading, *("nothing" if each is None else each for each in pair))

    yield from _aligned(name, [tuple(row) for row in rows], [tuple(row) for row in wanted], cells, lambda row: ",".join(row))


def _markdown_differences(name: str, found: str, text: str) -> Iterator[Difference]:
    wanted = text.split("\n")

    def cells(index: int, was: str, should_be: str) -> Iterator[Difference]:
        parts, others = _split(was), _split(should_be)
        if not parts or not others or len(parts) != len(others):
            yield Difference(name, f"line {index + 1}", "", was, should_be)
            return
        title, headings = _table_of(wanted, index)
        row = f"{_row(index + 1, others)}{f' of {title}' if title else ''}"
        for heading, one, other in zip(headings, parts, others, strict=False):
            if one != other:
                yield Difference(name, row, heading or "1", one, other)

    yield from _aligned(name, found.split("\n"), wanted, cells, str)


def _aligned(
    name: str, rows: Sequence, wanted: Sequence, cells: Callable[[int, Sequence, Sequence], Iterator[Difference]],
    show: Callable[[Sequence], str],
) -> Iterator[Difference]:
    """Pair up the rows of two texts; a changed pair goes to `cells`, what is only in one of them is named as a row."""
    for kind, low, high, first, last in difflib.SequenceMatcher(None, rows, wanted, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        both = min(high - low, last - first)
        for step in range(both):
            yield from cells(first + step, rows[low + step], wanted[first + step])
        for index in range(first + both, last):
            yield Difference(name, f"row {index + 1}", said=f"it is missing: {_short(show(wanted[index]))}.")
        for index in range(low + both, high):
            yield Difference(name, f"row {index + 1}", said=f"no record accounts for it: {_short(show(rows[index]))}.")


def _split(line: str) -> list[str]:
    """The cells of a Markdown table row exactly as they stand; none for any other line."""
    if not (line.startswith("| ") and line.endswith(" |")):
        return []
    return line[2:-2].split(" | ")  # a bar inside a cell has a backslash before it, never a blank


def _table_of(lines: Sequence[str], index: int) -> tuple[str, list[str]]:
    """Title and headings of the table that line `index` belongs to."""
    top = index
    while top and _split(lines[top - 1]):
        top -= 1
    title = next((line.lstrip("# ") for line in reversed(lines[:top]) if line.startswith("#")), "")
    return title, _split(lines[top])


def _row(number: int, cells: Sequence[str]) -> str:
    return f"row {number} ({_short(cells[0])})" if cells and cells[0] else f"row {number}"


def _cells(name: str, text: str) -> int:
    if name.endswith(".csv"):
        return sum(len(row) for row in csv.reader(io.StringIO(text)))
    return sum(len(_split(line)) or bool(line) for line in text.split("\n"))


def _short(text: str) -> str:
    return repr(text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}...")

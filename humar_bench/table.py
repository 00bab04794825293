"""One set of rows for every writer: `Column`, `Table`, and ratios in words. No arithmetic beyond a ratio, no printing."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MIB = 2**20
SUMMARY = "summary"  # the name of the table that sums up a report
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")  # Unicode's categories of what acts on a screen instead of standing on it


def is_unseen(character: str) -> bool:
    """Whether a character is a control character, a direction or another format mark, half of a pair or a line's end."""
    return unicodedata.category(character) in _UNSEEN


def visible(text: str) -> str:
    r"""The text as a person may be shown it, so that a name cannot command a terminal: each unseen character stands as its escape, as \x1b,
    \n, \u202e or, for half of a surrogate pair, \ud800."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(each.encode("unicode_escape").decode() if is_unseen(each) else each for each in text)


def well_formed(text: str) -> str:
    r"""The text with each half of a surrogate pair, which no file or screen takes, as its escape: \udcff."""
    return text if text.isascii() else text.encode("utf-8", errors="backslashreplace").decode()


@dataclass(frozen=True)
class Column:
    """`key` finds the cell in a row and heads the CSV column, where values stand unscaled; `title [unit]` heads it for people.

    Shown to people, a number is divided by `scale` and has `digits` decimals. `better` is "less", "more" or "" where neither is meant.
    """

    key: str
    title: str = ""
    unit: str = ""
    better: str = ""
    digits: int = 0
    scale: float = 1
    text: bool = False  # left-aligned words rather than numbers

    @property
    def heading(self) -> str:
        title = visible(self.title or self.key)
        return f"{title} [{self.unit}]" if self.unit else title

    def show(self, value: Any) -> str:
        """The cell for people; nothing to say is an empty cell."""
        if value is None:
            return ""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return visible(str(value))
        if isinstance(value, int) and self.scale == 1 and not self.digits:
            return f"{value:,}"
        return f"{value / self.scale:,.{self.digits}f}"


@dataclass(frozen=True)
class Table:
    """Rows are mappings from column key to raw value; a key that is missing is an empty cell. `feet` are sentences below it."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Any], ...]
    feet: tuple[str, ...] = ()

    def cells(self) -> list[list[str]]:
        return [[column.show(row.get(column.key)) for column in self.columns] for row in self.rows]

    def turned(self) -> Table:
        """The same cells with one row a column and one column a row, for a screen that is too narrow; the first column names them."""
        names = [row[0] for row in self.cells()]
        columns = (Column("quantity", " ", text=True), *(Column(f"={index}", name) for index, name in enumerate(names)))
        rows = tuple(
            {"quantity": column.heading, **{f"={index}": cell for index, cell in enumerate(cells)}}
            for column, *cells in zip(self.columns[1:], *[row[1:] for row in self.cells()], strict=True)
        )
        return Table(self.name, self.title, columns, rows, self.notes)

    @property
    def directions(self) -> str:
        """'More is better: FPS. Less is better: median, p90.'; empty where no column has a direction."""
        said = []
        for better in ("more", "less"):
            titles = list(dict.fromkeys(column.title or column.key for column in self.columns if column.better == better))
            if titles:
                said.append(f"{better.capitalize()} is better: {', '.join(titles)}.")
        return " ".join(said)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(visible(note) for note in (self.directions, *self.feet) if note)


def ratio(reference: float | None, candidate: float | None) -> float | None:
    """How many times the reference is the candidate; None where either is missing or the candidate is 0."""
    if reference is None or candidate is None or candidate == 0:
        return None
    return reference / candidate


def times(value: float) -> str:
    """5.404 -> '5.40x', 12.3 -> '12.3x', 140.2 -> '140x': three digits."""
    if value >= 99.95:
        return f"{value:,.0f}x"
    return f"{value:.1f}x" if value >= 9.995 else f"{value:.2f}x"


def percent(share: float) -> str:
    """0.684 -> '68 %', 0.0123 -> '1.2 %', 0.00045 -> '0.045 %': two digits."""
    value = 100 * share
    for low, digits in ((9.95, 0), (0.995, 1), (0.0995, 2)):
        if value >= low:
            return f"{value:.{digits}f} %"
    return f"{value:.2g} %"


def fewer(reference: float | None, candidate: float | None) -> str:
    """A count against the reference's: '5.40x fewer', '1.20x more', 'the same'; '' where there is nothing to compare."""
    return _words(reference, candidate, "fewer", smallest=1.05)


def less(reference: float | None, candidate: float | None) -> str:
    """An amount against the reference's: '68 % less', '12 % more', '2.50x more', 'the same'; '' where there is nothing to compare."""
    if reference and candidate is not None and 0.01 <= candidate / reference < 1:
        return f"{percent(1 - candidate / reference)} less"
    return _words(reference, candidate, "less", smallest=2)


def _words(reference: float | None, candidate: float | None, word: str, smallest: float) -> str:
    if reference is None or candidate is None:
        return ""
    if reference == candidate:
        return "the same"
    if not reference:
        return "more"
    if not candidate:
        return "none left"
    word, change = (word, reference / candidate) if candidate < reference else ("more", candidate / reference)
    if change >= smallest:
        return f"{times(change)} {word}"
    return f"{percent(abs(candidate / reference - 1))} {word}"


def joined(names: Sequence[str], most: int = 6) -> str:
    """'a, b, c and 4 more'."""
    rest = len(names) - most
    return ", ".join(names) if rest <= 0 else f"{', '.join(names[:most])} and {rest} more"

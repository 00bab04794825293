"""Curves on logarithmic axes, or linear ones from 0: as PNG or SVG through matplotlib (an optional extra), and as characters in the
terminal.

Colours are Okabe and Ito's, which colour-blind readers tell apart ("Color Universal Design", 2008); every curve also has a marker of its
own and its name at its end. No torch.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from humar_bench.errors import UsageError, not_installed
from humar_bench.report.files import write_bytes
from humar_bench.table import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLES = ("red", "blue", "green", "magenta", "yellow", "cyan")  # of a terminal
MARKERS, SIGNS = ("o", "s", "^", "D", "v", "P"), ("●", "■", "▲", "◆", "▼", "+")
SUFFIXES = (".png", ".svg")
WIDTH_PX, PANEL_PX, DPI = 800, 330, 100
GREY = "#767676"
MARGIN = 0.12  # decades of air around the curves


@dataclass(frozen=True)
class Series:
    """One curve: where it is above 0 and known. `label` stands at its end."""

    name: str
    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Panel:
    """One quantity: its curves, and for comparison a guide line of each order in `guides` (1 is proportional). `x_label` where it is not
    the plot's."""

    title: str
    y_label: str
    series: tuple[Series, ...]
    guides: tuple[float, ...] = ()
    x_label: str = ""

    @property
    def span(self) -> tuple[float, float, float, float]:
        """Lowest and highest x and y of all curves."""
        x = [each for one in self.series for each in one.x]
        y = [each for one in self.series for each in one.y]
        return min(x), max(x), min(y), max(y)


@dataclass(frozen=True)
class Plot:
    """Panels that share their x axis. With `linear` both axes are, and begin at 0; with `scatter` points are not joined."""

    title: str
    x_label: str
    panels: tuple[Panel, ...]
    note: str = ""
    linear: bool = False
    scatter: bool = False

    def look(self, series: Series) -> int:
        """Which colour and marker a curve has: the same in every panel."""
        return list(dict.fromkeys(each.name for panel in self.panels for each in panel.series)).index(series.name)


def check_plot(path: str, option: str = "--plot") -> None:
    """Refuse, before anything is measured, a plot that could not be drawn. Raises UsageError."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise UsageError(f"{option} is {path!r}; it must end in {' or '.join(SUFFIXES)}.")
    if not can_plot():
        raise not_installed(f"{option} needs", "matplotlib", extra="plots")


def can_plot() -> bool:
    """Whether matplotlib is there."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def write_plot(plot: Plot, path: str) -> None:
    """Draw into a .png or .svg file, the same bytes for the same curves."""
    import matplotlib

    kind = Path(path).suffix.lower()[1:]
    content = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # matplotlib reads a matplotlibrc in the current folder, and usetex there would start LaTeX
        matplotlib.rcParams.update({"svg.hashsalt": "humar-bench", "svg.fonttype": "none"})
        draw(plot).savefig(content, format=kind, dpi=DPI, metadata={"Date": None} if kind == "svg" else {"Software": None})
    write_bytes(path, content.getvalue())


def draw(plot: Plot) -> Figure:
    """The figure: at most two panels beside each other, 800 pixels wide."""
    from matplotlib.figure import Figure

    columns = min(2, len(plot.panels))
    rows = math.ceil(len(plot.panels) / columns)
    height = (PANEL_PX * rows + 50) / DPI
    figure = Figure(figsize=(WIDTH_PX / DPI, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, panel in zip(axes.flat, plot.panels, strict=False):
        _draw_panel(axis, panel, plot)
    for axis in list(axes.flat)[len(plot.panels):]:
        axis.set_axis_off()
    figure.suptitle(_drawn(plot.title), fontsize=11, fontweight="bold")
    if plot.note:
        figure.supxlabel(_drawn(plot.note), fontsize=8, color=GREY)
    return figure


def _drawn(text: str) -> str:
    """Text as it is to be read: matplotlib would take what stands between two dollars for a formula."""
    return visible(text).replace("$", r"\$")


def _draw_panel(axis: Any, panel: Panel, plot: Plot) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    left, right, bottom, top = panel.span
    if not plot.linear:
        axis.set_xscale("log")
        axis.set_yscale("log")
    for series in panel.series:
        index = plot.look(series)
        look = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)], "markersize": 5}
        look["linewidth"] = 0 if plot.scatter else 1.8
        axis.plot(series.x, series.y, label=_drawn(series.name), **look)
    axis.set_xlim(*((0, right * 1.05) if plot.linear else (left / 1.15, right * 1.15)))
    axis.set_ylim(*((0, top * 1.25 or 1) if plot.linear else _y_limits(bottom, top)))
    low, high = axis.get_ylim()
    for order in panel.guides:
        _draw_guide(axis, order, left, right, low, high)
    for series, place in zip(panel.series, _label_places(panel.series, low, high, linear=plot.linear), strict=True):
        axis.annotate(
            _drawn(series.label), (series.x[-1], place), xytext=(-2, 7), textcoords="offset points", ha="right", va="bottom", fontsize=9,
            color=COLOURS[plot.look(series) % len(COLOURS)], fontweight="bold",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8},
        )
    axis.set_title(_drawn(panel.title), fontsize=10, loc="left")
    axis.set_xlabel(_drawn(panel.x_label or plot.x_label), fontsize=9)
    axis.set_ylabel(_drawn(panel.y_label), fontsize=9)
    ticks = sorted({each for one in panel.series for each in one.x})
    if plot.scatter:
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    else:
        axis.set_xticks(_few(ticks, 6))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axis.xaxis.set_minor_locator(NullLocator())
    if not plot.linear:
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 100 else (1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(labelsize=8)
    axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _y_limits(bottom: float, top: float) -> tuple[float, float]:
    """At least a decade, with room above for the names."""
    low, high = math.log10(bottom) - MARGIN, math.log10(top) + 2.5 * MARGIN
    air = max(0.0, 1 - (high - low)) / 2
    return 10 ** (low - air), 10 ** (high + air)


def _draw_guide(axis: Any, order: float, left: float, right: float, low: float, high: float) -> None:
    """A dashed line of one order from the lower left corner to where it leaves the panel, its order written on it."""
    start = low * 1.15
    end = min(right, left * (high / 1.3 / start) ** (1 / order))
    axis.plot([left, end], [start, start * (end / left) ** order], color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    middle = left * (end / left) ** (0.45 if order <= 1 else 0.8)  # where curves and their names rarely are
    axis.annotate(
        f"slope {order:g}", (middle, start * (middle / left) ** order), fontsize=8, color=GREY, ha="center", va="center",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.9, "pad": 0.5}, zorder=1.5,
    )


def _label_places(series: Sequence[Series], low: float, high: float, *, linear: bool = False) -> list[float]:
    """Where each curve's name goes on the y axis: at its end, pushed apart where two would lie on each other."""
    scaled = float if linear else math.log10
    apart = (scaled(high) - scaled(low)) * 0.09
    places = [scaled(one.y[-1]) for one in series]
    taken: list[float] = []
    for index in sorted(range(len(places)), key=lambda i: places[i]):
        if taken and places[index] < taken[-1] + apart:
            places[index] = taken[-1] + apart
        taken.append(places[index])
    return places if linear else [10**place for place in places]


def _few(values: Sequence[float], most: int) -> list[float]:
    """At most so many of them, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(index * (len(values) - 1) / (most - 1))] for index in range(most)]


def short(value: float) -> str:
    """1024 -> '1k', 32771 -> '33k', 2500000 -> '2.5M', 0.25 -> '0.25'."""
    for scale, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * scale:
            return f"{value / scale:.2g}{unit}" if value < 9.95 * scale else f"{value / scale:.0f}{unit}"
    return f"{value:.3g}"


# In the terminal ------------------------------------------------------------------------------------------------------------------


def block_plot(plot: Plot, *, width: int = 64, height: int = 10) -> Text:
    """Each panel as a grid of characters, both axes logarithmic, the names under it."""
    text = Text()
    for panel in plot.panels:
        text.append(f"{visible(panel.y_label)}\n", style="bold")
        left, right, bottom, top = panel.span
        if plot.linear:
            left, bottom = 0.0, 0.0
        labels = {0: short(top), height - 1: short(bottom)}
        wide = max(map(len, labels.values()))
        cells = _cells(panel, width, height, linear=plot.linear, joined=not plot.scatter)
        for row in range(height):
            text.append(f"{labels.get(row, ''):>{wide}} │")
            for column in range(width):
                if (which := cells.get((row, column))) is None:
                    text.append(" ")
                    continue
                index = plot.look(panel.series[which])
                text.append(SIGNS[index % len(SIGNS)], STYLES[index % len(STYLES)])
            text.append("\n")
        text.append(f"{'':>{wide}} └{'─' * width}\n")
        first, last = short(left), short(right)
        text.append(f"{'':>{wide}}  {first}{panel.x_label or plot.x_label:^{max(0, width - len(first) - len(last))}}{last}\n")
        for series in panel.series:
            index = plot.look(series)
            text.append(f"{'':>{wide}}  {SIGNS[index % len(SIGNS)]} ", STYLES[index % len(STYLES)])
            text.append(f"{visible(series.label)}\n")
        text.append("\n")
    return text


def _cells(panel: Panel, width: int, height: int, *, linear: bool = False, joined: bool = True) -> dict[tuple[int, int], int]:
    """(row, column) -> which curve; between two points the curve is a straight line, unless points are not `joined`."""
    scaled = float if linear else math.log
    left, right, bottom, top = (scaled(each) for each in panel.span)
    if linear:
        left, bottom = 0.0, min(0.0, bottom)
    cells: dict[tuple[int, int], int] = {}
    for index, series in enumerate(panel.series):
        places = [
            (round((scaled(x) - left) / ((right - left) or 1) * (width - 1)), (top - scaled(y)) / ((top - bottom) or 1) * (height - 1))
            for x, y in zip(series.x, series.y, strict=True)
        ]
        if top == bottom:
            places = [(column, (height - 1) / 2) for column, _ in places]
        for column, row in () if joined else places:
            cells[round(row), column] = index
        for (x0, y0), (x1, y1) in zip(places, places[1:] or places, strict=False) if joined else ():
            steps = max(1, abs(x1 - x0))
            for step in range(steps + 1):
                share = step / steps
                cells[round(y0 + share * (y1 - y0)), round(x0 + share * (x1 - x0))] = index
    return cells

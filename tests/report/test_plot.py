"""Curves: what is on the figure, what is in the file, what the terminal shows. No pixel is compared."""

from __future__ import annotations

import builtins
import re

import pytest

from humar_bench.errors import UsageError
from humar_bench.report import plot as plots
from humar_bench.report.plot import Panel, Plot, Series, block_plot, check_plot, draw, short, write_plot
from tests.golden import check_golden

STEEP = Series("original", "original: N^2.00", (1000.0, 2000.0, 4000.0), (1.0, 4.0, 16.0))
FLAT = Series("efficient", "efficient: N^1.00", (1000.0, 2000.0, 4000.0), (1.0, 2.0, 4.0))
PLOT = Plot("How each cost grows", "tokens N", (
    Panel("matmul and conv", "matmul and conv [GFLOP]", (STEEP, FLAT), (1, 2)), Panel("peak memory", "peak memory [MiB]", (FLAT,)),
    Panel("CPU time", "CPU time [ms]", (STEEP,)),
))


def test_every_curve_has_its_name_at_its_end_its_own_colour_and_marker():
    axis = draw(PLOT).axes[0]
    curves = [line for line in axis.lines if line.get_label() in ("original", "efficient")]
    assert [tuple(line.get_ydata()) for line in curves] == [STEEP.y, FLAT.y]
    assert len({line.get_color() for line in curves}) == len({line.get_marker() for line in curves}) == 2
    named = {text.get_text(): text for text in axis.texts}
    for line, series in zip(curves, (STEEP, FLAT), strict=True):
        assert named[series.label].get_color() == line.get_color()


def test_an_architecture_keeps_its_colour_and_marker_where_another_is_missing():
    both, alone, _ = (axis for axis in draw(PLOT).axes if axis.axison)
    looks = [{(line.get_color(), line.get_marker()) for line in axis.lines if line.get_label() == "efficient"} for axis in (both, alone)]
    assert looks[0] == looks[1] and len(looks[0]) == 1


def test_axes_are_logarithmic_and_say_quantity_and_unit():
    figure = draw(PLOT)
    shown = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_ylabel() for axis in shown] == ["matmul and conv [GFLOP]", "peak memory [MiB]", "CPU time [ms]"]
    assert all(axis.get_xlabel() == "tokens N" and axis.get_xscale() == axis.get_yscale() == "log" for axis in shown)
    assert figure.get_suptitle() == "How each cost grows"
    assert figure.get_figwidth() * plots.DPI == 800


def test_guides_have_the_slope_they_say():
    axis = draw(PLOT).axes[0]
    guides = [line for line in axis.lines if line.get_color() == plots.GREY]
    assert len(guides) == 2
    for line, order in zip(guides, (1, 2), strict=True):
        (x0, x1), (y0, y1) = line.get_data()
        assert y1 / y0 == pytest.approx((x1 / x0) ** order)
    assert {"slope 1", "slope 2"} <= {text.get_text() for text in axis.texts}


def test_names_of_curves_that_end_together_are_pushed_apart():
    twins = (FLAT, Series("twin", "twin", FLAT.x, FLAT.y))
    low, high = plots._label_places(twins, 1.0, 100.0)
    assert low == pytest.approx(4.0) and high > 1.2 * low


def test_no_text_of_the_figure_leaves_it_or_lies_on_another_panel():
    figure = draw(PLOT)
    figure.draw_without_rendering()
    width, height = figure.bbox.width, figure.bbox.height
    for axis in figure.axes:
        for text in (*axis.texts, axis.title, axis.xaxis.label, axis.yaxis.label) if axis.axison else ():
            box = text.get_window_extent()
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width + 1 and box.y1 <= height + 1, text.get_text()


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_file_is_written_whole_and_the_same_each_time(tmp_path, kind):
    for name in ("one", "two"):
        write_plot(PLOT, str(tmp_path / f"{name}.{kind}"))
    one, two = ((tmp_path / f"{name}.{kind}").read_bytes() for name in ("one", "two"))
    assert one == two and one.startswith(b"\x89PNG" if kind == "png" else b"<?xml")
    if kind == "svg":
        for words in ("original: N^2.00", "peak memory [MiB]", "tokens N"):
            assert words in one.decode()


def test_settings_of_the_current_folder_change_no_picture(tmp_path):
    """matplotlib reads a matplotlibrc where it is started; text.usetex there would start LaTeX."""
    import matplotlib

    write_plot(PLOT, str(tmp_path / "one.svg"))
    with matplotlib.rc_context({"text.usetex": True, "axes.facecolor": "red", "svg.fonttype": "path"}):
        write_plot(PLOT, str(tmp_path / "two.svg"))
        assert matplotlib.rcParams["axes.facecolor"] == "red"
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_without_matplotlib_the_option_is_refused_in_a_sentence(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest, **more)

    check_plot("curves.png")
    monkeypatch.setattr(builtins, "__import__", without)
    said = '--plot needs the package matplotlib, which is not installed; run pip install "humar-bench[plots]".'
    with pytest.raises(UsageError, match=f"^{re.escape(said)}$"):
        check_plot("curves.png")


def test_a_file_that_is_no_picture_is_refused():
    with pytest.raises(UsageError, match="it must end in .png or .svg"):
        check_plot("curves.txt")


def test_the_terminal_shows_the_curves_in_characters():
    check_golden("curves.txt", block_plot(PLOT, width=40, height=6).plain)


def test_a_curve_in_the_terminal_has_no_gap_and_ends_in_its_corners():
    cells = plots._cells(PLOT.panels[2], 40, 10)
    assert {column for _, column in cells} == set(range(40))
    assert {(0, 39), (9, 0)} <= set(cells)


def test_a_flat_cost_lies_in_the_middle():
    flat = Panel("calls", "calls", (Series("a", "a", (1.0, 10.0), (5.0, 5.0)),))
    assert {row for row, _ in plots._cells(flat, 10, 5)} == {2}


@pytest.mark.parametrize(("value", "said"), [
    (1024, "1k"), (32771, "33k"), (2_500_000, "2.5M"), (0.25, "0.25"), (999.9, "1k"), (8105, "8.1k"),
])
def test_ticks_are_short(value, said):
    assert short(value) == said


LINEAR = Plot("Learning", "", (
    Panel("over pictures", "AP", (Series("a", "a 0.5", (100.0, 200.0, 400.0), (0.0, 0.25, 0.5)),), x_label="pictures seen"),
    Panel("over seconds", "AP", (Series("a", "a 0.5", (1.0, 2.0, 4.0), (0.0, 0.25, 0.5)),), x_label="CPU seconds"),
), linear=True)


def test_linear_axes_begin_at_0_and_each_panel_has_an_axis_of_its_own():
    shown = [axis for axis in draw(LINEAR).axes if axis.axison]
    assert [axis.get_xlabel() for axis in shown] == ["pictures seen", "CPU seconds"]
    for axis in shown:
        assert axis.get_xscale() == axis.get_yscale() == "linear"
        assert axis.get_xlim()[0] == axis.get_ylim()[0] == 0 and axis.get_ylim()[1] > 0.5


def test_linear_curves_are_straight_in_the_terminal_and_may_be_0():
    text = block_plot(LINEAR, width=41, height=11).plain
    assert "pictures seen" in text and "CPU seconds" in text
    rows = [line.partition("│")[2] for line in text.splitlines() if "│" in line][:11]
    places = {(row, column) for row, line in enumerate(rows) for column, sign in enumerate(line) if sign != " "}
    assert {(10, 10), (5, 20), (0, 40)} <= places  # a quarter, half and all of the pictures


def test_names_of_linear_curves_are_pushed_apart():
    twins = (Series("a", "a", (1.0,), (0.5,)), Series("b", "b", (1.0,), (0.5,)))
    low, high = plots._label_places(twins, 0.0, 1.0, linear=True)
    assert low == pytest.approx(0.5) and high == pytest.approx(0.59)

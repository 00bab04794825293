"""Energy records become columns, ratios and sentences, and change nothing where there are none."""

from __future__ import annotations

import pytest

from humar_bench.devices.virtual import EnergyMeter
from humar_bench.judging.energies import read_energies
from humar_bench.judging.speeds import read_speeds
from humar_bench.measures.energy import Energy
from humar_bench.records.record import AGAIN, Run
from humar_bench.report.speed_table import fps_data, fps_table
from tests.faults.harness import VirtualGpu, measured
from tests.judging.test_speeds import a_run, fps


def drawn(per_image_j: float, *, seconds=2.0, batch=2, call_s=0.1, idle_w=100.0) -> dict:
    images = int(batch * seconds / call_s)
    return Energy(per_image_j * images, images, seconds, 0.02, 0.012, idle_w, per_image_j * images / seconds).measured()


def runs(**reasons) -> Run:
    """a draws 20 J an image, b 5 J, each a percent more in every further process; `reasons` are sentences instead, by name."""
    return Run([
        fps(name, process, device=0.05, kind="cuda:0",
            energy={"reason": reasons[name]} if name in reasons else drawn(joules * (1 + 0.01 * process)))
        for process in range(5) for name, joules in (("a", 20.0), ("b", 5.0))
    ])


def tables(run: Run, reference: str = "a"):
    speeds = read_speeds(run, reference)
    return fps_table(speeds, reference), fps_data(speeds, reference)


def headings(table) -> list[str]:
    return [column.heading for column in table.columns]


def test_energy_is_the_median_over_processes_with_its_spread_and_a_ratio_with_an_interval():
    b = read_energies(runs(), "a")["b"]
    assert (b.per_image_j, b.low_j, b.high_j, b.processes) == (pytest.approx(5.1), 5.0, pytest.approx(5.2), 5)
    assert b.ratio == pytest.approx(4) and b.ratio_low == pytest.approx(4) and b.ratio_high == pytest.approx(4)
    assert b.above_idle_j == pytest.approx(5.1 - 100 * 0.05)
    noisy = Run([fps(name, process, energy=drawn(joules * (1 + 0.02 * (process % 3) * (name == "b"))))
                 for process in range(5) for name, joules in (("a", 20.0), ("b", 5.0))])
    wide = read_energies(noisy, "a")["b"]
    assert wide.ratio_low < wide.ratio < wide.ratio_high < 4.1


def test_the_table_has_an_energy_column_with_units_spread_and_ratio_and_says_what_it_holds_for():
    table, data = tables(runs())
    assert {"energy [J/image]", "energy, least to most [J/image]", "energy above idle [J/image]", "energy ratio"} <= set(headings(table))
    cells = dict(zip(headings(table), table.cells()[1], strict=True))
    assert cells["energy [J/image]"] == "5.100" and cells["energy, least to most [J/image]"] == "5.000 to 5.200"
    assert cells["energy ratio"] == "4.00x (4.00x to 4.00x)"
    assert any("a step of the counter lasts 20 ms" in foot and "bound the error at 1.2 %" in foot for foot in table.notes)
    assert data.rows[1]["energy_j"] == pytest.approx(5.1) and data.rows[0]["energy_ratio"] is None
    assert [column.key for column in data.columns][-9:] == [
        "energy_j", "energy_low_j", "energy_high_j", "energy_above_idle_j", "energy_idle_w", "energy_error_share", "energy_ratio",
        "energy_ratio_low", "energy_ratio_high",
    ]


def test_without_energy_in_any_record_no_column_and_no_sentence_speaks_of_it():
    table, data = tables(a_run({"name": "b"}))
    assert not any("energy" in text.lower() for text in (*headings(table), *table.notes, *(column.key for column in data.columns)))


def test_an_architecture_without_energy_has_an_empty_cell_and_its_reason():
    table, data = tables(runs(b="the energy counter did not advance within 2 s; no energy is reported."))
    assert dict(zip(headings(table), table.cells()[1], strict=True))["energy [J/image]"] == "" and data.rows[1]["energy_ratio"] is None
    assert "b: no energy: the energy counter did not advance within 2 s; no energy is reported." in table.notes


def test_processes_pair_only_where_both_measured_in_the_same_child():
    records = [*runs()]
    records[1] = fps("b", 0, energy={"reason": "no"})
    records[3] = fps("b", 1, child="another", energy=drawn(50.0))
    found = read_energies(Run(records), "a")["b"]
    assert found.ratio == pytest.approx(4) and found.processes == 4 and found.reason == "no" and found.high_j == 50.0


def test_controls_are_left_out():
    run = Run([*runs(), fps(f"a{AGAIN}", 0, energy=drawn(1.0))])
    assert set(read_energies(run, "a")) == {"a", "b"}


def test_fps_measures_energy_after_the_timing_in_every_process_and_not_of_the_control():
    run = measured(["plain", "half"], ["fps"], make=lambda: VirtualGpu(meter=EnergyMeter(20e-3, idle_w=100, busy_w=400)))
    assert not run.failed and len(run.select(architecture="plain")) == 3
    drawn = read_energies(run, "plain")
    assert set(drawn) == {"plain", "half"} and all(each.processes == 3 and not each.reason for each in drawn.values())
    for name, each in drawn.items():
        device_s = run.select(architecture=name)[0].measured["device_s"][0]
        assert each.per_image_j == pytest.approx(400 * device_s / run[0].measured["batch"], rel=0.03)
    assert 1 < drawn["half"].ratio == pytest.approx(read_speeds(run, "plain")["half"].ratio, rel=0.03)
    without = measured(["plain", "half"], ["fps"])
    assert not any("energy" in record.measured for record in without)


def test_fps_keeps_its_times_where_the_energy_counter_stands_still():
    run = measured(["plain", "half"], ["fps"], make=lambda: VirtualGpu(meter=EnergyMeter(None)))
    assert not run.failed and read_speeds(run, "plain")["half"].verdict == "faster"
    assert any("half: no energy: the energy counter did not advance within 2 s" in note for note in tables(run, "plain")[0].notes)

"""Speeds -> tables: for people with units and sentences below, for programs unscaled. No torch, no arithmetic beyond a ratio."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from humar_bench.judging import energies, statistics
from humar_bench.judging.speeds import LAUNCH_BOUND, Speeds
from humar_bench.judging.statistics import DECIDED
from humar_bench.judging.verdicts import METRICS
from humar_bench.table import Column, Table, percent, times


def fps_table(speeds: Speeds, reference: str) -> Table:
    """One row an architecture."""
    rows = []
    for name, speed in speeds.items():
        row: dict[str, Any] = {**dataclasses.asdict(speed), "note": f"failed: {speed.reason}" if speed.failed else ""}
        row |= {f"{prefix}_text": _interval(row, prefix) for prefix in ("ratio", "wall_ratio", "clean_ratio")}
        row |= _energy(speeds, name)
        rows.append({**row, "against": "" if name == reference else speed.words})
    decides = next((speed.metric for speed in speeds.values() if speed.metric), "")

    def ms(key: str, title: str) -> Column:
        return Column(key, title, "ms", "less", 2, 1e-3)

    columns = [
        Column("architecture", text=True), Column("fps", "speed", "images/s", "more", 2), ms("median_s", "median"), ms("p90_s", "p90"),
        ms("min_s", "min"), Column("prepare_s", "preparation", "s", "less", 1), ms("first_call_s", "first call"),
        ms("cpu_median_s", "CPU time"), ms("device_median_s", "device time"),
        Column("preempted_share", "preempted", "%", "", 1, 0.01), Column("processes"), Column("rounds"),
        Column("against", f"against {reference}", text=True), Column("wall_ratio_text", "wall ratio", text=True),
        *([Column("ratio_text", f"{decides} ratio", text=True)] if decides != "wall time" else []),
        Column("clean_ratio_text", "wall ratio, no preemption", text=True),
        Column("energy_j", "energy", "J/image", "less", 3), Column("energy_spread", "energy, least to most", "J/image", text=True),
        Column("energy_above_idle_j", "energy above idle", "J/image", "less", 3), Column("energy_ratio_text", "energy ratio", text=True),
        Column("note", text=True),
    ]
    used = tuple(column for column in columns if any(row.get(column.key) not in (None, "") for row in rows))
    return Table("fps", "Speed", used, tuple(rows), tuple(_feet(speeds, decides)))


def _interval(row: dict[str, Any], prefix: str) -> str:
    ratio, low, high = (row[f"{prefix}{end}"] for end in ("", "_low", "_high"))
    if ratio is None:
        return ""
    return times(ratio) if low is None else f"{times(ratio)} ({times(low)} to {times(high)})"


def _energy(speeds: Speeds, name: str) -> dict[str, Any]:
    """The energy cells of a row, for people and for programs; empty where no record of the run says anything about energy."""
    if not speeds.energies:
        return {}
    drawn = speeds.energies.get(name, energies.Drawn())
    cells = {"j": drawn.per_image_j, "low_j": drawn.low_j, "high_j": drawn.high_j, "above_idle_j": drawn.above_idle_j,
             "idle_w": drawn.idle_w, "error_share": drawn.error_share, "ratio": drawn.ratio, "ratio_low": drawn.ratio_low,
             "ratio_high": drawn.ratio_high}
    row = {f"energy_{key}": value for key, value in cells.items()}
    spread = "" if drawn.low_j is None else f"{drawn.low_j:.3f} to {drawn.high_j:.3f}"
    return {**row, "energy_spread": spread, "energy_ratio_text": _interval(row, "energy_ratio")}


def _feet(speeds: Speeds, decides: str) -> Iterator[str]:
    yield "Speed is the batch divided by the median wall time of one forward; the first call is apart."
    judged = [speed for name, speed in speeds.items() if name != speeds.reference and speed.ratio is not None]
    if judged:
        yield (
            f"Ratios are {speeds.reference} / architecture with 95 % intervals over processes; {decides} decides, and a difference below "
            f"{100 * judged[0].margin:g} % is called the same."
        )
    for speed in judged:
        if speed.why:
            yield f"{speed.architecture}: {speed.verdict}: {speed.why}"
        yield from (f"{speed.architecture}: {note}" for note in speed.notes)
    yield from _protocol_feet(speeds)
    yield from _calibrated(speeds, decides)
    yield from _check_feet(speeds)
    refused = statistics.percentile([], 0.9).needed
    if few := [speed for speed in speeds.values() if speed.rounds and speed.p90_s is None]:
        yield f"p90 needs {refused} times; {', '.join(f'{speed.architecture} has {speed.rounds}' for speed in few)}."
    if unsteady := [speed.architecture for speed in speeds.values() if speed.steady is False]:
        yield f"Warm-up never became steady for {', '.join(unsteady)}."
    yield from energies.feet(speeds.energies)


def _protocol_feet(speeds: Speeds) -> Iterator[str]:
    """The look, and the control arm."""
    if look := speeds.look:
        last = "the last" if look.final else f"of at most {look.last}"
        yield f"Looked at after {look.processes} processes, {last}; at level {look.level:.2g}, so that looking often adds no false alarms."
    if control := speeds.control:
        found = control.detected
        span = "" if found.low is None else f" ({times(found.low)} to {times(found.high)})"
        yield (
            f"Control: {speeds.control_of} built and timed a second time came out at {times(found.ratio)}{span} by {control.metric}: "
            f"{found.verdict}."
        )
    elif speeds.control_note:
        yield speeds.control_note


def _calibrated(speeds: Speeds, decides: str) -> Iterator[str]:
    """What the certificate says of verdicts by this metric, where all processes were timed under one."""
    names = [each.get("cited", "none") for each in speeds.certificates]
    if len(names) > 1:
        yield f"Its processes were timed under different certificates ({', '.join(names)}), so none is cited."
    elif names and names != ["none"] and decides:
        [each] = speeds.certificates
        threads = f"{each['threads']} thread{'s' if each['threads'] > 1 else ''}"
        found = each["by"].get(next(clock for clock, words in METRICS.items() if words == decides))
        if found is None:
            yield f"Not calibrated: certificate {each['cited']} says nothing about {decides}."
            return
        effect = "no planted effect was found in 90 % of comparisons" if found["effect"] is None else (
            f"+{100 * found['effect']:.3g} % found in {percent(found['found'])} of comparisons"
        )
        yield (
            f"Calibrated: certificate {each['cited']} ({decides}, {threads}): false alarms {found['alarms']} of {found['of']} "
            f"(at most {100 * found['at_most']:.1f} %), {effect} over {found['processes']} processes."
        )


def _check_feet(speeds: Speeds) -> Iterator[str]:
    """What the outputs, new inputs, launches and the gate said."""
    done = [speed for speed in speeds.values() if speed.rounds]
    for speed in done:
        if speed.max_error is not None:
            rows = {None: "", True: ", the same proposals selected", False: ", not quite the same proposals selected"}[speed.same_selection]
            held = f"those of {speed.against}" if speed.against else "a float32 eager forward's"
            yield (
                f"{speed.architecture}: outputs as {held}{rows}; largest error {speed.max_error:.2g} of the root mean square "
                f"(tolerance {speed.tolerance:g})."
            )
        elif speed.unchecked:
            yield f"{speed.architecture}: outputs were not held against a float32 forward: {speed.unchecked}."
        if speed.number_types:
            types = ", ".join(f"{count:,} numbers of {name}" for name, count in speed.number_types.items())
            yield f"{speed.architecture}: timed in the number types it was built in: {types}."
        if speed.border_cells:
            yield (
                f"{speed.architecture}: it rounds border cells that lie exactly on the proposals' threshold the other way and may select "
                "them; held against a forward that lets them in, nothing else differs."
            )
        if speed.emulated:
            yield f"{speed.architecture}: {speed.emulated}; this says nothing about hardware that has them."
        if speed.varied_ratio is not None:
            yield f"{speed.architecture}: on inputs it had not seen it took {times(speed.varied_ratio)} the time: {speed.varied}."
        if speed.wall_per_device is not None and speed.wall_per_device > LAUNCH_BOUND:
            yield (
                f"{speed.architecture} is launch-bound: its wall time is {times(speed.wall_per_device)} its device time, the host cannot "
                "launch work as fast as the device does it."
            )
        yield from (f"{speed.architecture}: {sentence}." for sentence in speed.odd)
        if speed.gate_open_share:
            yield f"{speed.architecture}: in {percent(speed.gate_open_share)} of its rounds launch cost may have entered the device time."
    if skipped := [speed.architecture for speed in done if speed.varied == "skipped"]:
        yield f"Not timed on new inputs, for lack of budget: {', '.join(skipped)}."


def verdict_lines(*speeds: Speeds) -> Iterator[str]:
    """Every verdict in a line or two, against each reference, and what the control says: what a summary ends with."""
    several = sum(bool(each) for each in speeds) > 1
    for each in speeds:
        for name, speed in each.items():
            if name in (each.reference, speeds[0].reference) or not speed.verdict:
                continue
            against = f" against {each.reference}" if several else ""
            if speed.verdict in DECIDED:
                ratio = _interval(dataclasses.asdict(speed), "ratio")
                yield f"{name}{against}: {speed.words}; {speed.metric} ratio {ratio}, {speed.processes} processes."
            else:
                yield f"{name}{against}: {speed.verdict}: {speed.why}"
    if speeds and (control := speeds[0].control):
        yield f"Control: {speeds[0].control_of} against itself {_span(control.detected)}: {control.detected.verdict}."
    elif speeds and speeds[0].control_note:
        yield speeds[0].control_note


def _span(found: statistics.Comparison) -> str:
    return _interval({"ratio": found.ratio, "ratio_low": found.low, "ratio_high": found.high}, "ratio")


def fps_data(speeds: Speeds, reference: str) -> Table:
    """One row an architecture, seconds and shares unscaled; ratios are reference / architecture."""
    rows = [
        {**dataclasses.asdict(speed), "status": "failed" if speed.failed else "ok", **_energy(speeds, name)}
        for name, speed in speeds.items()
    ]
    keys = (
        "architecture", "status", "fps", "median_s", "p90_s", "min_s", "first_call_s", "cpu_median_s", "device_median_s", "processes",
        "rounds", "preempted_share", "steady", "ratio", "ratio_low", "ratio_high", "metric", "wall_ratio", "wall_ratio_low",
        "wall_ratio_high", "clean_ratio", "clean_ratio_low", "clean_ratio_high", "clean_rounds", "wall_per_device", "gate_open_share",
        "max_error", "tolerance", "same_selection", "varied", "varied_ratio", "verdict", "why", "margin", "reason",
        *(key for key in _energy(speeds, "") if key not in ("energy_spread", "energy_ratio_text")),
        *(("backend", "prepare_s") if any(speed.backend != "eager" for speed in speeds.values()) else ()),
    )
    return Table("fps", "fps", tuple(Column(key) for key in keys), tuple(rows))

"""A calibration certificate as tables: false alarms, planted effects, the power curve, other tools' rules beside ours."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from humar_bench.errors import UsageError
from humar_bench.report.files import check_folder, write_text
from humar_bench.report.markdown import conditions_to_markdown, table_to_markdown
from humar_bench.report.terminal import print_line, print_table
from humar_bench.studies.calibrate.calibrate import CERTIFICATE_NAME, MARKDOWN_NAME, RAW_NAME, cite, with_raw_beside, written
from humar_bench.table import Column, Table, percent

METRIC_WORDS = {
    "cpu_ns": "CPU time", "wall_ns": "wall time", "device_ns": "device time", "quiet_wall_ns": "wall time, quiet",
}
Row = Mapping[str, Any]


def calibration_tables(document: Mapping[str, Any]) -> list[Table]:
    """All tables of a certificate, in reading order."""
    results = document["results"]
    arms = {row["arm"]: row["planted"] for row in results["sizes"] if row["planted"] > 0}
    return [
        _false_alarms(document), _effects(document), _curve(document, arms),
        *[_rules(document, metric, arms) for metric in results["metrics"]],
    ]


def conditions(document: Mapping[str, Any]) -> list[str]:
    """What the tables hold for, one line each; the first line cites the certificate."""
    settings, machine, results = document["settings"], document["environment"], document["results"]
    smallest = [f"{_named(metric)}: {_plus(effect)}" for metric, effect in results["smallest_found"].items()]
    lines = [
        f"certificate {cite(document)}, made {document['made']}",
        f"smallest planted effect found in 90 % and more of comparisons over {results['comparison_processes']} processes: "
        f"{'; '.join(smallest)}",
        f"{results['processes']} processes within {document['elapsed_s']:.0f} of {settings['budget_s']:.0f} s, "
        f"{settings['arm_s']:.1f} s an arm and process, threads {settings['threads']}, seed {settings['seed']}; "
        f"level {settings['alpha']}, same within {percent(settings['margin'])}; {percent(results['preempted_share'])} of rounds preempted",
        f"machine: {machine.get('device_label')}, {machine.get('cores')} cores, load {machine.get('load_1min')}, "
        f"torch {machine.get('torch')}, commit {str(machine.get('commit'))[:12]}{' with changes' if machine.get('dirty') else ''}",
    ]
    return lines + [f"failed: {reason}" for reason in document["failures"]]


def calibration_markdown(document: Mapping[str, Any]) -> str:
    tables = "\n".join(table_to_markdown(table) for table in calibration_tables(document))
    return f"# humar-bench calibration\n\n{tables}\n{conditions_to_markdown(conditions(document))}"


def print_calibration(document: Mapping[str, Any], console: Console) -> None:
    for table in calibration_tables(document):
        print_table(table, console)
    for line in conditions(document):
        print_line(line, console, "dim")


def empty_place(folder: str | os.PathLike) -> Path:
    """Where the raw data of a new calibration go. Raises UsageError when the folder cannot be written into or holds one already."""
    target = check_folder(folder, "-o")
    for name in (RAW_NAME, CERTIFICATE_NAME):
        if os.path.exists(target / name) and (target / name).stat().st_size:
            raise UsageError(f"-o {str(folder)!r} already holds {name}; name another folder.")
    return target / RAW_NAME


def write_calibration(document: Mapping[str, Any], folder: str | os.PathLike) -> dict[str, Any]:
    """Certificate, raw data and tables as three files. Returns the certificate as it stands there, its raw data beside it."""
    beside, raw_text = with_raw_beside(document)
    target = Path(folder)
    write_text(target / RAW_NAME, raw_text)
    write_text(target / MARKDOWN_NAME, calibration_markdown(beside))
    write_text(target / CERTIFICATE_NAME, written(beside))
    return beside


def _named(metric: str) -> str:
    return METRIC_WORDS.get(metric, metric)


def _plus(share: float | None) -> str:
    return "none" if share is None else f"+{round(100 * share, 2):g} %"


def _share(key: str, title: str, digits: int = 1) -> Column:
    return Column(key, title, "%", digits=digits, scale=0.01)


_TIME = Column("time", "time", text=True)


def _words(rows: Sequence[Row]) -> tuple[dict[str, Any], ...]:
    return tuple({**row, "time": _named(row["metric"])} for row in rows)


def _reuse(document: Mapping[str, Any]) -> str:
    return (
        f"Resampled comparisons reuse the same {document['results']['processes']} processes, without replacement within a comparison: "
        "their rates carry the error of those few processes. Independent ones share no process; only they have an exact bound (95 %)."
    )


def _false_alarms(document: Mapping[str, Any]) -> Table:
    columns = (
        _TIME, Column("processes", "processes each"), Column("independent", "independent comparisons"),
        Column("independent_alarms", "called different"), _share("independent_bound", "rate at most"),
        Column("resampled", "resampled comparisons"), Column("resampled_faster", "called faster"),
        Column("resampled_slower", "called slower"), _share("resampled_rate", "rate", 2),
    )
    rows = _words(document["results"]["false_alarms"])
    return Table("false_alarms", "False alarms: 100 layers against the same 100 layers", columns, rows, (_reuse(document),))


def _effects(document: Mapping[str, Any]) -> Table:
    """Size from all processes; found, wrong way, same and undecided from resampled comparisons of the usual size."""
    results = document["results"]
    size = results["comparison_processes"]
    power = {(row["metric"], row["arm"]): row for row in results["power"] if row["processes"] == size}
    rows = []
    for row in _words(results["sizes"]):
        counted = power.get((row["metric"], row["arm"]), {})
        told = {key: counted.get(key) for key in ("comparisons", "found_rate", "wrong_way", "same", "undecided")}
        apart = f"{counted['independent_found']} of {counted['independent']}" if counted else None
        rows.append({**row, **told, "apart": apart})
    columns = (
        _TIME, _share("planted", "planted", 0), _share("recovered", "recovered", 2), _share("low", "95 % from", 2),
        _share("high", "to", 2), Column("processes", "by"), Column("verdict", "verdict", text=True),
        _share("found_rate", f"found by {size}"), Column("wrong_way", "wrong way"), Column("same", "same"),
        Column("undecided", "undecided"), Column("comparisons", "of"), Column("apart", "independent", text=True),
    )
    feet = (
        "Planted and recovered: time more than the reference's. Under contention wall ratios shrink towards 1, because the scheduler's "
        "waiting is added to both arms; quiet rounds, in which neither arm was preempted, keep the size.",
        _margin(document),
        _reuse(document),
    )
    return Table("effects", f"Planted effects, comparisons over {size} processes", columns, tuple(rows), feet)


def _margin(document: Mapping[str, Any]) -> str:
    margin = percent(document["settings"]["margin"])
    return f"An effect below the margin of {margin} may be called the same within {margin}, which is right and is not counted as found."


def _curve(document: Mapping[str, Any], arms: Mapping[str, float]) -> Table:
    by_size: dict[tuple[str, int], dict[str, Any]] = {}
    for row in document["results"]["power"]:
        line = by_size.setdefault((row["metric"], row["processes"]), {"metric": row["metric"], "processes": row["processes"]})
        line |= {"timed_s": row["timed_s"], f"found {row['arm']}": row["found_rate"], f"wrong {row['arm']}": row["wrong_way"]}
    columns = [_TIME, Column("processes", "processes"), Column("timed_s", "timed, both arms", "s", digits=0)]
    for arm, planted in arms.items():
        columns += [_share(f"found {arm}", f"{_plus(planted)} found"), Column(f"wrong {arm}", "wrong way")]
    rows = _words(list(by_size.values()))
    return Table("power", "Power: found, by processes in a comparison", tuple(columns), rows, (_margin(document),))


def _rules(document: Mapping[str, Any], metric: str, arms: Mapping[str, float]) -> Table:
    columns = [
        Column("rule", "rule", text=True), Column("where", "as in", text=True), Column("processes", "processes"),
        _share("alarm_rate", "A/A different"), _share("alarm_rate_next", "neighbours"),
    ]
    columns += [Column(f"calls {arm}", f"{_plus(planted)} right / wrong", text=True) for arm, planted in arms.items()]
    rows = []
    for row in document["results"]["rules"]:
        if row["metric"] == metric:
            measured = arms if row["comparisons"] else ()
            calls = {f"calls {arm}": f"{100 * row[f'right {arm}']:.0f} / {100 * row[f'wrong {arm}']:.0f}" for arm in measured}
            rows.append({**row, **calls})
    feet = (
        "Each rule on the same raw times, as its tool would have them: the reference in some processes, the candidate in others; only ours "
        f"has both in every process. Rules are simplified to their decision, {document['settings']['replays']} draws each; this ranks "
        "rules, not products. Right and wrong, the planted arm called slower and faster, in %.",
        "Neighbours: A/A with the candidate in the processes right after the reference's, or right before, where drift is least.",
    )
    return Table(f"rules_{metric}", f"Decision rules on the same data: {_named(metric)}", tuple(columns), tuple(rows), feet)

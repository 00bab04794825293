"""Claims and their verdicts as tables and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from humar_bench.args import ModelArgs
from humar_bench.claims import CANDIDATE, FAILS, HOLDS, ORIGINAL, UNDECIDED, Verdict, exit_code
from humar_bench.comparison import asked_text, environment_text
from humar_bench.evidence import Evidence
from humar_bench.record import Run, plain
from humar_bench.report.data import to_csv as table_to_csv
from humar_bench.report.markdown import table_to_markdown
from humar_bench.report.terminal import print_table
from humar_bench.table import Column, Table

FORMAT = 1  # of the JSON document


def tables(evidence: Evidence, verdicts: Sequence[Verdict]) -> list[Table]:
    """For people: the candidate's claims, then the original's."""
    columns = tuple(Column(key, title, text=True) for key, title in (
        ("claim", "claim"), ("section", "stands in"), ("claimed", "claimed"), ("measured", "measured here"), ("verdict", "verdict"),
    ))
    made = []
    for side, title in ((CANDIDATE, "Claims about {}"), (ORIGINAL, "Claims about {}, which do not count against the candidate")):
        own = [each for each in verdicts if each.claim.side == side]
        rows = tuple({**_row(each), "verdict": f"{each.verdict}: {each.why}" if each.why else each.verdict} for each in own)
        made.append(Table(f"claims-{side}", title.format(evidence.sides[side]), columns, rows, (_counted(own), *_feet(side))))
    return made


def _counted(verdicts: Sequence[Verdict]) -> str:
    told = [f"{sum(each.verdict == word for each in verdicts)} {word}" for word in (HOLDS, FAILS, UNDECIDED)]
    return f"{', '.join(told)}."


def _feet(side: str) -> tuple[str, ...]:
    if side == ORIGINAL:
        return ("A decoder is given with its heads and without (layers); orders leave out whatever does not grow.",)
    return (
        "A count holds when it rounds to what was published; a factor or share may be better than published.",
        "Speed: interval over processes, each end passed with 5 %; the interval and the wall time must be on one side of the claim.",
        "A further 2-4x by 8-bit weights is named as future work, not claimed.",
    )


def data(verdicts: Sequence[Verdict]) -> Table:
    """For programs: one row a claim."""
    keys = ("key", "about", "claim", "section", "claimed", "unit", "rule", "decided_by", "measured", "verdict", "why")
    return Table("claims", "Claims", tuple(Column(key, text=True) for key in keys), tuple(_row(each) for each in verdicts))


def _row(verdict: Verdict) -> dict[str, Any]:
    claim = verdict.claim
    return {
        "key": claim.key, "about": claim.side, "claim": claim.text, "section": claim.section, "claimed": claim.claimed, "unit": claim.unit,
        "rule": claim.limit.words, "decided_by": claim.decided_by, "measured": verdict.measured, "verdict": verdict.verdict,
        "why": verdict.why,
    }


def conditions(evidence: Evidence) -> list[str]:
    """What the verdicts hold for."""
    records = [record for queries in evidence.queries for record in evidence.points.get(f"{queries} queries", Run())]
    if not records:
        return []
    work = records[0].workload
    sizes = ", ".join(f"{height}x{width}" for height, width in work["feature_sizes"])
    asked = {**records[0].asked, "num_feature_levels": ModelArgs().num_feature_levels, "num_queries": ModelArgs().num_queries}
    queries = " and ".join(map(str, evidence.queries))
    return [
        f"Speed and memory: batch {work['batch']}, {queries} queries, feature maps {sizes}.", f"Asked: {asked_text(asked)}.",
        *dict.fromkeys(environment_text(each) for each in records),
        *dict.fromkeys(f"Made by: {each.command}" for each in records if each.command),
    ]


def to_json(evidence: Evidence, verdicts: Sequence[Verdict]) -> str:
    """Everything as one JSON object."""
    rows = [{**_row(each), "findings": [dataclasses.asdict(finding) for finding in each.findings]} for each in verdicts]
    document = {
        "format": FORMAT, "sides": evidence.sides, "claims": rows, "behaviour": evidence.behaviour, "failures": evidence.failures,
        "conditions": conditions(evidence), "exit_code": exit_code(evidence, verdicts),
    }
    return json.dumps(plain(document), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def to_markdown(evidence: Evidence, verdicts: Sequence[Verdict]) -> str:
    """Both tables, then what they hold for."""
    held = "".join(f"- {line}\n" for line in conditions(evidence))
    return "\n".join([*(table_to_markdown(each) for each in tables(evidence, verdicts)), f"## What this holds for\n\n{held}"])


def to_csv(evidence: Evidence, verdicts: Sequence[Verdict]) -> str:
    """One row a claim."""
    return table_to_csv(data(verdicts))


def print_claims(evidence: Evidence, verdicts: Sequence[Verdict], console: Console) -> None:
    """Both tables, then what they hold for."""
    for table in tables(evidence, verdicts):
        print_table(table, console)
    for line in conditions(evidence):
        console.print(Text(line), style="dim")

"""Claims and their verdicts as a study: tables for people and programs, a document for JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from humar_bench.args import ModelArgs
from humar_bench.records.record import Run
from humar_bench.report.comparison import asked_text, environment_text, made_by
from humar_bench.report.work_text import sizes_text
from humar_bench.studies.claims.claims import CANDIDATE, FAILS, HOLDS, ORIGINAL, UNDECIDED, Verdict, decide, exit_code
from humar_bench.studies.claims.evidence import Evidence
from humar_bench.table import Column, Table

FORMAT = 1  # of the JSON document


@dataclass(frozen=True)
class Claims:
    """What was measured, each claim's verdict, and how both are shown."""

    evidence: Evidence
    name: ClassVar[str] = "claims"

    @cached_property
    def verdicts(self) -> list[Verdict]:
        return decide(self.evidence)

    @property
    def exit_code(self) -> int:
        return exit_code(self.evidence, self.verdicts)

    @property
    def run(self) -> Run:
        return self.evidence.run

    @property
    def failures(self) -> tuple[str, ...]:
        return self.evidence.failures

    @property
    def settings(self) -> dict[str, Any]:
        """With the records, all that the evidence is; `points` says how many records in a row each amount of work has."""
        evidence = self.evidence
        return {
            "sides": evidence.sides, "points": {name: len(run) for name, run in evidence.points.items()}, "behaviour": evidence.behaviour,
            "queries": evidence.queries, "timed": evidence.timed,
            **({} if evidence.accuracy is None else {"accuracy": evidence.accuracy}),
        }

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        return tuple(tables(self.evidence, self.verdicts))

    @cached_property
    def data(self) -> dict[str, Table]:
        return {"claims": data(self.verdicts)}

    @cached_property
    def conditions(self) -> tuple[str, ...]:
        return tuple(conditions(self.evidence))

    @property
    def document(self) -> dict[str, Any]:
        """Everything, for JSON."""
        rows = [{**row(each), "findings": [dataclasses.asdict(finding) for finding in each.findings]} for each in self.verdicts]
        return {
            "format": FORMAT, "sides": self.evidence.sides, "claims": rows, "behaviour": self.evidence.behaviour,
            "failures": self.failures, "conditions": list(self.conditions), "exit_code": self.exit_code,
        }


def restore(run: Run, settings: Mapping[str, Any]) -> Claims:
    """The claims that a folder holds."""
    records, points = iter(run), {}
    for name, count in settings["points"].items():
        points[name] = Run(tuple(next(records) for _ in range(count)))
    return Claims(Evidence(
        settings["sides"], points, settings["behaviour"], tuple(settings["queries"]), settings["timed"], settings.get("accuracy"),
    ))


def tables(evidence: Evidence, verdicts: Sequence[Verdict]) -> list[Table]:
    """For people: the candidate's claims, then the original's."""
    titles = ((CANDIDATE, "Claims about {}"), (ORIGINAL, "Claims about {}, which do not count against the candidate"))
    return [
        claims_table(
            f"claims-{side}", title.format(evidence.sides[side]), [each for each in verdicts if each.claim.side == side], _feet(side)
        )
        for side, title in titles
    ]


def claims_table(name: str, title: str, verdicts: Sequence[Verdict], feet: Sequence[str]) -> Table:
    """For people: one row a claim, how many hold below."""
    columns = tuple(Column(key, heading, text=True) for key, heading in (
        ("claim", "claim"), ("section", "stands in"), ("claimed", "claimed"), ("measured", "measured here"), ("verdict", "verdict"),
    ))
    rows = tuple({**row(each), "verdict": f"{each.verdict}: {each.why}" if each.why else each.verdict} for each in verdicts)
    return Table(name, title, columns, rows, (_counted(verdicts), *feet))


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
    return Table("claims", "Claims", tuple(Column(key, text=True) for key in keys), tuple(row(each) for each in verdicts))


def row(verdict: Verdict) -> dict[str, Any]:
    """One claim's cells."""
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
    asked = {**records[0].asked, "num_feature_levels": ModelArgs().num_feature_levels, "num_queries": ModelArgs().num_queries}
    queries = " and ".join(map(str, evidence.queries))
    return [
        f"Speed and memory: batch {work['batch']}, {queries} queries, feature maps {sizes_text(work)}.", f"Asked: {asked_text(asked)}.",
        *dict.fromkeys(environment_text(each) for each in records),
        *made_by(records),
    ]

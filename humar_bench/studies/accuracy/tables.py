"""Runs of a study of accuracy -> retention with its interval and verdict, curves, learning rates. No torch, nothing is printed.

Everything is a function of the records and the settings, so that `verify` can make every table again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from humar_bench.errors import EXIT_DONE, EXIT_FAILED, EXIT_INVALID, EXIT_REGRESSION, EXIT_UNDECIDED, InvalidMeasurement
from humar_bench.judging.retention import INVALID, KEEPS, LAST_SHARE, LOSES, MOST_GAIN, Retention, judge_study
from humar_bench.judging.retention import Arm as Runs
from humar_bench.records.record import AGAIN, Record, Run
from humar_bench.report.comparison import asked_text, environment_text, failures_of, made_by
from humar_bench.report.plot import Plot
from humar_bench.studies.accuracy.curves import Curves
from humar_bench.studies.accuracy.lost import lost_feet
from humar_bench.studies.accuracy.plan import FLOOR, RATE, RUN
from humar_bench.studies.accuracy.rates import chosen_of, rate_accuracy, rate_scores, rates_table
from humar_bench.studies.accuracy.scores import Scores
from humar_bench.table import Column, Table, joined, percent

FORMAT = 1  # of the JSON document. 1: title, retention, runs, curves, rates, conditions, failures
TEACHES = ("keypoints", "class", "tokens")  # what a student imitates: the weights teacher_... of `TrainArgs`
EXITS = {INVALID: EXIT_INVALID, LOSES: EXIT_REGRESSION, KEEPS: EXIT_DONE}


@dataclass(frozen=True)
class Accuracy:
    """The records of one study, and what follows from them."""

    run: Run
    settings: Mapping[str, Any]
    name: ClassVar[str] = "accuracy"

    # Reading ----------------------------------------------------------------------------------------------------------------------

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(arm["name"] for arm in self.settings["arms"])

    @property
    def reference(self) -> str:
        return self.arms[0]

    @property
    def again(self) -> str:
        return f"{self.reference}{AGAIN}"

    @property
    def seeds(self) -> int:
        return self.settings["seeds"]

    @cached_property
    def runs(self) -> dict[str, list[Record]]:
        """Arm -> its finished runs by seed, the control's too; of the comparison, not those for learning rates."""
        found: dict[str, list[Record]] = {name: [] for name in (self.reference, self.again, *self.arms[1:])}
        for record in sorted(self.run, key=lambda each: each.process):
            if record.workload["role"] == RUN and record.ok and record.architecture in found:
                found[record.architecture].append(record)
        return found

    @cached_property
    def rate_scores(self) -> dict[str, dict[float, Scores | None]]:
        return {arm: rate_scores(self.run, arm) for arm in (*self.arms, *self.settings["beaten"])}

    @cached_property
    def rates(self) -> dict[str, dict[float, float]]:
        return {arm: rate_accuracy(scores) for arm, scores in self.rate_scores.items()}

    @cached_property
    def chosen(self) -> dict[str, tuple[float, bool]]:
        """Arm -> its learning rate, and whether the best one lies at the edge of the grid."""
        return {arm: chosen_of(scores) for arm, scores in self.rate_scores.items() if scores}

    @cached_property
    def scores(self) -> dict[str, Scores]:
        """Record id -> its evaluation."""
        return {record.id: Scores(record.measured) for record in self.run if record.ok}

    @property
    def by_seed(self) -> dict[str, dict[int, float]]:
        """Architecture -> seed -> accuracy of the runs that are compared; the control's are the reference's."""
        found: dict[str, dict[int, float]] = {}
        for name, own in self.runs.items():
            one = found.setdefault(self.reference if name == self.again else name, {})
            one |= {each.process: self.scores[each.id].accuracy() for each in own}
        return found

    @cached_property
    def floor(self) -> float | None:
        """What the mean pose at the right place and scale scores."""
        found = [record for record in self.run if record.workload["role"] == FLOOR and record.ok]
        return self.scores[found[-1].id].accuracy() if found else None

    @cached_property
    def complete(self) -> bool:
        return self.floor is not None and all(len(found) == self.seeds for found in self.runs.values())

    @cached_property
    def retention(self) -> dict[str, Retention]:
        """Control and candidates against the reference; empty as long as runs are missing. Raises InvalidMeasurement where runs do not
        belong together."""
        if not self.complete:
            return {}
        self.check()
        judged = {name: self.arm_of(name) for name in self.runs}
        candidates = [judged[name] for name in self.arms[1:]]
        return judge_study(judged[self.reference], candidates, judged[self.again], margin=self.settings["margin"], floor=self.floor)

    def check(self) -> None:
        """Raises InvalidMeasurement where runs do not belong together."""
        records = [each for found in self.runs.values() for each in found]
        for what, values in (
            ("began with different weights before the transformer", {each.measured.get("front_end") for each in records}),
            ("were evaluated on different pictures", {len(each.measured["oks"]) for each in records}),
            ("were trained on different numbers of pictures", {each.measured["pictures"] for each in records}),
        ):
            if len(values) > 1:
                raise InvalidMeasurement(f"the runs {what}: {joined(sorted(map(str, values)))}; they cannot be compared.")

    def arm_of(self, name: str) -> Runs:
        """A row's finished runs as they are judged."""
        own = self.runs[name]
        scores = [self.scores[each.id] for each in own]
        return Runs(
            name, np.array([each.accuracy() for each in scores]), np.array([_before(each) for each in own]),
            np.stack([each.drawn(self.settings["draws"]) for each in scores], axis=1),
            self.chosen.get(self._trained_as(name), (0.0, False))[1],
        )

    def _trained_as(self, name: str) -> str:
        """The arm whose learning rate a row has."""
        return self.reference if name == self.again else self.taught.get(name, name)

    @cached_property
    def taught(self) -> dict[str, str]:
        """Arm that also imitates the reference -> the same arm without a teacher."""
        return {arm["name"]: arm["untaught"] for arm in self.settings["arms"] if "untaught" in arm}

    # How it ends ------------------------------------------------------------------------------------------------------------------

    @cached_property
    def missing(self) -> int:
        """Runs that were not made."""
        wanted = self.seeds * len(self.runs) + (self.floor is None)
        return wanted - sum(map(len, self.runs.values())) if not self.complete else 0

    @property
    def failures(self) -> tuple[str, ...]:
        """One sentence for each run that failed; one that diverged while learning rates were tried is a result."""
        failed = [each for each in self.run if not each.ok and not (each.workload["role"] == RATE and each.kind == "not finite")]
        return failures_of(Run(tuple(failed)))

    @property
    def exit_code(self) -> int:
        """The worst of what counts: a failure, invalid, loses, undecided (also when runs are missing), keeps."""
        if self.failures:
            return EXIT_FAILED
        if not self.complete:
            return EXIT_UNDECIDED
        counted = {arm["name"] for arm in self.settings["arms"][1:] if arm["counts"]}
        codes = [EXITS.get(found.verdict, EXIT_UNDECIDED) for name, found in self.retention.items() if name in counted]
        return next((code for code in (EXIT_INVALID, EXIT_REGRESSION, EXIT_UNDECIDED) if code in codes), EXIT_DONE)

    # For people and programs ------------------------------------------------------------------------------------------------------

    @property
    def first(self) -> Record:
        """A record of the comparison, or any."""
        return next((each for found in self.runs.values() for each in found), self.run[0])

    @property
    def title(self) -> str:
        return f"{self.settings['title']}, {self.first.workload['data']}"

    @cached_property
    def retention_rows(self) -> tuple[dict[str, Any], ...]:
        rows = []
        for name, own in self.runs.items():
            found = self.retention.get(name)
            values = np.array([self.scores[each.id].accuracy() for each in own])
            rows.append({
                "architecture": name, "parameters": own[0].measured["parameters"] if own else None,
                "learning_rate": self.chosen.get(self._trained_as(name), (None,))[0], "runs": len(own),
                "ap": float(values.mean()) if own else None,
                "ap_spread": float(np.log(values).std(ddof=1)) if len(own) > 1 and (values > 0).all() else None,
                "oks": float(np.mean([self.scores[each.id].oks for each in own])) if own else None,
                "last_fifth": _gain(values, own), "cpu_s": _mean(own, "cpu_s"), "wall_s": _mean(own, "wall_s"),
                "retention": found.value if found else None, "low": found.low if found else None, "high": found.high if found else None,
                "verdict": found.verdict if found else "reference" if name == self.reference else "",
                "reason": found.reason if found else "",
                "seed_error": found.seed_error if found else None, "picture_error": found.picture_error if found else None,
            })
        return tuple(rows)

    @cached_property
    def run_rows(self) -> tuple[dict[str, Any], ...]:
        """One row a run, those for learning rates too."""
        rows = []
        for record in self.run:
            work, ok = record.workload, record.ok
            last = record.measured["curve"][-1] if ok and record.measured["curve"] else {}
            rows.append({
                "role": work["role"], "architecture": record.architecture, "seed": work["seed"],
                "learning_rate": work["optim"]["lr"] if work["role"] != FLOOR else None, "pictures": work["pictures"],
                "ap": self.scores[record.id].accuracy() if ok else None, "oks": self.scores[record.id].oks if ok else None,
                "cpu_s": last.get("cpu_s"), "wall_s": last.get("wall_s"), "failed": "" if ok else record.reason,
            })
        return tuple(rows)

    @cached_property
    def curve_rows(self) -> tuple[dict[str, Any], ...]:
        """One row an evaluation of a run of the comparison."""
        return tuple(
            {"architecture": name, "seed": record.process, **each}
            for name, own in self.runs.items() for record in own for each in record.measured["curve"]
        )

    @cached_property
    def rate_rows(self) -> tuple[dict[str, Any], ...]:
        return tuple(
            {"architecture": arm, "learning_rate": rate, "ap": found[rate], "chosen": "chosen" if self.chosen[arm][0] == rate else ""}
            for arm, found in self.rates.items() for rate in sorted(found)
        )

    @cached_property
    def rates_table(self) -> Table:
        pictures = next((each.workload["pictures"] for each in self.run if each.workload["role"] == RATE), 0)
        return rates_table(self.rates, self.chosen, pictures, self.arms, self.settings["beaten"])

    @cached_property
    def curves(self) -> Curves:
        return Curves.of(self.runs, str(self.first.environment.get("device", "cpu")))

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        return tuple(each for each in (_retention_table(self), self.curves.table, self.rates_table) if each.rows)

    @cached_property
    def data(self) -> dict[str, Table]:
        made = {"retention": self.retention_rows, "runs": self.run_rows, "curves": self.curve_rows, "rates": self.rate_rows}
        keys = {
            "retention": tuple(self.retention_rows[0]), "runs": tuple(self.run_rows[0]),
            "curves": ("architecture", "seed", "pictures", "wall_s", "cpu_s", "ap", "oks"),
            "rates": ("architecture", "learning_rate", "ap", "chosen"),
        }
        return {name: Table(name, name, tuple(Column(key) for key in keys[name]), rows) for name, rows in made.items()}

    @property
    def document(self) -> dict[str, Any]:
        """Everything, for JSON."""
        rows = {name: [dict(row) for row in table.rows] for name, table in self.data.items()}
        return {
            "format": FORMAT, "title": self.title, "margin": self.settings["margin"], "floor": self.floor, **rows,
            "environment": self.first.environment, "conditions": list(self.conditions), "failures": list(self.failures),
            "exit_code": self.exit_code,
        }

    @cached_property
    def conditions(self) -> tuple[str, ...]:
        """What the numbers hold for."""
        return (*self.own_conditions, f"Asked: {asked_text(self.first.asked)}.", environment_text(self.first), *made_by(self.run),
                *self.run.notes)

    @property
    def own_conditions(self) -> tuple[str, ...]:
        """What of them is of training alone."""
        return tuple(_conditions(self))

    @property
    def plot(self) -> Plot:
        return self.curves.plot(self.title)


def restore(run: Run, settings: Mapping[str, Any]) -> Accuracy:
    """The study that a folder holds."""
    return Accuracy(run, settings)


def _before(record: Record) -> float:
    """Accuracy when the last fifth of the schedule began; NaN where the curve has no such point."""
    at = (1 - LAST_SHARE) * record.measured["pictures"]
    return next((each["ap"] for each in record.measured["curve"] if math.isclose(each["pictures"], at, rel_tol=0.01)), math.nan)


def _gain(values: np.ndarray, own: list[Record]) -> float | None:
    gain = 1 - np.mean([_before(each) for each in own]) / values.mean() if len(own) and values.mean() > 0 else math.nan
    return float(gain) if math.isfinite(gain) else None


def _mean(own: list[Record], name: str) -> float | None:
    return float(np.mean([each.measured["curve"][-1][name] for each in own])) if own else None


# Tables for people ----------------------------------------------------------------------------------------------------------------


def _retention_table(study: Accuracy) -> Table:
    rows = []
    for row in study.retention_rows:
        interval = f"{100 * row['low']:.1f} to {100 * row['high']:.1f}" if row["low"] is not None else ""
        rate = f"{row['learning_rate']:.2g}" if row["learning_rate"] else ""
        rows.append({**row, "interval": interval, "rate": rate})
    columns = (
        Column("architecture", text=True), Column("parameters", "parameters", "M", "less", 2, 1e6), Column("rate", "rate", text=True),
        Column("runs", "runs"), Column("ap", "AP", "", "more", 3), Column("ap_spread", "spread", "%", "", 1, 0.01),
        Column("oks", "OKS", "", "more", 3), Column("last_fifth", "last fifth", "%", "", 1, 0.01),
        Column("retention", "keeps", "%", "more", 1, 0.01), Column("interval", "95 % interval", text=True), Column("verdict", text=True),
    )
    return Table("retention", f"Accuracy kept: {study.title}", columns, tuple(rows), tuple(_retention_feet(study)))


def _retention_feet(study: Accuracy) -> Iterable[str]:
    for row in study.retention_rows:
        if row["reason"]:
            yield f"{row['architecture']}: {row['verdict']}. {row['reason'][0].upper()}{row['reason'][1:]}"
    yield from lost_feet(study.by_seed, study.reference, whole=study.complete)
    if study.missing:
        yield f"{study.missing} runs are missing, so there is no verdict; go on with --resume."
    yield (
        "AP: average precision over OKS .5 to .95 of the best-scored pose, mean over runs; spread: of log AP over seeds; last fifth: what "
        f"that part of the schedule added, at most {percent(MOST_GAIN)}."
    )
    if study.floor is not None:
        yield f"The mean pose at the right place and scale scores {study.floor:.3f}."
    yield (
        f"{study.again} is the control: the same architecture with other seeds. Candidates are held against the runs of both. The verdict "
        f"asks for {percent(study.settings['margin'])}."
    )


def _conditions(study: Accuracy) -> Iterable[str]:
    first, settings = study.first, study.settings
    work = first.workload
    optim = work["optim"]
    size = f"{work['size']} px, " if str(work["data"]).startswith("procedural") else ""
    yield (
        f"Every run: {work['pictures']:,} pictures of {work['data']}, {size}batch {optim['batch_size']}, schedule {optim['schedule']}; "
        f"evaluated on {len(first.measured['oks']) if first.ok and first.measured else 0:,} pictures that nobody trains on."
    )
    if settings["warm_pictures"]:
        yield (
            f"What stands before the transformer was trained ahead once, on {settings['warm_pictures']:,} pictures, and is the same in "
            "every run at its start: what another one would do is not in the interval."
        )
    if (share := optim.get("front_end_share", 1)) != 1:
        said = f"learns with {share:g} of the learning rate" if share else "stays as it was trained ahead"
        yield f"What stands before the transformer {said}."
    for name, plain in study.taught.items():
        weights = joined([f"{work[f'teacher_{each}']:g}" for each in TEACHES])
        yield (
            f"{name}: {plain} with its learning rate, and every run also imitates the run of {study.reference} with the same seed: "
            f"{joined(TEACHES)}, weighted {weights}. Its seconds hold the teacher's forwards, and not the teacher's own training."
        )
    yield f"Preset {settings['preset']}, for {settings['machine']} and {settings['minutes']:g} minutes: {settings['title']}."

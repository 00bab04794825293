"""The learning rate of each arm: what the runs on the seed for learning rates scored, which one is chosen, and the table of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from humar_bench.judging.retention import chosen_rate
from humar_bench.records.record import Record
from humar_bench.studies.accuracy.plan import RATE
from humar_bench.studies.accuracy.scores import Scores
from humar_bench.table import Column, Table, joined, percent

DRAWS = 200  # of pictures, for the standard error of an accuracy


def rate_scores(records: Iterable[Record], arm: str) -> dict[float, Scores | None]:
    """Learning rate -> the evaluation of an arm on the seed for learning rates; None of a run that diverged."""
    own = [each for each in records if each.workload["role"] == RATE and each.architecture == arm]
    return {each.workload["optim"]["lr"]: Scores(each.measured) if each.ok else None for each in own}


def rate_accuracy(scores: Mapping[float, Scores | None]) -> dict[float, float]:
    """Learning rate -> accuracy, 0 for a run that diverged."""
    return {rate: 0.0 if each is None else each.accuracy() for rate, each in scores.items()}


def chosen_of(scores: Mapping[float, Scores | None]) -> tuple[float, bool]:
    """The learning rate of an arm by its `rate_scores`, and whether the best lies at the edge of the grid. Raises UsageError for none."""
    return chosen_rate(rate_accuracy(scores), lambda rate: 0.0 if scores[rate] is None else float(scores[rate].drawn(DRAWS).std()))


def rates_table(
    rates: Mapping[str, Mapping[float, float]], chosen: Mapping[str, tuple[float, bool]], pictures: int, arms: Sequence[str],
    beaten: Mapping[str, str],
) -> Table:
    """One row an arm with its accuracies after so many pictures. `arms` are those compared, the reference first; `beaten` are others, each
    with the arm that was better."""
    tried = sorted({rate for found in rates.values() for rate in found})
    rows = []
    for arm, found in rates.items():
        if found:
            own = {f"{rate:g}": f"{found[rate]:.3f}{' *' if chosen[arm][0] == rate else ''}" for rate in tried if rate in found}
            rows.append({"architecture": arm, **own})
    feet = [
        f"AP after {pictures:,} pictures on a seed that no other run has; * is chosen: the lowest rate that is within one standard error "
        "over pictures of the best."
    ]
    feet += [f"{better} was better than {arm} here, so it is what is compared." for arm, better in beaten.items()]
    best = {arm: max(rates[arm].values()) for arm in arms if rates[arm]}
    if best.get(arms[0]):
        said = [f"{arm} {percent(best[arm] / best[arms[0]])}" for arm in arms[1:] if arm in best]
        feet.append(f"Of {arms[0]} after these pictures, one seed: {joined(said)}; what is kept depends on how long is trained.")
    if edge := [arm for arm, (_, at_edge) in chosen.items() if at_edge]:
        feet.append(f"At the edge of the grid, so that a better one may lie beyond: {joined(edge)}.")
    columns = (Column("architecture", text=True), *(Column(f"{rate:g}", text=True) for rate in tried))
    return Table("rates", "Learning rates", columns, tuple(rows), tuple(feet))

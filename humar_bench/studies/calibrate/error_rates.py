"""Error rates from the raw times of `humar-bench calibrate`: false alarms, found effects, wrong ways. Pure functions, no clock, no torch.

Raw data: one mapping a process, its `arms` with nanoseconds a round (`calibrate_worker.py`). Two arms are identical (A/A), the others
are slower by a known share. What other comparisons would have said is drawn from the same processes: a resampled comparison takes K
different processes, and two of them may share some, so a resampled rate knows no more than the processes it is made from. Independent
comparisons share no process; only they carry an exact bound.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from humar_bench.errors import UsageError
from humar_bench.judging import statistics
from humar_bench.judging.statistics import FASTER, SAME, SLOWER, UNDECIDED, ProcessSample
from humar_bench.studies.calibrate import rules

Raw = Mapping[str, Any]
REFERENCE, AGAIN = "100", "100 again"
CPU, WALL, DEVICE, QUIET = "cpu_ns", "wall_ns", "device_ns", "quiet_wall_ns"
FOUND_SHARE = 0.9
LEAST_PROCESSES, USUAL_PROCESSES = 5, 15
CURVE_SIZES = (5, 8, 10, 12, 15, 20, 25, 30, 40, 60, 80)
MIN_QUIET_ROUNDS = 10
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Analysis:
    """What is asked of the raw data. `arms` holds the layers of each arm; `margin` and `alpha` are the tool's own."""

    arms: Mapping[str, int]
    margin: float
    alpha: float = statistics.ALPHA
    seed: int = 0
    comparisons: int = 2000
    replays: int = 300

    def effect(self, arm: str) -> float:
        """The share by which an arm is slower than the reference."""
        return self.arms[arm] / self.arms[REFERENCE] - 1

    @property
    def planted(self) -> list[str]:
        return [arm for arm in self.arms if arm not in (REFERENCE, AGAIN)]


def analyse(processes: Sequence[Raw], analysis: Analysis) -> dict[str, Any]:
    """Every result, from the raw data alone and the same each time. Raises UsageError with fewer than two processes."""
    if len(processes) < 2:
        raise UsageError(f"the raw data hold {len(processes)} processes; a comparison needs at least 2, so give a longer budget.")
    for process in processes:
        if set(process["arms"]) != set(analysis.arms):
            raise UsageError(f"process {process['process']} holds the arms {sorted(process['arms'])}; {sorted(analysis.arms)} are needed.")
    metrics = [DEVICE, WALL] if DEVICE in processes[0]["arms"][REFERENCE] else [CPU, WALL]
    size = usual_size(len(processes))
    rates = [rate for metric in metrics for rate in power(processes, analysis, metric)]
    return {
        "processes": len(processes),
        "comparison_processes": size,
        "metrics": metrics,
        "false_alarms": [row for metric in metrics for row in false_alarms(processes, analysis, metric)],
        "sizes": [row for metric in (*metrics, QUIET) for row in recovered_sizes(processes, analysis, metric)],
        "power": rates,
        "smallest_found": {metric: smallest_found(rates, metric, size) for metric in metrics},
        "rules": [row for metric in metrics for row in replay(processes, analysis, metric, rates)],
        "preempted_share": _preempted_share(processes),
    }


# Reading raw data


def times(process: Raw, arm: str, metric: str, paired_with: str = REFERENCE) -> np.ndarray:
    """Seconds a round of one arm in one process. For `QUIET`, only rounds in which neither this arm nor its pair was preempted."""
    raw = process["arms"][arm]
    if metric != QUIET:
        return np.asarray(raw[metric], dtype=float) / 1e9
    disturbed = [[digit == "1" for digit in process["arms"][each]["preempted"]] for each in (arm, paired_with)]
    rounds = min(map(len, disturbed))
    quiet = ~np.logical_or(disturbed[0][:rounds], disturbed[1][:rounds])
    return np.asarray(raw[WALL], dtype=float)[:rounds][quiet] / 1e9


def timed_s(process: Raw, arm: str) -> float:
    """Wall seconds of all of an arm's timed forwards in one process."""
    return float(times(process, arm, WALL).sum()) * process["arms"][arm].get("calls_per_block", 1)


def samples(processes: Sequence[Raw], arm: str, metric: str, paired_with: str = REFERENCE) -> list[ProcessSample]:
    return [ProcessSample(times(process, arm, metric, paired_with)) for process in processes]


def log_ratios(processes: Sequence[Raw], arm: str, metric: str) -> np.ndarray:
    """One log ratio a process, reference over arm: what `statistics.compare_processes` makes its verdict from."""
    both = [(times(each, REFERENCE, metric), times(each, arm, metric)) for each in processes]
    return np.array([statistics.log_ratio(one[: len(other)], other[: len(one)]) for one, other in both])


def _preempted_share(processes: Sequence[Raw]) -> float:
    digits = "".join(arm["preempted"] for process in processes for arm in process["arms"].values())
    return digits.count("1") / max(1, len(digits))


# Comparisons


def usual_size(processes: int) -> int:
    """Processes of the comparisons that the headline is about: 15, or half of what there is but at least 5, so that they can differ."""
    return min(processes, USUAL_PROCESSES, max(LEAST_PROCESSES, processes // 2))


def curve_sizes(processes: int) -> list[int]:
    """Sizes for the power curve; beyond three quarters of all processes every resampled comparison is nearly the same one."""
    sizes = {size for size in CURVE_SIZES if size <= 0.75 * processes}
    return sorted(sizes | {usual_size(processes)})


def subsets(processes: int, size: int, comparisons: int, random: np.random.Generator) -> np.ndarray:
    """Index sets of resampled comparisons, without replacement within one; all there are when there are no more than asked for."""
    if math.comb(processes, size) <= comparisons:
        return np.array(list(itertools.combinations(range(processes), size)))
    return random.random((comparisons, processes)).argsort(1)[:, :size]


def resampled(logs: np.ndarray, size: int, analysis: Analysis) -> dict[str, Any]:
    """Verdicts of many resampled comparisons of `size` processes, counted; the same judgement as `statistics.compare_processes`."""
    chosen = subsets(len(logs), size, analysis.comparisons, np.random.default_rng([analysis.seed, size]))
    evidence = statistics.weigh(logs[chosen], analysis.margin)
    verdicts = statistics.decide(evidence.mean, evidence.p_different, evidence.p_same, analysis.margin, analysis.alpha)
    return {"comparisons": len(verdicts), **{word: int((verdicts == word).sum()) for word in (FASTER, SLOWER, SAME, UNDECIDED)}}


def independent(processes: Sequence[Raw], analysis: Analysis, arm: str, metric: str, size: int) -> dict[str, Any]:
    """Verdicts of the comparisons that share no process: as many groups of `size` neighbours in time as the data hold."""
    counts = dict.fromkeys((FASTER, SLOWER, SAME, UNDECIDED), 0)
    groups = [processes[start : start + size] for start in range(0, len(processes) - size + 1, size)]
    for group in groups:
        compared = statistics.compare_processes(
            samples(group, REFERENCE, metric), samples(group, arm, metric), margin=analysis.margin, alpha=analysis.alpha
        )
        counts[compared.verdict] += 1
    return {"comparisons": len(groups), **counts}


def upper_bound(hits: int, tries: int, confidence: float = CONFIDENCE) -> float:
    """Exact (Clopper-Pearson) one-sided upper bound of a rate: 0 of 300 -> 0.01 at 95 %."""
    return 1.0 if hits >= tries else float(stats.beta.ppf(confidence, hits + 1, tries - hits))


def false_alarms(processes: Sequence[Raw], analysis: Analysis, metric: str) -> Iterator[dict[str, Any]]:
    """The A/A arm: how often two identical stacks are called different, in comparisons of the usual sizes."""
    logs = log_ratios(processes, AGAIN, metric)
    for size in sorted({min(LEAST_PROCESSES, len(processes)), usual_size(len(processes))}):
        drawn, apart = resampled(logs, size, analysis), independent(processes, analysis, AGAIN, metric, size)
        alarms = apart[FASTER] + apart[SLOWER]
        yield {
            "metric": metric, "processes": size,
            "independent": apart["comparisons"], "independent_alarms": alarms,
            "independent_bound": upper_bound(alarms, apart["comparisons"]),
            "resampled": drawn["comparisons"], "resampled_faster": drawn[FASTER], "resampled_slower": drawn[SLOWER],
            "resampled_rate": (drawn[FASTER] + drawn[SLOWER]) / drawn["comparisons"],
        }


def recovered_sizes(processes: Sequence[Raw], analysis: Analysis, metric: str) -> Iterator[dict[str, Any]]:
    """What all processes together say an arm costs, as a share more than the reference, with its interval over processes."""
    for arm in (AGAIN, *analysis.planted):
        used = [each for each in processes if metric != QUIET or len(times(each, arm, QUIET)) >= MIN_QUIET_ROUNDS]
        row: dict[str, Any] = {"metric": metric, "arm": arm, "planted": analysis.effect(arm), "processes": len(used)}
        if len(used) < 2:
            yield {**row, "recovered": None, "low": None, "high": None, "verdict": None}
            continue
        compared = statistics.compare_processes(
            samples(used, REFERENCE, metric, arm), samples(used, arm, metric), margin=analysis.margin, alpha=analysis.alpha
        )
        ends = [1 / ratio - 1 for ratio in (compared.ratio, compared.high, compared.low)]
        yield {**row, **dict(zip(("recovered", "low", "high"), ends, strict=True)), "verdict": compared.verdict}


def power(processes: Sequence[Raw], analysis: Analysis, metric: str) -> Iterator[dict[str, Any]]:
    """For every planted effect and comparison size: how often it was found, and how often called faster, the wrong way."""
    for arm in analysis.planted:
        logs = log_ratios(processes, arm, metric)
        pair_s = float(np.mean([timed_s(each, REFERENCE) + timed_s(each, arm) for each in processes]))
        for size in curve_sizes(len(processes)):
            drawn = resampled(logs, size, analysis)
            apart = independent(processes, analysis, arm, metric, size)
            yield {
                "metric": metric, "arm": arm, "planted": analysis.effect(arm), "processes": size, "timed_s": size * pair_s,
                "comparisons": drawn["comparisons"], "found": drawn[SLOWER], "wrong_way": drawn[FASTER], "same": drawn[SAME],
                "undecided": drawn[UNDECIDED], "found_rate": drawn[SLOWER] / drawn["comparisons"],
                "independent": apart["comparisons"], "independent_found": apart[SLOWER], "independent_wrong_way": apart[FASTER],
            }


def smallest_found(rates: Sequence[Mapping[str, Any]], metric: str, size: int) -> float | None:
    """The smallest planted effect found in at least 90 %, every larger one too, in comparisons of `size` processes; None where none is."""
    smallest = None
    rows = [row for row in rates if row["metric"] == metric and row["processes"] == size]
    for row in sorted(rows, key=lambda row: -row["planted"]):
        if row["found_rate"] < FOUND_SHARE:
            break
        smallest = row["planted"]
    return smallest


# Other tools' rules on the same data


def replay(
    processes: Sequence[Raw], analysis: Analysis, metric: str, rates: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Ours, then every rule of `rules.RULES`: false alarms, right way and wrong way, all from the same raw data."""
    yield _our_row(processes, analysis, metric, rates)
    by_arm = {arm: [times(process, arm, metric) for process in processes] for arm in analysis.arms}
    for number, rule in enumerate(rules.RULES):
        side = min(rule.processes, len(processes) // 2)
        row: dict[str, Any] = {"metric": metric, "rule": rule.name, "where": rule.where, "processes": side}
        if side < min(2, rule.processes):
            yield {**row, "comparisons": 0}
            continue
        random = np.random.default_rng([analysis.seed, number])
        drawn = [np.split(random.permutation(len(processes))[: 2 * side], 2) for _ in range(analysis.replays)]
        alarms = _calls(rule, by_arm, AGAIN, drawn)
        beside = _calls(rule, by_arm, AGAIN, list(neighbours(len(processes), side)))
        row |= {"comparisons": len(alarms), "alarm_rate": float(np.mean(alarms != 0)), "alarm_rate_next": float(np.mean(beside != 0))}
        for arm in analysis.planted:
            calls = _calls(rule, by_arm, arm, drawn)
            row[f"right {arm}"], row[f"wrong {arm}"] = float(np.mean(calls < 0)), float(np.mean(calls > 0))
        yield row


def neighbours(processes: int, side: int) -> Iterator[list[np.ndarray]]:
    """Every run of 2 x `side` processes in time, either half as the reference: the candidate measured right after, or right before."""
    for start in range(processes - 2 * side + 1):
        halves = np.split(np.arange(start, start + 2 * side), 2)
        yield halves
        yield halves[::-1]


def _calls(rule: rules.Rule, by_arm: Mapping[str, list[np.ndarray]], arm: str, drawn: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    return np.array([rule.decide([by_arm[REFERENCE][i] for i in one], [by_arm[arm][i] for i in other]) for one, other in drawn])


def _our_row(
    processes: Sequence[Raw], analysis: Analysis, metric: str, rates: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    size = usual_size(len(processes))
    drawn = resampled(log_ratios(processes, AGAIN, metric), size, analysis)
    row: dict[str, Any] = {
        "metric": metric, "rule": "shuffled rounds, interval over processes", "where": "humar-bench", "processes": size,
        "comparisons": drawn["comparisons"], "alarm_rate": (drawn[FASTER] + drawn[SLOWER]) / drawn["comparisons"],
        "alarm_rate_next": None,
    }
    for each in rates:
        if each["metric"] == metric and each["processes"] == size:
            row[f"right {each['arm']}"] = each["found_rate"]
            row[f"wrong {each['arm']}"] = each["wrong_way"] / each["comparisons"]
    return row

"""Why a comparison of times does not count: inputs that a model knows, other conditions, other machines, outputs held against nothing. One
sentence each, '' where nothing is wrong. Pure functions of what records measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from humar_bench.judging import statistics
from humar_bench.judging.oddities import stray_fault
from humar_bench.judging.statistics import FASTER, SLOWER, UNDECIDED, Comparison
from humar_bench.records.record import UNHELD, Run, other_machine

VARIED_MARGIN, VARIED_CONFIDENCE = 0.03, 0.99  # time on one input against time on inputs never seen
# What another input each time costs a short forward whatever it does with it, measured as 0.3 to 0.7 us; from SHORT_S on that is nothing.
FETCH_S, SHORT_S = 1e-6, 1e-4
DOUBT_CONFIDENCE, MOST_DOUBT = 0.90, 1.5  # of the interval whose upper end an undecided check allows; and what no verdict stands
FEWEST_PAIRS = 5  # processes with such pairs; an interval over fewer allows anything, so twice what was seen, on a log scale, is taken

Process = tuple[int, str]  # its number, and the child it was: rounds pair by index only within one child
Arms = Mapping[str, Mapping[Process, Mapping[str, Any]]]  # architecture -> process -> what its record measured


@dataclass(frozen=True)
class Varied:
    """Time on inputs never seen / time on one input, over processes. `verdict` is agrees, differs, undecided or skipped; `most` is how much
    longer new inputs may take where it is undecided: the 95 % upper bound, of one process alone the square of its ratio."""

    verdict: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    pairs: int = 0
    most: float | None = None


def hold_varied(processes: Any) -> Varied:
    """One architecture's time on the same input against its time on new ones, in the rounds that had both."""
    seen, logs, pairs = [], [], []
    for one in processes:
        rounds = one.get("varied_rounds") or []
        key = "wall_s" if one.get("device_s") else "cpu_s"
        new, same = one.get(f"varied_{key}") or [], [one[key][index] for index in rounds if index < len(one[key])]
        if rounds and len(new) == len(same) and min(*new, *same, 1.0) > 0:
            seen.append(statistics.log_ratio(new, same))
            new = _without_fetching(new, same)
            logs.append(statistics.log_ratio(new, same))
            pairs.append((new, same))
    count = sum(len(new) for new, _ in pairs)
    if not logs:
        return Varied("skipped")
    ratio = math.exp(sum(seen) / len(seen))
    low, high, most = _varied_ends(logs, pairs[0], max(ratio, 1.0) ** 2)
    if low is None:
        return Varied(UNDECIDED, ratio, pairs=count, most=most)
    few = 1 < len(logs) < FEWEST_PAIRS  # two that agree by chance say little, and to be faster on new inputs is no way to cheat
    if low > 1 + VARIED_MARGIN or (high < 1 / (1 + VARIED_MARGIN) and not few):
        return Varied("differs", ratio, low, high, count)
    agrees = low >= 1 / (1 + VARIED_MARGIN) and high <= 1 + VARIED_MARGIN
    return Varied("agrees" if agrees else UNDECIDED, ratio, low, high, count, None if agrees else most)


def _without_fetching(new: Sequence[float], same: Sequence[float]) -> list[float]:
    """Times on new inputs without what fetching these may have cost; none becomes shorter than the one on the same input by that."""
    return [max(min(one, other), one - FETCH_S) if other < SHORT_S else one for one, other in zip(new, same, strict=True)]


def _varied_ends(
    logs: Sequence[float], first: tuple[Sequence[float], Sequence[float]], twice: float
) -> tuple[float | None, float | None, float]:
    """Both ends of the ratio's interval, over processes or, of one alone, over its rounds `first`; and how much longer new inputs may take
    by it, which few processes do not tell: `twice` what was seen, on a log scale."""
    if len(logs) == 1:
        low, high = statistics.in_process_interval(*first, VARIED_CONFIDENCE) or (None, None)
        return low, high, twice if high is None else high
    found, doubt = (statistics.weigh(np.array(logs), VARIED_MARGIN, confidence) for confidence in (VARIED_CONFIDENCE, DOUBT_CONFIDENCE))
    return math.exp(found.low), math.exp(found.high), math.exp(doubt.high) if len(logs) >= FEWEST_PAIRS else twice


def own_fault(name: str, processes: Sequence[Mapping[str, Any]], varied: Varied | None) -> str:
    """One sentence when an architecture's times do not count, whatever they are held against."""
    return _varied_fault(name, varied) or stray_fault(name, processes) or _unheld_fault(name, processes)


def _varied_fault(name: str, varied: Varied | None) -> str:
    if varied is None or varied.verdict != "differs":
        return ""
    return (
        f"{name} takes {varied.ratio:.3g} times as long on inputs it has not seen as on the one it is timed with "
        f"({varied.low:.3g} to {varied.high:.3g}): what it does with an input depends on whether it knows it."
    )


def doubt(found: Comparison, name: str, varied: Varied | None, *, base: bool = False) -> str:
    """One sentence when an architecture may owe its verdict to inputs it knows: its check is undecided, and what the check's interval
    allows would take half of its lead away, on a log scale, or is beyond noise (the reference, `base`: its lead over another)."""
    if varied is None or varied.verdict != UNDECIDED or varied.most is None or found.verdict != (SLOWER if base else FASTER):
        return ""
    least = min(1 / end if base else end for end in (found.ratio, found.low, found.high) if end)
    if varied.most <= min(MOST_DOUBT, math.sqrt(max(least, 1.0))):
        return ""
    return (
        f"{name} took {varied.ratio:.3g} times as long on inputs it had not seen, and by this check that may be {varied.most:.3g} times: "
        "whether it is as fast on those is not known; more processes would tell."
    )


def _unheld_fault(name: str, processes: Sequence[Mapping[str, Any]]) -> str:
    """One sentence when the outputs of an architecture were compared with nothing in any process."""
    told = [one.get("agreement") or {} for one in processes]
    if not told or any(each.get("checked") or not each.get("skipped", "").startswith(UNHELD) for each in told):
        return ""
    return f"the outputs of {name} were compared with nothing ({told[0]['skipped']}): no speed without equality."


def _built_so(measured: Mapping[str, Any]) -> bool:
    """Whether an arm's weights were, around all its blocks, of the number types its builder gave them, unasked."""
    types = measured.get("as_built") or {"float32": 1}
    floating = sorted(name for name in types if not name.startswith("complex"))
    seen = [state.get("weights") for state in measured.get("conditions") or []]
    return not measured.get("converted_to") and all(each in (None, [], floating) for each in seen)


def mixture_fault(run: Run) -> str:
    """One sentence when processes of different machines or versions stand beside each other: they are no replicates."""
    known = [record for record in run if record.environment]
    for record in known[1:]:
        if found := other_machine(known[0], record):
            name, was, now = found
            return f"its processes were measured with {name} {was} and {now}: different machines or versions are no replicates."
    return ""


def changed_fault(arms: Arms) -> str:
    """One sentence when an arm changed the state of the process it was timed in: all that came after it is affected."""
    for name, own in arms.items():
        for measured in own.values():
            for key, (before, after) in (measured.get("changed") or {}).items():
                return f"{name} changes {key} from {before} to {after} while it runs; what is timed beside it runs under other conditions."
    return ""


def conditions_fault(reference: str, base: Mapping, name: str, own: Mapping) -> str:
    """One sentence when two arms were timed under different conditions."""
    for process in sorted(base.keys() & own.keys()):
        one, other = base[process], own[process]
        for inside, key in ((True, "inside"), (False, "conditions")):
            ours, theirs = ([each.get(key) or {}] if inside else each.get(key) or [] for each in (other, one))
            for fact in dict.fromkeys(fact for state in (*ours, *theirs) for fact in state):
                if fact == "weights" and not inside and _built_so(one) and _built_so(other):
                    continue  # it is what is compared; the table says so
                here, there = ([state.get(fact, "as around it" if inside else None) for state in states] for states in (ours, theirs))
                if there and any(each not in (None, []) and each not in there for each in here):
                    who = f"{name} inside its forward" if inside else name
                    return f"{fact} is {_shown(here)} for {who} and {_shown(there)} for {reference}: they ran under other conditions."
    return ""


def _shown(values: Sequence[Any]) -> str:
    said = [" and ".join(map(str, each)) if isinstance(each, list) else str(each) for each in values]
    return " and then ".join(dict.fromkeys(said))

"""What is odd about raw times though no verdict hangs on it: outliers, levels that change, garbage collected inside, work elsewhere.

Pure functions of what records measured; each gives sentences for the feet of a table, or nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from humar_bench.judging.steadiness import steady_state
from humar_bench.table import times

Measured = Mapping[str, Any]

OUTLIER = 10.0  # times the median of its process
LEVEL_ROUNDS = 8  # fewer rounds in a process show no level
BUSY_SHARE = 0.1  # of the cores' time, taken by others
STRAY_SHARE, STRAY_S = 0.01, 20e-6  # of the device time, and more than reading the clocks takes


def oddities(processes: Sequence[Measured]) -> tuple[str, ...]:
    """Sentences without a name and a full stop about one architecture in all its processes."""
    return tuple(sentence for look in (_outliers, _levels, _collections) for sentence in look(processes))


def busy_share(processes: Sequence[Measured]) -> float | None:
    """Of the cores' time, what other work took while these were timed, in the middle process; None where no process could tell or it is
    less than `BUSY_SHARE`."""
    shares = [share for one in processes if (share := one.get("others_share")) is not None]
    return middle if shares and (middle := median(shares)) >= BUSY_SHARE else None


def stray_fault(name: str, processes: Sequence[Measured]) -> str:
    """One sentence when other streams go on after the timed one has ended, which device time does not see."""
    pairs = [
        (stray, device) for one in processes for stray, device in zip(one.get("stray_s") or [], one.get("device_s") or [], strict=False)
    ]
    if not pairs:
        return ""
    stray_s, device_s = (median(each) for each in zip(*pairs, strict=True))
    if stray_s <= max(STRAY_S, STRAY_SHARE * device_s):
        return ""
    return (
        f"{name} works on for {1e3 * stray_s:.3g} ms after the stream it was called on has ended, {1e3 * device_s:.3g} ms of device time: "
        "work on other streams is not in it."
    )


def _outliers(processes: Sequence[Measured]) -> Iterator[str]:
    rounds, far = 0, []
    for one in processes:
        middle = median(one["wall_s"])
        rounds += len(one["wall_s"])
        far += [value / middle for value in one["wall_s"] if value > OUTLIER * middle]
    if far:
        yield f"{len(far)} of {rounds} rounds took more than {OUTLIER:g} times the median, up to {times(max(far))}; medians do not see them"


def _levels(processes: Sequence[Measured]) -> Iterator[str]:
    """By CPU time where there is no device: a neighbour that slows all down is no level of the model's own."""
    restless = []
    for one in processes:
        values = one.get("device_s") and one["wall_s"] or one.get("cpu_s") or one["wall_s"]
        if len(values) >= LEVEL_ROUNDS and min(values) > 0 and not (found := steady_state(values)).steady:
            restless.append((one.get("process", 0), found.start))
    if restless:
        process, start = restless[0]
        yield (
            f"in {len(restless)} of {len(processes)} processes its speed changed while it was timed (process {process}: last at round "
            f"{start}), so that warm-up, or something like it, went on"
        )


def _collections(processes: Sequence[Measured]) -> Iterator[str]:
    if count := sum(one.get("collections") or 0 for one in processes):
        yield f"Python's garbage was collected {count} times inside timed blocks"

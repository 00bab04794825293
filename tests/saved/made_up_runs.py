"""Saved runs to compare, made up: exact counts, and speeds with process effects of a known size."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from humar_bench.records.record import Run
from tests.golden.records import SECONDS, flops, fps, memory, params

NAMES = ("original", "efficient")


def timed(architecture: str, process: int, median_s: float, child: str, **changes):
    """A speed record whose median is exactly `median_s`."""
    record = fps(architecture, process)
    wall = [median_s * (1 + 0.01 * (index % 3 - 1)) for index in range(9)]
    told = {"wall_s": wall, "cpu_s": [2 * each for each in wall], "child": child, "preempted": [False] * 9}
    return dataclasses.replace(record, measured={**record.measured, **told}, id="", **changes)


def speeds(seed: int, processes: int = 8, spread: float = 0.002, names=NAMES, **factors: float) -> Run:
    """A run's speed records: log-normal process effects shared by the architectures and, smaller, of their own."""
    chance = np.random.default_rng(seed)
    records = []
    for process in range(processes):
        shared = chance.normal(0, 10 * spread)
        for name in names:
            median_s = SECONDS[name] * factors.get(name, 1.0) * math.exp(shared + chance.normal(0, spread))
            records.append(timed(name, process, median_s, f"{seed}-{process}"))
    return Run(tuple(records))


def changed(record, **measured):
    return dataclasses.replace(record, measured={**record.measured, **measured}, id="")


def planted(run: Run, factor: float, *names: str) -> Run:
    """A copy whose times of the named architectures are multiplied; nothing else, not even the id, is made anew."""
    def slower(record):
        if record.measure != "fps" or record.architecture not in (names or NAMES):
            return record
        times = {key: [factor * each for each in record.measured[key]] for key in ("wall_s", "cpu_s")}
        return dataclasses.replace(record, measured={**record.measured, **times})
    return Run(tuple(slower(each) for each in run))


def whole(seed: int = 1, **more) -> Run:
    exact = [make(name) for make in (params, flops, memory) for name in NAMES]
    return Run((*exact, *speeds(seed, **more)))


def row(found, architecture: str, quantity: str):
    return next(each for each in found.rows if (each.architecture, each.quantity) == (architecture, quantity))

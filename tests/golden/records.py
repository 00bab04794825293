"""Plausible made-up records, every sum consistent, so that tables can be tested without measuring anything."""

from __future__ import annotations

import dataclasses
from typing import Any

from humar_bench.args import ModelArgs, RunArgs, Workload
from humar_bench.records.record import Record, Run

ARGS, WORKLOAD = ModelArgs(), Workload.uniphd(batch=2)
COMPONENTS = {
    "original": {"encoder": 10_000_000, "decoder": 15_077_440, "heads": 2_266_196},
    "efficient": {"local convolution": 140_800, "encoder": 1_400_000, "decoder": 900_004, "heads": 2_266_196},
}
FLOPS = {
    "original": {"encoder": 200_000_000_000, "decoder": 50_000_000_001, "heads": 1_000_000_000},
    "efficient": {"local convolution": 4_000_000_000, "encoder": 30_000_000_000, "decoder": 15_000_000_000, "heads": 1_000_000_000},
}
PEAKS = {
    "original": {"encoder": 700 * 2**20, "decoder": 3 * 2**20 + 512},
    "efficient": {"encoder": 200 * 2**20, "decoder": 25 * 2**20},
}
SECONDS = {"original": 0.900, "efficient": 0.300}
BUILT = {
    "original": {"nheads": 8, "enc_layers": 6, "dim_feedforward": 2048, "pre_norm": False, "num_queries": 20},
    "efficient": {"nheads": 4, "enc_layers": 4, "dim_feedforward": 512, "num_queries": 20, "efficient_encoder_sets": 1},
}
ENVIRONMENT = {
    "device": "cpu", "device_label": "Made-up CPU", "driver": None, "cpu": "Made-up CPU", "cores": 2, "threads": 2, "load_1min": 0.5,
    "python": "3.11.9", "torch": "2.13.0", "commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False,
}
TIME = "2026-01-02T03:04:05.000000+00:00"
COMMAND = "humar-bench report -o results"


def made_up(measure: str, architecture: str, measured: dict[str, Any] | None, **changes: Any) -> Record:
    values = {
        "measure": measure, "architecture": architecture, "spec": architecture, "foreign": architecture not in COMPONENTS,
        "asked": dataclasses.asdict(ARGS), "workload": dataclasses.asdict(WORKLOAD), "run": dataclasses.asdict(RunArgs()),
        "built": BUILT.get(architecture, {}), "measured": measured, "environment": ENVIRONMENT, "time": TIME, "command": COMMAND,
    }
    return Record(**{**values, **changes})


def failed(
    measure: str, architecture: str, kind: str = "crash", reason: str = "the process ended with signal 11.", **changes: Any
) -> Record:
    return made_up(measure, architecture, None, status="failed", kind=kind, reason=reason, **changes)


def params(architecture: str, **changes: Any) -> Record:
    components = COMPONENTS.get(architecture, {"(top)": 1_000})
    total = sum(components.values())
    dead = [{"name": "decoder.layers.0.dead.weight", "parameters": 4}] if architecture == "efficient" else []
    return made_up("params", architecture, {
        "total": total, "trainable": total, "frozen": 0, "buffers": 7, "listed": total, "param_bytes": 4 * total, "buffer_bytes": 28,
        "components": components, "modules": [], "shared": [["a.weight", "b.weight"]] if architecture == "efficient" else [],
        "never_read": dead,
    }, **changes)


def flops(architecture: str, uncounted: tuple[str, ...] = (), checks: bool = True, **changes: Any) -> Record:
    components = FLOPS.get(architecture, {"(top)": 2_000})
    total, second = sum(components.values()), 5_000_000
    half, heavy = total // 2, "encoder" if "encoder" in components else next(iter(components))
    check = {
        "counter": "fvcore", "version": "0.1.5", "reported": half // 2, "unit": "MAC", "as_flops": half // 2 * 2, "ratio": 0.5,
        "missed": ["aten::scaled_dot_product_attention"], "why": "it has no formula for that operator.",
    }
    return made_up("flops", architecture, {
        "matmul_flops": total, "macs": half, "second_tier_flops": second, "second_tier": {"softmax": second},
        "coefficients": {"softmax": "5 per element"},
        "components": {
            name: {"matmul_flops": each, "second_tier_flops": second if name == heavy else 0} for name, each in components.items()
        },
        "operators": [
            {"operator": "aten.addmm", "calls": 40, "category": "matmul", "matmul_flops": total - half, "second_tier_flops": 0},
            {"operator": "aten.bmm", "calls": 12, "category": "matmul", "matmul_flops": half, "second_tier_flops": 0},
            {"operator": "aten._softmax", "calls": 6, "category": "softmax", "matmul_flops": 0, "second_tier_flops": second},
        ],
        "uncounted": [{"operator": name, "calls": 3} for name in uncounted], "batch": WORKLOAD.batch, "kernels": 321,
        "synchronisations": [], "discarded": [], "cross_checks": [check] if checks else [],
    }, **changes)


def fps(architecture: str, process: int, rounds: int = 10, **changes: Any) -> Record:
    base = SECONDS.get(architecture, 0.5)
    wall = [base * (1 + 0.01 * ((7 * index + 3 * process) % 5 - 2)) for index in range(rounds)]
    return made_up("fps", architecture, {
        "process": process, "wall_s": wall, "cpu_s": [2 * each for each in wall], "device_s": None,
        "preempted": [index == 0 for index in range(rounds)], "order_seed": process, "first_call_s": 2 * base, "warmup_runs": 4,
        "steady": True, "finite": True, "batch": WORKLOAD.batch, "threads": 2, "dtype": "float32", "tf32": {}, "telemetry": None,
    }, process=process, **changes)


def component_time(architecture: str, rounds: int = 3, **changes: Any) -> Record:
    """Each component's share of the time is its share of the FLOPs."""
    parts, base = FLOPS.get(architecture, {"(top)": 2_000}), SECONDS.get(architecture, 0.5)
    wall = [base * (1 + 0.01 * (index % 3)) for index in range(rounds)]

    def clocks(share: float) -> dict[str, list[float]]:
        return {"wall_s": [share * each for each in wall], "cpu_s": [2 * share * each for each in wall]}

    return made_up("component_time", architecture, {
        "clocks": ["wall_s", "cpu_s"], "components": {name: clocks(flops / sum(parts.values())) for name, flops in parts.items()},
        "entered": dict.fromkeys(parts, 2), "instrumented": clocks(1.0), "plain": clocks(0.99), "stamps": 4 * len(parts) + 2,
        "gate_held": None, "rounds": rounds, "batch": WORKLOAD.batch, "threads": 2,
    }, **changes)


def memory(architecture: str, **changes: Any) -> Record:
    parts = PEAKS.get(architecture, {"(top)": 2**20})
    peak, weights = sum(parts.values()), 4 * sum(COMPONENTS.get(architecture, {"": 1000}).values())
    return made_up("memory", architecture, {
        "weights_bytes": weights, "buffers_bytes": 28, "inputs_bytes": 50 * 2**20, "outputs_bytes": 2**20, "peak_bytes": peak,
        "predicted_bytes": peak, "allocator_bytes": peak, "difference_bytes": 0, "workspace_bytes": 0, "method": "the allocator's events",
        "peak_operator": "aten.bmm", "peak_component": "encoder", "by_component": parts,
        "alive": [
            {"shape": [2, 17821, 2048], "dtype": "float32", "bytes": 2 * 17821 * 2048 * 4, "operator": "aten.relu", "component": "encoder"},
            {"shape": [2, 17821, 256], "dtype": "float32", "bytes": 2 * 17821 * 256 * 4, "operator": "aten.add", "component": "encoder"},
        ],
        "resident_bytes": None, "cuda": None,
    }, **changes)


def made_up_run(*architectures: str, processes: int = 5) -> Run:
    """All measures of the given architectures (original and efficient by default)."""
    names = architectures or ("original", "efficient")
    records = [make(name) for make in (params, flops) for name in names]
    records += [fps(name, process) for process in range(processes) for name in names]
    return Run((*records, *(component_time(name) for name in names), *(memory(name) for name in names)))

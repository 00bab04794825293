"""What a record holds: the type and the bounds of every field, once, as dataclasses that are never made: a list, whose length is
what is recorded. `fields.py` holds a value against it. Standard library only.

A field without a default has to be there; one with a default may be absent. What a class does not name may be there and hold anything:
a later version adds, and never takes away. Units stand in the names, as everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from humar_bench.records.fields import ABSENT, Amount, Count, Difference, Number, Positive, Seconds, Share, Time

# What is measured -------------------------------------------------------------------------------------------------------------------


@dataclass
class Module:
    path: str
    depth: Count
    own: Count
    subtree: Count


@dataclass
class NeverRead:
    name: str
    parameters: Count


@dataclass
class Unregistered:
    name: str
    elements: Count
    bytes: Count
    kind: str = ABSENT


@dataclass(kw_only=True)
class NumberTypes:
    """subjects/making.py: elements of weights and buffers by number type where not all are float32, and what they were converted to."""

    as_built: dict[str, Count] = ABSENT
    converted_to: str = ABSENT


@dataclass
class Params(NumberTypes):
    """measures/params.py."""

    total: Count
    components: dict[str, Count]
    trainable: Count = ABSENT
    frozen: Count = ABSENT
    buffers: Count = ABSENT
    listed: Count = ABSENT
    param_bytes: Count = ABSENT
    buffer_bytes: Count = ABSENT
    storage_bytes: Count | None = ABSENT
    modules: list[Module] = ABSENT
    shared: list[list[str]] = ABSENT
    never_read: list[NeverRead] | None = ABSENT
    never_read_reason: str = ABSENT
    unregistered: list[Unregistered] = ABSENT


@dataclass
class Flop:
    matmul_flops: Count
    second_tier_flops: Count


@dataclass
class Operator(Flop):
    operator: str
    calls: Count
    category: str


@dataclass
class Uncounted:
    operator: str
    calls: Count


@dataclass
class Discarded(Flop):
    component: str
    module: str
    operator: str
    origin: str
    calls: Count
    shapes: list[list[Count]]


@dataclass
class CounterDifference:
    where: str
    flops: Difference
    why: str


@dataclass
class CrossCheck:
    counter: str
    version: str | None
    reported: Count | None
    unit: str
    as_flops: Count | None
    ratio: Amount | None
    missed: list[str]
    why: str
    differences: list[CounterDifference] = ABSENT


@dataclass
class Flops(NumberTypes):
    """measures/flops.py."""

    matmul_flops: Count
    second_tier_flops: Count
    components: dict[str, Flop]
    operators: list[Operator]
    macs: Count = ABSENT
    second_tier: dict[str, Count] = ABSENT
    coefficients: dict[str, str] = ABSENT
    modules: dict[str, Flop] = ABSENT
    uncounted: list[Uncounted] = ABSENT
    batch: Positive = ABSENT
    kernels: Count = ABSENT
    method: str = ABSENT
    outside: Count = ABSENT
    discarded: list[Discarded] = ABSENT
    cross_checks: list[CrossCheck] = ABSENT


@dataclass
class Telemetry:
    power_w: Amount | None = ABSENT
    sm_clock_mhz: Amount | None = ABSENT
    temperature_c: Number | None = ABSENT
    throttled: bool | None = ABSENT


@dataclass
class Agreement:
    """measures/agreement.py."""

    checked: str = ABSENT
    skipped: str = ABSENT
    max_error: Amount = ABSENT
    worst: str = ABSENT
    tolerance: Amount = ABSENT
    same_selection: bool = ABSENT
    common_share: Share = ABSENT
    border_cells: str = ABSENT
    against: str = ABSENT


@dataclass
class Backend:
    name: str
    prepare_s: Seconds = ABSENT


@dataclass
class Footprint:
    of: str = ABSENT
    start_bytes: Count | None = ABSENT
    prepared_bytes: Difference | None = ABSENT
    peak_bytes: Difference | None = ABSENT
    device_process_bytes: Count | None = ABSENT


@dataclass
class Fps(NumberTypes):
    """measures/speed.py, and what running/speed_worker.py adds. Every list but `varied_*` and `conditions` has one value a round."""

    wall_s: list[Time]
    batch: Positive
    process: Count = ABSENT
    control_of: str = ABSENT
    order_seed: Count = ABSENT
    cpu_s: list[Seconds] = ABSENT
    device_s: list[Seconds] | None = ABSENT
    enqueue_s: list[Seconds] | None = ABSENT
    stray_s: list[Seconds] | None = ABSENT
    preempted: list[bool] = ABSENT
    gate_held: list[bool] | None = ABSENT
    round_telemetry: list[Telemetry | None] | None = ABSENT
    first_call_s: Seconds | None = ABSENT
    warmup_runs: Count = ABSENT
    steady: bool = ABSENT
    calls_per_block: Positive = ABSENT
    collections: Count = ABSENT
    varied_rounds: list[Count] = ABSENT
    varied_wall_s: list[Seconds] = ABSENT
    varied_cpu_s: list[Seconds] = ABSENT
    varied_calls: list[Positive] = ABSENT
    conditions: list[dict[str, Any]] = ABSENT
    changed: dict[str, list[Any]] = ABSENT
    spent_s: Seconds = ABSENT
    finite: bool = ABSENT
    agreement: Agreement = ABSENT
    inside: dict[str, Any] = ABSENT
    child: str = ABSENT
    telemetry: dict[str, Telemetry | None] | None = ABSENT
    others_share: Share | None = ABSENT
    threads: Positive = ABSENT
    dtype: str = ABSENT
    tf32: dict[str, Any] = ABSENT
    energy: dict[str, Any] | None = ABSENT  # its numbers are held against each other (contradictions.py)
    backend: Backend | None = ABSENT
    footprint: Footprint | None = ABSENT
    emulated: str = ABSENT


@dataclass
class ComponentTime:
    """measures/component_time.py: component -> clock -> one value a round."""

    clocks: list[str]
    components: dict[str, dict[str, list[Seconds]]]
    entered: dict[str, Count]
    instrumented: dict[str, list[Seconds]]
    plain: dict[str, list[Seconds]]
    rounds: Positive
    stamps: Count = ABSENT
    gate_held: list[bool] | None = ABSENT
    batch: Positive = ABSENT
    threads: Positive = ABSENT


@dataclass
class Unreadable:
    name: str
    reason: str


@dataclass
class EndToEnd:
    """measures/pipeline.py, and what running/end_to_end.py adds. Stages have one value a round, `overlapped_s` one a burst."""

    stages: dict[str, list[Seconds]]
    lines: dict[str, str]
    latency_s: list[Time]
    overlapped_s: list[Time]
    burst: Positive
    batch: Positive
    pictures: Positive
    threads: Positive = ABSENT
    source: str = ABSENT
    longest: Positive = ABSENT
    original_sizes: list[list[Positive]] = ABSENT
    unreadable: list[Unreadable] = ABSENT
    cached_text: bool = ABSENT
    encoded_captions: Count = ABSENT
    tokenizer: str = ABSENT
    tokens: list[Positive] = ABSENT


@dataclass
class LiveTensor:
    shape: list[Count]
    dtype: str
    bytes: Count
    operator: str
    component: str


@dataclass
class DevicePeak:
    peak_allocated_bytes: Count
    peak_requested_bytes: Count
    peak_reserved_bytes: Count
    nvml_process_bytes: Count | None
    start_allocated_bytes: Count


@dataclass
class Memory(NumberTypes):
    """measures/memory.py; what only a real run could say is null in a prediction."""

    weights_bytes: Count
    peak_bytes: Count
    by_component: dict[str, Count]
    buffers_bytes: Count = ABSENT
    inputs_bytes: Count = ABSENT
    outputs_bytes: Count = ABSENT
    predicted_bytes: Count | None = ABSENT
    allocator_bytes: Count | None = ABSENT
    difference_bytes: Difference | None = ABSENT
    workspace_bytes: Count | None = ABSENT
    method: str = ABSENT
    peak_operator: str = ABSENT
    peak_component: str = ABSENT
    alive: list[LiveTensor] = ABSENT
    resident_bytes: Count | None = ABSENT
    resident_start_bytes: Count | None = ABSENT
    python_bytes: Count | None = ABSENT
    resident_growth_bytes: Count | None = ABSENT
    cuda: DevicePeak | None = ABSENT


@dataclass
class Pace:
    fastest_s: Time
    median_s: Time
    blocks: Positive
    calls_per_block: Positive
    by: str


@dataclass
class Matmul(Pace):
    precision: str
    size: Positive
    flops_per_s: Amount
    median_flops_per_s: Amount


@dataclass
class Copy(Pace):
    buffer_bytes: Positive
    bytes_per_s: Amount
    median_bytes_per_s: Amount


@dataclass
class Ceilings:
    """measures/ceilings.py."""

    matmul: list[Matmul]
    copy: Copy
    operator: Pace
    launch: Pace | None
    threads: Positive = ABSENT


@dataclass
class Evaluated:
    """One evaluation of a run: after so many pictures and seconds of training, what it scored."""

    pictures: Count
    wall_s: Seconds
    cpu_s: Seconds
    ap: Share
    oks: Share


@dataclass
class Training:
    """studies/accuracy: one run, and of its last evaluation every picture's best-scored pose: its score and its OKS."""

    pictures: Count
    parameters: Count
    curve: list[Evaluated]
    score: list[Number]
    oks: list[Share]
    picture: list[Count] | None = ABSENT  # number of the picture an entry shows, where several show one
    front_end: str = ABSENT  # digest of the weights it began with before the transformer
    resumed: bool = ABSENT


@dataclass
class TrainingWork:
    """What a run was trained and evaluated on (`TrainArgs` without the model, and what the study wants the run for)."""

    name: str
    role: str
    data: str
    seed: Count
    data_seed: Count
    pictures: Count
    evaluation_pictures: Count
    optim: dict[str, Any]


MEASURED: dict[str, type] = {
    "params": Params, "flops": Flops, "fps": Fps, "component_time": ComponentTime, "memory": Memory, "ceilings": Ceilings,
    "training": Training,
    "end_to_end": EndToEnd,
}


# Where and how ----------------------------------------------------------------------------------------------------------------------


@dataclass
class FoundBy:
    """What a certificate says of one clock (studies/calibrate)."""

    alarms: Count
    of: Count
    at_most: Share
    effect: Amount | None
    found: Share | None
    processes: Count


@dataclass
class Certificate:
    cited: str
    threads: Count
    by: dict[str, FoundBy]


@dataclass
class Environment:
    """devices/environment.py; empty for a child that died."""

    device: str = ABSENT
    device_label: str = ABSENT
    driver: str | None = ABSENT
    cuda: str | None = ABSENT
    cudnn: Count | None = ABSENT
    cpu: str = ABSENT
    cores: Positive = ABSENT
    threads: Positive = ABSENT
    interop_threads: Positive = ABSENT
    load_1min: Amount | None = ABSENT
    memory_bytes: Count | None = ABSENT
    system: str = ABSENT
    release: str = ABSENT
    machine: str = ABSENT
    python: str = ABSENT
    torch: str = ABSENT
    packages: dict[str, str | None] = ABSENT
    commit: str | None = ABSENT
    dirty: bool | None = ABSENT
    certificate: Certificate = ABSENT


@dataclass
class Built:
    """What an architecture made of the arguments: anything, and the names of those it does not use."""

    ignored: list[str] = ABSENT



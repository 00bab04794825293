"""Published claims: what decides each, at the real sizes where that needs no run; verdicts at their edges on made-up evidence."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from functools import cache
from pathlib import Path

import pytest
import torch

from humar_bench import cli
from humar_bench.args import ModelArgs, RunArgs
from humar_bench.errors import EXIT_DONE, EXIT_FAILED, EXIT_REGRESSION, UsageError
from humar_bench.measures.flops import count_flops
from humar_bench.measures.memory_prediction import predict_peak
from humar_bench.measures.params import count_parameters
from humar_bench.records.record import Record, Run
from humar_bench.report.study import study_csv, study_json, study_markdown
from humar_bench.studies.claims import claims, evidence, findings
from humar_bench.studies.claims import tables as shown
from humar_bench.studies.claims.claims import CANDIDATE, CLAIMS, FAILS, HOLDS, ORIGINAL, UNDECIDED, Finding, Limit, decide, exit_code
from humar_bench.studies.claims.evidence import ClaimsOptions, ClaimsRun, Evidence, steps
from humar_bench.subjects.registry import build, parse_architecture
from humar_bench.subjects.transformer import make_inputs
from tests.golden.records import ENVIRONMENT

ROOT = Path(__file__).resolve().parents[2]
LITERAL = f"literal={ROOT / 'tests/data/literal_architecture.py'}:build"
FOREIGN = f"{ROOT / 'tests/data/foreign_models.py'}"
WELL = {"iterations": 6, "tokens": 18, "start_distance": 0.0, "proposals_move": 0.9, "padding_leak": 0.0}


@cache
def exact(spec: str, step: evidence.Step) -> Record:
    """One step that needs no run, counted in this process at its real size."""
    architecture = parse_architecture(spec)

    def made(device: str):
        return build(architecture, step.args, device=device)

    model = on_meta(spec, step.args)
    if step.measure == "params":
        measured = count_parameters(model).measured()
    elif step.measure == "flops":
        measured = count_flops(model, make_inputs(step.args, step.workload, device="meta")).measured()
    else:
        peak = predict_peak(lambda: made("cpu"), lambda: make_inputs(step.args, step.workload))
        measured = {**dataclasses.asdict(peak), "alive": [], "cuda": None}
    return record(architecture.name, step, measured, dict(getattr(model, "built", {})))


@cache
def on_meta(spec: str, args: ModelArgs) -> torch.nn.Module:
    """The model that several steps count."""
    return build(parse_architecture(spec), args, device="meta")


def record(name: str, step: evidence.Step, measured: dict, built: dict | None = None, process: int = 0, **environment) -> Record:
    return Record(
        measure=step.measure, architecture=name, spec=name, foreign=False, asked=dataclasses.asdict(step.args), process=process,
        workload=dataclasses.asdict(step.workload), run=dataclasses.asdict(RunArgs()), built=built or {}, measured=measured,
        environment={**ENVIRONMENT, **environment},
    )


def timed(name: str, step: evidence.Step, seconds: float, process: int, *, wall: float = 1.0, **environment) -> Record:
    measured = {"wall_s": [seconds * wall], "cpu_s": [seconds], "device_s": None, "batch": 1}
    return record(name, step, measured, process=process, **environment)


def evidence_of(spec: str, ratios: dict[int, tuple[float, ...]] | None = None, **told) -> Evidence:
    """Real counts of an architecture against the original, and times with these ratios, one a process."""
    name = parse_architecture(spec).name
    points: dict[str, list[Record]] = {}
    for step in steps(ModelArgs(), evidence.SIZES, 1, evidence.QUERIES, timed=ratios is not None):
        made = points.setdefault(step.point, [])
        if step.measure != "fps":
            made += [exact("original", step), exact(spec, step)]
            continue
        for process, ratio in enumerate(ratios[step.workload.num_queries]):
            made += [timed("original", step, 4.0, process), timed(name, step, 4.0 / ratio, process)]
    runs = {point: Run(tuple(records)) for point, records in points.items()}
    behaviour = {CANDIDATE: {**WELL, **told}, ORIGINAL: WELL}
    return Evidence({CANDIDATE: name, ORIGINAL: "original"}, runs, behaviour, timed=ratios is not None)


def verdicts(found: Evidence) -> dict[str, claims.Verdict]:
    return {each.claim.key: each for each in decide(found)}


FAST = {20: (16.0, 17.0, 16.5), 300: (8.0, 8.2, 8.1)}


@pytest.mark.slow
def test_every_decidable_claim_holds_for_the_replacement():
    found = evidence_of("efficient", FAST)
    told = verdicts(found)
    own = {key: each for key, each in told.items() if each.claim.side == CANDIDATE}
    assert {key for key, each in own.items() if each.verdict == UNDECIDED} == {"accuracy", "fps", "video-memory"}
    assert {key: each.why for key, each in own.items() if each.verdict == FAILS} == {}
    assert exit_code(found, list(told.values())) == EXIT_DONE


@pytest.mark.slow
def test_the_literal_implementation_fails_parameters_speed_and_memory():
    found = evidence_of(LITERAL, {20: (2.4, 2.5, 2.6), 300: (0.7, 0.72, 0.71)})
    told = verdicts(found)
    failed = {key for key, each in told.items() if each.verdict == FAILS and each.claim.side == CANDIDATE}
    assert failed >= {"total", "reduction", "decoder", "keypoint-attention", "speed", "speed-more", "memory"}
    assert told["total"].measured.startswith("11.05 M")
    memory = {each.label: each.value for each in told["memory"].findings}
    assert memory["300 queries"] < 0
    assert told["attention-order"].verdict == told["separable"].verdict == HOLDS
    assert exit_code(found, list(told.values())) == EXIT_REGRESSION


def test_what_is_claimed_of_the_original_and_wrong_fails_and_does_not_count():
    told = {key.removeprefix("original-"): each for key, each in verdicts(evidence_of("efficient")).items() if each.claim.side == ORIGINAL}
    assert {key for key, each in told.items() if each.verdict == FAILS} == {
        "encoder", "decoder", "additional", "encoder-order", "decoder-order", "mlp-ratio"
    }
    assert told["encoder"].measured == "7.69 M (4 levels)"
    assert told["decoder"].measured.startswith("18.90 M (decoder, 4 levels)")
    assert told["encoder-order"].measured == told["decoder-order"].measured == "O(N), exponent 1.00"
    assert told["decoder-queries"].verdict == HOLDS and told["decoder-queries"].measured.startswith("O(N^2)")
    assert told["total"].verdict == told["heads"].verdict == HOLDS


def test_the_separable_convolution_is_the_built_one():
    told = verdicts(evidence_of("efficient"))
    standard = sum(parameter.numel() for parameter in torch.nn.Conv2d(256, 256, 3, padding=1).parameters())
    depthwise, pointwise = torch.nn.Conv2d(256, 256, 3, groups=256), torch.nn.Conv2d(256, 256, 1)
    separable = sum(parameter.numel() for layer in (depthwise, pointwise) for parameter in layer.parameters())
    [found] = told["separable"].findings
    assert found.value == standard / separable


def test_the_keypoint_attention_is_the_originals_within_attention():
    found = verdicts(evidence_of("efficient"))["keypoint-attention"]
    ours = 4 * 256 * 256 + 4 * 256 + 4 * 18 * 18
    assert found.measured == f"83.3 % ({6 * (4 * 256 * 256 + 4 * 256):,} to {ours:,}, all iterations)"


# Times --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ratios", "speed", "more"), [
    ((5.0, 5.1, 4.9), HOLDS, HOLDS),
    ((2.5, 2.6, 2.4), HOLDS, FAILS),
    ((1.5, 1.51, 1.49), FAILS, FAILS),
    ((2.0, 2.1, 1.9), UNDECIDED, FAILS),
    ((9.0, 0.5, 4.0), UNDECIDED, UNDECIDED),
    ((9.0,), UNDECIDED, UNDECIDED),
])
def test_a_speed_claim_needs_the_whole_interval_on_one_side(ratios, speed, more):
    told = verdicts(evidence_of("efficient", {20: FAST[20], 300: ratios}))
    assert (told["speed"].verdict, told["speed-more"].verdict) == (speed, more)
    assert ("no interval" in told["speed"].measured) == (len(ratios) == 1)


def test_wall_time_that_disagrees_leaves_a_speed_claim_undecided():
    found = evidence_of("efficient", FAST)
    [step] = [each for each in steps(ModelArgs(), evidence.SIZES, 1, (300,), timed=True) if each.measure == "fps"]
    slow = [timed("efficient", step, 0.5, process, wall=6.0) for process in range(3)]
    points = {**found.points, "300 queries": found.points["300 queries"].plus(slow)}
    told = verdicts(dataclasses.replace(found, points=points))
    assert told["speed"].verdict == UNDECIDED and "1.33x by wall time, 300 queries" in told["speed"].measured


def test_without_times_speed_is_not_measured_and_nothing_fails():
    found = evidence_of("efficient")
    told = verdicts(found)
    for key in ("speed", "speed-more", "fps"):
        assert (told[key].verdict, told[key].why) == (UNDECIDED, "not measured (--no-time)")
    assert exit_code(found, list(told.values())) == EXIT_DONE


def test_frames_per_second_are_decided_on_the_gpu_they_were_claimed_for():
    found = evidence_of("efficient", FAST)
    points = dict(found.points)
    for step in steps(ModelArgs(), evidence.SIZES, 1, evidence.QUERIES, timed=True):
        if step.measure == "fps":
            label = {"device_label": "NVIDIA GeForce RTX 4050 Laptop GPU"}
            points[step.point] = Run((timed("original", step, 0.05, 0, **label), timed("efficient", step, 0.01, 0, **label)))
    told = verdicts(dataclasses.replace(found, points=points))
    assert told["fps"].verdict == HOLDS and told["fps"].measured.startswith("100.00 images/s")
    assert told["original-fps"].verdict == HOLDS
    assert verdicts(found)["fps"].why == "needs an RTX 4050"


def test_video_memory_is_decided_on_cuda():
    found, points = evidence_of("efficient"), {}
    for point, run in found.points.items():
        points[point] = Run(tuple(
            dataclasses.replace(each, id="", measured={**each.measured, "peak_bytes": peak, "cuda": {"peak_allocated_bytes": peak}})
            if each.measure == "memory" and (peak := 2_390_000_000 if each.architecture == "original" else 700_000_000) else each
            for each in run
        ))
    told = verdicts(dataclasses.replace(found, points=points))
    assert told["video-memory"].verdict == told["original-video-memory"].verdict == HOLDS
    assert told["video-memory"].measured.startswith("0.72 GB")


# Behaviour ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "told"), [
    ("masks", {"padding_leak": 0.14}),
    ("iterations", {"iterations": 5}),
    ("two-stage", {"start_distance": 0.5}),
    ("two-stage", {"proposals_move": 0.0}),
    ("group", {"tokens": 17}),
])
def test_a_model_that_does_otherwise_fails_that_claim_alone(key, told):
    found = evidence_of("efficient", **told)
    assert {each.claim.key for each in decide(found) if each.verdict == FAILS and each.claim.side == CANDIDATE} == {key}
    assert exit_code(found, decide(found)) == EXIT_REGRESSION


def test_a_model_with_other_outputs_fails_the_interface_and_the_measurement():
    found = evidence_of("efficient")
    wrong = dataclasses.replace(found, behaviour={**found.behaviour, CANDIDATE: {"error": "mine returned 4 outputs; it must return 5."}})
    told = verdicts(wrong)
    assert told["interface"].verdict == FAILS and "mine returned 4 outputs" in told["interface"].measured
    assert told["masks"].verdict == UNDECIDED
    assert exit_code(wrong, list(told.values())) == EXIT_FAILED


def test_a_failed_measurement_leaves_its_claims_undecided_with_the_reason_and_ends_with_1():
    found = evidence_of("efficient")
    failed = [
        dataclasses.replace(each, id="", status="failed", kind="crash", reason="it crashed.", measured=None)
        for each in found.points["20 queries"].select(measure="memory", architecture="efficient")
    ]
    found = dataclasses.replace(found, points={**found.points, "20 queries": found.points["20 queries"].plus(failed)})
    told = verdicts(found)
    assert (told["memory"].verdict, told["memory"].why) == (UNDECIDED, "the measurement failed: it crashed.")
    assert found.failures == ("memory of efficient failed: it crashed.",)
    assert exit_code(found, list(told.values())) == EXIT_FAILED


def test_a_foreign_model_without_names_to_go_by_is_undecided_there():
    told = verdicts(evidence_of(f"mine={FOREIGN}:build"))
    for key, word in (("heads", "model.built"), ("encoder", "no module named 'encoder'"), ("separable", "depthwise"),
                      ("keypoint-attention", "within")):
        assert told[key].verdict == UNDECIDED and word in told[key].why
    assert told["total"].verdict == HOLDS and told["total-range"].verdict == FAILS
    assert told["attention-order"].measured.startswith("O(N)")  # of the whole forward


# The data -----------------------------------------------------------------------------------------------------------------------------


def test_claims_are_told_apart_and_stand_somewhere():
    assert len({claim.key for claim in CLAIMS}) == len(CLAIMS)
    assert all(claim.section and claim.text and claim.claimed and claim.decided_by for claim in CLAIMS)
    assert all(claim.side == (ORIGINAL if claim.key.startswith("original-") else CANDIDATE) for claim in CLAIMS)


def test_every_number_of_the_description_is_a_claim():
    published = {
        "27", "5", "3-5", "81.5", "4.5", "7.2", "15.3", "1.5", "1.2", "0.3", "2", "8-9", "70", "17+1", "8", "4", "4x", "2x", "6", "2048",
        "512", "N", "N^2", "K^2", "2-3", "3-4", "15-20", "40-60", "2.5", "0.8", "68", "95-98",
    }
    claimed = {claim.claimed for claim in CLAIMS}
    said = {word for text in claimed for word in (text, *re.findall(r"[\d.+-]+x?|N\^2|K\^2|N", text), *re.findall(r"[\d.+-]+", text))}
    assert published - said == set()


@pytest.mark.parametrize(("limit", "value", "holds"), [
    (Limit(high=5), 5.49, True), (Limit(high=5), 5.51, False), (Limit(27, 27), 27.34, True), (Limit(27, 27), 28, False),
    (Limit(81.5, None, 1), 81.46, True), (Limit(81.5, None, 1), 81.44, False), (Limit(3, 5), 2.4, False), (Limit(68), math.inf, True),
])
def test_a_limit_holds_to_the_digits_that_were_published(limit, value, holds):
    assert claims._passes(limit, Finding(value)) is holds if math.isfinite(value) else limit.holds(1e300) is holds


@pytest.mark.parametrize(("flops", "order"), [((7, 7, 7), 0), ((10, 20, 40), 1), ((5, 25, 85), 2), ((110, 121, 144), 2)])
def test_the_order_is_that_of_the_polynomial_through_three_counts(flops, order):
    points = {
        f"tokens x{factor}": Run((record("mine", steps(ModelArgs(), evidence.SIZES, 1, (20,), timed=False)[2], {
            "components": {"encoder": {"matmul_flops": 10**6 * count, "second_tier_flops": 0}}
        }),)) for factor, count in zip((1, 2, 4), flops, strict=True)
    }
    [found] = findings.growth("tokens", "encoder")(Evidence({CANDIDATE: "mine"}, points, {}))
    assert found.value == order


# Writers and the command --------------------------------------------------------------------------------------------------------------


def test_csv_json_and_markdown_hold_the_same_verdicts():
    found = evidence_of("efficient", FAST)
    told = decide(found)
    document = json.loads(study_json(shown.Claims(found)))
    assert [each["verdict"] for each in document["claims"]] == [each.verdict for each in told]
    assert document["exit_code"] == EXIT_DONE
    lines = study_csv(shown.Claims(found)).splitlines()
    assert len(lines) == 1 + len(CLAIMS) and lines[0].startswith("key,about,claim,section,claimed,")
    page = study_markdown(shown.Claims(found))
    assert "## Claims about efficient\n" in page and "do not count against the candidate" in page
    assert page.count("fails: ") == sum(each.verdict == FAILS for each in told)
    assert "Speed and memory: batch 1, 20 and 300 queries, feature maps 50x50, 50x50, 50x50." in page


@pytest.mark.parametrize(("argv", "word"), [
    (["--set", "num_queries=3"], "num_queries is set to 3; the claims fix it"),
    (["--feature-sizes", "5x5"], "name as many sizes"),
    (["--batch", "0"], "batch is 0"),
    (["--architecture", "nonsense"], "the architecture 'nonsense' is unknown"),
    (["--budget", "0"], "budget is 0"),
])
def test_a_wrong_command_line_is_one_sentence(capsys, argv, word):
    assert cli.main(["claims", *argv]) == UsageError.exit_code
    told = capsys.readouterr()
    assert word in told.err and not told.out


def test_the_command_shows_the_tables_and_ends_with_the_verdict(monkeypatch, capsys):
    asked = {}

    def gathered(candidate, model, run, **given):
        asked.update(given, candidate=candidate.name, run=run)
        return evidence_of("efficient", padding_leak=0.2)

    monkeypatch.setattr("humar_bench.cli.claims.gather", gathered)
    assert cli.main(["claims", "--no-time", "--device", "cpu"]) == EXIT_REGRESSION
    out = capsys.readouterr().out
    assert "Claims about efficient" in out and "0.200000" in out
    assert asked["batch"] == 1 and asked["timed"] is False and asked["candidate"] == "efficient" and type(asked["run"]) is RunArgs


def test_the_defaults_of_the_command_differ_from_a_comparisons_where_they_say_so():
    changed = {each.name for each in dataclasses.fields(RunArgs) if getattr(ClaimsRun(), each.name) != getattr(RunArgs(), each.name)}
    assert changed == {"processes", "control", "budget"}
    assert ClaimsOptions().sizes == evidence.SIZES and ClaimsOptions().model == ModelArgs()


@pytest.mark.slow
def test_gather_measures_everything_for_real_in_small(tmp_path):
    from humar_bench.records.writer import RecordWriter

    small = ModelArgs(hidden_dim=16, nheads=2, dim_feedforward=32, dec_layers=2, enc_layers=1, efficient_nheads=2, efficient_enc_layers=2)
    run = RunArgs(device="cpu", threads=1, processes=1, min_runs=1, budget=0.1, control=False)
    with RecordWriter(tmp_path / "records.jsonl") as sink:
        found = evidence.gather("efficient", small, run, sizes=((8, 8), (6, 6), (4, 4)), batch=1, queries=(4,), sink=sink)
    assert found.failures == ()
    told = verdicts(found)
    assert told["iterations"].measured == "2" and told["masks"].measured == "0.000000" and told["two-stage"].verdict == HOLDS
    assert told["speed"].findings and told["attention-order"].verdict == HOLDS and told["memory"].findings
    assert {each.measure for each in found.run} == {"params", "flops", "memory", "fps"}
    written = (tmp_path / "records.jsonl").read_text(encoding="utf-8").count("\n")
    assert written >= len(found.run)

"""Promises about the whole model, held to made-up reports: each at its edge, arms by what they are, and what a folder does not hold."""

from __future__ import annotations

import dataclasses
import json

import pytest

from humar_bench import cli
from humar_bench.args import WholeWorkload
from humar_bench.errors import EXIT_DONE, EXIT_INVALID, EXIT_REGRESSION, EXIT_USAGE, UsageError
from humar_bench.records.record import Record, Run
from humar_bench.records.writer import RecordWriter
from humar_bench.report.files import write_report
from humar_bench.studies.claims.claims import FAILS, HOLDS, UNDECIDED
from humar_bench.studies.claims.whole import WholeClaims
from tests.golden.records import fps, made_up_run, memory

SMALL = "efficient[masks=best,backbone=mobilevit_s,text_encoder=minilm]"
MIB = 2**20
ARMS = {  # name -> spec, seconds of a forward, peak in MiB
    "published": ("original[masks=looped]", 6.0, 1000), "one pass": ("original", 5.0, 900), "one mask": ("original[masks=best]", 4.8, 800),
    "ours": ("efficient[masks=best]", 1.5, 250), "ours, all": ("efficient[masks=all]", 1.6, 280), "small": (SMALL, 0.9, 240),
}


def run_of(arms: dict[str, tuple[str, float, int]], processes: int = 5, measures: tuple[str, ...] = ("fps", "memory"), **work) -> Run:
    """A report of arms. Every process has another speed, alike for all."""
    workload = dataclasses.asdict(WholeWorkload(**{"image_size": (480, 640), "batch": 1, **work}))
    records: list[Record] = []
    for name, (spec, seconds, peak) in arms.items():
        where = {"spec": spec, "foreign": False, "workload": workload}
        for process in range(processes) if "fps" in measures else ():
            made = fps(name, process, **where)
            ratio = seconds * (1 + 0.02 * process) * (1 + 0.001 * ((process * len(name)) % 3)) / made.measured["wall_s"][0]
            times = {key: [ratio * each for each in made.measured[key]] for key in ("wall_s", "cpu_s")}
            records.append(dataclasses.replace(made, measured={**made.measured, **times, "batch": 1}, id=""))
        if "memory" in measures:
            made = memory(name, **where)
            own = dict.fromkeys(("peak_bytes", "predicted_bytes", "allocator_bytes"), peak * MIB)
            parts = {"by_component": {"encoder": peak * MIB}, "alive": []}
            records.append(dataclasses.replace(made, measured={**made.measured, **own, **parts}, id=""))
    return Run(tuple(records))


def verdicts(run: Run) -> dict[str, tuple[str, str, str]]:
    return {each.claim.key.removeprefix("whole-"): (each.verdict, each.measured, each.why) for each in WholeClaims(run).verdicts}


def test_all_promises_hold_by_hand():
    found = verdicts(run_of(ARMS))
    assert {verdict for verdict, *_ in found.values()} == {HOLDS}
    assert found["peak-same"][1] == "25.0 % (ours against published)" and found["peak-small"][1] == "24.0 % (small against published)"
    assert found["memory"][1] == "68.9 % (ours, all against one pass); 68.8 % (ours against one mask)"
    assert found["speed-small"][1] == "6.66x by CPU time (6.65x to 6.67x), 6.66x by wall time, small against published"
    assert found["passes"][1].startswith("1.20x") and WholeClaims(run_of(ARMS)).exit_code == EXIT_DONE


@pytest.mark.parametrize(("promise", "arm", "seconds", "peak"), [
    ("speed", "ours", 2.5, 250), ("speed", "ours, all", 2.6, 280), ("speed-same", "ours", 2.1, 250), ("speed-small", "small", 1.1, 240),
    ("passes", "one pass", 6.4, 900), ("peak-same", "ours", 1.5, 351), ("peak-small", "small", 0.9, 251), ("memory", "ours, all", 1.6, 300),
])
def test_each_promise_fails_past_its_edge(promise, arm, seconds, peak):
    run = run_of({**ARMS, arm: (ARMS[arm][0], seconds, peak)})
    assert verdicts(run)[promise][0] == FAILS
    assert WholeClaims(run).exit_code == EXIT_REGRESSION


def test_one_process_and_an_interval_on_both_sides_settle_nothing():
    assert verdicts(run_of(ARMS, processes=1))["speed-small"][0] == UNDECIDED
    close = verdicts(run_of({**ARMS, "small": (SMALL, 1.0, 240)}))["speed-small"]
    assert close[0] == UNDECIDED and "do not settle it" in close[2]


def test_what_the_folder_does_not_hold_is_said():
    found = verdicts(run_of({name: arm for name, arm in ARMS.items() if name != "small"}, measures=("fps",)))
    assert found["speed-small"] == (
        UNDECIDED, "", "the folder holds no efficient[backbone=mobilevit_s,text_encoder=minilm,masks=best]"
    )
    assert found["peak-same"] == (UNDECIDED, "", "the folder holds no memory of published")
    assert found["speed-same"][0] == HOLDS
    one_pair = verdicts(run_of({name: arm for name, arm in ARMS.items() if name != "one mask"}))
    assert one_pair["memory"][:2] == (HOLDS, "68.9 % (ours, all against one pass)")


def test_figures_of_one_work_say_nothing_about_another():
    found = verdicts(run_of(ARMS, image_size=(240, 320), caption_tokens=20))
    assert found["speed-same"] == (UNDECIDED, "", "the folder is of image_size (240, 320), not (480, 640); caption_tokens 20, not 12")
    assert found["speed"][0] == HOLDS, "the description's factor is of any size"
    on_gpu = Run(tuple(dataclasses.replace(each, environment={**each.environment, "device": "cuda:0"}, id="") for each in run_of(ARMS)))
    assert verdicts(on_gpu)["peak-small"][2] == "the folder is of device cuda:0, not cpu"


def test_arms_are_found_by_what_they_are_and_the_work_fills_in_the_rest():
    """The run's own backbone is MobileViT-s: the arm without one of its own is the small one."""
    published = "original[masks=looped,backbone=swin_T_224_1k,text_encoder=roberta]"
    arms = {"published": (published, 6.0, 1000), "efficient": ("efficient", 0.9, 240)}
    found = verdicts(run_of(arms, backbone="mobilevit_s", text_encoder="minilm", masks="best"))
    assert found["speed-small"][0] == HOLDS and found["speed-small"][1].endswith("efficient against published")
    assert found["speed-same"][0] == UNDECIDED


def test_invalid_times_decide_nothing():
    """One arm switched something on in the process that all are timed in."""
    changed = {"changed": {"TF32 in matmul": [False, True]}}
    run = [
        dataclasses.replace(each, measured={**each.measured, **changed}, id="") if (each.architecture, each.measure) == ("small", "fps")
        else each for each in run_of(ARMS)
    ]
    verdict, _, why = verdicts(Run(tuple(run)))["speed-small"]
    assert verdict == UNDECIDED and why.startswith("small changes TF32 in matmul from False to True while it runs")


def test_a_folder_of_transformers_is_one_sentence():
    with pytest.raises(UsageError, match="the folder is of original alone, not of whole models"):
        WholeClaims(made_up_run())


def test_the_command_reads_a_proved_folder(tmp_path, capsys):
    folder = tmp_path / "whole"
    folder.mkdir()
    run = run_of({**ARMS, "small": (SMALL, 1.1, 240)})
    with RecordWriter(folder / "records.jsonl") as sink:
        sink.write(*run)
    write_report(run, folder, "published")
    assert cli.main(["claims", "--whole", str(folder), "--json", str(tmp_path / "claims.json")]) == EXIT_REGRESSION
    assert "6 holds, 1 fails, 0 cannot be decided here." in capsys.readouterr().out
    rows = {row["key"]: row for row in json.loads((tmp_path / "claims.json").read_text())["claims"]}
    assert rows["whole-speed-small"]["verdict"] == FAILS and rows["whole-speed-small"]["rule"] == "at least 6"
    assert cli.main(["claims", "--whole", str(folder), "-o", str(tmp_path / "out")]) == EXIT_USAGE
    assert "claims --whole measures nothing and keeps no records" in capsys.readouterr().err
    (folder / "fps.csv").write_text((folder / "fps.csv").read_text().replace("published", "publishes"))
    assert cli.main(["claims", "--whole", str(folder)]) == EXIT_INVALID
    assert "is not what was measured" in capsys.readouterr().err

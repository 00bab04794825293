"""The command line: what it calls, what it prints where. `bench.benchmark` is a stub (`stub.py`) except in the last section but one."""

from __future__ import annotations

import dataclasses
import io
import json
import signal
import subprocess
import sys
import threading
import time

import pytest

from humar_bench import cli
from humar_bench.args import ModelArgs, RunArgs
from humar_bench.cli.progress import Tracker, said_when_slow
from humar_bench.records.record import load
from tests.cli.stub import ROOT, Stub, ends

# What is called, what is printed


def test_params_prints_the_table_on_standard_output_and_nothing_else(bench, capsys):
    code, out, err = ends(capsys, "params")
    assert (code, err) == (0, "")
    assert "5.81x fewer" in out and "Made by: humar-bench params" in out
    assert [each.name for each in bench.calls[0].architectures] == ["original", "efficient"]
    assert bench.calls[0].measures == ["params"]


def test_every_option_of_the_run_arrives(bench, capsys):
    given = {
        "device": "cpu", "dtype": "bfloat16", "backend": "openvino", "seed": 3, "threads": 1, "processes": 2, "first_look": 2,
        "control": False, "min_runs": 4, "max_runs": 9, "budget": 1.5, "timeout": 30.0,
    }
    assert given.keys() == {each.name for each in dataclasses.fields(RunArgs)}
    typed = {name: value for name, value in given.items() if name != "control"}
    argv = ["--no-control", *(part for name, value in typed.items() for part in (f"--{name.replace('_', '-')}", str(value)))]
    assert ends(capsys, "fps", *argv)[0] == 0
    assert bench.calls[0].run == RunArgs(**given)


def test_every_option_of_the_selection_arrives(bench, capsys, tmp_path):
    (tmp_path / "args.json").write_text('{"dec_layers": 2}')
    code, _, err = ends(
        capsys, "params", "--arch", "new=efficient", "--arch", "original", "--reference", "original", "--workload", "tiny", "--batch", "3",
        "--num-queries", "4", "--feature-sizes", "9x7,5x4", "--padded", "--set", "enc_layers=2", "--set", "pre_norm=true",
        "--args", tmp_path / "args.json",
    )
    assert (code, err) == (0, "")
    call = bench.calls[0]
    assert [each.name for each in call.architectures] == ["new", "original"]
    assert call.args == ModelArgs(dec_layers=2, enc_layers=2, pre_norm=True, num_queries=4, num_feature_levels=2)
    work = call.workload
    assert (work.batch, work.num_queries, work.sizes_text, work.padded) == (3, 4, "9x7,5x4", True)


def test_image_size_arrives(bench, capsys):
    assert ends(capsys, "params", "--image-size", "64x48")[0] == 0
    assert bench.calls[0].workload.sizes_text == "8x6,4x3,2x2,1x1"


def test_counters_arrive_and_operators_are_shown(bench, capsys):
    _, out, _ = ends(capsys, "flops", "--counter", "fvcore", "--counter", "thop", "--operators")
    assert bench.calls[0].counters == ("fvcore", "thop")
    assert "aten._softmax" in out


def test_explain_asks_every_counter(bench, capsys):
    assert ends(capsys, "flops", "--explain")[0] == 0
    assert set(bench.calls[0].counters) == {"fvcore", "thop", "profiler", "flop_counter"}


def test_time_by_component_is_a_breakdown_that_fps_makes_when_asked(bench, capsys):
    code, out, err = ends(capsys, "fps", "--by-component")
    assert (code, err) == (0, "") and bench.calls[0].measures == ["fps", "component_time"]
    assert "Wall time by component: a breakdown, no verdict" in out and "Summary" not in out
    ends(capsys, "fps")
    assert bench.calls[1].measures == ["fps"]
    ends(capsys, "report", "--backend", "openvino")
    assert bench.calls[2].measures == ["params", "flops", "fps", "memory"]


def test_the_reference_is_honoured(bench, capsys):
    assert "5.81x more" in ends(capsys, "params", "--reference", "efficient")[1]


@pytest.mark.parametrize("form", ["csv", "markdown", "json"])
def test_a_format_on_standard_output_has_it_to_itself(bench, capsys, form):
    _, out, err = ends(capsys, "params", f"--{form}", "-")
    assert err == "" and "───" not in out
    if form == "csv":
        assert out.splitlines()[0] == "component,original,efficient,original/efficient"
        assert out.splitlines()[-1].startswith("total,27343636,4707000,")
    elif form == "json":
        assert json.loads(out)["params"]["original"]["total"] == 27_343_636
    else:
        assert out.startswith("## Parameters\n")


def test_flops_as_json_holds_what_a_program_needs(bench, capsys):
    document = json.loads(ends(capsys, "flops", "--json", "-")[1])
    assert document["flops"]["original"]["matmul_flops"] == 251_000_000_001
    assert document["flops"]["original"]["uncounted"] == []


def test_files_are_written_beside_the_table(bench, capsys, tmp_path):
    code, out, _ = ends(capsys, "params", "--csv", tmp_path / "a.csv", "--markdown", tmp_path / "a.md", "--json", tmp_path / "a.json")
    assert code == 0 and "5.81x fewer" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.json", "a.md"]


def test_quiet_prints_nothing_and_still_writes(bench, capsys, tmp_path):
    assert ends(capsys, "params", "--quiet", "--csv", tmp_path / "a.csv") == (0, "", "")
    assert (tmp_path / "a.csv").read_text().startswith("component,")


def test_records_are_appended_to_a_file(bench, capsys, tmp_path):
    for _ in range(2):
        assert ends(capsys, "params", "--records", tmp_path / "r.jsonl")[0] == 0
    assert len(load(tmp_path / "r.jsonl")) == 4


def test_report_writes_records_tables_and_prints_the_same(bench, capsys, tmp_path):
    code, out, err = ends(capsys, "report", "-o", tmp_path / "new" / "run")
    assert code == 0 and "humar-bench: parameters: original 27.34 M" in err
    folder = tmp_path / "new" / "run"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["records.jsonl", "params.csv", "flops.csv", "fps.csv", "component_time.csv", "memory.csv", "report.md"]
    )
    assert bench.calls[0].measures == ["params", "flops", "fps", "component_time", "memory"]
    for text in ("5.81x fewer", "68 % less", "Summary"):
        assert text in out and text in (folder / "report.md").read_text()


def test_a_reports_screen_is_the_summary_and_details_show_every_table_before_it(bench, capsys, tmp_path):
    out = ends(capsys, "report", "-o", tmp_path / "run")[1]
    assert out.startswith("Summary\n") and "Parameters by component" not in out
    assert out.splitlines()[-1] == f"Every table: {tmp_path / 'run' / 'report.md'}, or --details."
    out = ends(capsys, "report", "--details", "--resume", tmp_path / "run")[1]
    assert out.index("Parameters by component") < out.index("Made by") < out.index("Summary\n") and "--details" not in out.splitlines()[-1]
    assert ends(capsys, "report")[1].splitlines()[-1] == "--details shows every table, -o DIR keeps them."


def test_a_report_does_not_write_over_an_earlier_one_and_can_be_resumed(bench, capsys, tmp_path):
    ends(capsys, "report", "-o", tmp_path)
    code, _, err = ends(capsys, "report", "-o", tmp_path)
    assert code == 2 and "already holds records; go on with --resume" in err
    assert len(bench.calls) == 1
    code, _, err = ends(capsys, "report", "--resume", tmp_path)
    assert code == 0 and "Traceback" not in err
    assert len(bench.calls[1].done) == 10


def test_a_resumed_report_must_ask_the_same(bench, capsys, tmp_path):
    ends(capsys, "report", "-o", tmp_path)
    code, _, err = ends(capsys, "report", "--resume", tmp_path, "--batch", "3")
    assert code == 2 and "was measured with batch 1 and 3 is asked now" in err and len(bench.calls) == 1


def test_a_failed_measurement_is_a_row_a_sentence_and_exit_code_1(bench, capsys):
    bench.fails = ("efficient",)
    code, out, err = ends(capsys, "params")
    assert code == 1
    assert "27,343,636" in out and "failed: crash: the process ended with signal 11." in out
    assert err == "humar-bench: params of efficient failed: crash: the process ended with signal 11.\n"


def test_a_foreign_architecture_is_announced_before_its_code_runs(bench, capsys, tmp_path):
    (tmp_path / "mine.py").write_text("def build(args): raise SystemExit\nraise SystemExit")
    _, out, err = ends(capsys, "params", "--arch", "original", "--arch", f"mine={tmp_path / 'mine.py'}:build")
    assert err == f"humar-bench: note: mine is not part of humar-bench; loading it runs the code of {tmp_path / 'mine.py'}.\n"
    assert "mine" in out


def test_ctrl_c_is_one_sentence_and_what_was_measured_is_on_disk(bench, capsys, tmp_path):
    bench.raises = KeyboardInterrupt()
    code, out, err = ends(capsys, "report", "-o", tmp_path)
    assert (code, out) == (130, "")
    assert err.startswith("humar-bench: stopped by Ctrl-C") and err.count("\n") == 1
    assert len(load(tmp_path)) == 1


def test_progress_is_only_for_a_terminal(bench, capsys, monkeypatch):
    ends(capsys, "params")
    assert bench.calls[0].progress is None

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    cli.main(["params"])
    assert callable(bench.calls[1].progress)
    cli.main(["params", "--quiet"])
    assert bench.calls[2].progress is None


def test_progress_grows_to_the_end_and_says_what_is_done():
    tracker = Tracker(("params", "fps"), 2, RunArgs(processes=2, budget=12.0))
    about = {"measure": "fps", "process": 0, "of": 2}
    seen = [tracker.read({"measure": "params", "stage": "params", "architecture": name, "process": 0, "status": "done"}) for name in "ab"]
    seen.append(tracker.read({**about, "stage": "timing", "architecture": "", "status": "running", "share": 0.5}))
    seen += [
        tracker.read({**about, "process": process, "stage": "fps", "architecture": name, "status": "done"})
        for process in range(2) for name in "ab"
    ]
    shares = [share for share, _ in seen]
    assert shares == sorted(shares) and shares[0] > 0 and shares[-1] == 1
    assert seen[0][1] == "params, a" and seen[2][1] == "fps, process 1 of 2, timing"


def test_an_error_of_ours_is_not_swallowed(bench):
    bench.raises = ZeroDivisionError("a fault of this program")
    with pytest.raises(ZeroDivisionError):
        cli.main(["params"])


# With real child processes

SMALL = [
    "--workload", "tiny", "--set", "hidden_dim=32", "--set", "dim_feedforward=32", "--set", "enc_layers=1", "--set", "dec_layers=1",
    "--set", "num_body_points=3", "--set", "efficient_enc_layers=1", "--set", "efficient_encoder_sets=1", "--threads", "1",
]
FOREIGN = """
from efficient.transformer import build_efficient_conv_attention_transformer as build


def raises(args):
    raise ValueError("no such thing")


def nan(args):
    model = build(args)
    model.decoder.register_forward_hook(lambda module, given, outputs: ([each * float("nan") for each in outputs[0]], *outputs[1:]))
    return model
"""


def test_a_foreign_architecture_from_a_file_is_measured_beside_the_two(capsys, tmp_path):
    (tmp_path / "mine.py").write_text(FOREIGN)
    code, out, err = ends(
        capsys, "params", *SMALL, "--arch", "original", "--arch", "efficient", "--arch", f"mine={tmp_path}/mine.py:build", "--csv", "-"
    )
    assert code == 0 and err.count("\n") == 1
    assert out.splitlines()[0] == "component,original,efficient,mine,original/efficient,original/mine"
    totals = out.splitlines()[-1].split(",")
    assert totals[0] == "total" and totals[2] == totals[3] and int(totals[1]) != int(totals[2]) > 0


def test_a_builder_that_raises_and_outputs_that_are_not_finite_are_rows(capsys, tmp_path):
    (tmp_path / "mine.py").write_text(FOREIGN)
    code, out, err = ends(
        capsys, "fps", *SMALL, "--processes", "1", "--budget", "0.1", "--min-runs", "2", "--max-runs", "3", "--arch", "efficient",
        "--arch", f"raises={tmp_path}/mine.py:raises", "--arch", f"nan={tmp_path}/mine.py:nan", "--records", tmp_path / "r.jsonl",
    )
    assert code == 1
    assert "humar-bench: fps of raises failed: the builder of raises raised ValueError: no such thing.\n" in err
    assert "humar-bench: fps of nan failed: not finite: " in err and "Traceback" not in err
    found = {each.architecture: each.status for each in load(tmp_path / "r.jsonl")}
    assert found == {"efficient": "ok", "efficient (again)": "ok", "raises": "failed", "nan": "failed"}
    assert "images/s" in out


def test_ctrl_c_in_the_middle_keeps_what_was_measured_and_leaves_no_child(tmp_path):
    command = [sys.executable, "-m", "humar_bench", "report", *SMALL, "--budget", "300", "--max-runs", "100000000", "-o", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        ends_s = time.monotonic() + 120
        while time.monotonic() < ends_s and not ((tmp_path / "records.jsonl").exists() and (tmp_path / "records.jsonl").stat().st_size):
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out) == (130, "")
    assert err.startswith("humar-bench: stopped by Ctrl-C") and err.count("\n") == 1
    assert len(load(tmp_path)) >= 1


# What takes minutes


def test_what_is_slow_says_what_it_is_doing_and_what_is_fast_does_not(capsys, monkeypatch):
    with said_when_slow("waiting", 0.05):
        time.sleep(0.5)  # 0.05, 0.15 and 0.35 s
    said = capsys.readouterr().err
    assert 2 <= said.count("humar-bench: still waiting.\n") <= 3 and said.count("\n") <= 3
    with said_when_slow("waiting", 30.0):
        pass
    assert capsys.readouterr().err == "" and threading.active_count() < 10


@pytest.mark.parametrize(("argv", "lines"), [(["params"], 1), (["params", "-q"], 0)])
def test_a_measurement_nobody_sees_a_bar_of_says_after_a_minute_what_it_measures(bench, capsys, monkeypatch, argv, lines):
    monkeypatch.setattr("humar_bench.cli.progress.MINUTE_S", 0.01)
    real = Stub.__call__
    monkeypatch.setattr(Stub, "__call__", lambda *given, **more: (time.sleep(0.25), real(*given, **more))[1])
    assert ends(capsys, *argv)[2].count("humar-bench: still measuring params.\n") >= lines
    assert lines or ends(capsys, *argv)[2] == ""

"""The command line: what it calls, what it prints where, and how it ends. `bench.benchmark` is a stub except in the last section."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer.main

import humar_bench
from humar_bench import cli, options, running
from humar_bench.args import BUILT_IN, ModelArgs, RunArgs
from humar_bench.cli.progress import Tracker, said_when_slow
from humar_bench.cli.shared import TIMING
from humar_bench.errors import MeasurementError
from humar_bench.records.record import Run, load
from humar_bench.subjects.registry import use_of
from tests.golden.records import component_time, failed, flops, fps, memory, params

COMMANDS = (
    *("params", "flops", "fps", "memory", "report"), "scaling", "ablate", "roofline", "backends", "claims", "variants", "accuracy",
    "search",
    *("verify", "compare", "calibrate", "list", "env", "train", "warm-start", "evaluate", "data"),
)
MEASURING = COMMANDS[:5]
ROOT = Path(__file__).resolve().parents[2]


class Stub:
    """Stands for `benchmark`: remembers the call, answers with made-up records and hands them to the sink as it goes."""

    def __init__(self) -> None:
        self.calls: list[SimpleNamespace] = []
        self.raises: BaseException | None = None
        self.fails: tuple[str, ...] = ()

    def __call__(self, architectures, args, workload, measures, run, sink=None, progress=None, **more):
        self.calls.append(SimpleNamespace(
            architectures=architectures, args=args, workload=workload, measures=measures, run=run, sink=sink, progress=progress, **more
        ))
        asked = {"asked": dataclasses.asdict(args), "workload": dataclasses.asdict(workload), "command": more["command"]}
        make = {
            "params": params, "flops": flops, "memory": memory, "component_time": component_time,
            "fps": lambda name, **given: fps(name, 0, **given),
        }
        records = []
        for measure in measures:
            for each in architectures:
                record = failed(measure, each.name, **asked) if each.name in self.fails else make[measure](each.name, **asked)
                if "batch" in (record.measured or {}):
                    record = dataclasses.replace(record, measured={**record.measured, "batch": workload.batch}, id="")
                records.append(record)
                if sink is not None:
                    sink.write(record)
                if self.raises is not None:
                    raise self.raises
        return Run(tuple(records))


@pytest.fixture
def bench(monkeypatch) -> Stub:
    stub = Stub()
    module = SimpleNamespace(benchmark=stub)
    monkeypatch.setitem(sys.modules, "humar_bench.running.bench", module)
    monkeypatch.setattr(running, "bench", module, raising=False)  # where it is once somebody has imported it
    return stub


def ends(capsys, *argv: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command line."""
    code = cli.main([str(each) for each in argv])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


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


# Help


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_of_80_columns_with_an_example(capsys, monkeypatch, name, flag):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = ends(capsys, name, flag)
    assert (code, err) == (0, "")
    assert "Example:" in out and f"humar-bench {name}" in out.split("Example:")[1]
    assert max(len(line) for line in out.splitlines()) <= 80
    assert "…" not in out, "something was cut off"


def test_the_front_help_names_every_command_in_its_order(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for argv in ((), ("-h",)):
        code, out, _ = ends(capsys, *argv)
        assert code == 0
        assert [line.split()[1] for line in out.splitlines() if line.startswith("│ ") and line[2] not in " -"] == list(COMMANDS)
        assert max(len(line) for line in out.splitlines()) <= 80


@pytest.mark.parametrize("name", MEASURING)
def test_help_holds_each_option_of_the_dataclasses(capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "200")
    out = ends(capsys, name, "-h")[1]
    hidden = {"fps": set(), "report": {"csv", "records"}}.get(name, set(TIMING))
    for owner in (options.Selection, options.Output, RunArgs):
        for each in dataclasses.fields(owner):
            assert (f"--{each.name.replace('_', '-')} " in out) == (each.name not in hidden), each.name
            assert each.name in hidden or each.metadata["help"] in out


def test_the_version_is_printed(capsys):
    assert ends(capsys, "--version") == (0, f"humar-bench {humar_bench.__version__}\n", "")


def test_list_names_architectures_arguments_and_workloads(capsys):
    code, out, err = ends(capsys, "list")
    assert (code, err) == (0, "")
    for text in (*BUILT_IN, "speed-test", "50x50, 50x50, 50x50", "path/file.py:builder"):
        assert text in out
    for each in dataclasses.fields(ModelArgs):
        assert each.name in out


def test_list_says_what_the_builders_really_make_of_the_arguments():
    from humar_bench.subjects.registry import build

    other = {
        "hidden_dim": 64, "nheads": 2, "dim_feedforward": 96, "enc_layers": 3, "dec_layers": 2, "enc_n_points": 3, "dec_n_points": 2,
        "num_feature_levels": 2, "num_queries": 3, "num_body_points": 5, "num_classes": 3, "dropout": 0.1,
        "transformer_activation": "relu", "pre_norm": True, "within_type": "attn", "learnable_tgt_init": True,
    }
    args = ModelArgs(**other)
    for name in BUILT_IN:
        built = build(name, args, device="meta").built
        for field, value in other.items():
            said = use_of(field, name)
            found = "as asked" if built.get(field) == value else "not used" if field not in built else "its own"
            assert found == (said if said in ("as asked", "not used") else "its own"), (name, field)
    assert build("efficient", args, device="meta").built["transformer_activation"] == "gelu"


def test_env_prints_versions_as_a_table_and_as_json(capsys):
    code, out, _ = ends(capsys, "env")
    assert code == 0 and "torch" in out
    document = json.loads(ends(capsys, "env", "--json", "--device", "cpu")[1])
    assert document["device"] == "cpu" and document["python"]


def run_python(code: str) -> int:
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, cwd=ROOT).returncode


WITHOUT_TORCH = "import sys; from humar_bench.cli import main; {more}; main({argv!r}); sys.exit(7 * ('torch' in sys.modules))"


@pytest.mark.parametrize("argv", [["--help"], ["fps", "--help"], ["list"], ["params", "--batch", "x"]], ids=" ".join)
def test_help_and_list_do_not_import_torch(argv):
    expected = 0
    assert run_python(WITHOUT_TORCH.format(argv=argv, more="0")) == expected


def test_the_test_of_torch_can_fail():
    assert run_python(WITHOUT_TORCH.format(argv=["list"], more="sys.modules['torch'] = sys")) == 7


HEAVY = ("torch", "numpy", "scipy", "pandas", "pydantic", "humar_bench.report", "humar_bench.judging", "humar_bench.running.bench")


@pytest.mark.parametrize("argv", [["--help"], ["report", "--help"], ["--version"]], ids=" ".join)
def test_help_imports_nothing_that_takes_long(argv):
    """So that it takes a quarter of a second, most of it typer's."""
    code = f"import sys; from humar_bench.cli import main; main({argv!r}); print(*(each for each in {HEAVY} if each in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == ""


def test_show_completion_prints_a_script_for_the_shell(capsys, monkeypatch):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    monkeypatch.setattr(typer.main, "get_command", typer.main.get_command.__wrapped__)  # the commands are built anew, with that in mind
    for shell, has in (("bash", "complete -o default -F _humar_bench_completion humar-bench"), ("zsh", "#compdef humar-bench")):
        code, out, err = ends(capsys, "--show-completion", shell)
        assert (code, err) == (0, "") and has in out and "_HUMAR_BENCH_COMPLETE=complete_" in out


def test_installed_completion_is_what_a_shell_sources(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    monkeypatch.setattr(typer.main, "get_command", typer.main.get_command.__wrapped__)  # the commands are built anew, with that in mind
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    code, out, err = ends(capsys, "--install-completion", "bash")
    assert (code, err) == (0, "") and "bash completion installed in" in out
    scripts = [path for path in tmp_path.rglob("*") if path.is_file() and "_HUMAR_BENCH_COMPLETE" in path.read_text()]
    assert len(scripts) == 1 and str(scripts[0]) in (tmp_path / ".bashrc").read_text()


@pytest.mark.parametrize(("typed", "words"), [
    ("fp", ["fps"]), ("re", ["report"]), ("fps --by", ["--by-component"]), ("fps --workload t", ["tiny"]),
    ("report --arch original", ["original", "original-fused"]), ("fps --dtype b", ["bfloat16"]), ("params --device c", ["cpu", "cuda"]),
    ("flops --counter f", ["fvcore", "flop_counter"]),
])
def test_a_shell_completes_commands_options_and_their_words(capsys, monkeypatch, typed, words):
    monkeypatch.setenv("_HUMAR_BENCH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"humar-bench {typed}")
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split())))
    assert ends(capsys) == (0, "".join(f"{word}\n" for word in words), "")


def test_python_m_is_the_same_program(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "humar_bench", "params", "--batch", "-1"], check=False, capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "humar-bench: batch is -1; it must be a whole number of at least 1.\n"


# Wrong command lines

WRONG = [
    (["frobnicate"], "No such command 'frobnicate'; see humar-bench --help."),
    (["param"], "No such command 'param'. Did you mean 'params'?; see humar-bench --help."),
    (["params", "--frobnicate"], "No such option: --frobnicate"),
    (["params", "extra"], "unexpected extra argument"),
    (["--frobnicate"], "No such option: --frobnicate"),
    (["params", "--arch"], "'--arch' requires an argument"),
    (["params", "--budget", "3"], "No such option: --budget"),
    (["report", "--csv", "x"], "No such option: --csv"),
    (["fps", "--device", "tpu"], "device is 'tpu'; choose cpu, cuda, cuda:N or auto."),
    (["fps", "--device", "cuda:x"], "device is 'cuda:x'; choose cpu, cuda, cuda:N or auto."),
    (["fps", "--device", "cuda:99"], "cuda:99"),
    (["fps", "--device", ""], "device is ''; choose cpu, cuda, cuda:N or auto."),
    (["params", "--batch", "-2"], "batch is -2; it must be a whole number of at least 1."),
    (["params", "--batch", "0"], "batch is 0; it must be a whole number of at least 1."),
    (["params", "--batch", "two"], "--batch is 'two'; it must be a whole number."),
    (["params", "--batch", "2.5"], "--batch is '2.5'; it must be a whole number."),
    (["params", "--num-queries", "0"], "num_queries is 0; it must be a whole number of at least 1."),
    (["params", "--num-queries", "100000"], "num_queries 100000 is more than the 6380 memory tokens"),
    (["params", "--num-queries", "3", "--set", "num_queries=4"], "--num-queries is 3 and --set num_queries is 4"),
    (["params", "--workload", "big"], "workload is 'big'; choose one of speed-test, uniphd, large, tiny."),
    (["params", "--feature-sizes", "50"], "the size '50' is not HEIGHTxWIDTH"),
    (["params", "--feature-sizes", "50x-1"], "the size '50x-1' is not HEIGHTxWIDTH"),
    (["params", "--feature-sizes", "50x50,,25x25"], "the size '' is not HEIGHTxWIDTH"),
    (["params", "--image-size", "axb"], "the size 'axb' is not HEIGHTxWIDTH"),
    (["params", "--image-size", "64x64", "--feature-sizes", "8x8"], "give one of the two."),
    (["params", "--feature-sizes", "8x8", "--set", "num_feature_levels=2"], "--set num_feature_levels is 2 and --feature-sizes names 1"),
    (["params", "--set", "enc_layer=4"], "did you mean enc_layers or dec_layers?"),
    (["params", "--set", "enc_layers"], "write FIELD=VALUE"),
    (["params", "--set", "enc_layers=0"], "enc_layers is 0; it must be at least 1."),
    (["params", "--set", "enc_layers=1.5"], "--set enc_layers is '1.5'; it must be a whole number."),
    (["params", "--set", "nheads=3"], "nheads 3 does not divide hidden_dim 256"),
    (["params", "--set", "transformer_activation=tanh"], "transformer_activation is 'tanh'; choose one of relu, gelu."),
    (["params", "--set", "efficient_encoder_sets=9"], "efficient_encoder_sets 9 is more than efficient_enc_layers 4"),
    (["params", "--args", "missing.json"], "--args 'missing.json' cannot be read: No such file or directory"),
    (["params", "--args", "."], "--args is '.'; it must end in .json or .toml."),
    (["params", "--arch", "unknown"], "the architecture 'unknown' is unknown"),
    (["params", "--arch", "=original"], "has an empty name before its ="),
    (["params", "--arch", "original", "--arch", "original"], "two architectures are named 'original'"),
    (["params", "--arch", "a b:c"], "names no module"),
    (["params", "--arch", "no_such_module:build"], "there is no module 'no_such_module' here"),
    (["params", "--arch", "missing.py:build"], "the file missing.py does not exist"),
    (["report", "--arch", "file.py:build", "-o", "new"], "the file file.py does not exist"),
    (["params", "--reference", "other"], "reference is 'other'; choose one of the architectures measured: original, efficient."),
    (["params", "--csv", "-", "--json", "-"], "--csv and --json both ask for standard output"),
    (["params", "--records", "-"], "--records is '-'"),
    (["params", "--csv", "no/such/folder/x.csv"], "--csv 'no/such/folder/x.csv' cannot be written: No such file or directory"),
    (["params", "--markdown", "."], "--markdown '.' cannot be written: it is a folder"),
    (["flops", "--counter", "deepspeed"], "counter is 'deepspeed'; choose one of fvcore, thop, profiler, flop_counter."),
    (["params", "--dtype", "int4"], "dtype is 'int4'; choose one of float32, tf32, bfloat16, float16, int8."),
    (["fps", "--backend", "tensorrt"], "backend is 'tensorrt'; choose one of eager, compile, "),
    (["params", "--seed", "-1"], "seed is -1; it must be at least 0."),
    (["params", "--threads", "-1"], "threads is -1; it must be at least 0."),
    (["fps", "--backend", "compile", "--by-component"], "backend is compile and --by-component was given; only eager calls"),
    (["fps", "--min-runs", "9", "--max-runs", "3"], "max_runs 3 is below min_runs 9"),
    (["fps", "--budget", "nan"], "budget is nan; it must be a finite number."),
    (["fps", "--budget", "soon"], "--budget is 'soon'; it must be a number."),
    (["fps", "--processes", "-1"], "processes is -1; it must be at least 0."),
    (["fps", "--timeout", "0"], "timeout is 0.0; it must be at least 1."),
    (["report", "-o", "a", "--resume", "b"], "-o is a and --resume is b; give one of the two."),
    (["report", "--resume", "no-such-folder"], "no-such-folder does not exist"),
    (["report", "-o", "file/inside"], "-o 'file/inside' cannot be written into: Not a directory"),
    (["report", "-o", "file"], "-o 'file' cannot be written into: File exists"),
    (["params", "--records", "file/inside.jsonl"], "cannot be written"),
    (["env", "--device", "tpu"], "device is 'tpu'"),
    # beyond reason
    (["params", "--batch", "9" * 31], f"--batch is '{'9' * 31}'; it must be at most 9,007,199,254,740,991."),
    (["params", "--batch", "70000"], "batch is 70000; it must be at most 65,536."),
    (["params", "--batch", "9" * 5000], "--batch is '999"),
    (["params", "--num-queries", "9" * 12], "num_queries is 999999999999; it must be at most 1,000,000."),
    (["fps", "--threads", "100000"], "threads is 100000; it must be at most 1,024."),
    (["params", "--seed", "1" * 31], f"--seed is '{'1' * 31}'; it must be at most"), (["fps", "--seed", str(2**53)], "--seed is '900719"),
    (["params", "--set", "hidden_dim=1" + "0" * 20], "hidden_dim is 100000000000000000000; it must be at most 65,536."),
    (["params", "--set", "hidden_dim=" + "9" * 5000], "--set hidden_dim is"), (["params", "--set", "enc_layers=1025"], "at most 1,024."),
    (["params", "--set", "num_classes=10000000"], "at most 1,000,000."), (["params", "--set", "dropout=1e999"], "must be a finite number."),
    (["params", "--set", "efficient_mlp_ratio=99999"], "efficient_mlp_ratio is 99999; it must be at most 1,024."),
    (["params", "--feature-sizes", "9" * 31 + "x2"], "is beyond reason"),
    (["params", "--feature-sizes", "9" * 5000 + "x2"], "is beyond reason"),
    (["params", "--feature-sizes", "70000x2"], "a side of 70000; every side must be a whole number from 1 to 65,536"),
    (["params", "--feature-sizes", ",".join(["2x2"] * 65)], "65 levels"),
    (["params", "--image-size", "1" + "0" * 30 + "x5"], "is beyond reason; a side of an image is at most 524,288."),
    (["fps", "--processes", "99999"], "processes is 99999; it must be at most 10,000."),
    (["fps", "--max-runs", "1" + "0" * 12], "max_runs is 1000000000000; it must be at most 1,000,000,000."),
    (["fps", "--budget", "1e18"], "--budget is '1e18'; it must be at most"), (["fps", "--budget", "1e9"], "it must be at most 604,800.0."),
    (["fps", "--timeout", "1e9"], "timeout is 1000000000.0; it must be at most 604,800.0."),
    (["fps", "--device", "cuda:" + "9" * 5000], "device is 'cuda:999"), (["ablate", "--budget", "1e9"], "at most 604,800, a week."),
    (["scaling", "--from", "9" * 31], "--from is '9999"), (["scaling", "--to", "\u00b2"], "--to is '\u00b2'; it must be a whole number"),
    (["scaling", "--points", "1000000"], "--points is 1000000; it must be at most 1000."),
    (["calibrate", "--threads", "100000"], "threads is 100000; it must be at most 1,024."),
    (["calibrate", "--seed", "1" * 31], "--seed is"),
    # nothing typed is not the current folder
    *(([*argv, ""], f"{argv[-1]} is ''; name a path, such as . for the current folder.") for argv in (
        ["report", "-o"], ["params", "--records"], ["params", "--csv"], ["params", "--markdown"], ["params", "--json"],
        ["params", "--resume"], ["params", "--args"], ["fps", "--certificate"], ["scaling", "--plot"], ["ablate", "-o"],
        ["calibrate", "-o"], ["claims", "-o"],
    )),
    (["verify", ""], "DIR is ''; name a path"), (["compare", "", "x"], "OLD is ''; name a path"),
    (["compare", "x", ""], "NEW is ''; name a path"),
    (["params", "--arch", ""], "the architecture '' is unknown"), (["params", "--reference", ""], "reference is ''; choose one of"),
    (["scaling", "--over", ""], "over is ''; choose one of"),
    (["fps", "--point", "", "--whole", "--end-to-end"], "--point is of the prompt point and --prompt is text"),
    # nought is a number too
    (["params", "--caption-tokens", "0"], "caption-tokens is 0 and only the whole model has one; add --whole."),
    (["params", "--whole", "--caption-tokens", "0"], "caption_tokens is 0; it must be at least 1."),
    # numbers are written as they usually are
    *((["params", "--batch", each], f"--batch is {each!r}; it must be a whole number.") for each in ("1_0", " 5", "5\n", "\uff15")),
    (["fps", "--budget", "1_0.5"], "--budget is '1_0.5'; it must be a number."),
    (["params", "--set", "enc_layers=1_0"], "--set enc_layers is '1_0'; it must be a whole number."),
    # a name that no file system takes
    *(([*argv, "n" * 300], "ile name too long") for argv in (
        ["params", "--records"], ["params", "--resume"], ["params", "--csv"], ["params", "--markdown"], ["params", "--json"],
        ["report", "-o"], ["report", "--resume"], ["ablate", "--resume"], ["search", "--resume"], ["search", "--journal"],
        ["accuracy", "--resume"], ["verify"], ["fps", "--certificate"],
    )),
]


@pytest.mark.parametrize(("argv", "sentence"), WRONG, ids=[" ".join(argv) for argv, _ in WRONG])
def test_a_wrong_command_line_is_one_sentence_and_exit_code_2(bench, capsys, monkeypatch, tmp_path, argv, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    code, out, err = ends(capsys, *argv)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.startswith("humar-bench: ") and err.count("\n") == 1
    assert not bench.calls, "something was measured"
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "something was left behind"


LONG = "a b'\\" * 1250


@pytest.mark.parametrize("argv", [
    ["params", LONG], [LONG], ["params", f"--{LONG}"], ["params", f"--batch={LONG}"], ["params", "--arch", f"m={LONG}.py:b"],
    ["params", "--set", f"enc_layers={LONG}"], ["params", "--set", LONG], ["params", "--csv", LONG], ["report", "-o", LONG],
    ["params", "--args", LONG], ["params", "--inputs", LONG], ["verify", LONG], ["compare", LONG, "x"],
    ["params", "--workload", "x" * 5000],
    ["scaling", "--over", LONG], ["scaling", "--from", LONG], ["search", "--over", LONG], ["evaluate", LONG],
    ["train", "-o", "x", "--data", LONG], ["compare", "x", "y", "--fail-on", LONG], ["params", "--feature-sizes", "x".join(LONG)],
])
def test_what_was_typed_is_not_repeated_whole_where_it_is_long(bench, capsys, monkeypatch, tmp_path, argv):
    monkeypatch.chdir(tmp_path)
    code, out, err = ends(capsys, *argv)
    assert (code, out, err.count("\n")) == (2, "", 1) and len(err) < 2100 and not bench.calls


def test_foreign_code_that_leaves_by_sys_exit_does_not_choose_our_exit_code(monkeypatch, capsys):
    def leave(*given):
        sys.exit(0)

    monkeypatch.setattr("humar_bench.devices.opening.open_device", leave)
    code, out, err = ends(capsys, "env")
    assert (code, out, err) == (1, "", "humar-bench: foreign code ended the command with sys.exit(0); take that out of it.\n")


def test_an_args_file_that_gives_a_key_twice_is_refused_and_the_key_named(bench, capsys, tmp_path):
    contents = {"a.json": '{"dec_layers": 2, "enc_layers": 2, "dec_layers": 3}', "a.toml": "dec_layers = 2\ndec_layers = 3\n"}
    for name, content in contents.items():
        (tmp_path / name).write_text(content)
        code, _, err = ends(capsys, "params", "--args", tmp_path / name)
        assert code == 2 and not bench.calls and ("the key 'dec_layers' twice" in err or name == "a.toml")


def test_an_args_file_that_cannot_be_read_is_one_sentence(bench, capsys, tmp_path):
    for name, content in (("a.json", b"{"), ("a.toml", b"x"), ("b.json", b"\xff"), ("c.json", b"[]")):
        (tmp_path / name).write_bytes(content)
        code, out, err = ends(capsys, "params", "--args", tmp_path / name)
        assert (code, out, err.count("\n")) == (2, "", 1) and name in err


@pytest.mark.parametrize("argv", [["params", "--csv", "x"], ["params", "--records", "x"], ["flops", "--json", "x"]])
def test_a_full_disk_is_one_sentence_and_exit_code_1(bench, capsys, argv, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    code, _, err = ends(capsys, *argv)
    assert code == 1
    assert "No space left on device" in err and err.count("\n") == 1


def test_a_measurement_error_of_the_bench_is_one_sentence(bench, capsys):
    bench.raises = MeasurementError("the worker could not be started: no more processes.")
    assert ends(capsys, "params") == (1, "", "humar-bench: the worker could not be started: no more processes.\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_full_standard_output_is_one_sentence():
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "humar_bench", "list"], check=False, stdout=full, stderr=subprocess.PIPE, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr == b"humar-bench: standard output could not be written: No space left on device; make room or use a file.\n"


def test_a_reader_that_leaves_ends_it_quietly():
    command = f"{sys.executable} -m humar_bench list | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], check=False, capture_output=True, cwd=ROOT)
    assert done.returncode in (0, 141) and done.stderr == b""


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

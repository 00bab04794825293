"""Command lines that cannot be, and what else ends in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from humar_bench.errors import MeasurementError
from tests.cli.stub import ROOT, ends

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



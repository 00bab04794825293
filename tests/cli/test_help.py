"""What the command line says of itself: help, list, env, completion; and what it imports for that."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

import humar_bench
from humar_bench import options
from humar_bench.args import BUILT_IN, ModelArgs, RunArgs
from humar_bench.cli.shared import TIMING
from humar_bench.subjects.registry import use_of
from tests.cli.stub import ROOT, ends

COMMANDS = (
    *("params", "flops", "fps", "memory", "report"), "scaling", "ablate", "roofline", "backends", "claims", "variants", "accuracy",
    "search",
    *("verify", "compare", "calibrate", "list", "env", "train", "warm-start", "evaluate", "data"),
)
MEASURING = COMMANDS[:5]


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



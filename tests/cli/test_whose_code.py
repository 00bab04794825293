"""Code of somebody's runs only after a line on standard error has named it, in every command that takes an architecture."""

from __future__ import annotations

import pytest

from humar_bench.cli import main
from humar_bench.errors import EXIT_DONE

NOISY = """
import sys
print("running", file=sys.stderr, flush=True)
from efficient.transformer import build_efficient_conv_attention_transformer as build
raise RuntimeError("it ran")
"""
COMMANDS = {
    "params": ["--arch"], "scaling": ["--no-time", "--points", "3", "--to", "4000", "--arch"], "roofline": ["--no-time", "--arch"],
    "claims": ["--no-time", "--architecture"], "backends": ["--backend", "eager", "--arch"], "variants": ["--no-time", "--arch"],
    "accuracy": ["--arch", "original", "--arch"], "train": ["-o", "RUN", "--arch"], "evaluate": ["RUN", "--arch"],
}


@pytest.fixture
def nothing_runs(monkeypatch):
    """Whatever would start a child or load a builder stops the command instead."""
    from humar_bench.running.children import Child
    from humar_bench.subjects import loading

    def stop(*args, **more):
        raise SystemExit(99)

    monkeypatch.setattr(Child, "start", stop)
    monkeypatch.setattr(loading, "_load_file", stop)


@pytest.mark.parametrize(("name", "typed"), COMMANDS.items(), ids=list(COMMANDS))
def test_the_line_comes_before_anything_of_it_is_loaded(name, typed, tmp_path, nothing_runs, capfd):
    (tmp_path / "mine.py").write_text(NOISY)
    typed = [str(tmp_path / "run") if each == "RUN" else each for each in typed]
    code = main([name, *typed, f"mine={tmp_path / 'mine.py'}:build"])
    captured = capfd.readouterr().err
    said = f"humar-bench: note: mine is not part of humar-bench; loading it runs the code of {tmp_path / 'mine.py'}."
    assert code != EXIT_DONE and captured.splitlines().count(said) == 1 and "running" not in captured


def test_the_projects_own_builders_are_not_announced(capsys):
    from humar_bench.cli.shared import say_whose_code
    from humar_bench.studies.accuracy.rings import ring_spec
    from humar_bench.subjects.registry import Architecture

    say_whose_code([Architecture("original, ring scaled", ring_spec(0.23), foreign=True)])
    assert "note: original" not in capsys.readouterr().err

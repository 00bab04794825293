"""Command lines that measure nothing."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from humar_bench import running
from tests.cli.stub import Stub


@pytest.fixture
def bench(monkeypatch) -> Stub:
    stub = Stub()
    module = SimpleNamespace(benchmark=stub)
    monkeypatch.setitem(sys.modules, "humar_bench.running.bench", module)
    monkeypatch.setattr(running, "bench", module, raising=False)  # where it is once somebody has imported it
    return stub

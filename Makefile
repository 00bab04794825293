# make bench: install into .venv and measure on this machine's best device. make test: the same .venv, lint, tests.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: bench test clean

bench: .venv/installed
	$(BIN)/humar-bench report --out results/local/$(shell date +%Y%m%d-%H%M%S)

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/python -m pytest

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python is %d.%d; humar-bench needs 3.11 or newer: make PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

clean:
	rm -rf .venv results/local/$(shell date +%Y%m%d-%H%M%S)

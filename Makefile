# make bench: install into .venv and measure on this machine's best device. make test: the same .venv, lint, tests.
# make gpu: the same .venv, everything that is measured on a CUDA device, in under ten minutes, into results/<gpu>/ (docs/gpu.md).
PYTHON ?= python3
BIN := .venv/bin

.PHONY: bench gpu test clean

bench: .venv/installed
	$(BIN)/humar-bench report --out results/local/$(shell date +%Y%m%d-%H%M%S)

gpu: .venv/installed
	$(BIN)/python -m benchmarks.gpu

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

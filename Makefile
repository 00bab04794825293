# make bench: install what it runs into .venv and measure on this machine's best device.
# make test: add the tools for tests, lint, all tests but the exhaustive ones. make test-slow: those. make test-avx2: numbers, by AVX2 alone.
# make readme: after measuring into results/, every figure and table of README.md and docs/ anew, and every folder proved.
# make gpu: the same .venv, everything that is measured on a CUDA device, in under ten minutes, into results/<gpu>/ (docs/gpu.md).
PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
# A file's tests go to one worker, which makes its fixtures once; slow ones are shared out one by one, or the last file takes long alone.
PYTEST = $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile
# Tests that hold computed numbers of torch's own kernels against each other. Those that compile, export, count, start processes or are
# refused, which their names say, would tell nothing about a kernel; nor would the command line or Triton's interpreter.
NUMERIC = $(addprefix tests/, baselines/test_fused.py baselines/test_original.py efficient measures/test_agreement.py uniphd \
  $(addprefix subjects/test_, arms.py drop_in.py knife_edge.py) \
  $(addprefix training/test_, distillation.py losses.py losses_golden.py loop.py optim.py similarity.py train_tiny.py warm_start.py))
NO_KERNEL = compile or export or flops or meta or never_asks or parameters or processes or records or refused or sentence
AVX2 = ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2

# Every child process of a test would compile this project's files anew, and every worker each file of tests.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: bench readme gpu test test-slow test-avx2 clean

bench: .venv/bench
	$(BIN)/humar-bench report --out results/local/$(shell date +%Y%m%d-%H%M%S)

readme: .venv/dev
	HUMAR_BENCH_OVERWRITE_GOLDEN=1 $(BIN)/python -m pytest tests/test_readme.py

gpu: .venv/dev
	$(BIN)/python -m benchmarks.gpu

test: .venv/dev
	$(BIN)/ruff check .
	$(PYTEST) -m "not slow"

test-slow: .venv/dev
	$(PYTEST) --dist worksteal -m slow

test-avx2: .venv/dev
	$(AVX2) $(PYTEST) -m "not slow" -k "not ($(NO_KERNEL))" $(NUMERIC)

.venv/bench: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python is %d.%d; humar-bench needs 3.11 or newer: make PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

.venv/dev: .venv/bench
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

clean:
	rm -rf .venv

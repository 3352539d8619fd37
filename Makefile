# One command for each thing a developer does. `make PYTHON=python3.12 test` chooses the interpreter of the environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DIGITS := examples/digits.py
# Idle threads that spin long take the cores from the others, those that sleep at once wake late: docs/decisions/011-threads.md.
export GOMP_SPINCOUNT ?= 10000
# Where bytecode may not be kept, each of the tests' many processes would compile PyTorch anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help venv demo test lint typecheck docs clean

help:
	@echo "make demo       fit the example network into an eighth of its size, and show the result"
	@echo "make test       run all tests"
	@echo "make lint       check style and formatting"
	@echo "make typecheck  check the types"
	@echo "make docs       build the documentation into site/, strictly"
	@echo "make venv       an environment in $(VENV) with everything for development"
	@echo "make clean      remove the environment and the caches"

venv: $(VENV)/.dev

# The stamps are touched last: an installation that was interrupted is done again. Python compiles what it imports; most of
# what is installed it never does.
$(VENV)/.demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -e ".[demo]" -c constraints.txt
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -e ".[dev,demo,cifar10]" -c constraints.txt
	touch $@

demo: $(VENV)/.demo
	$(BIN)/sigmaquant quantize $(DIGITS):model --train $(DIGITS):train_data --val $(DIGITS):val_data \
		--test $(DIGITS):test_data --size 8x --epochs 12 --cycle-examples 1024 --control \
		--out runs/digits --overwrite

# A process per core, each with one thread: most tests are too small to gain from more.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal $(PYTEST_OPTIONS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(VENV)/.dev
	$(BIN)/mypy

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache .hypothesis

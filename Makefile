# One command for each thing a developer does. `make PYTHON=python3.12 test` chooses the interpreter of the environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help venv demo test lint typecheck clean

help:
	@echo "make venv       an environment in $(VENV) with everything below"
	@echo "make demo       train and evaluate the example network"
	@echo "make test       run the tests"
	@echo "make lint       check style and formatting"
	@echo "make typecheck  check the types"
	@echo "make clean      remove the environment and the caches"

venv: $(STAMP)

# The stamp is touched last: an installation that was interrupted is done again.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e ".[dev,demo,cifar10]" -c constraints.txt
	touch $@

demo: $(STAMP)
	$(BIN)/python examples/digits.py

test: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_OPTIONS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(STAMP)
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

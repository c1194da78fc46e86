PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test lint

setup: .venv/.ready

# Everything that the tests need, so that one environment serves all targets.
.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,docs,bench,export]"
	touch $@

demo: setup
	$(BIN)/python benchmarks/demo.py

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --durations=10

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

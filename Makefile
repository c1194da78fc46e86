PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test fuzz examples lint types imports docs

setup: .venv/.ready

# Everything that the tests need, so that one environment serves all targets.
.venv/.ready: pyproject.toml constraints.txt formulations/layer/relaxations/_descent.pyx
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,docs,bench,export]"
	touch $@

demo: setup
	$(BIN)/python benchmarks/demo.py

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --durations=10

# Random problems of every kind against brute force; FUZZ=--record writes the summary.
fuzz: setup
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fuzz.py $(FUZZ)

examples: setup
	for file in examples/*.py; do echo "$$file"; $(BIN)/python "$$file" || exit 1; done

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

imports: setup
	$(BIN)/lint-imports

docs: setup
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs build/docs

# Two commands for a newcomer: `make demo` and `make test`. Everything else is for contributors.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-slow test-fuzz test-kernels test-faults regress docs bench lint types clean

demo: $(STAMP)
	$(BIN)/lgbench run --task marked_recall --method vanilla,decimamba,clock_law,slow_clock,last_window --preset smoke --device cpu --results runs/demo
	$(BIN)/lgbench run --task omniglot --method vanilla,last_window --preset smoke --device cpu --results runs/demo
	$(BIN)/lgbench report --results runs/demo

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-fuzz: $(STAMP)
	$(BIN)/python -m pytest -m fuzz -s tests/fuzz

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

test-kernels: $(STAMP)
	$(BIN)/python -m pytest -m kernels

regress: $(STAMP)
	$(BIN)/lgbench regress --baseline tests/regress/baseline.yaml --device cpu --junit build/regress.xml

docs: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/figures.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# FAULTS=100 injects as many as docs/faults.md reports; with `pip install ray` also through Ray.
FAULTS ?= 10
test-faults: $(STAMP)
	LGBENCH_FAULTS=$(FAULTS) $(BIN)/python -m pytest -m faults tests/launchers

bench: $(STAMP)
	$(BIN)/pip install -c constraints.txt -e '.[dev,peers]'
	$(BIN)/python -m pytest -m benchmark tests/benchmarks

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lgbench needs Python 3.11 or newer, this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@echo 'Installing lgbench and what its tests need into $(VENV); on Linux this downloads about 3 GB.'
	$(BIN)/pip install --disable-pip-version-check --progress-bar on -c constraints.txt -e '.[dev]'
	touch $(STAMP)

# Every target makes its own virtual environment and installs the versions that
# constraints.txt pins. Needed beforehand: Python 3.11 or newer, make, a C compiler.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NATIVE := $(VENV)/.native
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DELETE_ON_ERROR:
.PHONY: help demo test test-python lint bench bench-micro crash gate clean

help:
	@echo "make demo    see the store survive what it promises to survive"
	@echo "make test    the tests, those marked slow left out"
	@echo "make test-python   those of the engine and the log, without the C"
	@echo "make lint    ruff, mypy and the direction of imports"
	@echo "make bench   strandline beside RocksDB, LevelDB, LMDB, SQLite and diskcache"
	@echo "make bench-micro   the core operations, one by one"
	@echo "make crash   every layer of the crash harness for BUDGET (10m), or those in LAYERS"
	@echo "make gate    every planted bug against every layer; takes hours"
	@echo "make clean   remove the environment and everything that the targets made"

demo: $(NATIVE)
	$(BIN)/strandline demo

test: $(NATIVE)
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal -m "not slow"

test-python: $(NATIVE)
	STRANDLINE_NATIVE=0 $(BIN)/python -m pytest --numprocesses auto --dist worksteal -m "not slow" tests/api tests/engine tests/recovery tests/wal tests/interleavings/test_0* tests/interleavings/test_1[1-4]*

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(NATIVE)
	$(BIN)/python -m benchmarks.compare

bench-micro: $(NATIVE)
	$(BIN)/python -m pytest benchmarks/

BUDGET ?= 10m
LAYERS ?=
SEED ?=

crash: $(NATIVE)
	$(BIN)/strandline crash-test --budget $(BUDGET) $(addprefix --seed ,$(SEED)) $(addprefix --layer ,$(LAYERS))

gate: $(NATIVE)
	$(BIN)/python -m tests.crash.gate --budget 30s

clean:
	rm -rf $(VENV) build dist strandline/native/*.so .benchmarks .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The build backend is installed first, from the same pins, because pip does not apply
# constraints inside the environment that it isolates a build in.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --quiet --constraint constraints.txt hatchling editables setuptools
	$(PIP) install --quiet --constraint constraints.txt --no-build-isolation --editable '.[bench,cli,crash,dev,fuzz]'
	touch $@

# The functions in C are built by the installation, and again whenever their sources change.
$(NATIVE): $(wildcard strandline/native/*.[ch]) hatch_build.py | $(INSTALLED)
	$(BIN)/python hatch_build.py
	touch $@

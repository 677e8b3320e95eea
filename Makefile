# Every target makes its own virtual environment and installs the versions that
# constraints.txt pins. Needed beforehand: Python 3.11 or newer, make, a C compiler.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NATIVE := $(VENV)/.native
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DELETE_ON_ERROR:
.PHONY: help demo test test-python lint bench bench-micro soak fuzz clean

help:
	@echo "make demo    see the store survive what it promises to survive"
	@echo "make test    the tests, those marked slow left out"
	@echo "make test-python   those of the engine and the log, without the C"
	@echo "make lint    ruff, mypy and the direction of imports"
	@echo "make bench   strandline beside RocksDB, LevelDB, LMDB, SQLite and diskcache"
	@echo "make bench-micro   the core operations, one by one"
	@echo "make soak    ten minutes of kills and recoveries"
	@echo "make fuzz    every fuzz target for FUZZ_SECONDS (60)"
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

soak: $(NATIVE)
	$(BIN)/strandline crash-test --layer kill --budget 10m

FUZZ_SECONDS ?= 60
FUZZED := $(VENV)/fuzzed

fuzz: $(NATIVE)
	$(PIP) install --quiet --constraint constraints.txt atheris
	for target in frames payloads records identity headers logs codecs catalog; do \
		mkdir -p $(FUZZED)/$$target; \
		$(BIN)/python -m fuzz.$$target -max_total_time=$(FUZZ_SECONDS) \
			-dict=fuzz/store.dict -artifact_prefix=$(FUZZED)/ $(FUZZED)/$$target fuzz/corpus/$$target || exit 1; \
	done

clean:
	rm -rf $(VENV) build dist strandline/native/*.so .benchmarks .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The build backend is installed first, from the same pins, because pip does not apply
# constraints inside the environment that it isolates a build in.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --quiet --constraint constraints.txt hatchling editables setuptools
	$(PIP) install --quiet --constraint constraints.txt --no-build-isolation --editable '.[cli,bench,dev]'
	touch $@

# The functions in C are built by the installation, and again whenever their sources change.
$(NATIVE): $(wildcard strandline/native/*.[ch]) hatch_build.py | $(INSTALLED)
	$(BIN)/python hatch_build.py
	touch $@

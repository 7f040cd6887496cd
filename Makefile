# Every target stands on .venv, which `make setup` builds by itself and rebuilds when the locks change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SOURCES := lib jobs tests

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types unit integration bench format lock clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY)  ## make .venv with everything the other targets need

$(READY): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "Python 3.11 to 3.13 is needed, and $(PYTHON) is $$($(PYTHON) -V 2>&1): try make PYTHON=python3.12" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY)  ## the whole pipeline on a board of its own: two tags in, two evaluated classifiers out
	$(BIN)/imagetag demo --output demo-output

test: lint types unit integration  ## everything CI runs

lint: $(READY)  ## ruff
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

types: $(READY)  ## mypy, strict on the library and the jobs
	$(BIN)/mypy

unit: $(READY)  ## unit tests, in seconds
	$(BIN)/pytest tests/unit --numprocesses auto --maxprocesses 4

integration: $(READY)  ## tests with real servers, browsers and processes on loopback
	$(BIN)/pytest tests/integration tests/e2e

bench: $(READY)  ## speed and memory, as ratios of two things measured in one run
	$(BIN)/python -m tests.benchmarks

format: $(READY)  ## let ruff rewrite the sources
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

# The three locks agree on every version: dev.txt is resolved first and constrains the others.
UV_COMPILE = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header pyproject.toml
lock:  ## resolve requirements/*.txt anew (needs uv); UPGRADE=--upgrade takes newer versions
	$(UV_COMPILE) $(UPGRADE) --extra train --extra dev -o requirements/dev.txt
	$(UV_COMPILE) -c requirements/dev.txt -o requirements/scrape.txt
	$(UV_COMPILE) --extra train --extra cuda -c requirements/dev.txt -o requirements/train.txt

clean:  ## remove .venv, caches and the demo's output
	rm -rf $(VENV) .venv-bench demo-output .mypy_cache .pytest_cache .ruff_cache

# `make demo` and `make test` need Python 3.11, pip and make, and set up the rest in .venv; the second time is quick.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed
TWO_PROCESSES := --numprocesses=2 --dist=loadgroup --no-loadscope-reorder
PACKAGES := afield augment models pipelines jobs
# What Python compiles is kept whatever the shell says: the many processes of Ray import the same.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-long test-all mutants check clean env

demo: env
	$(BIN)/python -m jobs.demo out=runs/demo

test: env
	$(BIN)/python -m pytest $(TWO_PROCESSES)

test-long: env
	$(BIN)/python -m pytest -m "long and not slow and not gpu" $(TWO_PROCESSES)

test-all: env
	$(BIN)/python -m pytest -m "not gpu" -o session_timeout=14400

mutants: env
	$(BIN)/python -m tests.mutants

check: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(PACKAGES)
	$(BIN)/lint-imports

env: $(STAMP)

$(STAMP): pyproject.toml setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --no-compile -c constraints.txt -e ".[demo,test,dev,gcs,azure]"
	touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find $(PACKAGES) tests -name __pycache__ -prune -exec rm -rf {} +

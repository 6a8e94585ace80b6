# Everything happens in .venv and build; `make clean` takes both away.
PYTHON ?= python3.11
PIP_OPTIONS ?=
BIN := .venv/bin
INSTALLED := .venv/installed
INSTALLED_RAY := .venv/installed-ray
INSTALLED_AUDIT := .venv/installed-audit
INSTALLED_BROWSER := .venv/installed-browser

export PYTHONWARNINGS ?= ignore::FutureWarning,ignore::DeprecationWarning
export DO_NOT_TRACK ?= 1

.PHONY: help setup quickstart smoke up down status test test-slow test-browser audit lint format docs bench clean

help:            ## what there is
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/: .*##/\t/' | expand -t 14

setup: $(INSTALLED) ## make .venv and install everything into it

$(INSTALLED): pyproject.toml constraints.txt
	@echo "installing into .venv (a few minutes the first time) ..."
	@$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 13)' 2>/dev/null \
	  || { echo "error: $(PYTHON) is not Python 3.11 or 3.12; name one with make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) \
	  --constraint constraints.txt --editable '.[quickstart,export,dev]'
	@touch $@

$(INSTALLED_RAY): $(INSTALLED)
	@echo "installing Ray into .venv (a minute) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) \
	  --constraint constraints.txt --editable '.[ray]'
	@touch $@

$(INSTALLED_AUDIT): $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) \
	  --constraint constraints.txt --editable '.[audit]'
	@touch $@

$(INSTALLED_BROWSER): $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) \
	  --constraint constraints.txt --editable '.[browser]'
	@touch $@

quickstart: setup ## distil a real teacher on real reviews, about ten minutes on two cores
	@$(BIN)/python -m flows.distill --preset quickstart --json build/quickstart.json

smoke: setup     ## every stage in a minute, on a tiny model made on the spot
	@$(BIN)/python -m tinybert.samples build/smoke
	@$(BIN)/python -m flows.distill --preset smoke --json build/smoke.json

up: setup        ## Prefect, MLflow, S3, database and a worker on this machine, until Ctrl-C; see docs/stack.md
	@$(BIN)/python -m infra.stack up

down:            ## stop them from another terminal; the data stay
	@$(BIN)/python -m infra.stack down

status:          ## how they are
	@$(BIN)/python -m infra.stack status

test: setup      ## the default test suite
	@$(BIN)/python -m pytest -m 'not slow' --numprocesses 2 --dist loadfile

test-slow: $(INSTALLED_RAY) ## what is too long for it, Ray included
	@$(BIN)/python -m pytest -m slow --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-browser: $(INSTALLED_BROWSER) ## a run started by clicks in a headless Chromium, on a stack of its own
	@$(BIN)/python -m pytest -m slow tests/browser

audit: $(INSTALLED_AUDIT) ## look the pinned versions up among known vulnerabilities
	@$(BIN)/python -m infra.audit

lint: setup      ## format, lint, types, imports
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup    ## mend what ruff can mend
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: setup      ## write docs/configuration.md anew, from the form
	@$(BIN)/python docs/generate.py

bench: setup     ## measure, and print the tables of benchmarks/results.md (hours)
	@for script in benchmarks/*.py; do $(BIN)/python $$script; done

clean:           ## take away .venv and build
	rm -rf .venv build

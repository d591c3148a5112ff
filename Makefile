# One entry point for people and for CI. `make` alone lists what there is.
#
# test, demo, check, bench and soak each work on a fresh clone of a machine that has Python 3.11 or
# newer, make and git: they make .venv from requirements.lock first.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
# Absolute, so that a started program finds its siblings wherever it works.
BIN := $(CURDIR)/$(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# Tried in this order; the first that runs and is new enough is taken. PYTHON=... names one alone.
PYTHON ?=
PYTHONS := $(or $(PYTHON),python3.11 python3 python3.12 python3.13 python3.14 python)
# How many tests run at a time. A file's tests stay together: they share what is slow to start.
WORKERS ?= logical
# Only `make lock` needs it.
UV ?= uv

.PHONY: help
help: ## List what make can do
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: $(VENV)/.installed ## Six agents and a hub as real processes, and what became of a release
	$(BIN)/fieldfare demo

.PHONY: test
test: check ## Check, then every test of the default run
	$(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadfile

.PHONY: check
check: $(VENV)/.installed ## Lint, format, types and import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: bench
bench: $(VENV)/.installed ## Every benchmark in its short form, into benchmarks/results.json
	$(BIN)/python -m benchmarks

.PHONY: hil
hil: $(VENV)/.installed ## Replay the writes of an emulated device (needs QEMU, mmdebstrap; about a minute)
	$(BIN)/python -m pytest hil_tests

.PHONY: soak
soak: $(VENV)/.installed ## Every test in its long form (hours)
	FIELDFARE_SOAK=1 $(BIN)/python -m pytest tests \
		-m "" --hypothesis-profile=soak --timeout=7200

.PHONY: lock
lock: ## Write requirements.lock anew from pyproject.toml (needs uv)
	@command -v $(UV) >/dev/null || { echo "make lock needs uv on PATH, or UV=/path/to/uv" >&2; exit 1; }
	$(UV) pip compile pyproject.toml --extra hub --extra dev --extra rauc --extra s3 --extra otlp \
		--extra openfeature \
		--universal --python-version 3.11 \
		--no-config --upgrade --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate \
		--custom-compile-command "make lock" --quiet --output-file requirements.lock

.PHONY: clean
clean: ## Remove what make and the tools have made
	rm -rf $(VENV) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The lock decides what is in the environment, so a changed lock starts from an empty one.
$(VENV)/.locked: requirements.lock
	@python=$$(for candidate in $(PYTHONS); do \
		if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
		then echo "$$candidate"; break; fi; done); \
	if [ -z "$$python" ]; then \
		echo "Fieldfare needs Python 3.11 or newer; found none among: $(PYTHONS)." \
			"Install one, or name it: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; fi; \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "$$python cannot make virtual environments." \
			"On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; fi; \
	echo "Making $(VENV) with $$("$$python" --version) from requirements.lock"; \
	"$$python" -m venv --clear $(VENV)
	$(PIP) install --require-hashes --only-binary :all: -r requirements.lock
	@touch $@

$(VENV)/.installed: $(VENV)/.locked pyproject.toml
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

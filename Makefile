# Two commands matter: `make demo` and `make test`. Everything else is here for convenience; `make help` lists it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sfsync needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (about a minute the first time) ..."
	@$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

install: $(STAMP) ## make .venv with everything in it

demo: $(STAMP) ## the main job, from nothing: servers, org, mirror, changes, writes, proof
	@$(BIN)/sfsync demo

up: $(STAMP) ## leave the whole stack running (Ctrl-C stops it)
	@$(BIN)/sfsync up

test: $(STAMP) ## run every test, on real servers (JOBS at once: one more than there are cores, for many of them wait)
	@$(BIN)/pytest -n $(or $(JOBS),$(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)) $(ARGS)

test-full: $(STAMP) ## the large versions of some tests: 16 processes on 50 connections, two simulated weeks of triggers, 300 histories of an org, 100 requests a route (30 minutes)
	@SFSYNC_TEST_FLEET=16x50 SFSYNC_TEST_WEEK=1 SFSYNC_TEST_HISTORIES=300 SFSYNC_TEST_EXAMPLES=100 $(BIN)/pytest -s \
	  tests/integration/tokens/test_fleet.py tests/acceptance/test_trigger_week.py tests/local_org/soql/test_history_property.py \
	  tests/integration/shim/test_schema.py

test-clients: $(STAMP) ## other people's Salesforce clients against the local org (needs npm and a registry)
	@SFSYNC_TEST_CLIENTS=1 $(BIN)/pytest tests/clients

check: $(STAMP) ## lint, types and import contracts
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(STAMP) ## first load and refresh against plain SQL (ROWS=100000)
	@$(BIN)/python -m bench --rows $(or $(ROWS),100000)

bench-others: $(STAMP) ## first load beside the ORM, and beside TAP=tap-salesforce piped into TARGET=target-postgres; memory by ROWS
	@$(BIN)/python -m bench.others $(if $(TAP),--tap $(TAP) --target $(TARGET))
	@$(BIN)/python -m bench.memory --rows $(or $(ROWS),1000000)

bench-shim: $(STAMP) ## what the shim accepts in a second, next to the bare insert
	@$(BIN)/python -m bench.shim

bench-budget: $(STAMP) ## lanes and budget: a short day, ticks beside ROWS finished rows, a flood beside single actions
	@$(BIN)/python -m bench.budget day
	@$(BIN)/python -m bench.org_day
	@$(BIN)/python -m bench.budget due --rows $(or $(ROWS),10000000)
	@$(BIN)/python -m bench.budget fair

bench-org: $(STAMP) ## what the local org bears: ROWS=1000000 contacts, GETs from wrk, Bulk results from disk and cache
	@$(BIN)/python -m bench.org --rows $(or $(ROWS),1000000)

bench-actions: $(STAMP) ## org calls, speed and delay of 10,000 actions beside a task and a call each; a claim among ACTIONS=1000000
	@$(BIN)/python -m bench.actions
	@$(BIN)/python -m bench.claims --actions $(or $(ACTIONS),1000000)

chaos: $(STAMP) ## ACTIONS=10000 writes while workers die, the org misbehaves and Redis forgets or is absent (half an hour)
	@$(BIN)/python -m bench.chaos --actions $(or $(ACTIONS),10000)

proof: $(STAMP) ## the mirror is never wrong: anything in any order, KILLS=50 of real workers on ROWS=1000000, MINUTES=10 of changes (hours)
	@SFSYNC_TEST_MACHINE=$(or $(MACHINE),100x40) SFSYNC_TEST_SEED=random $(BIN)/pytest -q -s tests/edge/mirror/test_state_machine.py
	@$(BIN)/python -m bench.proof kills --rows $(or $(ROWS),1000000) --kills $(or $(KILLS),50)
	@$(BIN)/python -m bench.proof soak --minutes $(or $(MINUTES),10)

clean: ## remove the environment and the demo's data
	rm -rf $(VENV) .sfsync build *.egg-info .mypy_cache .ruff_cache .pytest_cache

.PHONY: help install demo up test test-full test-clients check bench bench-others bench-shim bench-budget bench-org bench-actions chaos proof clean

# fleetcert: `make demo` and `make test` do all of their own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PACKAGES := schemas streams bridges pki client device protocols configuration

.DEFAULT_GOAL := help
.PHONY: help setup up down demo test check bench chaos interop fuzz clean docs lock

help: ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "fleetcert needs Python 3.11 or newer: PYTHON=python3.12 make setup"; exit 1; }
	@deploy/system-packages
	@echo "Setting up $(VENV): some minutes, the first time"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --upgrade pip
	@$(BIN)/pip install --quiet --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --quiet --no-deps --no-build-isolation -e .
	@touch $@

setup: $(STAMP) ## Install everything: packages, Kafka, the broker plugin, DTLS 1.3
	@$(BIN)/python -m client.local.setup

up: setup ## Start the local stack and keep it in the foreground
	$(BIN)/fleetcert up

down: ## Stop the local stack
	$(BIN)/fleetcert down

demo: setup ## Fifty devices live through a rotation; ends with a table of proofs
	@$(BIN)/python -m client.demo

test: setup ## Run all suites (pure first, then on real parts)
	deploy/run-tests

check: setup ## Lint, types, layers, drawn files
	$(BIN)/ruff format --check $(PACKAGES) tests benchmarks
	$(BIN)/ruff check $(PACKAGES) tests benchmarks
	$(BIN)/shellcheck deploy/run-tests deploy/system-packages .ci/run
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m docs.draw --check

docs: setup ## Draw the files that are drawn from code
	$(BIN)/python -m schemas.draw
	$(BIN)/python -m docs.draw

bench: setup ## Measure
	$(BIN)/python -m benchmarks.machine
	$(BIN)/python -m benchmarks.rows
	$(BIN)/python -m benchmarks.scale
	$(BIN)/python -m benchmarks.engine
	$(BIN)/python -m benchmarks.bridge
	$(BIN)/python -m benchmarks.latency

chaos: setup ## The large fault tests: 200 faults of processes, 300 kills of devices (an hour)
	FLEETCERT_CHAOS=1 $(BIN)/pytest -s --show-capture=no tests/integration/test_faults.py \
		tests/integration/test_device_faults.py tests/integration/test_engine_group.py

interop: setup ## The doors against clients that nobody here wrote (wants Go, Rust, cmake, libclang): every certificate, every transport
	FLEETCERT_INTEROP=1 $(BIN)/pytest tests/integration/test_libcoap.py \
		tests/integration/test_foreign_clients.py tests/integration/test_foreign_est.py

fuzz: setup ## A million damaged messages to the CoAP bridge; FLEETCERT_FUZZ_SEED=N begins elsewhere
	FLEETCERT_FUZZ=1000000 $(BIN)/pytest tests/coap/test_fuzz.py

lock: ## Resolve the locked dependencies anew
	$(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --extra dev --strip-extras \
		--no-emit-index-url --no-emit-find-links --output-file requirements.lock pyproject.toml

clean: ## Remove what was built and what ran
	rm -rf $(VENV) var build .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage

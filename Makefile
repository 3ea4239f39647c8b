# The one door: `make` lists what there is.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The interpreter that .venv is made with, 3.11 or newer: make PYTHON=/path/to/python venv
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; exit; }; done; echo python3)
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
CARGO := PYO3_PYTHON=$(abspath $(PY)) cargo
MANIFEST := --manifest-path native/Cargo.toml --workspace --locked

# Knobs, each with the value it has when nothing is said.
BROKERS ?= 1
KAFKA_ARGS ?=
BENCH_ARGS ?=
DEMO_ARGS ?=
PYTEST_ARGS ?=
JOBS ?= 1
FUZZ_SECONDS ?= 60
FUZZ_SMOKE_SECONDS ?= 2
SOAK_MINUTES ?= 30
SOAK_ARGS ?=
SOAK_REBALANCES ?= 1000000
SOAK_PROCESSING_MINUTES ?= 10
WORLD ?= cooperative
SEED ?= 0

NATIVE_SOURCES := $(shell find native/dataplane/src native/python/src -name '*.rs' 2>/dev/null) \
	$(wildcard native/*/build.rs native/Cargo.toml native/Cargo.lock native/*/Cargo.toml) pyproject.toml
REQUIREMENTS_STAMP := $(VENV)/.requirements-installed
NATIVE_STAMP := $(VENV)/.native-built
CARGO_FUZZ := $(VENV)/cargo/bin/cargo-fuzz

.PHONY: help
help: ## this list
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-10s %s\n", $$1, $$2 }'

# ---------------------------------------------------------------- the environment

.PHONY: venv check-build check-demo check-kafka check-test check-soak check-fuzz
venv: $(NATIVE_STAMP) ## the environment in .venv, with the native module built; redone only after a change

check-build check-demo check-kafka check-test check-soak check-fuzz:
	@$(PYTHON) tools/check_environment.py $(@:check-%=%)

$(REQUIREMENTS_STAMP): requirements/dev.txt | check-build
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	touch $@

$(NATIVE_STAMP): $(REQUIREMENTS_STAMP) $(NATIVE_SOURCES) | check-build
	@echo "building the native module; the first time takes some minutes"
	@PATH="$(abspath $(BIN)):$$PATH" MATURIN_PEP517_ARGS=--locked $(PY) -m pip install --quiet \
		--disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# Not `maturin develop`: it would install the development group of pyproject.toml, unpinned, beside requirements/dev.txt.

# ---------------------------------------------------------------- seeing it work

.PHONY: demo kafka
demo: check-demo $(NATIVE_STAMP) ## orders through Kafka into PostgreSQL, live (KAFKA=host:port, POSTGRES=dsn, DEMO_ARGS='--seconds 60')
	$(PY) -m examples.demo $(DEMO_ARGS)

kafka: check-kafka $(REQUIREMENTS_STAMP) ## a real Apache Kafka on this machine until Ctrl-C (BROKERS=3, KAFKA_ARGS='--port 9092')
	$(PY) tools/kafka/kafka.py --brokers $(BROKERS) $(KAFKA_ARGS)

# ---------------------------------------------------------------- checking

.PHONY: test lint lint-python lint-rust test-rust test-fuzz test-python
test: check-test lint test-rust test-fuzz test-python ## everything: lint, types, Rust, and Python against real servers (half an hour and more; JOBS=2)

lint: lint-python lint-rust ## ruff, mypy, import-linter, cargo fmt, clippy

lint-python: $(NATIVE_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(PY) -m mypy
	$(PY) -m mypy.stubtest penstock._native --ignore-missing-stub
	$(BIN)/lint-imports

lint-rust: $(NATIVE_STAMP)
	$(CARGO) fmt --manifest-path native/Cargo.toml --all --check
	$(CARGO) clippy $(MANIFEST) --all-targets --quiet -- -D warnings

# Without the crate that is Python's: as an extension module it leaves Python's symbols open, and cannot be linked alone.
test-rust: $(NATIVE_STAMP)
	$(CARGO) test $(MANIFEST) --exclude penstock-python --quiet

# A few seconds for each fuzz target where Rust's nightly toolchain is, which cargo-fuzz needs. Everywhere, `test-rust` has run the
# same targets on a bounded number of random and damaged inputs.
test-fuzz: $(REQUIREMENTS_STAMP)
	@if cargo +nightly --version >/dev/null 2>&1; then \
		$(MAKE) --no-print-directory fuzz FUZZ_SECONDS=$(FUZZ_SMOKE_SECONDS); \
	else echo "no nightly toolchain of Rust: the fuzz targets have run on test-rust's inputs alone"; fi

# JOBS=2 takes a third less time, and servers of its own for each job; two cores are busy then, and what waits for a session's timeout
# on a busy machine may fail where nothing is wrong.
test-python: $(NATIVE_STAMP)
	$(PY) -m pytest $(if $(filter 1,$(JOBS)),,-n $(JOBS) --dist loadfile) $(PYTEST_ARGS)

# ---------------------------------------------------------------- measuring and searching

.PHONY: bench fuzz sim soak
bench: check-kafka $(NATIVE_STAMP) ## penstock beside other clients, on a real broker (BENCH_ARGS='--quick')
	$(PY) -m benchmarks $(BENCH_ARGS)
	$(if $(filter groups processing,$(BENCH_ARGS)),,$(PY) -m benchmarks processing $(filter --quick --write,$(BENCH_ARGS)))

sim: $(NATIVE_STAMP) ## one seed of the simulation of groups, with a trace (SEED=7, WORLD=consumer)
	@$(PY) tools/simulation.py --world $(WORLD) --seed $(SEED)

soak: check-soak $(NATIVE_STAMP) ## a million simulated rebalances, a processor's memory, the demo on three real brokers killed in turn (SOAK_MINUTES=30)
	$(PY) tools/simulation.py --rebalances $(SOAK_REBALANCES) --processes 2
	$(PY) tools/soak_processing.py --minutes $(SOAK_PROCESSING_MINUTES)
	$(PY) tools/soak.py --minutes $(SOAK_MINUTES) $(SOAK_ARGS)

$(CARGO_FUZZ):
	cargo install --quiet --locked --root $(VENV)/cargo cargo-fuzz

fuzz: check-fuzz $(REQUIREMENTS_STAMP) $(CARGO_FUZZ) ## each fuzz target of the data plane for some seconds (FUZZ_SECONDS=60)
	$(PY) native/dataplane/fuzz/seed_corpus.py
	@cd native/dataplane && PATH="$(abspath $(VENV))/cargo/bin:$$PATH" && export PATH && \
	for target in fuzz/fuzz_targets/*.rs; do \
		name=$$(basename "$$target" .rs); echo "fuzzing $$name for $(FUZZ_SECONDS) s"; \
		cargo +nightly fuzz run "$$name" -- -max_total_time=$(FUZZ_SECONDS) -verbosity=0 -print_funcs=0 || exit 1; done

# ---------------------------------------------------------------- documents and packages

.PHONY: docs wheel clean
docs: $(NATIVE_STAMP) ## generate the pages that are generated
	@for generator in tools/generate_*.py; do echo "$(PY) $$generator"; $(PY) "$$generator" || exit 1; done

wheel: $(REQUIREMENTS_STAMP) ## a wheel for this platform, in dist/
	$(BIN)/maturin build --release --locked --out dist

clean: ## remove what was built: .venv, dist, native/target, caches; not .kafka, .mariadb
	rm -rf $(VENV) dist build native/target .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests tools benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f src/penstock/_native*.so

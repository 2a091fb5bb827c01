# The two commands of the README need python3 (3.11 to 3.13, with venv) and make, and nothing else.
PYTHON ?= python3
VENV := .venv
# Test files run side by side: most of their time is waiting for real processes.
JOBS ?= 3
BIN := $(VENV)/bin

.PHONY: demo test soak venv check lint types layers benchmark requirements clean

demo: $(VENV)/.run
	$(BIN)/python -m examples.demo $(if $(KEEP),--keep)

# The programs alone, in .venv/bin.
venv: $(VENV)/.run

test: check
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

# Long runs of what the suite does shortly: every state after a power cut, and many more lives of the store.
soak: $(VENV)/.dev
	CRASH_STATES=all HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -n $(JOBS) --dist loadfile \
		tests/store/test_power_cuts.py tests/store/test_model.py tests/store/test_processes.py $(ARGS)

# All figures, with their picture, into benchmarks/results and the READMEs: on a quiet machine, see benchmarks/README.md.
benchmark: $(VENV)/.benchmark
	$(BIN)/python -m benchmarks.run_concurrency $(ARGS)
	$(BIN)/python -m benchmarks.summary

check: lint types layers

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

layers: $(VENV)/.dev
	$(BIN)/lint-imports --no-cache

# The demo needs no test tools: a first look should not wait for them.
$(VENV)/.run: requirements/run.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "trionode needs Python 3.11, 3.12 or 3.13; '$(PYTHON)' is another. Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.run requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	touch $@

$(VENV)/.benchmark: $(VENV)/.dev requirements/benchmark.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/benchmark.txt
	touch $@

# Pins with hashes, valid for every supported Python, with no index named in them.
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
requirements: $(VENV)/.dev
	$(COMPILE) pyproject.toml --group build --group dev -o requirements/dev.txt
	$(COMPILE) pyproject.toml --group build --constraint requirements/dev.txt -o requirements/run.txt
	$(COMPILE) --group benchmark --constraint requirements/dev.txt -o requirements/benchmark.txt

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis

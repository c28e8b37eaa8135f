PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP = PIP_CONSTRAINT=constraints.txt .venv/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-slow check

demo: .venv/installed  ## pre-train on real images, and show in numbers that the encoder learned
	@scripts/demo

test: .venv/installed-dev  ## every test but the slowest
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -m "not slow" -n auto --dist loadfile

test-slow: .venv/installed-dev  ## the slowest: killed in every phase of a save, restarts by torchrun, every detector learns
	.venv/bin/python -m pytest -m slow $(PART)

check: .venv/installed-dev  ## style and types
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	$(PIP) --editable '.[dev]'
	@touch $@

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP = PIP_CONSTRAINT=constraints.txt .venv/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-slow check docs dist

demo: .venv/installed  ## pre-train on real images, and show in numbers that the encoder learned
	@scripts/demo

test: .venv/installed-dev  ## every test but the slowest
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 .venv/bin/python -m pytest -m "not slow" -n auto --dist loadfile \
		--no-loadscope-reorder

test-slow: .venv/installed-dev  ## the slowest: killed in every phase of a save, restarts by torchrun, every detector learns
	.venv/bin/python -m pytest -m slow $(PART)

check: .venv/installed-dev  ## style and types
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

docs: .venv/installed-docs  ## the site, in build/site: its reference is made from the code, and a broken link is an error
	.venv/bin/python scripts/reference.py
	.venv/bin/zensical build --strict

dist: .venv/installed-release  ## wheel and source archive, in dist/, with their metadata checked
	rm -rf dist build/lib
	.venv/bin/python -m build
	.venv/bin/python -m twine check --strict dist/*

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --editable .
	@touch $@

.venv/installed-dev: .venv/installed
	$(PIP) --editable '.[dev]'
	@touch $@

.venv/installed-docs: .venv/installed
	$(PIP) --editable '.[docs]'
	@touch $@

.venv/installed-release: .venv/installed
	$(PIP) --editable '.[release]'
	@touch $@

# Each command makes .venv if it is missing: `make demo` runs the main job, `make test` lint, types and all tests, and
# `make test-fast` the tests that are not marked slow, in a few minutes.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
# A file is one worker's, and files go in the order of tests/conftest.py: the longest first.
PYTEST := $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-fast lint install clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt judges.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r judges.txt
	touch $(STAMP)

demo: $(STAMP)
	$(VENV)/bin/alttrain experiment=demo

test: $(STAMP) lint
	$(PYTEST)

test-fast: $(STAMP)
	$(PYTEST) -m "not slow"

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info

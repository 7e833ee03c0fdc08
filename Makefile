# make train [ARGS="--cores 2 --epochs 1"]   train on the embedded MNIST
# make test [TESTS=...] [JOBS=4]             run the tests, JOBS at a time, but for the long ones of make reliability
# make check                                 lint and type-check
# make reliability                           run the long tests and the whole fault matrix, write docs/reliability.md
# make drill [ARGS="--copies 3 --etcd 3"]    as root: a run in network namespaces under faults
# make bench                                 run the benchmarks, write docs/benchmarks
# make peers                                 install PyTorch and scikit-learn, for the benchmarks to compare with

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
TESTS ?=
JOBS ?= 4
PARALLEL := -n $(JOBS) --dist load --maxschedchunk 1

.PHONY: train test check reliability drill bench peers clean

# Without its compiled modules, each of the thousand processes that the tests start would compile a hundred of them.
unexport PYTHONDONTWRITEBYTECODE

# Each stamp is renewed only when what it depends on changes, so that a second `make` is quick.
# What installs more has installed less: then one `pip install` is enough.
$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("adam_mp needs Python 3.10 or newer; give one with: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-test: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $(VENV)/installed $@

$(VENV)/installed-check: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test,check]'
	touch $(VENV)/installed $(VENV)/installed-test $@

train: $(VENV)/installed
	$(BIN)/python -m adam_mp train $(ARGS)

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -m "not long" $(PARALLEL) $(TESTS)

check: $(VENV)/installed-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

reliability: $(VENV)/installed-test
	rm -f $(VENV)/reliability.jsonl
	ADAM_MP_RELIABILITY=$(CURDIR)/$(VENV)/reliability.jsonl $(BIN)/python -m pytest -m long $(PARALLEL)
	-ADAM_MP_MATRIX=full ADAM_MP_RELIABILITY=$(CURDIR)/$(VENV)/reliability.jsonl $(BIN)/python -m pytest $(PARALLEL) tests/system/test_faults.py tests/system/test_group_faults.py tests/system/test_limits.py
	$(BIN)/python -m tests.system.reliability $(VENV)/reliability.jsonl

drill: $(VENV)/installed-test
	$(BIN)/python tools/drill.py $(ARGS)

bench: $(VENV)/installed-test
	$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-json=$(VENV)/benchmarks.json
	$(BIN)/python -m benchmarks.suites $(VENV)/benchmarks.json
	$(BIN)/python -m benchmarks.reach
	$(BIN)/python -m benchmarks.layers --write
	$(BIN)/python -m benchmarks.partitions
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.serving
	$(BIN)/python -m benchmarks.exchange
	$(BIN)/python -m benchmarks.failover
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.slow_worker

peers: $(VENV)/installed-test
	$(BIN)/python -m pip install --quiet --editable '.[test,peers]'

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

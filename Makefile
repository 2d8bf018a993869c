# Two commands do all the set-up: `make demo` shows the whole pipeline, `make test` runs every check.
# The first of them creates .venv/ and installs (torch is large: several GB); later runs reuse it.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
WORKERS ?= 2
PIP := $(BIN)/python -m pip install --disable-pip-version-check

# What the demo builds; empty means the shipped model.
DEMO_BUILD ?=
DEMO_PRECISIONS ?= int8 fp16 fp32
DEMO_PHOTOS := $(addprefix edge/assets/aerial/images/,airplane24.jpg harbor92.jpg river04.jpg storagetanks50.jpg tenniscourt29.jpg overpass00.jpg)

.PHONY: demo test format docs clean help

help:
	@echo "make demo    install, build engines in three precisions, predict on photographs, bench at batch 8"
	@echo "make test    install, ruff, mypy, pytest"
	@echo "make format  ruff check --fix, ruff format, clang-format"
	@echo "make docs    the reference of the Python API, in out/docs/"
	@echo "make clean   remove what the above made, except .venv/"

# A backend without a 16-bit float refuses fp16 and says so; the demo goes on with the others.
demo: $(VENV)/demo-installed
	@set -e; built=; \
	for precision in $(DEMO_PRECISIONS); do \
		if $(BIN)/python -m edge.build $(DEMO_BUILD) --precision $$precision --output engines/demo-$$precision --force; then \
			built="$$built engines/demo-$$precision"; \
		elif test $$precision != fp16; then exit 1; fi; \
	done; \
	set -- $$built; set -x; \
	$(BIN)/python -m edge.predict $$1 $(DEMO_PHOTOS) --draw out/demo/drawn --json out/demo/predictions.json; \
	$(BIN)/python -m edge.bench $$@ --batch 8 --json out/demo/bench.json --html out/demo/report.html
	@echo
	@echo "engine bundles $$(echo engines/demo-*/)"
	@echo "measurements   out/demo/bench.json"
	@echo "predictions    out/demo/predictions.json"
	@echo "photographs    $$(echo out/demo/drawn/*.png)"
	@echo "report         out/demo/report.html"
	@case "$(DEMO_BUILD)" in *random*) echo "The weights are random: timings are real, scores mean nothing.";; esac

# Every check runs, also after one that failed, and pytest last, so that its summary line ends the log.
test: $(VENV)/test-installed
	@status=0; \
	$(BIN)/python -m ruff check . || status=1; \
	$(BIN)/python -m ruff format --check . || status=1; \
	$(BIN)/python -m mypy || status=1; \
	$(BIN)/python -m pytest -n $(WORKERS) || status=1; \
	exit $$status

format: $(VENV)/test-installed
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .
	find kernels edge/cpp tests examples -name '*.cu' -o -name '*.cuh' -o -name '*.h' -o -name '*.hpp' -o -name '*.cpp' -o -name '*.c' | xargs -r $(BIN)/clang-format -i

docs: $(VENV)/test-installed
	$(BIN)/python docs/reference.py out/docs

clean:
	rm -rf build dist mcar_edge.egg-info engines/demo-* out/demo out/docs .mypy_cache .pytest_cache .ruff_cache

$(VENV)/demo-installed: setup.py | $(BIN)/python
	$(PIP) -e ".[build]"
	@touch $@

$(VENV)/test-installed: setup.py | $(BIN)/python
	$(PIP) -e ".[dev]"
	@touch $@ $(VENV)/demo-installed

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "mcar-edge needs Python 3.10 or newer; found $$(python3 --version 2>&1). Install one, or name it: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "mcar-edge needs Python 3.10 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv"; exit 1; }

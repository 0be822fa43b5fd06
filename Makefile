# make demo: sets up everything, runs the main job. make test: sets up everything, runs every check.
# make test-oldest: the estimators under the oldest scikit-learn that is supported.
# make browser: Chromium, for the tests that look at pages. make coverage: which lines tests run.
# make dist: the wheel and the source distribution.

# The first Python from 3.11 on; `make PYTHON=...` names another. Each is run, since a name on the
# path may stand for a version that is not installed.
PYTHON ?= $(or $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && \
	echo "$$name" && break; done),$(error Python 3.11 or later is needed; give one: make PYTHON=...))
VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt
JOBS ?= 2
# What an installation is made from; Python sources are used where they lie.
BUILT_FROM := pyproject.toml setup.py constraints.txt $(wildcard tabwright/*.h tabwright/*/*.c tabwright/*/*/*.c)

.PHONY: demo test test-oldest lint types tests docs browser coverage dist clean

demo: $(VENV)/.installed
	$(BIN)/python -m benchmarks.demo

test: lint types docs tests

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

# --strict: a warning, such as a link to nowhere, is an error.
docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

tests: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest tests/estimators/test_sklearn_checks.py

browser:
	.ci/install-browser

# Not part of `make test`: measuring takes time.
coverage: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal \
		--cov --cov-report=term:skip-covered --cov-report=xml

dist: $(VENV)/.installed-dev
	rm -rf dist
	$(BIN)/python -m build --no-isolation

test-oldest: $(OLDEST)/.installed
	@$(OLDEST)/bin/python -c "import sklearn; print('scikit-learn', sklearn.__version__)"
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n $(JOBS) --dist worksteal \
		tests/estimators/test_sklearn_checks.py tests/estimators/test_in_sklearn.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BUILT_FROM) | $(VENV)/bin/python
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-dev: $(BUILT_FROM) | $(VENV)/bin/python
	$(PIP) --editable '.[dev]'
	touch $(VENV)/.installed $@

# What stands in this environment goes before what its path file adds: the rest of the main one.
$(OLDEST)/.installed: constraints-oldest.txt $(VENV)/.installed-dev
	rm -rf $(OLDEST)
	$(BIN)/python -m venv --without-pip $(OLDEST)
	$(BIN)/python -m pip --python $(OLDEST)/bin/python install --disable-pip-version-check --quiet \
		--no-deps --requirement constraints-oldest.txt
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
		> $$($(OLDEST)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/main.pth
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist site demo-output .coverage coverage.xml

# The README's commands. Each sets up what it needs: a virtual environment in .venv, packages from PyPI.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# ARGS of evidence: a suite, --group, --slice I/N, --minutes M; it goes on where it was cut off.
.PHONY: demo evidence test gpu device faults soak fuzz portable oldest browser docs wheel check bench clean

demo: $(STAMP)
	$(BIN)/evaltk demo

evidence: $(STAMP)
	$(BIN)/python -m benchmarks.evidence $(ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

faults: $(STAMP)
	EVALTK_FAULTS=docs/reliability.md $(BIN)/python -m pytest -m 'faults or not faults' tests/faults

soak: $(STAMP)
	$(BIN)/python -m pytest -m soak -s tests/faults/test_soak.py

gpu: $(STAMP)
	$(BIN)/python -m benchmarks.gpu $(ARGS)

device: $(STAMP)
	$(BIN)/python -m pytest -m device -n auto --maxprocesses 4 tests/device

portable: $(STAMP)
	$(BIN)/python tests/portable.py $(ARGS)

# The default tests with the lower bounds of pyproject.toml, in .venv-oldest.
oldest: $(STAMP)
	$(BIN)/python tests/portable.py --only oldest

browser: $(STAMP)
	$(BIN)/python -m pytest -m browser -n 1 tests/reports

fuzz: $(STAMP)
	$(BIN)/python -m pytest -m fuzz -n auto --maxprocesses 4 tests/fuzz

docs: $(STAMP) $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python -m pytest -m documents -n auto --maxprocesses 4 tests/test_documents.py tests/evaltk/test_documents_run.py tests/evaltk/test_cli.py

wheel: $(STAMP)
	$(BIN)/python tests/wheel_check.py

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m benchmarks

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "wanted Python >= 3.11, got $$($(PYTHON) --version); where: $(PYTHON); do: make PYTHON=python3.11 ..." >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

$(VENV)/.docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

clean:
	rm -rf site $(VENV) .venv-oldest .pytest_cache .mypy_cache .ruff_cache

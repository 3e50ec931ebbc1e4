# make demo   installs into .venv and answers: how heritable is height?
# make test   installs what the tests need and runs them
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint examples calibration fuzz benchmark wheel clean

demo: $(VENV)/.installed
	$(BIN)/python examples/heritability_of_height.py figures

test: $(VENV)/.dev
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

examples: $(VENV)/.dev
	for script in examples/*.py; do $(BIN)/python -W error::UserWarning $$script figures || exit 1; done

calibration: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow tests/calibration

fuzz: $(VENV)/.dev
	OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz.py 10000 --seed 0

benchmark: $(VENV)/.dev
	OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m benchmark tests/benchmarks -s

wheel: $(VENV)/.dev
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

$(VENV)/bin/python:
	@python=$$(.ci/find-python) && echo "creating $(VENV) with $$python" && $$python -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "installing pm_fastlmm and what it needs (a minute or two)"
	@$(BIN)/pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	@echo "installing pm_fastlmm with its development tools (a minute or two)"
	@$(BIN)/pip install --quiet --editable . --group dev
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) dist build figures .pytest_cache .mypy_cache .ruff_cache

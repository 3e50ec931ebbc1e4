# make demo   installs into .venv and answers: how heritable is height?
# make test   installs what the tests need and runs them
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint examples docs calibration benchmark wheel clean

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
	for script in examples/*.py; do $(BIN)/python docs/_extensions/percent.py $$script figures || exit 1; done

# an example that changed is run again; `make examples` runs all
figures/%.json: examples/%.py | $(VENV)/.dev
	$(BIN)/python docs/_extensions/percent.py $< figures

docs: $(VENV)/.dev $(patsubst examples/%.py,figures/%.json,$(wildcard examples/*.py))
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build
	@echo "open docs/_build/index.html"

calibration: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow tests/calibration

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
	rm -rf $(VENV) dist build figures docs/_build docs/api docs/gallery .pytest_cache .mypy_cache .ruff_cache

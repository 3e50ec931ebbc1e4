# make demo   installs into .venv and answers: how heritable is height?
# make test   installs what the tests need and runs them
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
ONE_BLAS := OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1  # processes share the cores, threads of BLAS would fight for them

.PHONY: demo test lint examples docs look calibration fuzz benchmark benchmark-against peers wheel clean

demo: $(VENV)/.installed
	$(BIN)/python examples/heritability_of_height.py figures

test: $(VENV)/.dev
	$(ONE_BLAS) $(BIN)/python -m pytest -n logical --dist loadfile --benchmark-disable

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/house/counts.py

examples: $(VENV)/.dev
	printf "%s\n" examples/*.py | $(ONE_BLAS) xargs -P $$(nproc) -I {} $(BIN)/python docs/_extensions/percent.py {} figures

# an example that changed is run again; `make examples` runs all
figures/%.json: examples/%.py | $(VENV)/.dev
	$(BIN)/python docs/_extensions/percent.py $< figures

docs: $(VENV)/.dev $(patsubst examples/%.py,figures/%.json,$(wildcard examples/*.py))
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build
	@echo "open docs/_build/index.html"

# pictures of the pages that `make docs` built, in docs/_look, and what does not fit on them; `PAGES="index api"` for some
look: $(VENV)-look/.installed
	$(VENV)-look/bin/python docs/look.py docs/_build docs/_look $(PAGES)

$(VENV)-look/.installed: | $(VENV)/bin/python
	@command -v chromium > /dev/null && command -v chromedriver > /dev/null || { echo "first: apt-get install chromium chromium-driver"; exit 1; }
	@$(BIN)/python -m venv $(VENV)-look
	@$(VENV)-look/bin/pip install --quiet selenium
	@touch $@

calibration: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow tests/calibration

fuzz: $(VENV)/.dev
	cd tests && $(ONE_BLAS) ../$(BIN)/python -m fuzz 10000

benchmark: $(VENV)/.dev
	OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m benchmark tests/benchmarks -s
	$(MAKE) benchmark-against

# an earlier commit and the working tree by turns: docs/against.json, and a section of docs/benchmarks.md of it. Without
# REV it is the commit of docs/against.json; `ROWS="first many"` measures the rows again whose names begin so
benchmark-against: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/against/run.py $(REV) --rows $(ROWS)

# beside other packages, in an environment of their own: docs/peers.json, and docs/peers.md of it; `TASKS="density many"`
# measures some of the tasks again
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMBA_NUM_THREADS=1 JAX_ENABLE_X64=True \
	XLA_FLAGS="--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
peers: $(VENV)-peers/.installed
	$(ONE_THREAD) $(VENV)-peers/bin/python tests/benchmarks/peers/run.py $(TASKS)
	$(VENV)-peers/bin/python tests/benchmarks/peers/report.py

# one by one: a package that cannot be installed here is reported as absent
$(VENV)-peers/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "installing the packages that are compared (a few minutes)"
	@$(BIN)/python -m venv $(VENV)-peers
	@$(VENV)-peers/bin/pip install --quiet --editable .[fourier]
	@$(VENV)-peers/bin/python tests/benchmarks/peers/packages.py | while read -r package; do \
		$(VENV)-peers/bin/pip install --quiet "$$package" || echo "$$package cannot be installed here"; done
	@touch $@

# the sdist, the wheel that is built from it, and a fresh environment in which the wheel does its first fits
wheel: $(VENV)/.dev
	rm -rf dist $(VENV)-wheel
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m venv $(VENV)-wheel
	$(VENV)-wheel/bin/python -m pip install --quiet dist/*.whl
	cd dist && ../$(VENV)-wheel/bin/python -I ../.ci/smoke.py
	rm -rf $(VENV)-wheel

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
	rm -rf $(VENV) $(VENV)-wheel $(VENV)-peers $(VENV)-look dist build figures
	rm -rf docs/_build docs/_look docs/api docs/gallery
	rm -rf .pytest_cache .mypy_cache .ruff_cache

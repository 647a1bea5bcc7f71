# Two commands: `make paper` and `make test`. `make` alone explains them all.
# The first Python here that the pins have wheels for; or name it: make PYTHON=/path/to/python3.13
RIGHT   := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
ifeq ($(origin PYTHON), undefined)
PYTHON  := $(shell for version in 3.11 3.12 3.13 3.14 3; do python$$version -c '$(RIGHT)' \
             2>/dev/null && echo python$$version && exit; done; echo python3)
endif
PROFILE ?= ml-100k
PARAMS  ?=
WHEELS  ?=
FOR     ?=
SEEDS   ?= 5
JOBS    ?= 2

PY  := .venv/bin/python
RUN := $(PY) -m seqsae_utils.run
# Kernels use the environment's own Python, threads that sleep when they have nothing to do, and
# one thread for NumPy: sums have one order on any number of cores.
export JUPYTER_PREFER_ENV_PATH = 1
export OMP_WAIT_POLICY = PASSIVE
export OPENBLAS_NUM_THREADS = 1
export PYTHONHASHSEED = 0
# Handed on by the environment, where no shell reads them.
export PROFILE SEEDS JOBS

.DEFAULT_GOAL := help
.PHONY: help env data concepts paper seeds compare atlas desk demo notebooks lab site workshop check wheelhouse test soak interop bench bench-recommender bench-field bench-size bench-sae bench-scores bench-control lint clean

help:  ## this list
	@echo 'make <target> [PROFILE=ml-100k] [PARAMS="-p k 16"] [PYTHON=$(PYTHON)]'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-19s%s\n", $$1, $$2}' Makefile

env: .venv/.done  ## create .venv with the pinned packages (paper and test do it by themselves)

# The stamp comes last: an installation that was interrupted has none, and starts over.
.venv/.done: requirements.txt pyproject.toml
	@$(PYTHON) -c '$(RIGHT)' 2>/dev/null || \
	  { echo 'error: `$(PYTHON)` is not Python 3.11 to 3.14; install one, or name it: make PYTHON=/path/to/python3.13'; exit 1; }
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(PY) -m pip install $(if $(WHEELS),--no-index --find-links '$(WHEELS)') -r requirements.txt
	$(PY) -m pip install --no-deps --no-build-isolation -e .
	@touch $@

data: .venv/.done  ## fetch and check the dataset of PROFILE
	@$(RUN) data --profile "$$PROFILE" $(PARAMS)

concepts: .venv/.done  ## ask DBpedia which concepts the films of PROFILE have, for notebook 07
	@$(RUN) concepts --profile "$$PROFILE" $(PARAMS)

paper: .venv/.done  ## run the notebooks that changed, write figures/PROFILE/
	@$(RUN) paper --profile "$$PROFILE" $(PARAMS)

seeds: .venv/.done  ## train the whole chain anew for SEEDS=5 seeds, JOBS=2 at a time, write trainings.csv and claims.csv
	@$(RUN) seeds --profile "$$PROFILE" -n "$$SEEDS" --jobs "$$JOBS" $(PARAMS)

compare: .venv/.done  ## set a run with other PARAMS beside that of PROFILE
	@$(RUN) compare --profile "$$PROFILE" $(PARAMS)

atlas: .venv/.done  ## write artifacts/PROFILE/atlas.html, a page for each feature
	@$(RUN) atlas --profile "$$PROFILE" $(PARAMS)

desk: .venv/.done  ## turn the knobs of PROFILE in the browser, and see the lists change
	@$(RUN) desk --profile "$$PROFILE" $(PARAMS)

demo: .venv/.done  ## desk and atlas of a made-up catalogue in the browser, at once: nothing is trained
	@$(RUN) demo

notebooks: .venv/.done  ## execute the notebooks anew where needed and keep them, to be committed
	@$(RUN) notebooks --profile "$$PROFILE" $(PARAMS)

lab: .venv/.done  ## open JupyterLab: notebooks/, and workshop/exercises/
	$(PY) -m jupyterlab --LabApp.default_url=/lab/tree/notebooks

site: export TQDM_DISABLE = 1
site: .venv/.done .venv-site/.done  ## build and test a website of notebooks, claims, API, atlas and knobs: site/_build/html
	$(PY) site/build.py
	.venv-site/bin/python -m sphinx -q -W --keep-going -c site site/_build/source site/_build/html
	SEQSAE_SITE=site/_build/html $(PY) -m pytest -q tests/test_site.py

.venv-site/.done: site/requirements.txt
	rm -rf .venv-site
	$(PYTHON) -m venv .venv-site
	.venv-site/bin/python -m pip install -r $<
	@touch $@

workshop: .venv/.done  ## make the workshop's exercises, slides and HTML from its solutions
	@$(PY) -m seqsae_utils.workshop

# Before there is an environment, any Python can tell what is missing.
check:  ## tell in ten seconds whether this laptop is ready for the workshop
	@$(if $(wildcard $(PY)),$(PY),$(PYTHON)) workshop/check.py

wheelhouse:  ## download all pins into wheelhouse/, for laptops that then need no network: make env WHEELS=wheelhouse
	$(PYTHON) -m pip download --only-binary=:all: $(FOR) -d wheelhouse -r requirements.txt

# The notebooks are executed beside the unit tests, in a folder of their own, so that artifacts/ and
# figures/ stay as they are; then the numbers that they recorded are compared with the committed
# ones. What nbval prints is shown when both have ended.
test: export TQDM_DISABLE = 1
test: .venv/.done  ## prove it all: unit tests, the smoke profile, and every committed notebook
	@scratch=$$(mktemp -d) || exit 1; trap 'kill $$nbval 2>/dev/null; rm -rf "$$scratch"' EXIT; \
	  trap 'exit 130' INT TERM; \
	  SEQSAE_WORKSPACE="$$scratch" $(PY) -m pytest -W default --nbval \
	    --nbval-sanitize-with tests/nbval.cfg notebooks/0*.ipynb workshop/solutions/*.ipynb \
	    >"$$scratch/log" 2>&1 & nbval=$$!; \
	  $(PY) -m pytest -m 'not rerun' -n 2; units=$$?; \
	  wait $$nbval; chapters=$$?; nbval=; cat "$$scratch/log"; \
	  SEQSAE_WORKSPACE="$$scratch" $(PY) -m pytest -m rerun tests/test_notebooks.py; \
	  [ $$units$$chapters$$? = 000 ]

soak: .venv/.done  ## kill and damage a run for five minutes, at random, and compare bytes (PARAMS="--seed 7")
	@$(PY) tests/soak.py $(PARAMS)

# The libraries want other versions than the project, so each family has an environment of its own.
interop: .venv-recommenders/.done .venv-saes/.done .venv-cluster/.done  ## test against RecTools, RecBole, Hugging Face, SAELens, dask
	.venv-recommenders/bin/python -m pytest -W ignore tests/interop/test_recommenders.py
	.venv-saes/bin/python -m pytest -W ignore tests/interop/test_saes.py tests/interop/test_hugging_face.py
	.venv-cluster/bin/python -m pytest -W ignore tests/interop/test_cluster.py

# torch first, with all it needs on this machine; then the pins as they stand.
.venv-%/.done: tests/interop/%.txt
	rm -rf .venv-$*
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install $$(grep -o '^torch==[0-9.]*' $<)
	.venv-$*/bin/python -m pip install --no-deps -r $<
	@touch $@

bench: bench-recommender bench-sae bench-scores bench-control  ## measure our training and scores against their peers (up to two hours)

bench-recommender: .venv/.done .venv-recommenders/.done  ## only the recommender, against RecTools
	$(PY) tests/bench/recommender.py --peer .venv-recommenders/bin/python $(PARAMS)

bench-field: .venv/.done  ## only ML-1M beside published numbers: a day, or PARAMS="--device cuda --jobs 9"
	$(PY) tests/bench/field.py $(PARAMS)

bench-size: .venv/.done  ## only time and memory of each notebook on a hundredth and a tenth of ML-20M's shape (PARAMS="--parts 1": the whole)
	$(PY) tests/bench/size.py $(PARAMS)

bench-sae: .venv/.done .venv-saes/.done  ## only the SAE, against dictionary-learning and SAELens
	$(PY) tests/bench/sae.py --peer .venv-saes/bin/python $(PARAMS)

bench-scores: .venv/.done  ## only the scores, against scikit-learn (PARAMS=--all: every pair)
	$(PY) tests/bench/scores.py $(PARAMS)

bench-control: .venv/.done  ## only control: a sweep, and from a knob to the list, on ML-1M
	$(PY) tests/bench/control.py $(PARAMS)

lint: .venv/.done  ## check style and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

clean:  ## remove artifacts/ and runs/ (keeps .venv, data/ and figures/)
	rm -rf artifacts runs .pytest_cache .ruff_cache .mypy_cache

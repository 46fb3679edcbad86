# `make` lists what there is. Every target sets up what it needs and works alone.

PYTHON ?= python3
VENV ?= .venv
# For Linux this brings CUDA, gigabytes of it. TORCH=torch==2.13.0+cpu (where pip is told of PyTorch's CPU builds) or
# TORCH=FILE.whl does without.
TORCH ?= torch==2.13.0
UV ?= uv
IMAGE ?= companion
JOBS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# An environment is up to date when it holds a stamp named after the checksum of what was installed.
checksum = $(shell cat $(1) | cksum | cut -d' ' -f1)
BOOK := $(VENV)/.book-$(call checksum,requirements.txt pyproject.toml)
TEST := $(VENV)/.test-$(call checksum,requirements-test.txt)
BENCH := $(VENV)/.bench-$(call checksum,requirements-bench.txt)
BACKENDS := $(VENV)-backends/.torch-$(call checksum,requirements.txt requirements-test.txt)

# Two processes, each with its half of the files; the first to finish takes over from the other.
PYTEST = -m pytest --numprocesses 2 --dist worksteal

# JAX compiles each operation anew for each shape; most of them run once.
QUICK = --xla_backend_optimization_level=0

# The tests of the layers; other test files may import what only the book's environment holds.
BACKEND_TESTS = -m backend $(shell grep -l 'mark\.backend' tests/test_*.py)

# JupyterLab fetches neither news nor a list of extensions.
OFFLINE = --LabApp.news_url=None --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate \
	--LabApp.extension_manager=readonly

export JUPYTER_PREFER_ENV_PATH := 1
export TF_CPP_MIN_LOG_LEVEL ?= 2
export KERAS_BACKEND ?= tensorflow

.DEFAULT_GOAL := help
.PHONY: help setup lab models serve chapters test test-backends lint format bench lock image

help: ## list the targets
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-22s %s\n", $$1, $$2}'

setup: $(BOOK) ## install the book's environment into .venv

lab: $(BOOK) ## open the book in JupyterLab
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/chapters $(OFFLINE) $(LAB)

models: $(BOOK) ## execute the chapters whose models the page serves
	$(BIN)/python chapters/run.py --check --jobs $(JOBS) 02_1 03_2 03_4 05_2

serve: $(BOOK) ## open the page that tries these models (SERVE="--port 8001")
	$(BIN)/companion serve $(SERVE)

chapters: $(BOOK) ## execute the chapters, two at a time, and write their outputs (one: CHAPTER=05)
	$(BIN)/python chapters/run.py --jobs $(JOBS) $(CHAPTER)

test: lint ## lint, then run the tests on TensorFlow and the layers' tests on JAX
	KERAS_BACKEND=tensorflow $(BIN)/python $(PYTEST)
	KERAS_BACKEND=jax XLA_FLAGS=$(QUICK) $(BIN)/python $(PYTEST) $(BACKEND_TESTS)

test-backends: $(BACKENDS) ## run the layers' tests on PyTorch, and those beside transformers, in an environment of its own
	KERAS_BACKEND=torch $(VENV)-backends/bin/python -m pytest $(BACKEND_TESTS)

lint: $(TEST) ## check the style of code and notebooks
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(TEST) ## mend the style of code and notebooks
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(BENCH) ## measure against peers, in 45 to 65 minutes (one script: BENCHMARK=training)
	@for script in benchmarks/$(BENCHMARK)*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

.PHONY: ready
ready: $(TEST) # all that lint and test need: the image runs them offline

# Newest versions instead of the locked ones: make lock LOCK=--upgrade
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" $(LOCK)
extra = $(BIN)/python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
	print(*project['optional-dependencies']['$(1)'], sep='\n')"

lock: | $(BIN)/python ## lock the versions that pyproject.toml allows (needs uv)
	$(COMPILE) pyproject.toml --extra book --group cpu --output-file requirements.txt
	$(call extra,test) | $(COMPILE) - --constraint requirements.txt --output-file requirements-test.txt
	$(call extra,bench) | $(COMPILE) - --constraint requirements.txt --output-file requirements-bench.txt

image: ## build the Docker image
	docker build --build-arg PIP_INDEX_URL --tag $(IMAGE) .

# $(call environment,FOLDER): a virtual environment made by the first suitable Python
define environment
	@for python in $(PYTHON) python3.13 python3.12 python3.11; do \
		if $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then \
			echo "$$($$python --version), $(1)"; \
			$$python -m venv $(1) && exit 0; rm -rf $(1); exit 1; \
		fi; \
	done; \
	echo "companion needs Python 3.11, 3.12 or 3.13; $(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; \
	echo "Install one of them, or name it: make setup PYTHON=/path/to/python3.12" >&2; exit 1
endef

$(BIN)/python:
	$(call environment,$(VENV))

$(BOOK): | $(BIN)/python
	$(PIP) install --requirement requirements.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/.book-* && touch $@

$(TEST): $(BOOK)
	$(PIP) install --requirement requirements-test.txt
	@rm -f $(VENV)/.test-* && touch $@

# The lock is complete. Of its own, tensorflow-text would bring tensorflow, although tensorflow-cpu serves as well.
$(BENCH): $(TEST)
	$(PIP) install --no-deps --requirement requirements-bench.txt
	@rm -f $(VENV)/.bench-* && touch $@

# The locked versions serve as constraints, without hashes: PyTorch is not locked, its builds differ by machine.
$(BACKENDS):
	rm -rf $(VENV)-backends
	$(call environment,$(VENV)-backends)
	@sed -E '/^ *(#|--hash)/d; s/ *\\$$//' requirements.txt requirements-test.txt > $(VENV)-backends/locked.txt
	$(VENV)-backends/bin/python -m pip --disable-pip-version-check install --constraint $(VENV)-backends/locked.txt \
		"$(TORCH)" keras numpy hypothesis pytest pytest-timeout transformers sentencepiece safetensors tokenizers \
		huggingface-hub
	@touch $@

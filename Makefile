# make demo and make test work as the first command after cloning: they create .venv themselves.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& { echo $$p; break; }; done)
BIN := .venv/bin
INSTALLED := .venv/.installed
INSTALLED_DEMO := .venv/.installed-demo

# uv does the same in a fraction of the time, where there is one.
UV := $(shell command -v uv)
VENV := $(if $(UV),uv venv --quiet --seed --python $(PYTHON),$(PYTHON) -m venv)
UPGRADE := $(if $(UV),true,$(BIN)/python -m pip install --quiet --upgrade pip)
# Type checkers find only a package that a path leads to; setuptools warns of that kind of install.
EDITABLE = PYTHONWARNINGS=ignore $(PIP) install --quiet --config-settings editable_mode=compat --editable
PIP := $(if $(UV),VIRTUAL_ENV=.venv uv pip,$(BIN)/python -m pip)
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: help install demo test test-fast lint docs bench compat lowest mutants screenshots wheels \
	release-check clean

help:
	@echo "make demo         train on real digits and see the first loss"
	@echo "make test         run all tests"
	@echo "make test-fast    run the tests of reading, core and command line, in under a minute"
	@echo "make lint         ruff, mypy --strict and codespell"
	@echo "make docs         build the manual as a site, in site/"
	@echo "make bench        run the benchmarks and print their tables"
	@echo "make compat       run the Keras tests on older TensorFlow versions"
	@echo "make lowest       read with the lowest versions that pyproject.toml allows"
	@echo "make wheels       build the source distribution and the wheels into dist/"
	@echo "make release-check  build them, and try what users install"
	@echo "make mutants      change the core at random and see whether its tests notice"
	@echo "make screenshots  take the manual's pictures again"
	@echo "make install      only create .venv and install everything into it"

install: $(INSTALLED)

# The demo needs 90 packages of the 260 that the tests need, which come on top.
$(INSTALLED): EXTRA := all
$(INSTALLED): SIZE := 1.2 GB
$(INSTALLED_DEMO): EXTRA := demo
$(INSTALLED_DEMO): SIZE := 0.8 GB
$(INSTALLED) $(INSTALLED_DEMO): pyproject.toml setup.py tb_firstloss/reading/format/_scan.pyx
	@test -n "$(PYTHON)" || { echo "make: no Python 3.10 to 3.13 found; install one, or name it:" \
		"make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(VENV) .venv || { echo "make: $(PYTHON) cannot create .venv (the" \
		"message above says why); on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing TensorFlow, TensorBoard and the rest into .venv (about $(SIZE) to download) …"
	@$(UPGRADE) && $(EDITABLE) '.[$(EXTRA)]' || { \
		echo "make: pip could not install the packages (its message is above)." \
		"Is the network or the package index reachable, and is there 4 GB of free disk? make $(MAKECMDGOALS) tries again" >&2; exit 1; }
	@touch $@ $(INSTALLED_DEMO)

demo: $(if $(wildcard $(INSTALLED)),$(INSTALLED),$(INSTALLED_DEMO))
	@$(BIN)/tb-firstloss demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal -q --durations 15

# What is not slow and does not train.
test-fast: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal -q -m "not slow" --ignore tests/capture

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

# Figures and help pages anew, then the site; .venv/bin/mkdocs serve shows it while you write.
docs: $(INSTALLED)
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "the manual is in site/: $(BIN)/python -m http.server -d site"

bench: $(INSTALLED)
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

# TensorFlow 2.16 has no wheels above Python 3.12.
COMPAT_PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	&& { echo $$p; break; }; done)
COMPAT := 2.16.2:3.0.5:2.16.0 2.18.1:3.6.0:2.18.0

compat:
	@test -n "$(COMPAT_PYTHON)" || { echo "make: no Python 3.10 to 3.12 found, which TensorFlow" \
		"2.16 needs; name one: make compat COMPAT_PYTHON=/path/to/python3.11" >&2; exit 1; }
	@for versions in $(COMPAT); do \
		set -- $$(echo $$versions | tr : ' '); env=.compat/tf$$1-keras$$2; \
		test -e $$env/.installed || { $(COMPAT_PYTHON) -m venv $$env && \
			$$env/bin/python -m pip install --quiet "tensorflow==$$1" "keras==$$2" "tf_keras==$$3" \
			pytest pytest-timeout pytest-xdist scikit-learn --editable . && touch $$env/.installed; } || exit 1; \
		echo "== TensorFlow $$1, Keras $$2, tf_keras $$3"; \
		$$env/bin/python -m pytest -n 2 --dist worksteal -q tests/capture/test_fit.py \
			tests/capture/keras/test_recompute.py tests/capture/keras/test_losses.py || exit 1; \
	done

LOWEST := .compat/lowest

# pip cannot resolve to the lowest versions; uv can.
lowest: $(INSTALLED)
	@test -x $(LOWEST)/bin/python || $(BIN)/uv venv --quiet --python $(COMPAT_PYTHON) $(LOWEST)
	VIRTUAL_ENV=$(LOWEST) $(BIN)/uv pip install --quiet --resolution lowest-direct .
	cd /tmp && $(CURDIR)/$(LOWEST)/bin/python $(CURDIR)/tests/packaging/smoke.py

# This machine's compiled wheel, repaired for every Linux of its kind, and the one for every platform.
wheels: $(INSTALLED)
	rm -rf dist build
	$(BIN)/python -m build --quiet
	case "$$(uname)" in Linux) PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --wheel-dir dist \
		dist/*-linux_*.whl && rm dist/*-linux_*.whl;; esac
	TB_FIRSTLOSS_PURE=1 $(BIN)/python -m build --quiet --wheel

release-check: wheels
	DISTRIBUTIONS=dist $(BIN)/python -m pytest -q tests/packaging

screenshots: $(INSTALLED)
	$(BIN)/python -m tests.tensorboard_tab.browser.screenshots docs

clean:
	rm -rf .venv .compat build dist site .pytest_cache .mypy_cache .ruff_cache

# Survivors are printed as diffs. make mutants SAMPLE=0 MODULES=tb_firstloss/arrays.py tries every
# mutant of one module.
SAMPLE ?= 80
SEED ?= 0
MODULES ?=

mutants: $(INSTALLED)
	$(BIN)/python -m tests.mutants --sample $(SAMPLE) --seed $(SEED) $(MODULES)

# Everything happens inside this folder: the environment in .venv, what the commands write in build.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help setup setup-tests run distributed lab html cells test fuzz bench check lint format wheel clean distclean

# The frameworks to set up and to use: one or several, as TABS=pytorch or TABS="mxnet tensorflow".
platform := $(shell uname -sm)
with-wheel := $(if $(filter Linux,$(platform)),mxnet) pytorch tensorflow jax
comma := ,
tabs := $(or $(subst $(comma), ,$(TABS)),$(with-wheel))
ifneq ($(filter-out mxnet pytorch tensorflow jax,$(tabs)),)
    $(error TABS is "$(TABS)"; give some of mxnet, pytorch, tensorflow, jax)
endif
ifneq ($(filter-out $(with-wheel),$(tabs)),)
    $(error MXNet 1.9.1 has no wheel for $(platform); leave it out: TABS="pytorch tensorflow jax")
endif

python := $(if $(filter Windows_NT,$(OS)),.venv/Scripts/python.exe,.venv/bin/python)
ready := .venv/ready $(tabs:%=.venv/ready-%)
tools := .venv/ready-tools
ready-tests := .venv/ready-tests
notebooks := build/notebooks/ready
install := $(python) -m pip install --constraint constraints.txt
failed := { echo 'The set-up failed: pip needs a package index and disk space; then run make again.'; exit 1; }

export IPYTHONDIR := $(CURDIR)/build/home/ipython
export KERAS_HOME := $(CURDIR)/build/home/keras
export JUPYTER_CONFIG_DIR := $(CURDIR)/build/home/jupyter/config
export JUPYTER_DATA_DIR := $(CURDIR)/build/home/jupyter/data
export JUPYTER_RUNTIME_DIR := $(CURDIR)/build/home/jupyter/runtime
export MPLCONFIGDIR := $(CURDIR)/build/home/matplotlib
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_CACHE_DIR := 1
export TMPDIR := $(CURDIR)/build/tmp
# pip asks rustc for its version, and that of rustup would write into the home folder.
export RUSTUP_HOME := $(CURDIR)/build/home/rustup
export XDG_CACHE_HOME := $(CURDIR)/build/home/cache
export XDG_CONFIG_HOME := $(CURDIR)/build/home/config

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo 'TABS="pytorch tensorflow" limits them to some frameworks; PYTHON= names the Python for .venv.'

setup: $(ready) ## Set up .venv (the other targets do so themselves)

run: $(ready) | build/tmp ## Train in all frameworks, write the curves, execute the notebooks of the chapter
	@$(python) -m d2l_adam run $(tabs:%=--tab %)
	@$(python) chapter_optimization/notebooks.py $(tabs:%=--tab %)
	@touch $(notebooks)

distributed: $(ready) | build/tmp ## Train in two processes on each framework's own engine, and compare the curves
	$(if $(filter-out jax,$(tabs)),,$(error JAX has no engine in d2l_adam; give another of TABS))
	@$(python) chapter_optimization/distributed.py $(patsubst %,--tab %,$(filter-out jax,$(tabs)))

# Not a prerequisite: notebooks that are there stay as they are, with what their reader changed.
lab: $(ready) | build/tmp ## Open the executed notebooks in JupyterLab
	@test -e build/notebooks || $(MAKE) --no-print-directory $(notebooks)
	@TF_CPP_MIN_LOG_LEVEL=3 $(python) -m jupyterlab --notebook-dir build/notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

html: $(notebooks) ## Build the chapter and the guide as pages: build/html/index.html
	@$(python) chapter_optimization/page.py
	@TF_CPP_MIN_LOG_LEVEL=3 $(python) chapter_optimization/guide.py

cells: $(ready) ## Render the cells of the chapter from the spec anew
	@$(python) chapter_optimization/cells.py

test: lint $(ready-tests) ## Run the whole test suite
	@D2L_ADAM_TABS="$(tabs)" $(python) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

fuzz: $(ready-tests) | build/tmp ## Damage thousands of sections and checkpoints at random, some minutes
	@D2L_ADAM_FUZZ=5000 $(python) -m pytest --capture=no tests/test_fuzz.py

bench: $(ready) | build/tmp ## Time steps and epochs, ours and the frameworks' own side by side
	@$(python) -m d2l_adam bench $(tabs:%=--tab %) --tab numpy

check: $(ready) | build/tmp ## Look for drift between the tabs of the chapter
	@$(python) -m d2l_adam check $(if $(GITHUB_ACTIONS),--github) $(tabs:%=--tab %) chapter_optimization/*.md

lint: $(tools) | build/tmp ## Check style and types
	@$(python) -m ruff check --quiet .
	@$(python) -m ruff format --check --quiet .
	@$(python) -m mypy

format: $(tools) ## Fix the style
	@$(python) -m ruff check --quiet --fix .
	@$(python) -m ruff format --quiet .

wheel: $(tools) | build/tmp ## Build the wheel and the source archive into build/dist
	@$(python) -m build --no-isolation --outdir build/dist

clean: ## Remove what the commands wrote
	rm -rf build .hypothesis .mypy_cache .pytest_cache .ruff_cache d2l_adam/__pycache__ d2l_adam/*/__pycache__

distclean: clean ## Remove the environment too
	rm -rf .venv

build/tmp:
	@mkdir -p $@

$(notebooks): $(ready) $(addprefix chapter_optimization/,adam.md adam_origin.md notebooks.py references.py \
		references.bib) $(wildcard d2l_adam/*.py d2l_adam/*/*.py) | build/tmp
	@$(python) chapter_optimization/notebooks.py $(tabs:%=--tab %)
	@touch $@

# The first Python from 3.11 to 3.13 that can make an environment, or PYTHON=... if given.
.venv/ready: constraints.txt pyproject.toml | build/tmp
	@for python in $(or $(PYTHON),python3 python3.11 python3.12 python3.13 python); do \
		if $$python -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
			2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo 'No Python 3.11, 3.12 or 3.13 with venv was found. Install one (Debian, Ubuntu: apt-get install'; \
		echo 'python3 python3-venv), or name yours: make PYTHON=/path/to/python3.11'; exit 1; \
	fi; \
	echo "Setting up .venv with $$($$found --version) for $(tabs); the first time, this takes some minutes and"; \
	echo 'gigabytes (README.md says how many, and how to need fewer).'; \
	$$found -m venv .venv
	$(if $(TABS)$(filter mxnet,$(tabs)),,@echo 'MXNet 1.9.1 has no wheel for $(platform): it is left out.')
	@$(install) --editable '.[d2l,fused,chapter]' || $(failed)
	@$(install) --no-deps d2l || $(failed)
	@touch $@

.venv/ready-pytorch: .venv/ready
	@$(install) torch || $(failed)
	@touch $@

.venv/ready-tensorflow: .venv/ready
	@$(install) tensorflow keras || $(failed)
	@touch $@

.venv/ready-jax: .venv/ready
	@$(install) jax jaxlib optax flax || $(failed)
	@touch $@

# Its metadata ask for a NumPy of 2023. It needs none of that; on Python 3.12 and later, distutils (of setuptools).
.venv/ready-mxnet: .venv/ready
	@$(install) --no-deps mxnet graphviz setuptools || $(failed)
	@touch $@

$(tools): .venv/ready
	@$(install) --editable '.[tests]' || $(failed)
	@touch $@

# What the tests compare with: d2lbook, in an environment of its own, and other libraries' optimizers.
setup-tests: $(ready-tests)

$(ready-tests): $(ready) $(tools) tests/d2lbook.txt tests/d2lbook-no-deps.txt tests/peers.txt | build/tmp
	@{ $(python) -m venv .venv/d2lbook && .venv/d2lbook/bin/python -m pip install -r tests/d2lbook.txt && \
		.venv/d2lbook/bin/python -m pip install --no-deps -r tests/d2lbook-no-deps.txt; } & \
	$(python) -m pip install --no-deps --upgrade --target .venv/peers -r tests/peers.txt && wait $$!
	@touch $@

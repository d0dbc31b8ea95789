# make demo | test | ui | rate | bench | lint | lock: each sets up what it needs.
SHELL := /bin/bash -o pipefail
PYTHON ?= python3
BIN := .venv/bin
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test quick ui rate bench lint lock clean
.DELETE_ON_ERROR:

demo: $(BIN)/.demo
	@emplifai prefetch
	@snakemake --cores $(CORES) --quiet host rules -- all
	@dvc commit --force --quiet || echo "DVC has not noted the results; dvc repro will, without computing anything"
	@emplifai finish

test: $(BIN)/.dev
	@EMPLIFAI_MODELS=$(CURDIR)/.cache/models emplifai prefetch
	pytest

# the tests that take seconds
quick: $(BIN)/.dev
	pytest -m "not slow and not real" -q

ui: $(BIN)/.demo
	@emplifai ui

# the page for human raters, of the rating project drawn last (emplifai ratings new)
rate: $(BIN)/.demo
	@emplifai ratings serve

# against what one would use instead, in an environment of its own that adds the peers to ours
bench: .venv-bench/.peers
	@for file in benchmarks/*.py; do echo "== $$file"; PATH="$(CURDIR)/.venv-bench/bin:$$PATH" python -W ignore $$file || exit 1; done

lint: $(BIN)/.dev
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow/rules
	snakemake --lint

# new pins, after a change of the ranges in pyproject.toml (wants uv)
lock:
	$(PYTHON) envs/lock.py

clean:
	rm -rf .venv .venv-bench .cache .snakemake logs results/*/

# One environment; a mark for each set of packages in it. pip says a lot or nothing: here every twentieth package.
define install
@echo "Installing into .venv (some minutes; see README for sizes)"
@$(BIN)/pip install --progress-bar off --constraint constraints.txt --editable ".[$(1)]" 2>&1 | awk '\
	/^ *(ERROR|error)/ { failed = 1 } failed { print; fflush() } \
	/^Collecting/ && ++n % 20 == 0 { print "  " n " packages found: " $$2; fflush() } \
	/^Installing collected/ { print "  unpacking them (a minute or two)"; fflush() } \
	/^Successfully installed/ { print "  installed" }'
endef

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 demo")'
	$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --upgrade pip

$(BIN)/.demo: pyproject.toml constraints.txt | $(BIN)/pip
	$(call install,embedded)
	@touch $@

$(BIN)/.dev: pyproject.toml constraints.txt | $(BIN)/pip
	$(call install,dev)
	@touch $@ $(BIN)/.demo

.venv-bench/.peers: $(BIN)/.dev benchmarks/peers.txt
	$(PYTHON) -m venv .venv-bench
	@echo 'import site; site.addsitedir("$(CURDIR)/.venv/lib/'"$$(ls .venv/lib | grep python)"'/site-packages")' \
		> "$$(echo .venv-bench/lib/python*/site-packages)/ours.pth"
	.venv-bench/bin/pip install --quiet --requirement benchmarks/peers.txt
	@touch $@

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
PY := .venv/bin/python

help: ## This list
	@awk -F ':.*## ' '/^[a-z][a-z ]*:.*## / { printf "make %-24s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: components ## Every test: PYTEST_ARGS='-k name'
	$(PY) -m pytest $(PYTEST_ARGS)

demo: components ## A whole install and cleanup on a disposable node
	$(PY) -m tests.demo

bench: components ## The numbers: build/bench.json
	$(PY) -m tests.bench

run: .venv/stamp ## The program on this machine: ARGS='plan --profile sysbox'
	$(PY) -m installer $(ARGS)

plan preflight status: .venv/stamp ## The same, by name
	$(PY) -m installer $@ $(ARGS)

components: prepare ## The real parts that tests run (once, a quarter of an hour)
	$(PY) -m tests.components

prepare: .venv/stamp
	$(PY) -m tests.node.prepare

image: prepare ## build/sysbox-deploy.tar: BASE= IMAGE= ARCH= ARTIFACTS= PYTHON_VERSION=
	base="$${BASE:-$$($(PY) -m tests.image_base)}"; BASE="$$base" $(PY) -m image.build

lint: .venv/stamp ## ruff and mypy
	$(PY) -m ruff check
	$(PY) -m mypy

lock: ## New versions into the locks, with the hashes of every file of a release
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install -q uv
	$(UV) -o image/pip.lock - <<< pip
	$(UV) -o image/requirements.lock --override image/overrides.txt pyproject.toml
	$(UV) -o tests/requirements.lock -c image/requirements.lock --extra dev pyproject.toml
UV = build/lock/bin/uv pip compile -q --upgrade --generate-hashes --custom-compile-command 'make lock' \
	--python-version 3.11 --python-platform linux --no-annotate

clean: ## Everything made here; the cache outside the checkout stays
	rm -rf build .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

.venv/stamp: tests/requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed: make PYTHON=...")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
		[ "$$(id -u)" = 0 ] || { echo 'python3-venv is missing: apt-get install python3-venv, or run make as root' >&2; exit 1; }; \
		export DEBIAN_FRONTEND=noninteractive; apt-get update -q; \
		apt-get install -qy --no-install-recommends -o DPkg::Lock::Timeout=300 python3-venv; }
	$(PYTHON) -m venv --clear .venv
	.venv/bin/pip install -q --disable-pip-version-check --require-hashes --only-binary :all: -r $<
	touch $@

.PHONY: help test demo bench run plan preflight status components prepare image lint lock clean

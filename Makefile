# Every command of this project. `make help` lists them; each does its own set-up in .venv, and needs Python 3.11 or newer.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: help rotate local test check lock clean

help:  ## List the commands
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F'\t' '{printf "  make %-8s %s\n", $$1, $$2}'

rotate: $(READY)  ## Rotate a real PostgreSQL password on this machine (ARGS="--times 3", ARGS=--help)
	@$(RUN) -m local $(ARGS)

local: $(READY)  ## Start the same PostgreSQL and Secrets Manager, and keep them running until Ctrl-C
	@$(RUN) -m local --serve $(ARGS)

test: $(READY)  ## Run the tests (ARGS="-k finish")
	@$(RUN) -m pytest $(ARGS)

check: $(READY)  ## Lint, type-check, and run the tests with branch coverage
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy
	@$(RUN) -m pytest --cov --cov-fail-under=100 $(ARGS)

$(READY): requirements-dev.txt
	@echo "Setting up $(VENV) (once; about half a minute) …"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=…")'
	@$(PYTHON) -m venv --clear $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-dev.txt
	@touch $@

# --no-deps above is safe because a lock names everything; older versions of pip cannot resolve extras under hashes.
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
lock:  ## Compile requirements*.txt from pyproject.toml (needs uv; ARGS=--upgrade)
	@$(LOCK) $(ARGS) pyproject.toml -o requirements.txt
	@$(LOCK) $(ARGS) --group dev --constraint requirements.txt pyproject.toml -o requirements-dev.txt

clean:  ## Remove what the other commands made
	@rm -rf $(VENV) .aws-sam .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage build ./*.egg-info

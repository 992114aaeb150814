# Each target sets up .venv when it is missing or pyproject.toml is newer.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help train test oldest lint docs benchmark wheel

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

train: .venv/ready ## train a β-VAE on a synthetic mixture, and test it (a minute, once .venv is there)
	$(BIN)/vae-lightning fit --config beta_vae

test: .venv/ready ## run the tests
	$(BIN)/python -m pytest

# each bound of pyproject.toml, "name[extra]>=1.2", as a constraint, name==1.2
oldest: ## run a few of the tests with the oldest versions that pyproject.toml allows
	$(PYTHON) -m venv .venv-oldest
	grep -oE '"[A-Za-z-]+(\[[a-z]+\])?>=[0-9.]+' pyproject.toml | sed -E 's/"([A-Za-z-]+)(\[.*\])?>=/\1==/' | sort -u \
		> .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m pip install --quiet --constraint .venv-oldest/constraints.txt --editable . \
		pytest pytest-xdist pandas
	.venv-oldest/bin/python -m pytest $(addprefix tests/test_,$(addsuffix .py,fitting detector thresholds trainer))

lint: .venv/ready ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/ready ## build the site into site/
	$(BIN)/zensical build --strict

wheel: ## build dist/*.whl, install it into an empty environment, train with a configuration that it ships
	rm -rf build dist/check && mkdir -p dist && $(PYTHON) -m venv dist/check
	dist/check/bin/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	dist/check/bin/python -m pip install --quiet dist/*.whl
	cd dist/check && bin/vae-lightning fit --config beta_vae --trainer.max_epochs 1

benchmark: .venv/ready ## time an epoch of fit against hand-written loops
	$(BIN)/python benchmarks/epoch_time.py

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

# Two commands are all the set-up there is: `make demo` and `make test`. Both start from a bare clone.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test lint clean

demo: $(VENV)/.run  ## Install, then make the quickstart dataset and its contact sheet in outputs/quickstart/run-0001.
	$(BIN)/synthgen run specs/quickstart.yaml
	$(BIN)/synthgen show outputs/quickstart/run-0001

test: $(VENV)/.dev  ## Install, then run every test.
	$(BIN)/python -m pytest

lint: $(VENV)/.dev  ## Style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.run

clean:  ## Remove the environment. Run folders stay.
	rm -rf $(VENV)

# Two commands are all the set-up there is: `make demo` and `make test`. Both start from a bare clone.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test docs lint clean

demo: $(VENV)/.run  ## Install, then make the quickstart dataset and its contact sheet in outputs/quickstart/run-0001.
	$(BIN)/synthgen run specs/quickstart.yaml
	$(BIN)/synthgen show outputs/quickstart/run-0001

test: $(VENV)/.dev  ## Install, then run every test.
	$(BIN)/python -m pytest

docs: $(VENV)/.docs  ## Install, then build the documentation as a site, with its links checked: site/index.html.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(VENV)/.dev  ## Style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.dev: pyproject.toml tests/readers.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	rm -rf $(VENV)/huggingface_hub-1  # the client before, in a folder of its own: tests fetch with both
	$(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/huggingface_hub-1 'huggingface-hub>=1.32,<2'
	test -x $(VENV)/readers/bin/python || $(PYTHON) -m venv $(VENV)/readers
	$(VENV)/readers/bin/python -m pip install --quiet --requirement tests/readers.txt
	touch $@ $(VENV)/.run

$(VENV)/.docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@ $(VENV)/.run

clean:  ## Remove the environment and the built site. Run folders stay.
	rm -rf $(VENV) site

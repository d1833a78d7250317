# Every target sets itself up: make demo on a fresh machine needs python3 (3.11 or later) and the network, once.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin

.PHONY: demo test check clean

demo: .venv/installed
	$(BIN)/dovetail generate "a dotted red circle moving right on a teal striped background" -o out/demo.mp4
	@echo "The video is $(CURDIR)/out/demo.mp4"

test: .venv/installed-dev
	$(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal

check: .venv/installed-dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

clean:
	rm -rf .venv out

.venv/created:
	$(PYTHON) -m venv .venv
	touch $@

# torch first, and by its exact version: the resolver then cannot take a larger or another build for it.
.venv/installed: .venv/created pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev,eval]"
	touch $@

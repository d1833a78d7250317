# Every target sets itself up: make demo on a fresh machine needs python3 (3.11 or later) and the network, once.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin

.PHONY: demo test slow check pictures words clean

demo: .venv/installed
	$(BIN)/dovetail generate "a dotted red circle moving right on a teal striped background" -o out/demo.mp4
	@echo "The video is $(CURDIR)/out/demo.mp4"

test: .venv/installed-dev
	$(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal

slow: .venv/installed-dev
	$(BIN)/pytest -m slow -n auto --maxprocesses 4 --dist worksteal

check: .venv/installed-dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

# The README's pictures, by the commands that it names; docs/flowblending.png comes from a benchmark, as its page says.
pictures: .venv/installed
	rm -rf out/pictures
	$(BIN)/dovetail generate "a dotted red circle moving right on a teal striped background" --seed 2 --count 2 \
		-o out/pictures/strip.mp4
	$(BIN)/dovetail generate "a red circle moving right" --frames 128 --seed 2 --preview -r sprites-long -o out/pictures/long.mp4
	$(BIN)/dovetail generate "a red circle moving right" --frames 128 --seed 2 --preview -r sprites-long-plain \
		-o out/pictures/long-plain.mp4
	$(BIN)/dovetail generate --shared "a red circle on a gray plain background" --event "0s: it moves right" \
		--event "4s: it moves down" --event "8s: it moves left" --frames 96 --preview -o out/pictures/story.mp4
	cp out/pictures/strip-sheet.png docs/strip.png
	cp out/pictures/long-preview.png docs/long.png
	cp out/pictures/long-plain-preview.png docs/long-plain.png
	cp out/pictures/story-preview.png docs/story.png

# The words of recipes on their page, after a change of what they take.
words: .venv/installed
	$(BIN)/python -c "from pathlib import Path; from dovetail.recipe.reference import renewed; \
		page = Path('docs/recipes.md'); page.write_text(renewed(page.read_text()))"

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

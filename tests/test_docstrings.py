"""Every example in a docstring or on a documentation page runs and says what it says."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import dovetail

MODULES = [
    found.name for found in pkgutil.walk_packages(dovetail.__path__, "dovetail.") if "__main__" not in found.name
]
PAGES = sorted(Path(__file__).parents[1].joinpath("docs").rglob("*.md"))


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_on_pages_run(page):
    assert doctest.testfile(str(page), module_relative=False).failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
    assert len(found) > 5
    page = next(page for page in PAGES if page.stem == "algebra")
    assert len(doctest.DocTestParser().get_examples(page.read_text())) > 10

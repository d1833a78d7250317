"""The words of recipes, as the page and the command tell them."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from dovetail import recipe as recipes
from dovetail.cli import app
from dovetail.errors import RecipeError
from dovetail.recipe import models, reference

PAGE = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")


def test_the_page_tells_every_word_as_it_is():
    assert reference.renewed(PAGE) == PAGE, "make words"
    assert PAGE.endswith(reference.page())
    assert PAGE.startswith("# Recipes\n")


def test_the_recipe_of_the_page_is_one():
    text = PAGE.partition("```yaml\n")[2].partition("```")[0]
    assert recipes.parse(text).chain == recipes.load("sprites").chain


def test_no_model_is_left_out():
    told = {model for words in reference.GROUPS.values() for model in words.values()}
    parts = {each for each in vars(models).values() if isinstance(each, type) and issubclass(each, models.Part)}
    assert {
        each for each in parts - told if not each.__subclasses__()
    } == set()  # the others are what these have in common


@pytest.mark.parametrize(("title", "words"), list(reference.groups()))
def test_every_word_says_what_it_is(title, words):
    for word in words:
        assert len(word.brief.split()) >= 3, word.name
        assert word.keys or word.takes, word.name
        for key in word.keys:
            assert key.takes, (word.name, key.name)


def test_what_a_key_takes_and_is():
    keys = {key.name: key for key in reference.word("coupled").keys}
    assert (keys["floor"].takes, keys["floor"].default) == ("a number, from 0 to 1, or `auto`", "`0.95`")
    assert (keys["rate"].takes, keys["of"].takes) == ("a number, above 0 to 2", "a denoiser")
    assert (keys["size"].default, keys["minibatch"].default) == (None, "none")
    assert reference.word("levels").takes == "a list: a number"


def test_a_word_on_the_command_line():
    said = CliRunner().invoke(app, ["words", "blended"])
    assert said.exit_code == 0
    assert said.stdout == str(reference.word("blended")).rstrip() + "\n"
    every = CliRunner().invoke(app, ["words"]).stdout
    assert all(f"  {word.name} " in every for _, words in reference.groups() for word in words)


def test_a_word_that_is_none():
    with pytest.raises(RecipeError, match="did you mean 'coupled'"):
        reference.word("couple")
    assert CliRunner().invoke(app, ["words", "couple"]).exit_code == 1

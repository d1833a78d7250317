"""Recipes: a chain, written down. Models and text here; `build` makes stages of them.

Nothing in this package but `build` imports torch, so that reading a recipe costs nothing.
"""

from dovetail.recipe.models import Recipe
from dovetail.recipe.reading import (
    Overrides,
    by_path,
    changed,
    checked,
    dump,
    load,
    names,
    parse,
    plain,
    said,
    text_of,
    weights_in,
)

__all__ = [
    "Overrides",
    "Recipe",
    "by_path",
    "changed",
    "checked",
    "dump",
    "load",
    "names",
    "parse",
    "plain",
    "said",
    "text_of",
    "weights_in",
]

"""A denoiser is an expression; this walks it and rewrites it."""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any


def walk(node: Any) -> Iterator[Any]:
    """Every part of a denoiser, itself first."""
    yield node
    if is_dataclass(node) and not isinstance(node, type):
        for field in fields(node):
            yield from walk(getattr(node, field.name))
    elif isinstance(node, list | tuple):
        for part in node:
            yield from walk(part)


def rewrite(node: Any, change: Callable[[Any], Any]) -> Any:
    """The same expression with `change` applied to every part, innermost first."""
    if is_dataclass(node) and not isinstance(node, type):
        node = replace(node, **{f.name: rewrite(getattr(node, f.name), change) for f in fields(node) if f.init})
    elif isinstance(node, tuple):
        node = tuple(rewrite(part, change) for part in node)
    return change(node)

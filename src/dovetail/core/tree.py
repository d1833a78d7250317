"""A denoiser is an expression; this walks it and rewrites it.

Fields that are no part of equality (networks) are no part of the expression, and a table of numbers has no parts.
"""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any


def walk(node: Any) -> Iterator[Any]:
    """Every part of a denoiser, itself first."""
    yield node
    if is_dataclass(node) and not isinstance(node, type):
        for name in _parts(node):
            yield from walk(getattr(node, name))
    elif isinstance(node, list | tuple) and not _numbers(node):
        for part in node:
            yield from walk(part)


def rewrite(node: Any, change: Callable[[Any], Any]) -> Any:
    """The same expression with `change` applied to every part, innermost first.

    A part in which nothing changes stays the same object.
    """
    if is_dataclass(node) and not isinstance(node, type):
        before = {name: getattr(node, name) for name in _parts(node)}
        after = {name: rewrite(part, change) for name, part in before.items()}
        if any(after[name] is not before[name] for name in before):
            node = replace(node, **after)
    elif isinstance(node, tuple) and not _numbers(node):
        parts = tuple(rewrite(part, change) for part in node)
        node = node if all(a is b for a, b in zip(node, parts, strict=True)) else parts
    return change(node)


def _parts(node: Any) -> list[str]:
    return [f.name for f in fields(node) if f.init and f.compare]


def _numbers(node: list[Any] | tuple[Any, ...]) -> bool:
    """A schedule's thousand levels are walked by every plan otherwise, for milliseconds."""
    return all(isinstance(part, int | float) for part in node)

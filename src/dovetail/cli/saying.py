"""How commands speak: results on stdout; notes, errors and progress on stderr."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from dovetail.errors import DovetailError, PromptWarning, StepsWarning, StoryWarning

out, err = Console(highlight=False), Console(stderr=True, highlight=False)


def say(line: str) -> None:
    out.print(escape(line), soft_wrap=True)


def taught(command: Callable[..., None]) -> Callable[..., None]:
    """The command, its own errors printed without a traceback, and warnings as one line each."""

    @wraps(command)
    def taught(*args: Any, **options: Any) -> None:
        shown: set[str] = set()

        def show(message: Warning | str, *_: Any, **__: Any) -> None:
            if str(message) not in shown:
                shown.add(str(message))
                err.print(f"[yellow]note:[/] {escape(str(message))}", soft_wrap=True)

        try:
            with warnings.catch_warnings():
                warnings.showwarning = show
                for kind in (PromptWarning, StepsWarning, StoryWarning):
                    warnings.simplefilter("always", kind)
                command(*args, **options)
        except DovetailError as error:
            err.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
            raise typer.Exit(1) from None

    return taught


@contextmanager
def waiting(what: str) -> Iterator[None]:
    if not err.is_terminal:
        yield
        return
    with err.status(what):
        yield

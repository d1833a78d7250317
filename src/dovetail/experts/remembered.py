"""What is counted of networks on the meta device, kept on disk: a plan need not build again what was built before.

Counts are functions of texts and numbers alone, and of the code that counts. They stand in a file for that code (the
versions of torch, diffusers and transformers, and this package's sources), one JSON line each, in the hub's folder for
what libraries keep: HF_ASSETS_CACHE, or assets/ in HF_HOME. A line that cannot be read is counted again; where nothing
can be written, nothing is kept.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, wraps
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

Count = TypeVar("Count", bound=int | tuple[int, int])


def remembered(count: Callable[..., Count]) -> Callable[..., Count]:
    """A count that is made once for its arguments, which are texts, numbers, and tuples of these."""

    @cache
    @wraps(count)
    def told(*args: Any) -> Count:
        name = digest(json.dumps([count.__module__, count.__qualname__, args]))
        if name not in _known():
            _known()[name] = count(*args)
            _add(name, _known()[name])
        return _known()[name]  # type: ignore[no-any-return]

    return told


@cache
def _known() -> dict[str, Any]:
    """What the file holds, by digests of who counted what."""
    try:
        lines = _file().read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    return dict(filter(None, map(_read, lines)))


def _read(line: str) -> tuple[str, Any] | None:
    """A line's name and count; None for one that was cut or damaged."""
    try:
        name, count = json.loads(line)
    except (ValueError, TypeError):
        return None
    found = tuple(count) if isinstance(count, list) else (count,)
    if not isinstance(name, str) or not all(type(number) is int for number in found):
        return None
    return name, found if isinstance(count, list) else count


def _add(name: str, count: Any) -> None:
    """A line more, in one write, so that processes do not mix theirs."""
    with suppress(OSError):
        _file().parent.mkdir(parents=True, exist_ok=True)
        with _file().open("ab", buffering=0) as file:
            file.write(f"{json.dumps([name, count])}\n".encode())


@cache
def _file() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_ASSETS_CACHE) / "dovetail" / f"counts-{digest(*_code())}.jsonl"


def _code() -> Iterator[str]:
    """What counts: the libraries, and this package."""
    yield from (f"{name} {version(name)}" for name in ("torch", "diffusers", "transformers"))
    here = Path(__file__).parents[1]
    for path in sorted(here.rglob("*.py")):
        yield f"{path.relative_to(here).as_posix()} {digest(path.read_text(encoding='utf-8'))}"


def digest(*texts: str) -> str:
    """A short sha256 of texts."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]

"""Where a video is written: names and manifests, what may be replaced, and files that appear whole or not at all."""

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from dovetail.errors import DovetailError, OutputError

SUFFIXES = (".mp4", ".gif", ".webp", ".npz", "")
"""What can be written and read; "" is a folder of PNG."""

FASTEST = {".gif": 50, ".webp": 90}
"""Frames per second. Browsers show frames that last 10 ms or less for 100 ms."""


def suffix_of(path: str | Path) -> str:
    """What says a video's format; "" is a folder.

    >>> suffix_of("OUT.MP4"), suffix_of("frames")
    ('.mp4', '')
    """
    return Path(path).suffix.lower()


INSIDE = "dovetail.json"
"""The manifest's name in a folder of PNG; that it is there says that the folder is ours to replace."""


def manifest_of(path: str | Path) -> Path:
    """Where a video's manifest is: OUT.mp4.json beside OUT.mp4, dovetail.json inside a folder."""
    target = Path(path)
    inside = target.is_dir() or not target.suffix
    return target / INSIDE if inside else target.with_name(f"{target.name}.json")


def checked_output(path: str | Path, fps: float = 1.0, inputs: Iterable[str | Path] = ()) -> Path:
    """The path, made sure to be writable: call it before work starts. Makes missing folders.

    inputs: what the work reads, and so must not replace. Raises OutputError.
    """
    target = Path(path)
    try:
        _refuse(target, fps, inputs)
        target.parent.mkdir(parents=True, exist_ok=True)
        probe = _part(manifest_of(target) if target.suffix else target)  # the longest name that writing needs
        probe.touch()
        probe.unlink()
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {target}: {reason(error)}") from None
    return target


def checked_folder(path: str | Path) -> Path:
    """A folder that is there, made if it is not, and can be written to: call it before work starts. Raises OutputError."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = _part(folder / "probe")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"cannot write to a folder {folder}: {reason(error)}") from None
    return folder


def _refuse(target: Path, fps: float, inputs: Iterable[str | Path]) -> None:
    """Raise OutputError for a name or a place that a video must not be written to."""
    known = ", ".join(suffix for suffix in SUFFIXES if suffix)
    suffix = suffix_of(target)
    reasons = {
        "videos are written to files and folders, not to the standard output": str(target) == "-",
        "it needs a name": target.name in ("", "..", *SUFFIXES),
        f"'{suffix}' is no known format; known: {known}, or a folder for PNG": suffix not in SUFFIXES,
        "a folder has this name": bool(suffix) and target.is_dir(),
        "it exists and is no folder of PNG that dovetail wrote": not (suffix or _ours(target)),
        "it is what this run reads; choose another name": target.exists()
        and any(Path(given).exists() and target.samefile(given) for given in inputs),
        f"at {fps:g} frames per second browsers would slow it down; use .mp4": fps > FASTEST.get(suffix, fps),
    }
    for why, holds in reasons.items():
        if holds:
            raise OutputError(f"cannot write {target}: {why}")


def _ours(folder: Path) -> bool:
    """Whether a folder may be replaced: it is new, or empty, or all in it was written here."""
    if not folder.exists():
        return True
    if not folder.is_dir():
        return False
    names = {file.name for file in folder.iterdir()}
    return not names or (INSIDE in names and all(re.fullmatch(r"\d{5,}\.png", name) for name in names - {INSIDE}))


def _part(target: Path) -> Path:
    """The name under which a file is written until it is whole."""
    return target.with_name(f".{target.name}.{os.getpid()}.part")


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A name to write to, in the same folder; what stands there takes its final name at the end, and outlives a loss of
    power."""
    part = _part(target)
    try:
        yield part
        for file in (*sorted(part.iterdir()), part) if part.is_dir() else (part,):
            settled(file)
        _take_place(part, target)
        settled(target.parent)
    except DovetailError:  # says what it is about; a network may have failed while a file was growing
        raise
    except OSError as error:
        raise OutputError(f"cannot write {target}: {reason(error)}") from None
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(part) if part.is_dir() else part.unlink()


def settled(path: Path) -> None:
    """Make sure that a file, or the names in a folder, outlive a loss of power, where a system can say so of folders."""
    folder = path.is_dir()
    with suppress(OSError) if folder else nullcontext():
        handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _take_place(part: Path, target: Path) -> None:
    if not target.is_dir():
        part.replace(target)
        return
    # A folder cannot be replaced in one move: the old one steps aside, so that none is ever seen half.
    aside = part.with_suffix(".old")
    target.rename(aside)
    try:
        part.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    shutil.rmtree(aside)


def reason(error: Exception) -> str:
    """What an error says, without its number and class."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__)

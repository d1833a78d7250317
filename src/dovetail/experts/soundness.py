"""Whether weights are what they seem, told before a library trips over them: files that are cut short, text models
whose embeddings were lost on the way."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dovetail.errors import DovetailError, WeightsError
from dovetail.experts.pins import is_repo, repo_and_file
from dovetail.experts.refusals import pulls

LONGEST = 100_000_000
"""Bytes of the longest header that the format allows."""


def damage(file: Path) -> str | None:
    """What is wrong with a .safetensors file, by its header and its length alone; None if nothing is.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile(suffix=".safetensors") as empty:
    ...     damage(Path(empty.name))
    'it is empty'
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(8)
        if not start:
            return "it is empty"
        if start.startswith(b"version "):
            return (
                "it is a pointer of Git LFS, not what that points to; `git lfs pull` in its repository brings the file"
            )
        length = int.from_bytes(start, "little")
        if size < 8 or length > min(size - 8, LONGEST):
            return f"its header is broken or cut off ({size} bytes in all)"
        header = opened.read(length)
    try:
        told = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in told.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, AttributeError, IndexError):
        return "its header is no safetensors header"
    whole = 8 + length + max(ends, default=0)
    if size != whole:
        return f"it has {size} bytes, and by its header {whole}" + ("; it is cut short" if size < whole else "")
    return None


def again(weights: str, revision: str | None = None, variant: str | None = None) -> str:
    """How to get weights anew."""
    if weights.startswith("sprites/"):
        return "It comes with dovetail: install that again"
    hub = (is_repo(weights) or repo_and_file(weights) is not None) and not Path(weights).expanduser().exists()
    return (
        f"Delete it; {pulls(weights, revision, variant)} brings it again"
        if hub
        else "Copy it again from where it came, or `dovetail models pull OWNER/REPO` and take the hub's"
    )


def brought(weights: str, revision: str | None = None, variant: str | None = None) -> str:
    """How to get what weights lack."""
    return again(weights, revision, variant).removeprefix("Delete it; ")


@contextmanager
def making(what: str, config: Path, remedy: str) -> Iterator[None]:
    """Turn whatever is raised inside, where `what` is made of a config's values, into WeightsError that names the config's
    file and the remedy (see `again`). Libraries raise anything there, so nothing else belongs inside.

    >>> with making("schedule", Path("config.json"), "Copy it again"):
    ...     2 * {}["steps"]
    Traceback (most recent call last):
    dovetail.errors.WeightsError: config.json: its values make no schedule (KeyError: 'steps'). If it was changed or is damaged: copy it again
    """
    try:
        yield
    except (DovetailError, ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        said = " ".join(line.strip() for line in str(error).splitlines()[:2]).removesuffix(".")
        kind = type(error).__name__
        raise WeightsError(
            f"{config}: its values make no {what} ({kind}{f': {said}' if said else ''}). If it was changed or is damaged: "
            f"{remedy[0].lower()}{remedy[1:]}"
        ) from error


def sound(
    files: Iterable[Path], what: str, weights: str, revision: str | None = None, variant: str | None = None
) -> None:
    """Raise WeightsError about the first damaged .safetensors among these files; `what` begins the message."""
    for file in files:
        if file.suffix == ".safetensors" and (said := damage(file)) is not None:
            raise WeightsError(
                f"{what} cannot be loaded: {file} is damaged: {said}. {again(weights, revision, variant)}"
            )


def shards(
    folder: Path, kept: list[Path], what: str, weights: str, revision: str | None = None, variant: str | None = None
) -> None:
    """Raise WeightsError unless all files are there over which weights are spread."""
    remedy = again(weights, revision, variant)
    for index in folder.glob("*.safetensors.index*.json"):
        try:
            named = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise WeightsError(f"{what} cannot be loaded: {index} is damaged: {error}. {remedy}") from None
        # An index of another variant names none of these files.
        if {file.name for file in kept} & set(named) and (gone := [n for n in named if not (folder / n).is_file()]):
            raise WeightsError(
                f"{what} cannot be loaded: {len(gone)} of its {len(named)} files are not there, the first is "
                f"{folder / gone[0]}. {remedy}"
            )


def tied(encoder: Any, what: str) -> None:
    """Raise WeightsError unless a T5's or UMT5's encoder reads with the embeddings that its file holds.

    Its words have two names, shared.weight and encoder.embed_tokens.weight, and files hold the first. Releases of
    transformers that tied them wrongly left the second at zero, so every prompt meant the same, in silence
    (github.com/huggingface/transformers/issues/43880 and 43992).
    """
    shared, inner = getattr(encoder, "shared", None), getattr(encoder, "encoder", None)
    if shared is None or inner is None:
        return
    own = inner.embed_tokens.weight
    if own is not shared.weight and not own.equal(shared.weight):
        import transformers

        raise WeightsError(
            f"{what} has embeddings that are not tied: encoder.embed_tokens.weight is not shared.weight, so it would "
            f"read other words than it was given. Transformers {transformers.__version__} has loaded it so: take another "
            "release (5.23.0 ties them), or a file that holds encoder.embed_tokens.weight as well"
        )

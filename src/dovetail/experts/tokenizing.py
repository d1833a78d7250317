"""Tokenizers as they are published: which files they are read from, and what is said where that cannot be done."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from dovetail.errors import WeightsError
from dovetail.experts.checkpoint import Checkpoint
from dovetail.experts.single_file import SingleFile
from dovetail.experts.soundness import again, brought

VOCABULARIES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "CLIPTokenizer": (("tokenizer.json",), ("vocab.json", "merges.txt")),
    "T5Tokenizer": (("tokenizer.json",), ("spiece.model",)),
}
"""The files in which a tokenizer's words may stand, by the class that reads them; the first that are there count."""


def tokenizer(kind: Any, checkpoint: Checkpoint | SingleFile, part: str = "tokenizer") -> Any:
    """The tokenizer of a checkpoint, of a class of transformers. part: its folder there, "" being the checkpoint itself.

    Raises WeightsError for one whose files are not there or cannot be read. (Without its words, transformers would make
    one that takes every text for unknown, in silence.)
    """
    folder = checkpoint.part(part)
    if isinstance(checkpoint, SingleFile) and isinstance(checkpoint.base, Checkpoint):
        checkpoint = checkpoint.base
    where = f"tokenizer of '{checkpoint.weights}' ({folder})"
    asked = checkpoint.asked if isinstance(checkpoint, Checkpoint) else (checkpoint.weights,)
    kept = _vocabulary(kind.__name__, folder, where, brought(*asked))
    try:
        if kept == ("spiece.model",):
            _pieces(folder / "spiece.model", where)
        return kind.from_pretrained(folder)
    except WeightsError:
        raise
    except Exception as error:  # The package tokenizers raises nothing more particular.
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(f"{where} cannot be read: {said}. {again(*asked)}") from error


def _vocabulary(kind: str, folder: Path, where: str, remedy: str) -> tuple[str, ...]:
    """The files that a tokenizer will be read from. Raises WeightsError if they are not there."""
    choices = VOCABULARIES[kind]
    for files in choices:
        if all((folder / file).is_file() for file in files):
            return files
    there = ", ".join(sorted(file.name for file in folder.iterdir())) or "nothing"
    takes = " or ".join(" with ".join(files) for files in choices)
    raise WeightsError(f"{where} has no vocabulary, which is {takes}; there is {there}. {remedy}")


def _pieces(file: Path, where: str) -> None:
    """Raise WeightsError without the packages that read a spiece.model, and what they raise of one that is damaged,
    which transformers would take for a file of another kind."""
    try:
        sentencepiece = import_module("sentencepiece")
        import_module("google.protobuf")
    except ImportError as error:
        raise WeightsError(
            f"{where} is a spiece.model without tokenizer.json, which two packages read: pip install sentencepiece "
            f"protobuf ({error})"
        ) from error
    sentencepiece.SentencePieceProcessor(model_file=str(file))

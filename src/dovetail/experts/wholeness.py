"""Whether weights that lie on this machine are whole: of these no hub has said what they should be, so it is looked at
what they say of themselves."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from torch import Tensor

from dovetail.errors import WeightsError
from dovetail.experts.checkpoint import Checkpoint, Location, find, here
from dovetail.experts.opensora import facts as opensora
from dovetail.experts.soundness import again, damage, shards
from dovetail.experts.tensors import PICKLES, SUFFIXES, is_file, keys_of, opened

State = Literal["whole", "damaged", "missing"]

PARTS = ("unet", "transformer", "transformer_2", opensora.PART, "text_encoder", "tokenizer", "scheduler", "vae")
"""Folders of a checkpoint that experts and codecs load; what others hold is nothing to them."""


def examined(weights: str) -> Iterator[tuple[str, State, str]]:
    """Each file of packaged weights, a folder, or one file: its path, its state, and what is wrong, "" where nothing is.

    Weights are read through: headers, lengths, that nothing of several files is lacking, and that all numbers are finite.
    Raises WeightsError for weights that are not there.
    """
    path = Path(weights).expanduser()
    if not here(weights):
        raise WeightsError(f"no weights at '{weights}': no such file or folder ({path.absolute()})")
    if path.is_file():
        if not is_file(weights):
            raise WeightsError(f"'{weights}' is no file of weights; those end in {', '.join(SUFFIXES)}")
        yield _state(path, _weights(path))
        return
    found = find(Location(weights), [])
    assert isinstance(found, Checkpoint)
    places = [found.path / name for name in ("", *PARTS) if (found.path / name).is_dir()]
    states = [state for place in places for state in _folder(place, weights, top=place == found.path)]
    states += _lacking(found.path)
    if not any(name.endswith(SUFFIXES) for name, *_ in states) and not any(
        state == "missing" for _, state, _ in states
    ):
        there = sorted(entry.name for entry in found.path.iterdir())[:6]
        wrong = (
            f"it holds no weights: no .safetensors in it or in its {', '.join(f'{part}/' for part in PARTS)}; there is "
        )
        states.append((weights, "missing", wrong + (", ".join(there) or "nothing")))
    yield from states


def _folder(place: Path, weights: str, top: bool) -> Iterator[tuple[str, State, str]]:
    """The files of one folder of a checkpoint."""
    files = sorted(file for file in place.iterdir() if file.is_file())
    kept = [file for file in files if file.suffix == ".safetensors"]
    for file in (file for file in files if file.suffix == ".json"):
        yield _state(file, _json(file))
    for file in kept or [file for file in files if file.suffix in PICKLES]:
        yield _state(file, _weights(file))
    if kept:
        try:
            shards(place, kept, f"{'the folder' if top else place.name} of '{weights}'", weights)
        except WeightsError as error:
            yield str(place), "missing", str(error).removesuffix(f". {again(weights)}")
    network = (place / "config.json").is_file() or place.name in ("unet", "transformer", "transformer_2", "vae")
    if not top and network and not any(file.suffix in SUFFIXES for file in files):
        yield str(place), "missing", "it holds no .safetensors"
    elif not top and not files:
        yield str(place), "missing", "it is empty"


def _lacking(root: Path) -> Iterator[tuple[str, State, str]]:
    """Folders that a checkpoint's own list names, and that are not there."""
    try:
        named = json.loads((root / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    for part in PARTS:
        told = named.get(part) if isinstance(named, dict) else None
        if isinstance(told, list) and told[-1:] not in ([], [None]) and not (root / part).is_dir():
            yield str(root / part), "missing", "model_index.json names it"


def _state(file: Path, wrong: str) -> tuple[str, State, str]:
    return str(file), "damaged" if wrong else "whole", wrong


def _json(file: Path) -> str:
    """What is wrong with a configuration; "" if nothing is."""
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        return f"it is no JSON ({error})"
    return ""


def _weights(file: Path) -> str:
    """What is wrong with a file of weights; "" if nothing is."""
    if file.suffix == ".safetensors" and (said := damage(file)) is not None:
        return said
    try:
        odd = [name for name, tensor in _tensors(file) if not _finite(tensor)]
    except WeightsError as error:
        return str(error)
    return f"{len(odd)} of its tensors hold NaN or infinity, the first is '{odd[0]}'" if odd else ""


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """One after another, so that no more than one is in memory of a file that may be large."""
    if file.suffix != ".safetensors":
        yield from opened(file).items()
        return
    for name in keys_of(file):
        yield name, opened(file, [name])[name]


def _finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    return bool((tensor.float() if tensor.element_size() == 1 else tensor).isfinite().all())

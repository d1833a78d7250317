"""Weights that are on this machine, looked at before any others come from the hub: a path that is wrong is then told at
once, and not after gigabytes."""

from collections.abc import Sequence
from pathlib import Path

from dovetail.experts.checkpoint import Checkpoint, Location, find, find_file, nearby
from dovetail.experts.codec import folder_in
from dovetail.experts.loading import FAMILIES, network_part
from dovetail.experts.tensors import is_file


def check_expert(family: str, at: Location, adapter: str | None = None) -> None:
    """Raise WeightsError if weights that an expert has on this machine lack what it takes of them; arguments as for `load`.
    Weights on the hub are not looked at."""
    kind = FAMILIES[family]
    checkpoint = _found(at.weights, at.variant, f"Weights of this family: {kind.where}")
    if checkpoint is not None:
        # Weights of another family are told of by name, when they are loaded.
        part = network_part(checkpoint, kind.folder(at.subfolder))
        checkpoint.config(part)
        if family != "lavie" or adapter is None:
            _whole(checkpoint, part)
        if kind.scheduler is None:
            checkpoint.config("scheduler", "scheduler_config.json")
        if kind.words is None:
            checkpoint.config("text_encoder")
    if adapter is not None:
        _found(adapter)


def check_codec(at: Location) -> None:
    """The same of a codec."""
    if (checkpoint := _found(at.weights, at.variant)) is not None:
        part = folder_in(checkpoint, at)
        checkpoint.config(part)
        _whole(checkpoint, part)


def check_files(places: Sequence[str]) -> None:
    """The same for files and folders of any other kind, as those of LoRA weights."""
    for place in places:
        _found(place)


def _found(weights: str, variant: str | None = None, where: str = "") -> Checkpoint | None:
    """The checkpoint in a folder on this machine. None for a file that is there, and for what is on the hub."""
    if not nearby(weights):
        return None
    if is_file(weights):
        find_file(weights)
        return None
    found = find(Location(weights, variant=variant), [], where)
    assert isinstance(found, Checkpoint)
    return found


def _whole(checkpoint: Checkpoint, part: str) -> None:
    """Raise WeightsError without a part's weights. Pickles are read whole to know what they hold, so not twice."""
    if any(checkpoint.path.joinpath(part).glob("*.safetensors")) or not _pickles(checkpoint.path / part):
        checkpoint.file(part)


def _pickles(folder: Path) -> bool:
    return any(is_file(file.name) for file in folder.iterdir())

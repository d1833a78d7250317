"""A run's latents decoded again, with other settings; nothing is generated."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dovetail import recipe as recipes
from dovetail.errors import OutputError, RecipeError, RunWarning
from dovetail.recipe import Recipe, models
from dovetail.run.cast import load_codec
from dovetail.run.decoding import still_of
from dovetail.run.folder import Folder
from dovetail.run.keeping import frames_again
from dovetail.run.manifest import record
from dovetail.run.sealed import DamagedError
from dovetail.run.telling import further
from dovetail.video import Frames, Video, checked_output, writing
from dovetail.video.encoders import warn_of_waiting
from dovetail.video.places import suffix_of


@dataclass(frozen=True)
class Look:
    """How to decode. fps: frames per second; height, width: in pixels; crf: what an .mp4 may lose, 0 to 51; tiles:
    latent cells along each side of what is decoded at once; still: `within` of how frames are held to the still picture of
    the first ones, 0 to 10, where 0 holds none. What is None is as the run has it."""

    fps: float | None = None
    height: int | None = None
    width: int | None = None
    crf: int | None = None
    tiles: int | None = None
    still: float | None = None

    def __post_init__(self) -> None:
        for name, least, most in (
            ("height", 1, 9999),
            ("width", 1, 9999),
            ("crf", 0, 51),
            ("tiles", 4, 9999),
            ("still", 0, 10),
        ):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise RecipeError(f"{name} is {least} to {most}, not {value}")

    @property
    def sized(self) -> bool:
        """Whether a size is asked for; other pictures, if they are small, are enlarged as runs enlarge theirs."""
        return self.height is not None or self.width is not None


def decode(folder: str | Path, out: str | Path, look: Look | None = None) -> Iterator[Frames]:
    """Decode a run from its latents and write it; frames uint8 "f h w c" as they are written.

    Of a run that is not finished, what there is, and held to what there is. Raises OutputError for a run without a whole piece, and where one is
    damaged or missing: resuming the run makes it again. Warns with RunWarning of a run that is not finished, and of a
    long video whose file is made in memory.
    """
    place, look = Folder(Path(folder)), Look() if look is None else look
    recipe, origin = place.read(), place.origin()
    place.refuse(out)
    if origin is None:
        raise OutputError(f"{place} has no manifest that can be read; `dovetail resume` writes it again")
    if Path(out).resolve() == place.target.resolve():
        raise OutputError(f"{out} is the run's own video, which `dovetail resume` writes; take another name")
    if suffix_of(out) == ".mp4" and any((side or 0) % 2 for side in (look.height, look.width)):
        raise RecipeError(
            f"the sides of an .mp4 are even, not {look.width} x {look.height}; take a pixel more, or another file"
        )
    pieces, calls = _pieces(place), _calls(place, origin.identity)
    codec = load_codec(_tiled(recipe, look.tiles))
    if look.still is not None:
        recipe = _stilled(recipe, look.still)
    if look.fps not in (None, recipe.video.fps):
        # Frames stay, so a story's events stay at theirs; in seconds they would move, or lie outside.
        recipe = recipes.changed(recipe, {**further(recipe, None)[0], "video.fps": look.fps})
    checked_output(out, recipe.video.fps)
    warn_of_waiting(suffix_of(out), recipe.video.frames)
    there = 0
    with writing(out, recipe.video.fps, look.crf, enlarge=not look.sized) as growing:
        try:
            for frames in frames_again(place, origin.identity, codec, pieces, still_of(recipe)):
                sized = _sized(frames, look)
                growing.add(sized)
                there += len(sized)
                yield sized
        except DamagedError as error:
            raise OutputError(f"{place}: {error}; `dovetail resume` makes it again") from None
        less = [f"decoding: {one}" for one in getattr(codec, "shortages", ())]
        joined = {} if recipe.bridged else {stage.stage: codec.space.compression or 1 for stage in recipe.chain}
        growing.settings = {**record(recipe, calls, joined, less, origin.given), "decoded": _said(look)}
    if there < recipe.video.frames:
        said = f"{place} is not finished: of {recipe.video.frames} frames {there} are there; `dovetail resume` makes the others"
        warnings.warn(said, RunWarning, stacklevel=2)


def _tiled(recipe: Recipe, tiles: int | None) -> Recipe:
    """The recipe with other tiles; averaged pixels look nowhere else, so they have none."""
    if tiles is None or isinstance(recipe.codec, models.Pixels):
        return recipe
    return recipes.changed(recipe, {"codec.tiles": tiles})


def _stilled(recipe: Recipe, within: float) -> Recipe:
    """The recipe whose frames are held within so much, by the first ones as it says; 0 holds none."""
    if not within:
        return recipes.changed(recipe, {"video.still": None})
    return recipes.changed(recipe, {"video.still" if recipe.video.still is None else "video.still.within": within})


def _pieces(folder: Folder) -> int:
    """How many pieces there are, from the first on. Raises OutputError for none, and where one between them is missing."""
    found = folder.latents()
    if not found:
        raise OutputError(f"{folder} has no finished piece to decode; `dovetail resume` goes on with it")
    if missing := set(range(found[-1])) - set(found):
        name = folder.latent(min(missing)).name
        raise OutputError(f"{folder}: latents/{name} is not there; `dovetail resume` makes it again")
    return len(found)


def _calls(folder: Folder, identity: str) -> Mapping[str, int]:
    """How often each expert was asked up to the last state that is whole; of a run under way states come and go."""
    for number in reversed(folder.states()):
        with suppress(DamagedError):
            return folder.standing(identity, number).calls
    return {}


def _sized(frames: Frames, look: Look) -> Frames:
    height, width = look.height or frames.shape[1], look.width or frames.shape[2]
    return Video(frames, 1.0).resized(height, width).frames


def _said(look: Look) -> dict[str, Any]:
    return {name: value for name, value in vars(look).items() if value is not None}

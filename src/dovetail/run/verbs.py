"""What a person asks for, and the recipe that it comes to."""

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dovetail import recipe as recipes
from dovetail.errors import PromptWarning, RecipeError, ShapeWarning
from dovetail.recipe import Overrides, Recipe, models
from dovetail.recipe.planning import Plan
from dovetail.run.budget import foreseen
from dovetail.run.events import End, Piece, Step
from dovetail.run.given import Source, warn_of_steps, warn_of_story
from dovetail.run.playing import play
from dovetail.run.telling import Telling, changes, long, tale, until
from dovetail.video import Footage, Frames, Video


def generate(
    prompt: str | None = None,
    recipe: str | Path | Recipe = "sprites",
    *,
    seed: int | None = None,
    frames: int | None = None,
    seconds: float | None = None,
    story: Telling | None = None,
    overrides: Overrides = (),
) -> Video:
    """Make a video. Without a prompt, the recipe's own example.

    recipe: a shipped recipe's name, a path, or a Recipe. seconds: how long, instead of frames. story: events over time,
    as ["0s: it moves left", "2s: it moves right"]; the prompt is then the text that they share (docs/stories.md).
    overrides: "path=value" texts, or a mapping. Raises RecipeError for what the recipe does not take, and raises and warns as
    `play`.

    >>> generate("a red circle moving left", "sprites-exact", frames=4).frames.shape
    (4, 64, 64, 3)
    """
    asked = resolved(prompt, recipe, seed=seed, frames=frames, seconds=seconds, story=story, overrides=overrides)
    return finished(play(asked))


def stream(
    prompt: str | None = None,
    recipe: str | Path | Recipe = "sprites-long",
    *,
    seed: int | None = None,
    frames: int | None = None,
    seconds: float | None = None,
    story: Telling | None = None,
    overrides: Overrides = (),
) -> Iterator[Frames]:
    """The frames that `generate` would make, uint8 "f h w c", some at a time, as soon as they are finished.

    How many come at once is the recipe's: its last stage's window; where it holds finished frames (`video.still`), none come
    before the first of these are there. Takes and raises what `generate` does.

    >>> pieces = stream("a red circle moving left", "sprites-long-exact", frames=600)
    >>> next(pieces).shape
    (8, 64, 64, 3)
    """
    asked = resolved(prompt, recipe, seed=seed, frames=frames, seconds=seconds, story=story, overrides=overrides)
    return (event.frames for event in play(asked) if isinstance(event, Piece))


def refine(
    video: str | Path,
    prompt: str | None = None,
    recipe: str | Path | Recipe = "sprites",
    *,
    strength: int | None = None,
    seed: int | None = None,
    frames: int | None = None,
    story: Telling | None = None,
    overrides: Overrides = (),
) -> Video:
    """Take a given video as the structure, and refine it with the recipe's stages after the first. Without a prompt, to
    what made the video, where its settings say so.

    strength: the timestep T_e up to which noise is added; more changes more. frames: only the first so many. story: what
    happens in it, as shots of an animatic, at the times at which it does.
    Raises OutputError for a video that cannot be read, and all that `generate` raises.
    """
    given = refinement(
        video, prompt, recipe, strength=strength, seed=seed, frames=frames, story=story, overrides=overrides
    )
    return finished(play(given))


def finished(events: Iterable[Step | Piece | End]) -> Video:
    """The whole video that a run makes, once it has ended."""
    pieces = []
    for event in events:
        if isinstance(event, Piece):
            pieces.append(event)
        elif isinstance(event, End):
            frames, latent = np.concatenate([piece.frames for piece in pieces]), [piece.latent for piece in pieces]
            return Video(frames, event.settings["recipe"]["video"]["fps"], event.settings, torch.cat(latent, 2))
    raise ValueError("this run has no end, so its video is not whole")


def resolved(
    prompt: str | None,
    recipe: str | Path | Recipe,
    *,
    seed: int | None = None,
    frames: int | None = None,
    seconds: float | None = None,
    story: Telling | None = None,
    overrides: Overrides = (),
) -> Recipe:
    """The recipe with the prompt, the story, the seed and the length in it. Raises RecipeError.

    A story without a length takes as long as its last event needs: one native clip. See `run.telling`.
    """
    asked, set_ = recipe if isinstance(recipe, Recipe) else recipes.load(recipe), recipes.by_path(overrides)
    # What is changed of the story itself comes when it is told.
    later = {} if story is None else {path: value for path, value in set_.items() if path.startswith("story.")}
    if story is not None and asked.story is not None:
        # The recipe's own events give way, so they need not fit what is changed of the video.
        asked = recipes.changed(asked, {"story.events": [{"text": asked.story.events[0].text}]})
    asked = recipes.changed(asked, {path: value for path, value in set_.items() if path not in later})
    if frames is not None and seconds is not None:
        raise RecipeError("frames and seconds both say how long the video is; give one of them")
    if story is not None:
        if seconds is None and frames is None and "video.frames" in set_:
            frames = asked.video.frames
        given = changes(asked, tale(story), prompt, frames, seconds)
    else:
        given = {"prompt": prompt, "video.frames": frames if seconds is None else long(asked, seconds)}
    given = {"video.frames": frames, "video.seed": seed} | given
    told = recipes.changed(asked, {path: value for path, value in given.items() if value is not None})
    return recipes.changed(told, later) if later else told


def said(prompt: str | None, overrides: Overrides, recipe: str | Path | Recipe | None = None) -> frozenset[str]:
    """The paths of a recipe that the caller has set: those of `overrides`, "prompt" if a prompt is given, "story" if an
    override changes it. In a recipe of the caller's own both of these count as set; in a shipped one they are examples."""
    overrides, own = recipes.by_path(overrides), recipe is not None and recipe not in recipes.names()
    asked = {"prompt"} if own or prompt is not None else set()
    told = {"story"} if own or any(path.partition(".")[0] == "story" for path in overrides) else set()
    return frozenset(overrides) | asked | told


def refinement(
    video: str | Path,
    prompt: str | None = None,
    recipe: str | Path | Recipe = "sprites",
    *,
    strength: int | None = None,
    seed: int | None = None,
    frames: int | None = None,
    story: Telling | None = None,
    overrides: Overrides = (),
) -> Recipe:
    """The recipe of `refine`, whose arguments it takes."""
    overrides = recipes.by_path(overrides)
    told = said(prompt, overrides, recipe)
    if story is None:
        asked = resolved(prompt, recipe, seed=seed, overrides=overrides)
        return refining(asked, video, strength, frames, told)
    given, scenario = Source.of(video), tale(story)
    told |= {"story"}
    if scenario.shared is not None or not isinstance(_made_by(given.footage).get("prompt"), str):
        told |= {"prompt"}  # of a story without one nothing else is said
    if "video.fps" not in told:
        overrides = {**overrides, "video.fps": given.footage.fps}
    length = given.frames if frames is None and "video.frames" not in told else frames
    asked = resolved(prompt, recipe, seed=seed, frames=length, story=scenario, overrides=overrides)
    return refining(asked, given, strength, frames, told)


def _made_by(footage: Footage) -> Mapping[str, Any]:
    """The recipe that made a video, as its settings have it; nothing where they have none."""
    found: Mapping[str, Any] = footage.settings.get("recipe", {})
    return found


def refining(
    recipe: Recipe,
    video: str | Path | Source,
    strength: int | None = None,
    frames: int | None = None,
    told: Collection[str] = ("prompt", "story"),
) -> Recipe:
    """The recipe that refines a video: its stages after the first (all, if the first one starts from a video).

    told: the paths of the recipe that were said for this video, see `said`. What was not is the video's: its length, its
    speed and, where its settings have them, its prompt and the story that goes with it. Warns with PromptWarning where
    nothing says what it shows, and with ShapeWarning of what is in the file and not taken along.
    """
    begins = recipe.start is not None or isinstance(recipe.chain[0].ladder, models.Below)
    stages = recipe.chain if begins else recipe.chain[1:]
    if not stages:
        raise RecipeError("this recipe has one stage only, so nothing of it is left to refine with; take `sprites`")
    given = video if isinstance(video, Source) else Source.of(video)
    place = given.footage.path
    if given.footage.lost is not None:
        warnings.warn(f"{place}: {given.footage.lost}", ShapeWarning, stacklevel=3)
    frames = recipe.video.frames if frames is None and "video.frames" in told else frames
    if frames is not None and not 1 <= frames <= given.frames:
        raise RecipeError(f"{frames} frames are asked for, but {place} has {given.frames}")
    kept = [stage.model_dump(mode="json") for stage in recipe.chain]
    if not begins:
        left = kept.pop(0)
        # What is now first begins in latents of its own, or in those of the stage that is left out.
        if kept[0]["bridge"] is None:
            kept[0] |= {key: left[key] for key in ("codec", "height", "width")}
        kept[0]["bridge"] = None
    changes: dict[str, Any] = {
        "chain": kept,
        "start": {"video": str(place.absolute()), "digest": given.digest},
        "video.frames": frames or given.frames,
        "video.fps": recipe.video.fps if "video.fps" in told else given.footage.fps,
    }
    if "story" not in told:
        changes["story"] = None
    if "prompt" not in told:
        changes |= _shown(recipe, given.footage, frames or given.frames, "story" not in told)
    if strength is not None:
        if not isinstance(stages[0].ladder, models.Below):
            raise RecipeError(
                f"strength is a timestep of the ladder `below`; stage '{stages[0].stage}' walks another ladder"
            )
        changes["chain.0.ladder.below.timestep"] = strength
    return recipes.changed(recipe, changes)


def _shown(recipe: Recipe, given: Footage, frames: int, story: bool) -> dict[str, Any]:
    """The prompt that made a video, as a change, and what of its story so many frames tell; without one the recipe's own
    prompt stays, and is said."""
    with suppress(RecipeError):  # of another version, whose words this one does not know
        made = recipes.checked(dict(_made_by(given)))
        events = until(made.spans(), frames) if story else []
        if not events or made.story is None:
            return {"prompt": made.prompt}
        by = (recipe.story or made.story).by  # how windows and frames are told is the method's matter
        fade = None if by == "frame" else made.story.fade
        return {"prompt": made.prompt, "story": {"events": events, "by": by, "fade": fade}}
    known = _made_by(given).get("prompt")
    if isinstance(known, str):
        return {"prompt": known}
    message = (
        f"no prompt is given and {given.path} carries none, so it is refined to the recipe's own, {recipe.prompt!r}"
    )
    warnings.warn(message, PromptWarning, stacklevel=4)
    return {}


def plan(
    recipe: str | Path | Recipe,
    prompt: str | None = None,
    *,
    seed: int | None = None,
    frames: int | None = None,
    seconds: float | None = None,
    story: Telling | None = None,
    overrides: Overrides = (),
) -> Plan:
    """What a run of this recipe will do, without loading weights. Warns with StoryWarning as a run would."""
    asked = resolved(prompt, recipe, seed=seed, frames=frames, seconds=seconds, story=story, overrides=overrides)
    notes: list[str] = []
    found = foreseen(asked, notes)
    warn_of_steps(asked)
    warn_of_story(asked, found)
    return found

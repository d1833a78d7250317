"""A story that a person tells, and what it changes in a recipe."""

import re
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from dovetail.errors import RecipeError, nearest
from dovetail.recipe import Recipe, models
from dovetail.recipe.denoisers import sizes
from dovetail.recipe.story import KEYS, Scenario, Span, frame, in_shares, joined, scenario, seconds
from dovetail.run.outlook import space_foreseen

Telling = Scenario | Mapping[str, Any] | Sequence[Any] | str | Path
"""A story: events (texts as `2s: it turns`, or mappings); a mapping with `events`, `shared`, `fade`, `seconds` and `by`; a
text in the plain format of docs/stories.md; or the path of a file with one of these, .yaml or plain."""


def tale(told: Telling) -> Scenario:
    """A story in whatever form it is told. Raises RecipeError.

    >>> tale(["0s: it moves left", "2s: it moves right"]).events
    ('0s: it moves left', '2s: it moves right')
    """
    if isinstance(told, Scenario):
        return told
    if isinstance(told, Path):
        return _file(told)
    if isinstance(told, str):
        return _file(Path(told)) if re.fullmatch(r"\S+\.(txt|md|story|ya?ml)", told) else _plain(told, "story")
    if isinstance(told, Mapping):
        return _mapping(told)
    if not isinstance(told, Sequence):
        raise RecipeError(f"story: {told!r} came; what fits is a list of events, a mapping, a text or a path")
    return Scenario(tuple(told))


def _file(path: Path) -> Scenario:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix not in (".yaml", ".yml"):
            return _plain(text, str(path))
        told = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} is no story that can be read: {error}") from None
    if isinstance(told, dict) and "chain" in told:
        raise RecipeError(f"{path} is a whole recipe; take it with --recipe")
    inner = told.get("story", told) if isinstance(told, dict) else told
    if not isinstance(told, dict | list) or not isinstance(inner, dict | list | str):
        raise RecipeError(f"{path}: a story is a list of events, or a mapping with the key events")
    return tale(inner)


def _plain(text: str, source: str) -> Scenario:
    try:
        return scenario(text, source)
    except ValueError as error:
        raise RecipeError(str(error)) from None


def _mapping(told: Mapping[str, Any]) -> Scenario:
    known = ["events", *KEYS]
    for key in told:
        if key not in known:
            raise RecipeError(f"story.{key}: unknown key; {nearest(str(key), known)}")
    events, length = told.get("events"), told.get("seconds")
    if not isinstance(events, list | tuple):
        raise RecipeError(
            "story.events: a list of events is missing, as in ['0s: it moves left', '2s: it moves right']"
        )
    if length is not None and (isinstance(length, bool) or not isinstance(length, int | float)):
        raise RecipeError(f"story.seconds: {length!r} came; what fits is a number")
    return Scenario(tuple(events), told.get("shared"), told.get("fade"), length, told.get("by"))


def changes(
    recipe: Recipe, told: Scenario, prompt: str | None, frames: int | None, length: float | None
) -> dict[str, Any]:
    """What a story changes in a recipe: path -> value. The prompt is its shared text, if it brings none. frames, length
    (in seconds): asked for otherwise. Raises RecipeError.
    """
    if prompt is not None and told.shared is not None and prompt != told.shared:
        raise RecipeError(
            f"the prompt is the text that all events of a story share, and this story brings its own: {told.shared!r}. "
            f"Say one of them, that or {prompt!r}"
        )
    # Without a shared text there is none: the recipe's own example is not part of this story.
    shared = next((text for text in (prompt, told.shared) if text is not None), "")
    fade = recipe.story.fade if told.fade is None and recipe.story else told.fade
    by = recipe.story.by if told.by is None and recipe.story else told.by
    story = {"events": list(told.events), "fade": fade, "by": by}
    found: dict[str, Any] = {"prompt": shared, "story": story}
    if frames is None and length is None:
        length = told.seconds
        frames = lasting(recipe, _checked(told.events)) if length is None else None
    if length is not None:
        frames = long(recipe, length)
    return found if frames is None else found | {"video.frames": frames}


def _checked(events: Sequence[Any], strict: bool = False) -> list[models.Event]:
    """The events. If one of them is wrong: none, and the recipe's check then says with its place; strict:
    RecipeError."""
    try:
        return [models.Event.model_validate(one) for one in events]
    except ValidationError as error:
        if strict:
            raise RecipeError(f"story.events: {error.errors(include_url=False)[0]['msg']}") from None
        return []


def lasting(recipe: Recipe, events: Sequence[models.Event]) -> int | None:
    """How many frames a story takes whose last event, and those without a time before it, last one native clip each.
    None where no event says seconds or frames: then the recipe's own length is divided."""
    fps, found = recipe.video.fps, None
    for left, one in zip(range(len(events), 0, -1), events, strict=True):
        if one.at is not None and not one.at.endswith("%"):
            found = frame(one.at, 0, fps) + left * native(recipe)
        if found is not None and left == 1 and one.to is not None and not one.to.endswith("%"):
            found = frame(one.to, 0, fps)
    return None if found is None else fitted(recipe, found)


def until(spans: Sequence[Span], frames: int) -> list[dict[str, str]]:
    """A story's events that begin within the first `frames` frames, cut at their end, as a recipe has them."""
    return [
        {"at": f"{span.start}f", "to": f"{min(span.stop, frames)}f", "text": span.text}
        for span in spans
        if span.start < frames
    ]


def native(recipe: Recipe) -> int:
    """Frames of the video that the first stage sees at once: a window, or the longest clip that its experts make."""
    stage = recipe.chain[0]
    window = stage.window or next(sizes(stage.denoise), None)
    if window is None:
        return recipe.video.longest or recipe.video.frames
    compression = space_foreseen(recipe, [], stage.codec).compression or 1
    return (window - 1) * compression + 1


def fitted(recipe: Recipe, frames: float) -> int:
    """The first number of frames from this one on that the recipe's codec makes."""
    compression = space_foreseen(recipe, []).compression or 1
    return compression * max(0, ceil((frames - 1) / compression)) + 1


def long(recipe: Recipe, length: float) -> int:
    """Frames of so many seconds. Raises RecipeError."""
    return fitted(recipe, counted(recipe, length))


def counted(recipe: Recipe, length: float) -> int:
    """Frames in so many seconds, one or more, whatever the codec makes. Raises RecipeError."""
    if not 0 < length < float("inf"):
        raise RecipeError(f"seconds: {length:g} came; what fits is a number greater than 0")
    return max(1, round(length * recipe.video.fps))


# --- going on ----------------------------------------------------------------------------------------------------


def further(before: Recipe, told: Scenario | None) -> tuple[dict[str, Any], int | None]:
    """What changes in the recipe of a run that goes on, path -> value: its events stay where they were, however long
    the video becomes, and new ones stand behind them. And how many frames those take in all. Raises RecipeError.
    """
    if before.story is None:
        if told is None:
            return {}, None
        raise RecipeError(
            "this run tells no story, so there is nothing to put events behind; to go on with other words give a prompt"
        )
    end, fps, fade = before.video.frames, before.video.fps, before.story.fade
    events = [_placed(span.text, span.start, None if span.open else span.stop) for span in before.spans()]
    stop = None
    if told is not None:
        new, stop = _behind(before, told)
        events += new
    held = None if fade is None else f"{frame(fade, end, fps)}f"
    return {"story": {"events": events, "fade": held, "by": before.story.by}}, stop


def since(before: Recipe, longer: Recipe, prompt: str) -> dict[str, Any]:
    """The story of a run that goes on with another prompt, which is the shared text of what comes behind its end: texts
    that all events share are told with each. longer: the recipe that goes on, its prompt as it was."""
    end, events = before.video.frames, list[dict[str, Any]]()
    if longer.story is None:
        return {"events": [_placed(before.prompt, 0, None), _placed(prompt, end, None)]}
    for span in longer.spans():
        stop = None if span.open else span.stop
        if span.start < end:
            events.append(_placed(joined(before.prompt, span.text), span.start, stop and min(stop, end)))
        if span.stop > end:
            events.append(_placed(joined(prompt, span.text), max(span.start, end), stop))
    return {"events": events, "fade": longer.story.fade, "by": longer.story.by}


def _behind(before: Recipe, told: Scenario) -> tuple[list[dict[str, Any]], int]:
    """New events behind a run's end, one native clip each where no time is said, and where the last one ends."""
    for key in KEYS:
        if getattr(told, key) is not None:
            raise RecipeError(f"story.{key}: a run goes on with its own; further events bring a text and a time")
    end, fps = before.video.frames, before.video.fps
    found, at = [], end
    for one in _checked(told.events, strict=True):
        if in_shares(one):
            raise RecipeError("further events of a run have times in seconds or frames, or none")
        start = at if one.at is None else frame(one.at, 0, fps)
        stop = None if one.to is None else frame(one.to, 0, fps)
        if start < end:
            raise RecipeError(
                f"this run ends at {seconds(end, fps)}, and {one.text!r} at {seconds(start, fps)} would lie in what is made "
                f"already; take {seconds(end, fps)} or later"
            )
        found.append(_placed(one.text, start, stop))
        at = start + native(before) if stop is None else stop
    return found, fitted(before, at)


def _placed(text: str, start: int, stop: int | None) -> dict[str, Any]:
    return {"text": text, "at": f"{start}f", "to": None if stop is None else f"{stop}f"}

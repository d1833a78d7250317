"""What a run is given: a video to start from, and words."""

import hashlib
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from dovetail.errors import PromptWarning, RecipeError, ShapeWarning, StepsWarning, StoryWarning
from dovetail.recipe import Recipe, models
from dovetail.recipe.denoisers import Windows, inside
from dovetail.recipe.planning import Plan
from dovetail.recipe.rooms import Room
from dovetail.recipe.story import Span, gaps, seconds
from dovetail.video import Footage, Frames, Video

if TYPE_CHECKING:
    from dovetail.run.cast import Codec


def warn_about(recipe: Recipe) -> None:
    """Warn with PromptWarning about words that sprite experts do not know, if they are asked."""
    sprites = [
        spec
        for spec in recipe.experts.values()
        if isinstance(spec, models.Exact) or spec.weights.startswith("sprites/")
    ]
    if not sprites:
        return
    from dovetail.sprites.world import GRAMMAR, ask

    events = [] if recipe.story is None else [event.text for event in recipe.story.events]
    texts = {"": recipe.prompt} | {f"event {number}: ": text for number, text in enumerate(events, 1)}
    known = f". They know:\n{GRAMMAR}"
    for where, text in texts.items():
        if strange := ask(text)[1]:
            message = f"{where}words that sprite experts do not know: {', '.join(strange)}{known}"
            warnings.warn(message, PromptWarning, stacklevel=3)
            known = ""


def warn_of_steps(recipe: Recipe) -> None:
    """Warn with StepsWarning about a ladder that has other steps than a file of its expert was distilled for by its name, as
    `animatediff_lightning_4step.safetensors`. Such an expert plays on other steps too, and badly, without an error. And about
    a first stage that begins in the middle, and is given nothing to begin with."""
    first = recipe.chain[0]
    if isinstance(first.ladder, models.Below) and recipe.start is None:
        message = f"stage '{first.stage}' adds noise to a video and takes it away again, and is given no video, so it begins with "
        message += "noise alone at a level where none is left to be seen through; `dovetail refine VIDEO`, or start.video, gives it one"
        warnings.warn(message, StepsWarning, stacklevel=3)
    for stage in recipe.chain:
        if not isinstance(stage.ladder, models.Trailing | models.Leading | models.Own):
            continue
        spec, steps = recipe.experts[stage.ladder.of], stage.ladder.steps
        loras = [lora.weights for lora in getattr(spec, "loras", ())]
        for file in (getattr(spec, "weights", None), getattr(spec, "adapter", None), *loras):
            for told in re.findall(r"(?<!\d)(\d{1,2})[-_]?steps?(?![a-z])", (file or "").rpartition("/")[2].lower()):
                if int(told) != steps:
                    message = f"stage '{stage.stage}': {steps} steps, and {file} was distilled for {told} by its name; "
                    message += f"set chain.{stage.stage}.ladder to {told} steps, or take the file for {steps}"
                    warnings.warn(message, StepsWarning, stacklevel=3)


def warn_of_story(recipe: Recipe, plan: Plan) -> None:
    """Warn with StoryWarning about what a story leaves open, of a recipe that is planned so."""
    if recipe.story is None:
        return
    video, spans, said = recipe.video, recipe.spans(), []
    for gap in gaps(spans, video.frames):
        from_, to = seconds(gap.start, video.fps), seconds(gap.stop, video.fps)
        said.append(f"no event tells of {from_} to {to}; {gap.of.text!r} stands there as well")
    said += _untimed(recipe, spans)
    if not recipe.prompt.strip():
        lost = (
            "SynCoS (coupled) makes distant windows agree, and here they have nothing in common to agree on: colour, "
            "background and all else that a shared text would hold may change between events. "
        )
        said.append(
            "the events share no text, so each is asked for alone: nothing says to the experts that they are of one video, "
            f"and what is in it may change from event to event. {lost if _coupled(recipe) else ''}"
            "A prompt (--shared, or `shared:` in a file) says what stays"
        )
    said += [*_of_backgrounds(recipe, spans), *_of_colours(recipe, spans)]
    by_frame = recipe.story.by == "frame"
    if by_frame and recipe.story.fade is not None and not plan.by_window:
        said.append(
            "fade does nothing where each frame takes its own event; --set story.by=window has windows pass over"
        )
    for number in dict.fromkeys(number for _, number in plan.missed):
        deaf = [name for name, other in plan.missed if other == number]
        names = ", ".join(f"'{name}'" for name in deaf)
        helps = not by_frame and not {*deaf} & {*plan.by_window}
        own = ", or let each frame take its own event (--set story.by=frame)" if helps else ""
        said.append(
            f"event {number}, {spans[number - 1].text!r}, is at the centre of no window of {names}, which never hears of it; "
            f"let it last longer, or take shorter windows or a smaller hop{own} (`dovetail plan` draws them)"
        )
    for line in said:
        warnings.warn(f"story: {line}", StoryWarning, stacklevel=3)


def _untimed(recipe: Recipe, spans: Sequence[Span]) -> Iterator[str]:
    """Which events say no time where others do: narration that was taken for an event is one of them."""
    assert recipe.story is not None
    told = [one.at is not None for one in recipe.story.events]
    for number, (timed, span) in enumerate(zip(told, spans, strict=True), 1):
        if any(told) and not timed and number > 1:
            start, stop = (seconds(at, recipe.video.fps) for at in (span.start, span.stop))
            yield f"event {number}, {span.text!r}, says no time, and others do; it stands at {start} to {stop}"


def _of_backgrounds(recipe: Recipe, spans: Sequence[Span]) -> Iterator[str]:
    """That a background which a later event asks for is not to be expected where windows, or frames, are held to the first
    one's."""
    stages = [f"'{stage.stage}'" for stage in recipe.chain if _held(stage)]
    held = {f"the windows of {' and '.join(stages)}": "their hold"} if stages else {}
    held |= {"finished frames": "video.still"} if recipe.video.still is not None else {}
    late = [number for number, span in enumerate(spans, 1) if number > 1 and "background" in span.text.lower()]
    if held and late:
        yield (
            f"event {late[0]} speaks of a background, and {' and '.join(held)} are held to what stands still at first, so it "
            f"will hardly change; where it is to, set {' and '.join(held.values())} to null (docs/stories.md)"
        )


def _of_colours(recipe: Recipe, spans: Sequence[Span]) -> Iterator[str]:
    """That another colour which a later event names is not to be expected where windows are held to the first one's object."""
    held = [f"'{stage.stage}'" for stage in recipe.chain if any(hold.objects for hold in _holds(stage))]
    known = _coloured(f"{recipe.prompt} {spans[0].text}")
    late = [
        number
        for number, span in enumerate(spans, 1)
        if number > 1 and "background" not in span.text.lower() and _coloured(span.text) - known
    ]
    if held and late:
        yield (
            f"event {late[0]} names another colour, and the windows of {' and '.join(held)} are held to the object of the "
            "first one, so it will hardly change; where it is to, set hold.objects to 0 there (docs/stories.md)"
        )


COLOURS = r"\b(black|white|gr[ae]y|red|orange|yellow|green|blue|purple|violet|pink|brown|teal|golden|silver)\b"


def _coloured(text: str) -> frozenset[str]:
    """The colours that a text names."""
    return frozenset(re.findall(COLOURS, text.lower()))


def _held(stage: models.Stage) -> bool:
    """Whether windows of a stage are held to the places of the first one."""
    return any(hold.share for hold in _holds(stage))


def _holds(stage: models.Stage) -> list[models.Hold]:
    """How windows of a stage are held, its own and those of its denoiser."""
    holds = [stage.hold, *(part.hold for part in inside(stage.denoise) if isinstance(part, Windows))]
    return [hold for hold in holds if hold is not None]


def _coupled(recipe: Recipe) -> bool:
    """Whether some stage's windows are coupled, however deep in its denoiser."""
    return any(isinstance(part, models.Coupled) for stage in recipe.chain for part in inside(stage.denoise))


@dataclass(frozen=True)
class Source:
    """A video that a run starts from, looked through once: how many frames it has, of which size, and their sha256."""

    footage: Footage
    frames: int
    size: tuple[int, int]
    digest: str

    @classmethod
    def of(cls, path: str | Path) -> "Source":
        """Raises OutputError where there is none, or none that can be read."""
        footage, frames, size, found = Footage.of(path), 0, (0, 0), hashlib.sha256()
        for some in footage.frames():
            found.update(np.ascontiguousarray(some).data)
            frames, size = frames + len(some), some.shape[1:3]
        return cls(footage, frames, size, found.hexdigest()[:16])

    def first(self, frames: int, height: int, width: int) -> Frames:
        """So many frames at a size, "f h w 3"; the last one stands for those that the video has not."""
        found, there = np.empty((frames, height, width, 3), np.uint8), 0
        for some in self.footage.frames():
            taken = Video(some[: frames - there], 1.0).resized(height, width).frames
            found[there : there + len(taken)] = taken
            there += len(taken)
            if there == frames:
                break
        found[there:] = found[there - 1]
        return found


def start_of(recipe: Recipe) -> Source | None:
    """The video that the recipe starts from, if it starts from one."""
    if recipe.start is None:
        return None
    start = Source.of(recipe.start.video)
    if recipe.start.digest not in (None, start.digest):
        raise RecipeError(
            f"start.video: {recipe.start.video} is not the video it was when this recipe was made, or another version of dovetail read it in another way"
        )
    if start.frames < recipe.video.frames:
        raise RecipeError(
            f"video.frames: {recipe.video.frames} frames are asked for, but {recipe.start.video} has {start.frames}"
        )
    return start


def encoded(start: Source, recipe: Recipe, codec: "Codec", room: Room | None = None) -> Tensor:
    """The latent of the frames that the recipe takes of a video, at its size; or of as many frames, at the size, as the
    first stage's latents have."""
    video, (old_height, old_width) = recipe.video, start.size
    frames, (height, width) = (
        (video.frames, (video.height, video.width)) if room is None else (room.frames, room.pixels)
    )
    if abs(old_height * width / (old_width * height) - 1) > 0.02:  # beyond an odd line that H.264 adds
        message = f"the given video is {old_width}x{old_height} and is stretched to {width}x{height}"
        if room is not None:
            message += (
                "; to keep its shape, change height and width of the first stage, as far as its expert goes along"
            )
        elif (near := shaped(old_width, old_height, width * height)) != (width, height):
            message += f"; --size {near[0]}x{near[1]} keeps its shape, as far as the experts go along"
        warnings.warn(message, ShapeWarning, stacklevel=3)
    return codec.encode(Video(start.first(frames, height, width), video.fps).pixels)


def shaped(width: int, height: int, pixels: int) -> tuple[int, int]:
    """Width and height of about so many pixels in that shape, in multiples that most networks take.

    >>> shaped(1920, 1080, 512 * 512), shaped(24, 40, 16 * 16)
    ((672, 384), (16, 24))
    """
    unit = 32 if pixels >= 128**2 else 8
    scale = (pixels / (width * height)) ** 0.5
    across, high = (max(unit, round(side * scale / unit) * unit) for side in (width, height))
    return across, high

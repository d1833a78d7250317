"""Takes: the beginning of a video from several seeds, judged by an expert of the recipe, so that the best one is made in
full. Method and figures: docs/methods/takes.md."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dovetail import recipe as recipes
from dovetail.core.combine import Framewise, Windowed
from dovetail.core.denoiser import Denoiser, Expert, timeline
from dovetail.core.noise import Noise
from dovetail.errors import RecipeError, nearest
from dovetail.methods.evidence import evidence
from dovetail.recipe import Overrides, Recipe, models
from dovetail.recipe.build import told_over
from dovetail.run.cast import Cast, load
from dovetail.run.events import End, Piece, Step
from dovetail.run.outlook import space_foreseen
from dovetail.run.playing import together
from dovetail.run.pulse import Pulse
from dovetail.run.telling import Telling, native, until
from dovetail.run.verbs import finished, resolved
from dovetail.video import Video


@dataclass(frozen=True)
class Take:
    """The beginning of a video from one seed, and how much it speaks for its prompt (`methods.evidence`), to be compared
    with others of the same prompt alone."""

    seed: int
    evidence: float
    video: Video = field(repr=False)


def takes(
    prompt: str | None = None,
    recipe: str | Path | Recipe = "sprites",
    *,
    of: int = 4,
    by: str | None = None,
    seed: int | None = None,
    frames: int | None = None,
    seconds: float | None = None,
    story: Telling | None = None,
    overrides: Overrides = (),
) -> list[Take]:
    """The beginning of a video (the first window of its first stage; a clip whole) from `of` seeds, its own and those
    after it; the best first, as the expert `by` judges, by default the first one of the last stage.

    The rest as `generate`, which makes the one that is chosen in full: `generate(..., seed=takes(...)[0].seed)`.
    Raises RecipeError besides for fewer than two takes and for an expert that works in other latents.

    >>> best, *_ = takes("a red circle moving left", "sprites-exact", of=2, frames=4)
    >>> best.video.frames.shape
    (4, 64, 64, 3)
    """
    asked = resolved(prompt, recipe, seed=seed, frames=frames, seconds=seconds, story=story, overrides=overrides)
    judge = check_takes(asked, of, by)
    return [event for _, event in taken(asked, load(asked), of, judge) if isinstance(event, Take)]


def taken(
    recipe: Recipe, cast: Cast, of: int, judge: str, pulse: Pulse | None = None
) -> Iterator[tuple[int, Step | Piece | End | Take]]:
    """What happens in `of` takes of a recipe, each event with the number of its take, from 0; then the takes, the best
    first. judge: an expert, see `check_takes`."""
    first = opening(recipe)
    runs = [recipes.changed(first, {"video.seed": first.video.seed + number}) for number in range(of)]
    heard: list[list[Step | Piece | End]] = [[] for _ in runs]
    for number, event in together(runs, cast, pulse):
        if not isinstance(event, Step):
            heard[number].append(event)
        yield number, event
    videos = [finished(events) for events in heard]
    scores = judged(first, cast, judge, videos)
    ranked = sorted(range(of), key=lambda number: -scores[number])
    yield from ((number, Take(runs[number].video.seed, scores[number], videos[number])) for number in ranked)


def check_takes(recipe: Recipe, of: int, by: str | None) -> str:
    """Who judges: the expert of that name, or the first one of the last stage. Raises RecipeError where it is none, or
    works in other latents than the video's; and for one take."""
    if of < 2:
        raise RecipeError(f"{of} take leaves nothing to choose from; make two at least")
    room = recipe.room(recipe.chain[-1].stage)
    names = dict.fromkeys(
        name
        for stage in reversed(recipe.chain)
        if recipe.room(stage.stage) is room
        for name in models.experts_in(stage)
    )
    if by is None:
        return models.experts_in(recipe.chain[-1].denoise)[0]
    if by not in names:
        raise RecipeError(
            f"no expert of the last stage's latents is called '{by}', to judge takes by; {nearest(by, list(names))}"
        )
    return by


def opening(recipe: Recipe) -> Recipe:
    """The recipe of a video's beginning: as many frames as the first stage shows its experts at once, and what of a story
    lies in them."""
    compression = space_foreseen(recipe, []).compression or 1
    frames = min(recipe.video.frames, 1 + (native(recipe) - 1) // compression * compression)
    told: dict[str, Any] = {"video.frames": frames}
    if recipe.story is not None and frames < recipe.video.frames:
        first, *later = spans = recipe.spans()  # what comes before the first event is told it as well
        events = until(spans, frames)
        if recipe.story.by != "frame":  # a window takes the event at its middle
            events = [{"text": next((span.text for span in reversed(later) if span.start <= frames / 2), first.text)}]
        told |= {"story.events": events or [{"text": first.text}], "story.fade": None}
    return recipes.changed(recipe, told)


def judged(recipe: Recipe, cast: Cast, by: str, videos: Sequence[Video]) -> list[float]:
    """How much each of these videos of a recipe speaks for its prompt, by the latents that they were decoded from."""
    from dovetail.experts.residency import Platform, passengers, read

    expert, prompt = cast.experts[by], told_over(recipe, _latent(videos[0]).shape[2], recipe.video.frames)
    texts = [*(condition.text for _, condition in prompt.keys), recipe.negative]
    read(cast.experts, {by: texts}, cast.fit is not None and cast.fit.reads_at_home)
    asked, unasked = (_whole(expert, expert.given(words)) for words in (prompt, recipe.negative))
    aboard = passengers(cast.experts, cast.codec) if cast.moves(recipe) else {}
    turn = {by} & aboard.keys()
    with closing(Platform(aboard).during([turn], [frozenset(turn)])) as here:
        next(here)
        noise = Noise(recipe.video.seed)
        return [evidence(asked, unasked, latent, timeline(latent.shape[2]), noise) for latent in map(_latent, videos)]


def _latent(video: Video) -> torch.Tensor:
    assert video.latent is not None
    return video.latent


def _whole(expert: Expert, asked: Denoiser) -> Denoiser:
    """An expert that sees all frames, some at a time if it must."""
    longest = getattr(expert.network, "max_frames", None)
    if longest is None:
        return asked
    return Framewise(asked) if longest == 1 else Windowed(asked, longest, longest)

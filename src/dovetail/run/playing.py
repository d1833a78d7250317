"""A run: its steps as they are taken, its pieces of video as they are finished, its end. Several runs that take turns."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from time import perf_counter

from dovetail.core import chain
from dovetail.core.denoiser import Prompted, timeline
from dovetail.core.noise import Noise
from dovetail.core.tree import walk
from dovetail.errors import PromptWarning, RecipeError
from dovetail.recipe import Recipe
from dovetail.recipe.build import Count, Ledger, Plan, build
from dovetail.recipe.build import plan as planned
from dovetail.run.cast import Cast, check_spaces, check_words, known_of, load, settled
from dovetail.run.decoding import Clock, decoded
from dovetail.run.events import End, Piece, Step
from dovetail.run.given import encoded, start_of, warn_about
from dovetail.run.manifest import record
from dovetail.run.outlook import latent_of
from dovetail.run.watching import Timed, watched


def play(recipe: Recipe, cast: Cast | None = None) -> Iterator[Step | Piece | End]:
    """Run a recipe: every step as it is taken, every piece of video as soon as it is finished, then the end.

    Before the first step everything is checked that can be: weights, latent spaces, frames, size.
    Warns with PromptWarning about words that the experts do not know, with ShapeWarning about a stretched video.
    """
    yield from (event for _, event in together([recipe], cast))


TOGETHER = 16
"""Runs that are walked together at most: each keeps a latent and its solver's memory meanwhile."""


def together(asked: Sequence[Recipe], cast: Cast | None = None) -> Iterator[tuple[int, Step | Piece | End]]:
    """Several runs with one cast, each event with the place of its run; what each makes is what `play` makes of it.

    They run one after another. But where experts take turns on the device (`residency`), each stretch of steps that asks
    the same experts is walked by all runs before the next, so that experts change no more often than for one run. Such
    runs ask the same experts at the same steps, as those of one recipe with other prompts and seeds; else RecipeError.
    """
    cast = load(asked[0]) if cast is None else cast
    if asked[0].residency == "all":
        for run, recipe in enumerate(asked):
            yield from ((run, event) for event in _ready(recipe, cast)[1])
        return
    for first in range(0, len(asked), TOGETHER):
        ready = [_ready(recipe, cast) for recipe in asked[first : first + TOGETHER]]
        yield from ((first + run, event) for run, event in _by_turns(ready, cast, asked[0].residency))


_Ready = tuple[Plan, Iterator[Step | Piece | End]]


def _ready(recipe: Recipe, cast: Cast) -> "_Ready":
    """A run before its first step: everything is checked, nothing is asked."""
    begun = perf_counter()
    check_spaces(cast)
    check_words(recipe, cast)
    start = start_of(recipe)
    recipe = settled(recipe, cast, start)
    latent = latent_of(recipe, cast.codec.space, max(getattr(it.network, "patch", 1) for it in cast.experts.values()))
    ahead = planned(recipe, known_of(cast), latent=latent)
    given = None if start is None else encoded(start, recipe, cast.codec)
    warn_about(recipe)
    ledger = Ledger(Count)
    experts = {
        name: replace(expert, network=Timed(name, expert.network, ledger)) for name, expert in cast.experts.items()
    }
    stages = tuple(watched(stage) for stage in build(recipe, experts, latent))
    shape = (cast.codec.channels, *latent[1:])
    events = _quietly(chain.run(stages, Noise(recipe.video.seed), timeline(latent[0]), shape, given))

    def told() -> Iterator[Step | Piece | End]:
        clock = Clock()
        yield from decoded(_told(events, ahead), cast.codec, clock)
        yield End(record(recipe, ledger, clock.seconds, begun))

    return ahead, told()


def _by_turns(ready: Sequence[_Ready], cast: Cast, residency: str) -> Iterator[tuple[int, Step | Piece | End]]:
    """Runs walked together, their experts on the device only when they are asked."""
    from dovetail.experts.residency import Platform, interleaved, passengers

    asked = ready[0][0].asked
    if any(plan.asked != asked for plan, _ in ready):
        raise RecipeError(
            "these runs ask different experts at the same step, so their experts cannot take turns together; run them "
            "one by one, or take residency: all"
        )
    _read_ahead([plan for plan, _ in ready], cast)
    order, aboard = list(interleaved(asked, len(ready))), passengers(cast.experts)
    turns = [asked[step] & aboard.keys() for _, step in order]
    with closing(Platform(aboard).during(turns, residency)) as steps:
        for (run, _), _ in zip(order, steps, strict=True):
            for event in ready[run][1]:
                yield run, event
                if isinstance(event, Step):
                    break
    for run, (_, events) in enumerate(ready):
        yield from ((run, event) for event in events)


def _read_ahead(plans: Sequence[Plan], cast: Cast) -> None:
    """Show the texts of all runs to the text models, each on its device for that long."""
    from dovetail.experts.residency import read

    said: dict[str, list[str]] = {}
    for stage in (stage for plan in plans for stage in plan.stages):
        for part in walk(stage.denoise):
            if isinstance(part, Prompted):
                said.setdefault(part.expert.name, []).extend(condition.text for _, condition in part.prompt.keys)
    read(cast.experts, said)


def _told(events: Iterator[chain.Event], ahead: Plan) -> Iterator[Step | chain.Done]:
    """The chain's events, its steps numbered and weighed as the plan foresees them."""
    marks: dict[str, list[int]] = {stage.name: [] for stage in ahead.stages}
    for name, _, seen in ahead.steps:
        marks[name].append(seen)
    taken = dict.fromkeys(marks, 0)
    for event in events:
        if isinstance(event, chain.Done):
            yield event
            continue
        name, shown = event.stage.name, event.frames[0]
        taken[name] += 1
        share = marks[name][taken[name] - 1] / ahead.steps[-1][2]
        yield Step(name, taken[name], len(marks[name]), share, (int(shown[0]), int(shown[-1])))


def _quietly(events: Iterator[chain.Event]) -> Iterator[chain.Event]:
    """The same events, without the experts' own warnings about words: the run has warned already."""
    while True:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="expert '.*' does not know", category=PromptWarning)
            event = next(events, None)
        if event is None:
            return
        yield event

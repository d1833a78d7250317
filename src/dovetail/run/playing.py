"""A run: its steps as they are taken, its pieces of video as they are finished, its end. Several runs that take
turns."""

import warnings
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TypeVar

from torch import Tensor

from dovetail.core import chain
from dovetail.core.denoiser import Prompted, timeline
from dovetail.core.noise import Noise
from dovetail.core.stages import Event, Memory, Seen, Stage
from dovetail.core.tree import walk
from dovetail.errors import PromptWarning, RecipeError
from dovetail.recipe import Recipe
from dovetail.recipe.build import build
from dovetail.recipe.planning import Count, Ledger, Plan
from dovetail.recipe.planning import plan as planned
from dovetail.run.bridging import bridges_of, rooms_of
from dovetail.run.budget import whom
from dovetail.run.cast import Cast, check_spaces, check_whole, check_words, known_of, load, patches_of, settled
from dovetail.run.decoding import Clock, decoded, still_of
from dovetail.run.events import End, Latent, Piece, Step, Turned
from dovetail.run.given import encoded, start_of, warn_about, warn_of_steps, warn_of_story
from dovetail.run.lessening import advising
from dovetail.run.manifest import compressions, record, sources, spent
from dovetail.run.outlook import latent_of
from dovetail.run.pulse import Pulse
from dovetail.run.states import Standing
from dovetail.run.watching import Lessened, Timed, watched


def play(recipe: Recipe, cast: Cast | None = None, pulse: Pulse | None = None) -> Iterator[Step | Piece | End]:
    """Run a recipe: every step as it is taken, every piece of video as soon as it is finished, then the end.

    Before the first step everything is checked that can be: weights, latent spaces, frames, size. pulse: what is done
    inside of steps, and a way to stop there.
    Raises RecipeError, WeightsError, SpaceError and RoomError before the first step; NetworkError, DecodeError and, where
    memory is short whatever is halved, RoomError later. Warns with PromptWarning about words that the experts do not know,
    with StoryWarning about what a story leaves open, with StepsWarning about a ladder that an expert was not distilled for,
    with ShapeWarning about a stretched video, with RoomWarning where an expert's size is not known.
    """
    yield from (event for _, event in together([recipe], cast, pulse))


TOGETHER = 16
"""Runs that are walked together at most: each keeps a latent and its solver's memory meanwhile."""


def together(
    asked: Sequence[Recipe], cast: Cast | None = None, pulse: Pulse | None = None
) -> Iterator[tuple[int, Step | Piece | End]]:
    """Several runs with one cast, each event with the place of its run; what each makes is what `play` makes of it.

    They run one after another. But where experts take turns on the device (`residency`), each stretch of steps that
    asks the same experts is walked by all runs before the next, so that experts change no more often than for one run.
    Such runs ask the same experts at the same steps, as those of one recipe with other prompts and seeds; else
    RecipeError.
    """
    cast = load(asked[0]) if cast is None else cast
    with advising(asked[0], cast.fit):
        yield from _together(asked, cast, pulse)


def _together(asked: Sequence[Recipe], cast: Cast, pulse: Pulse | None) -> Iterator[tuple[int, Step | Piece | End]]:
    if not cast.moves(asked[0]):
        for run, recipe, notes in _ahead(asked, cast):
            one = ready(recipe, cast, pulse=pulse)
            one.less.said.extend(notes)
            yield from ((run, event) for event in _told(one) if not isinstance(event, Turned))
        return
    for first in range(0, len(asked), TOGETHER):
        some = [ready(recipe, cast, pulse=pulse) for recipe in asked[first : first + TOGETHER]]
        turns = _by_turns(some, [_told(one) for one in some])
        yield from ((first + run, event) for run, event in turns if not isinstance(event, Turned))


def _ahead(asked: Sequence[Recipe], cast: Cast) -> Iterator[tuple[int, Recipe, list[str]]]:
    """Recipes with their places, one after another, and what was noted when their texts were read: of a text model which
    leaves when it has read, those of some at once, so that it is not loaded again for each."""
    from dovetail.experts.residency import borrowed

    leaves = any(lent.leaves for lent in borrowed(cast.experts))
    for first in range(0, len(asked), TOGETHER):
        some, notes = asked[first : first + TOGETHER], list[str]()
        if leaves and len(some) > 1:
            # What they start from is no matter of texts.
            bare = [one.model_copy(update={"start": None}) for one in some]
            notes = _read_ahead([ready(one, cast, quiet=True) for one in bare])
        yield from ((first + i, recipe, notes) for i, recipe in enumerate(some))


@dataclass(frozen=True, eq=False)
class Ready:
    """A run before its first step: everything is checked, nothing is asked.

    recipe: with all that a run finds out. given: the latent to start from, if it starts from a video. less: what is
    done with less at once than asked.
    """

    recipe: Recipe
    plan: Plan
    cast: Cast
    given: Tensor | None = field(repr=False)
    less: Lessened = field(repr=False)
    begun: float = field(default_factory=perf_counter, repr=False)
    pulse: Pulse = field(default_factory=Pulse, repr=False)

    @property
    def latent(self) -> tuple[int, int, int, int]:
        """Frames, channels, height and width of the latent."""
        assert self.plan.latent is not None
        frames, height, width = self.plan.latent
        return frames, self.cast.codec.channels, height, width

    @property
    def pieces(self) -> int:
        """In how many pieces the video comes."""
        return sum(1 for _ in self.plan.stages[-1].windows(self.latent[0]))

    @property
    def first(self) -> tuple[int, int, int, int]:
        """The same of the latent that the first stage works on."""
        if not self.plan.rooms:
            return self.latent
        room = self.plan.rooms[self.recipe.chain[0].stage]
        return (room.latent[0], room.channels, *room.latent[1:])

    def walk(self, after: Standing, clock: Clock) -> Iterator[Step | Latent]:
        """All steps and pieces after where a run stands, before decoding. clock: of the decoding and of the reading of
        texts, which count as work of networks."""
        begun, decoding, ledger = perf_counter(), clock.seconds, Ledger(Count)
        ledger.update({name: Count(calls) for name, calls in after.calls.items()})
        counter, pieces, frames = _Counter.of(self.plan, after.steps), after.pieces, after.frames
        self.less.said[:0] = after.less
        self.pulse.of = self.plan.steps[-1][2]

        def standing(memory: Memory | None) -> Standing:
            calls = {name: ledger[name].calls for name in self.recipe.experts if name in ledger}
            networks = sum(count.seconds for count in ledger.values()) + clock.seconds - decoding
            seconds, networks = after.seconds + perf_counter() - begun, after.networks + networks
            less = tuple(self.less.said)
            return Standing(memory, pieces, frames, dict(counter.taken), calls, seconds, networks, less)

        for event in _quietly(self._events(after.memory, ledger, clock)):
            if isinstance(event, Seen):
                step, self.pulse.frames = counter.step(event), 0
                self.less.note(f"{step.stage}, step {step.step}")
                yield step if event.memory is None else replace(step, after=standing(event.memory))
                continue
            pieces, frames = pieces + 1, frames + event.video.shape[2]
            yield Latent(event.video, standing(event.memory))

    def _events(self, after: Memory | None, ledger: Ledger, clock: Clock) -> Iterator[Event]:
        with clock:
            _read_ahead([self])
        frames, channels, height, width = self.first
        noise, shape = Noise(self.recipe.video.seed), (channels, height, width)
        return chain.run(self.stages(ledger, clock), noise, timeline(frames), shape, self.given, after)

    def stages(self, ledger: Ledger, clock: Clock | None = None) -> tuple[Stage, ...]:
        """The run's stages; networks are counted, and what fails in them says where. clock: of codecs on bridges."""
        experts = {
            name: replace(expert, network=Timed(name, expert.network, ledger, self.pulse))
            for name, expert in self.cast.experts.items()
        }
        rooms = self.plan.rooms
        bridges = bridges_of(self.recipe, rooms, self.cast.codecs, Clock() if clock is None else clock)
        return tuple(watched(stage) for stage in build(self.recipe, experts, self.plan.latent, rooms, bridges))


def ready(recipe: Recipe, cast: Cast, quiet: bool = False, pulse: Pulse | None = None) -> Ready:
    """Check everything that can be checked before the first step. Raises and warns as `play`; quiet: no warning of
    words."""
    begun = perf_counter()
    check_whole(recipe, cast)
    check_spaces(recipe, cast)
    check_words(recipe, cast)
    start = start_of(recipe)
    recipe = settled(recipe, cast, start)
    patches = patches_of(recipe, cast)
    rooms = rooms_of(recipe, {name: cast.codec_at(name).space for name in patches}, patches)
    if rooms:
        latent = rooms[recipe.chain[-1].stage].latent
    else:
        latent = latent_of(recipe, cast.codec.space, max(patches.values()))
    ahead = planned(recipe, known_of(cast), latent=latent, rooms=rooms)
    first = recipe.chain[0].stage
    given = None if start is None else encoded(start, recipe, cast.codec_at(first), rooms.get(first))
    if not quiet:
        warn_about(recipe)
        warn_of_steps(recipe)
        warn_of_story(recipe, ahead)
    networks = [expert.network for expert in cast.experts.values()]
    less = Lessened.of([*networks, *cast.others(recipe).values()], cast.codec)
    if cast.fit is not None and cast.fit.reads_at_home:
        less.said.append("before this run: no room for the text model, which read on the CPU")
    return Ready(recipe, ahead, cast, given, less, begun, Pulse() if pulse is None else pulse)


def _told(run: Ready) -> Iterator[Step | Piece | Turned | End]:
    """A whole run, decoded."""
    clock, last = Clock(), Standing()

    def noted(events: Iterator[Step | Latent]) -> Iterator[Step | Latent]:
        nonlocal last
        for event in events:
            if isinstance(event, Latent):
                last = replace(event.after, memory=None)
                clock.mark()
            yield event

    still = still_of(run.recipe)
    yield from decoded(noted(run.walk(Standing(), clock)), run.cast.codec, clock, run.pieces, still)
    # What was decoded last was so after the network work was summed up.
    seconds, networks = perf_counter() - run.begun, last.networks + clock.since
    run.less.note("decoding")
    inside = record(run.recipe, last.calls, compressions(run.recipe, run.cast), run.less.said)
    yield End({**inside, **sources(run.recipe), **spent(seconds, networks)})


def by_turns(run: Ready, events: Iterator[Step | Latent], pieces: int, taken: int) -> Iterator[Step | Latent]:
    """One run's events after so many pieces and steps, its experts and codecs on the device only when they are
    asked."""
    if not run.cast.moves(run.recipe):
        return events
    return (event for _, event in _by_turns([run], [events], pieces, taken))


Happening = TypeVar("Happening", bound=Step | Latent | Piece | Turned | End)


def _by_turns(
    runs: Sequence[Ready], events: Sequence[Iterator[Happening]], pieces: int = 0, taken: int = 0
) -> Iterator[tuple[int, Happening]]:
    """Runs walked together, experts and codecs on the device only when they are asked. pieces, taken: how many pieces
    and steps are behind them."""
    from dovetail.experts.residency import Platform, interleaved, passengers, timetable

    plan, cast = runs[0].plan, runs[0].cast
    asked = whom(plan, pieces, taken)
    if any(whom(run.plan, pieces, taken) != asked for run in runs):
        raise RecipeError(
            "these runs ask different experts at the same step, so their experts cannot take turns together; run them "
            "one by one, or take residency: all"
        )
    _read_ahead(runs)
    order, aboard = list(interleaved(asked, len(runs))), passengers(cast.experts, cast.codec, cast.others(plan.recipe))
    turns = [asked[turn] for _, turn in order]
    residency = runs[0].recipe.residency
    here = timetable(turns, residency) if cast.fit is None else cast.fit.during(turns, residency)
    known = [there & aboard.keys() for there in here]
    with closing(Platform(aboard).during([names & aboard.keys() for names in turns], known)) as steps:
        for (run, _), _ in zip(order, steps, strict=True):
            for event in events[run]:
                yield run, event
                if isinstance(event, Step | Latent | Turned):
                    break
    for run, rest in enumerate(events):
        yield from ((run, event) for event in rest)


def _read_ahead(runs: Sequence[Ready]) -> list[str]:
    """Show the texts of all runs, which have one cast, to the text models, each on its device for that long. What did not
    fit there, which is noted in the runs too."""
    from dovetail.experts.residency import read

    cast, said = runs[0].cast, dict[str, list[str]]()
    for stage in (stage for run in runs for stage in run.plan.stages):
        for part in walk(stage.denoise):
            if isinstance(part, Prompted):
                said.setdefault(part.expert.name, []).extend(condition.text for _, condition in part.prompt.keys)
    short = read(cast.experts, said, cast.fit is not None and cast.fit.reads_at_home)
    notes = [f"before the first step: {what}" for what in short]
    for run in runs:
        run.less.said.extend(notes)
    return notes


@dataclass(frozen=True, eq=False)
class _Counter:
    """Numbers a chain's steps, and weighs them as the plan foresees.

    marks: of each stage, the frames seen by networks up to each step; starts: where its windows begin; taken: how many
    steps it has taken.
    """

    plan: Plan
    marks: Mapping[str, Sequence[int]]
    starts: Mapping[str, Sequence[int]]
    taken: dict[str, int]

    @classmethod
    def of(cls, plan: Plan, taken: Mapping[str, int]) -> "_Counter":
        marks: dict[str, list[int]] = {stage.name: [] for stage in plan.stages}
        for name, _, seen in plan.steps:
            marks[name].append(seen)
        starts = {
            stage.name: [window.start for window in stage.windows(plan.length(stage.name))] for stage in plan.stages
        }
        return cls(plan, marks, starts, {name: taken.get(name, 0) for name in marks})

    def step(self, event: Seen) -> Step:
        name, shown, starts = event.stage.name, event.frames[0], self.starts[event.stage.name]
        self.taken[name] += 1
        taken, steps = self.taken[name], len(self.marks[name])
        share = self.marks[name][taken - 1] / self.plan.steps[-1][2]
        # Windows in turn take all their steps one after another; averaged ones take theirs in a wavefront.
        segment = 1 + (taken - 1) // event.stage.ladder.steps
        if event.stage.fuses:
            segment = bisect_right(starts, int(shown[0]))
        return Step(name, taken, steps, share, (int(shown[0]), int(shown[-1])), segment, len(starts))


def _quietly(events: Iterator[Event]) -> Iterator[Event]:
    """The same events, without the experts' own warnings about words: the run has warned already."""
    while True:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="expert '.*' does not know", category=PromptWarning)
            event = next(events, None)
        if event is None:
            return
        yield event

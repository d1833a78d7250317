"""Stages, one after another: each adds noise to the video that the last one ended with.

A chain pulls: a stage takes `window` frames at a time from the stage before, as they come, so a
long video needs no more memory than a few windows. A stage without a window takes the whole.
Windows may stand side by side, straddle those of the stage before (`offset`), or overlap (`hop`):
overlapping ones are averaged at every step, in a wavefront. Design page: docs/decisions/0013-segments.md.

Where the latents change from one stage to the next (another autoencoder, another size), a stage has a `Bridge`: a map
of finished pieces, one to one, that leads into its own. Design page: docs/decisions/0023-spaces-and-bridges.md.

A finished piece carries where the chain stands after it (`Memory`), a value from which a chain goes on as if it had
never stopped. Design page: docs/decisions/0015-runs.md.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice, pairwise
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from dovetail.core.denoiser import Denoiser, timeline
from dovetail.core.ladders import Ladder
from dovetail.core.noise import Noise
from dovetail.core.path import Split, mix
from dovetail.core.sampler import Euler, Solver, State, Walk, sample
from dovetail.core.windows import WEIGHTS, along, begun


class Start(Protocol):
    """The noise that a stage starts from: a function of global frames, as all noise."""

    def eps(self, x: Tensor, frames: Tensor) -> Tensor:
        """Standard normal noise like x, "b c f h w", for the global frames "b f"."""
        ...


class Bridge(Protocol):
    """From the latents of the stage before to a stage's own, where those are others."""

    @property
    def length(self) -> int:
        """Latent frames of the whole video on this side."""
        ...

    def __call__(self, video: Tensor) -> Tensor:
        """A piece "b c f h w" as it is on this side: with as many frames, or the whole video with `length` of them."""
        ...


@dataclass(frozen=True, eq=False)
class Segment:
    """A window that a stage has finished: its global frames "b f", and its states from noise to video."""

    frames: Tensor
    states: tuple[State, ...]


@runtime_checkable
class Sequel(Protocol):
    """A method that makes a window in view of the one before it, and so is no denoiser: it has one for each window.

    Its memory is the states of the window before, which the chain hands over; so a run that is resumed from them
    goes on as it would have.
    """

    def after(self, before: Segment | None) -> Denoiser | Walk:
        """What makes the window after this one; None: what makes the first."""
        ...


@dataclass(frozen=True)
class Stage:
    """A denoiser (or a walk, or a sequel), the ladder it walks, and how.

    window: latent frames worked on at once. hop: from window to window, the whole window by default; where it is less,
    overlapping windows are averaged at every step with `weights`, unless a sequel makes them one after another. offset:
    length of the first of windows that stand side by side, so that they straddle those of the stage before. ends: what
    windows shorter than the others see, at both ends: "half" what they make, "full" as much as others do. start: the
    noise to begin with, by default the stage's own. bridge: into its latents, if those of the stage before are others.

    A stage hands over the video that it saw last (`seen.x0`), so a ladder that ends above 0 leaves no
    noise in it.
    """

    name: str
    denoise: Denoiser | Walk | Sequel
    ladder: Ladder
    solver: Solver = field(default_factory=Euler)
    window: int | None = None
    hop: int | None = None
    offset: int = 0
    weights: str = "flat"
    ends: str = "half"
    start: Start | None = None
    bridge: Bridge | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.fuses and isinstance(self.denoise, Walk):
            raise ValueError(
                f"{type(self.denoise).__name__} goes by what whole windows showed, so where they overlap they cannot be "
                "averaged at every step; let them stand side by side (hop = window)"
            )

    @property
    def fuses(self) -> bool:
        """Whether its windows are averaged where they overlap."""
        overlap = self.window is not None and self.hop is not None and self.hop < self.window
        return overlap and not isinstance(self.denoise, Sequel)

    def windows(self, frames: int) -> Iterator[slice]:
        """Where its windows lie in so many latent frames. Raises ValueError where they leave gaps."""
        return along(frames, self.window or frames, self.hop, self.offset)

    def spans(self, frames: int) -> Iterator[tuple[slice, slice]]:
        """What each window sees, and which frames of that, counted from there, none before it has made."""
        made, size = 0, min(self.window or frames, frames)
        for window in self.windows(frames):
            start = min(window.start, frames - size) if self.ends == "full" else window.start
            stop = max(window.stop, start + size) if self.ends == "full" else window.stop
            yield slice(start, stop), slice(max(made, window.start) - start, window.stop - start)
            made = window.stop


@dataclass(frozen=True, eq=False)
class Seen:
    """A step of a run: the stage, the global frames "b f" it works on, the state it reached.

    memory: where the chain stands after it, if the stage works on the whole video at once and has steps left.
    """

    stage: Stage
    frames: Tensor
    state: State
    memory: "Memory | None" = None

    @property
    def passed(self) -> "Seen":
        """The same step, as it comes to the stage after, or to the next level of a wavefront: that has not begun, since
        what it waits for is one whole."""
        return self if self.memory is None else replace(self, memory=Memory(source=self.memory))


@dataclass(frozen=True, eq=False)
class Done:
    """A finished piece of video: global frames "b f", latent "b c f h w", and where the chain stands after it."""

    frames: Tensor
    video: Tensor
    memory: "Memory | None" = None

    def cut(self, span: slice) -> "Done":
        """The frames at these places."""
        return Done(self.frames[:, span], self.video[:, :, span])


Event = Seen | Done


@dataclass(frozen=True, eq=False)
class Memory:
    """Where a stage, or a level of a wavefront, stands after a piece, and all that it needs to go on.

    windows: how many it has begun. held: what has come from the stage before and is still to be used; None for the
    first stage, whose whole video is given again. before: the window made last, for a sequel. waiting, said: of a
    level, the parts that have not taken its step yet, and what windows have said of them. states: of a stage that is at
    work on the whole video, those of its last steps. source: where what it pulls from stands.
    """

    windows: int = 0
    held: Done | None = None
    before: Segment | None = None
    waiting: "tuple[Part, ...]" = ()
    said: "Said | None" = None
    states: tuple[State, ...] = ()
    source: "Memory | None" = None


def run(
    stages: Sequence[Stage],
    noise: Noise,
    frames: Tensor,
    shape: tuple[int, int, int],
    video: Tensor | None = None,
    after: Memory | None = None,
) -> Iterator[Event]:
    """Run the stages over global frames "b f"; `Done` pieces come in order and cover them all.

    Frames and shape are the first stage's; where a stage has a bridge, those behind it are the bridge's.

    shape: channels, height and width of the latent. video: a latent "b c f h w" to start from, to
    which the first stage adds noise; without it the first stage starts from pure noise. Tensors
    live where `video` does, or else on the CPU in float32; adapters move what they need.

    after: a piece's or a step's `memory`; all events after it come, the same as from a run that was not stopped there.
    All else is given as to that run.
    """
    # Without a video only its shape is asked for: one zero, seen as many.
    empty = torch.zeros(()).expand(len(frames), shape[0], frames.shape[1], *shape[1:]) if video is None else video
    events: Iterator[Event] = iter([Done(frames, empty)])
    length = frames.shape[1]
    for i, (stage, stood) in enumerate(zip(stages, _stood(stages, after), strict=True)):
        if stage.bridge is not None:
            events, length = _bridged(stage.bridge, events), stage.bridge.length
        through = _wavefront if stage.fuses else _in_turn
        events = through(stage, noise.of(stage.name), events, length, video is None and i == 0, stood)
    return events


def _bridged(bridge: Bridge, source: Iterator[Event]) -> Iterator[Event]:
    """The same events, each finished piece behind the bridge; where the chain stands is no other there."""
    for event in source:
        if isinstance(event, Done):
            video = bridge(event.video)
            same = video.shape[2] == event.video.shape[2]
            frames = event.frames if same else timeline(video.shape[2]).expand(len(event.frames), -1)
            event = Done(frames, video, event.memory)
        yield event


def _stood(stages: Sequence[Stage], after: Memory | None) -> list[Memory]:
    """Where each stage stands."""
    found: list[Memory] = []
    for stage in reversed(stages):
        found.insert(0, after or Memory())
        for _ in range(stage.ladder.steps + 1 if stage.fuses else 1):
            after = None if after is None else after.source
    return found


def entered(stage: Stage, noise: Noise, piece: Done, fresh: bool) -> Tensor:
    """The latent at the first level."""
    start = stage.start
    eps = noise.like(piece.video, piece.frames, "start") if start is None else start.eps(piece.video, piece.frames)
    return eps * stage.ladder.first if fresh else mix(piece.video, eps, stage.ladder.levels[0])


def _cut(source: Iterator[Event], spans: Iterator[slice], after: Memory) -> Iterator[Event]:
    """The same video in these spans, each of which starts and stops no earlier than the one before."""
    held, windows, spans = None, after.windows, islice(spans, after.windows, None)
    span, first = next(spans, None), 0
    if after.held is not None:
        source = chain([replace(after.held, memory=after.source)], source)
        first = span.start if span is not None else 0
    for event in source:
        if isinstance(event, Seen):
            yield event.passed
            continue
        held = event if held is None else _joined(held, event)
        while span is not None and first + held.frames.shape[1] >= span.stop:
            window, span = held.cut(slice(span.start - first, span.stop - first)), next(spans, None)
            # What no later span asks for is let go.
            past = held.frames.shape[1] if span is None else span.start - first
            held, first, windows = held.cut(slice(past, None)), first + past, windows + 1
            kept = None if event.memory is None else held
            yield replace(window, memory=Memory(windows, kept, source=event.memory))


def _joined(one: Done, other: Done) -> Done:
    return Done(torch.cat([one.frames, other.frames], 1), torch.cat([one.video, other.video], 2))


# --- windows one after another -----------------------------------------------------------------------------------


def _in_turn(
    stage: Stage, noise: Noise, source: Iterator[Event], length: int, fresh: bool, after: Memory
) -> Iterator[Event]:
    """Each window from noise to video before the next; of frames that one has made already, the next makes no more."""
    makes = islice((new for _, new in stage.spans(length)), after.windows, None)
    before, sequel = after.before, isinstance(stage.denoise, Sequel)
    for event in _cut(source, (sees for sees, _ in stage.spans(length)), after):
        if isinstance(event, Seen):
            yield event
            continue
        denoise = stage.denoise.after(before) if isinstance(stage.denoise, Sequel) else stage.denoise
        states, after = after.states, Memory()
        x = entered(stage, noise, event, fresh)
        for state in _states(denoise, stage, x, event.frames, states):
            states = (*states, state) if sequel else (*states, state)[-1 - stage.solver.memory :]
            yield Seen(stage, event.frames, state, _under_way(stage, event, states))
        before = Segment(event.frames, states) if sequel else None
        assert event.memory is not None
        done = Done(event.frames, states[-1].seen.x0).cut(next(makes))
        yield replace(done, memory=replace(event.memory, before=before))


def _under_way(stage: Stage, piece: Done, states: tuple[State, ...]) -> Memory | None:
    """Where a stage stands after a step on the whole video. Windows are short, and are begun anew; after the last step
    comes the piece itself."""
    if stage.window is not None or states[-1].t == stage.ladder.levels[-2]:
        return None
    assert piece.memory is not None
    held = None if piece.memory.held is None else replace(piece, memory=None)
    return Memory(held=held, states=states, source=piece.memory.source)


def _states(
    denoise: Denoiser | Walk, stage: Stage, x: Tensor, frames: Tensor, before: tuple[State, ...] = ()
) -> Iterator[State]:
    """From the first level, or from where these states lead."""
    solver, levels = stage.solver, stage.ladder.levels
    if before:
        at = levels.index(before[-1].t) + 1
        past = before[:-1][-solver.memory :] if solver.memory else ()
        x, levels = solver.predict(past, before[-1], levels[at], frames), levels[at:]
        before = before[-max(solver.memory, 1) :]
    if isinstance(denoise, Walk):
        return denoise.walk(x, frames, levels, solver, before)
    return sample(denoise, x, frames, levels, solver, before)


# --- windows averaged where they overlap -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Part:
    """Some frames on their way down: their latent at the next level, and the states that led there."""

    frames: Tensor
    x: Tensor
    before: tuple[State, ...] = ()
    memory: Memory | None = None


def _wavefront(
    stage: Stage, noise: Noise, source: Iterator[Event], length: int, fresh: bool, after: Memory
) -> Iterator[Event]:
    """What `Windowed` makes of the whole video, window by window: every level pulls from the one above.

    A level holds the frames of about one window, so all of them hold as many windows as there are steps.
    """
    stood = [after]  # of the last level, of those before it, and of the parts
    for _ in range(stage.ladder.steps):
        stood.insert(0, stood[0].source or Memory())
    parts = _parts(stage, noise, source, length, fresh, stood[0])
    for (t, to), here in zip(pairwise(stage.ladder.levels), stood[1:], strict=True):
        parts = _level(stage, parts, length, (t, to), here)
    for part in parts:
        yield Done(part.frames, part.before[-1].seen.x0, part.memory) if isinstance(part, Part) else part


def _parts(
    stage: Stage, noise: Noise, source: Iterator[Event], length: int, fresh: bool, after: Memory
) -> Iterator[Seen | Part]:
    """The video at the first level, in pieces that begin where windows begin."""
    for event in _cut(source, begun(stage.windows(length), length), after):
        if isinstance(event, Seen):
            yield event
        else:
            yield Part(event.frames, entered(stage, noise, event, fresh), memory=event.memory)


def _level(
    stage: Stage, source: Iterator[Seen | Part], length: int, step: tuple[float, float], after: Memory
) -> Iterator[Seen | Part]:
    """One step of every part; a part takes it once all windows that see it have looked."""
    (t, to), weight = step, WEIGHTS[stage.weights](min(stage.window or length, length))
    waiting, said, above = list(after.waiting), after.said, after.source
    for event in chain([None], source):  # None: parts that wait may be ready before another comes
        if isinstance(event, Seen):
            yield event.passed
            continue
        if event is not None:
            waiting.append(replace(event, memory=None))
            above = event.memory
        while sum(part.x.shape[2] for part in waiting) >= len(weight):
            with torch.no_grad():
                said = Said.of(_look(stage, waiting, t, len(weight)), weight, said)
                part = waiting.pop(0)
                mean, said = said.cut(part.x.shape[2])
                memory = part.before[-stage.solver.memory :] if stage.solver.memory else ()
                now = stage.solver.correct(memory, State(t, part.x, mean), part.frames)
                x = stage.solver.predict(memory, now, to, part.frames)
            yield Seen(stage, part.frames, now)
            stands = Memory(waiting=tuple(waiting), said=said, source=above)
            yield Part(part.frames, x, (*part.before, now)[-max(stage.solver.memory, 1) :], stands)


def _look(stage: Stage, parts: Sequence[Part], t: float, size: int) -> Split:
    """What the denoiser sees in the first window of these parts."""
    assert not isinstance(stage.denoise, Walk | Sequel)
    x, frames = torch.cat([part.x for part in parts], 2), torch.cat([part.frames for part in parts], 1)
    return stage.denoise(x[:, :, :size], t, frames[:, :size])


@dataclass(frozen=True, eq=False)
class Said:
    """What windows have said so far: weighted sums over frames, and the weights' own sums "f"."""

    total: Split
    mass: Tensor

    @classmethod
    def of(cls, seen: Split, weight: Tensor, before: "Said | None") -> "Said":
        """The newest window's answer, with what those before said of its first frames."""
        weight = weight.to(seen.x0)
        total = seen.map(lambda z: z * weight[:, None, None])
        if before is None:
            return cls(total, weight)
        known, mass = len(before.mass), weight.clone()
        mass[:known] += before.mass
        for new, old in ((total.x0, before.total.x0), (total.eps, before.total.eps)):
            new[:, :, :known] += old
        return cls(total, mass)

    def cut(self, frames: int) -> tuple[Split, "Said"]:
        """The mean of so many first frames, and what is said of the rest."""
        mass = self.mass[:frames, None, None]
        mean = self.total.map(lambda z: z[:, :, :frames] / mass)
        return mean, Said(self.total.map(lambda z: z[:, :, frames:]), self.mass[frames:])

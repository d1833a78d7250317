"""What a chain is made of: stages, the windows in which they work, what they hand over, and where they stand.

A finished piece carries where the chain stands after it (`Memory`), a value from which a chain goes on as if it had
never stopped. Design page: docs/decisions/0015-runs.md.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from math import ceil
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from dovetail.core.denoiser import Denoiser
from dovetail.core.hold import Hold
from dovetail.core.ladders import Ladder
from dovetail.core.noise import Noise
from dovetail.core.path import Split, mix
from dovetail.core.sampler import Euler, Solver, State, Walk
from dovetail.core.windows import along


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
    """A window that a stage has finished: its global frames "b f", and its states from noise to video. first: what windows
    are held to, if they are."""

    frames: Tensor
    states: tuple[State, ...]
    first: Tensor | None = None


@runtime_checkable
class Sequel(Protocol):
    """A method that makes a window in view of the one before it, and so is no denoiser: it has one for each window.

    Its memory is the states of the window before, which the chain hands over; so a run that is resumed from them
    goes on as it would have.
    """

    def after(self, before: Segment | None) -> Denoiser | Walk:
        """What makes the window after this one; None: what makes the first."""
        ...


@runtime_checkable
class Leaving(Protocol):
    """A denoiser that leaves a level along noise of its own, not along the noise that x holds. A stage's hold is applied
    between `denoise` and `leave`: it changes the video that is seen, and `leave` then chooses the noise."""

    @property
    def denoise(self) -> Denoiser:
        """What sees."""
        ...

    def leave(self, seen: Split, x: Tensor, t: float, frames: Tensor) -> Split:
        """What was seen in x at t, with the noise along which the level is left."""
        ...


@dataclass(frozen=True)
class Stage:
    """A denoiser (or a walk, or a sequel), the ladder it walks, and how.

    window: latent frames worked on at once. hop: from window to window, the whole window by default; where it is less,
    overlapping windows are averaged at every step with `weights`, unless a sequel makes them one after another. offset:
    length of the first of windows that stand side by side, so that they straddle those of the stage before. ends: what
    windows shorter than the others see, at both ends: "half" what they make, "full" as much as others do. hold: how
    windows that are averaged, or made by a sequel, are held to the first one, if they are. start: the noise to begin with, by default the stage's own.
    bridge: into its latents, if those of the stage before are others.

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
    hold: Hold | None = None
    start: Start | None = None
    bridge: Bridge | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.fuses and isinstance(self.denoise, Walk):
            raise ValueError(
                f"{type(self.denoise).__name__} goes by what whole windows showed, so where they overlap they cannot be "
                "averaged at every step; let them stand side by side (hop = window)"
            )

    @property
    def overlaps(self) -> bool:
        """Whether its windows overlap."""
        return self.window is not None and self.hop is not None and self.hop < self.window

    @property
    def fuses(self) -> bool:
        """Whether its windows are averaged where they overlap."""
        return self.overlaps and not isinstance(self.denoise, Sequel)

    @property
    def lead(self) -> int:
        """How many latent frames have been begun beyond the finished ones where windows are averaged, since each level
        runs ahead of the next; 0 where they are not."""
        if not self.fuses:
            return 0
        assert self.window is not None
        assert self.hop is not None
        return self.hop * (1 + self.ladder.steps * ceil(self.window / self.hop - 1))

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
        """The same step, as it comes to the next stage, or to the next level of a wavefront: that one waits for the whole
        video, so it has not begun."""
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
    level, the parts that have not taken its step yet, and what windows have said of them. first: of a level whose windows
    are held, what they are held to. states: of a stage that is at work on the whole video, those of its last steps.
    source: where what it pulls from stands.
    """

    windows: int = 0
    held: Done | None = None
    before: Segment | None = None
    waiting: "tuple[Part, ...]" = ()
    said: "Said | None" = None
    first: Tensor | None = None
    states: tuple[State, ...] = ()
    source: "Memory | None" = None


def levels_of(stages: Sequence[Stage], memory: Memory | None) -> list[list[Memory]]:
    """Where the levels of each stage stand, given where the last stage does: the first level takes what the stage before
    makes, the last one is the memory of the stage itself. A stage that averages no windows has one level."""
    found: list[list[Memory]] = []
    at = memory or Memory()
    for stage in reversed(stages):
        levels = [at]
        for _ in range(stage.ladder.steps if stage.fuses else 0):
            levels.insert(0, levels[0].source or Memory())
        found.insert(0, levels)
        at = levels[0].source or Memory()
    return found


@dataclass(frozen=True, eq=False)
class Part:
    """Some frames on their way down: their latent at the next level, and the states that led there."""

    frames: Tensor
    x: Tensor
    before: tuple[State, ...] = ()
    memory: Memory | None = None


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


def entered(stage: Stage, noise: Noise, piece: Done, fresh: bool) -> Tensor:
    """The latent at the first level."""
    start = stage.start
    eps = noise.like(piece.video, piece.frames, "start") if start is None else start.eps(piece.video, piece.frames)
    return eps * stage.ladder.first if fresh else mix(piece.video, eps, stage.ladder.levels[0])


def recut(source: Iterator[Event], spans: Iterator[slice], after: Memory) -> Iterator[Event]:
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

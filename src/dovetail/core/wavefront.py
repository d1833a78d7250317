"""Windows that are averaged where they overlap, at every step, in a wavefront: what `Windowed` makes of the whole video,
window by window. Design page: docs/decisions/0013-segments.md."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, pairwise

import torch
from torch import Tensor

from dovetail.core.noise import Noise
from dovetail.core.sampler import State, Walk, latest
from dovetail.core.stages import (
    Done,
    Event,
    Leaving,
    Memory,
    Part,
    Said,
    Seen,
    Sequel,
    Stage,
    entered,
    levels_of,
    recut,
)
from dovetail.core.windows import WEIGHTS, begun


def wavefront(
    stage: Stage, noise: Noise, source: Iterator[Event], length: int, fresh: bool, after: Memory
) -> Iterator[Event]:
    """A stage's events: every level pulls from the one above.

    A level holds the frames of about one window, so all of them hold as many windows as there are steps.
    """
    (first, *stood), *_ = levels_of([stage], after)
    parts = _parts(stage, noise, source, length, fresh, first)
    for (t, to), here in zip(pairwise(stage.ladder.levels), stood, strict=True):
        parts = _level(stage, parts, length, (t, to), here)
    for part in parts:
        yield Done(part.frames, part.before[-1].seen.x0, part.memory) if isinstance(part, Part) else part


def _parts(
    stage: Stage, noise: Noise, source: Iterator[Event], length: int, fresh: bool, after: Memory
) -> Iterator[Seen | Part]:
    """The video at the first level, in pieces that begin where windows begin."""
    for event in recut(source, begun(stage.windows(length), length), after):
        if isinstance(event, Seen):
            yield event
        else:
            yield Part(event.frames, entered(stage, noise, event, fresh), memory=event.memory)


def _level(
    stage: Stage, source: Iterator[Seen | Part], length: int, step: tuple[float, float], after: Memory
) -> Iterator[Seen | Part]:
    """One step of every part; a part takes it once all windows that see it have looked."""
    (t, to), weight = step, WEIGHTS[stage.weights](min(stage.window or length, length))
    waiting, said, first, above = list(after.waiting), after.said, after.first, after.source
    for event in chain([None], source):  # None: parts that wait may be ready before another comes
        if isinstance(event, Seen):
            yield event.passed
            continue
        if event is not None:
            waiting.append(replace(event, memory=None))
            above = event.memory
        while sum(part.x.shape[2] for part in waiting) >= len(weight):
            with torch.no_grad():
                said, first = _heard(stage, waiting, t, weight, said, first)
                part = waiting.pop(0)
                mean, said = said.cut(part.x.shape[2])
                memory = latest(part.before, stage.solver.memory)
                now = stage.solver.correct(memory, State(t, part.x, mean), part.frames)
                x = stage.solver.predict(memory, now, to, part.frames)
            yield Seen(stage, part.frames, now)
            stands = Memory(waiting=tuple(waiting), said=said, first=first, source=above)
            yield Part(part.frames, x, latest((*part.before, now), max(stage.solver.memory, 1)), stands)


def _heard(
    stage: Stage, parts: Sequence[Part], t: float, weight: Tensor, said: Said | None, first: Tensor | None
) -> tuple[Said, Tensor | None]:
    """What windows have said once the first one of these parts has, too. first: what they are held to, if they are; the
    video's first window says it."""
    denoise, (x, frames) = stage.denoise, _shown(parts, len(weight))
    assert not isinstance(denoise, Walk | Sequel)
    seen = (denoise.denoise if isinstance(denoise, Leaving) else denoise)(x, t, frames)
    if stage.hold:
        seen, first = stage.hold(seen, x, t, first), stage.hold.of(seen.x0) if first is None else first
    if isinstance(denoise, Leaving):
        seen = denoise.leave(seen, x, t, frames)
    return Said.of(seen, weight, said), first


def _shown(parts: Sequence[Part], size: int) -> tuple[Tensor, Tensor]:
    """The first window of these parts, and its frames."""
    x, frames = torch.cat([part.x for part in parts], 2), torch.cat([part.frames for part in parts], 1)
    return x[:, :, :size], frames[:, :size]

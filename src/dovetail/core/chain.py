"""Stages, one after another: each adds noise to the video that the last one ended with.

A chain pulls: a stage takes `window` frames at a time from the stage before, as they come, so a
long video needs no more memory than its widest window. A stage without a window takes the whole.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dovetail.core.denoiser import Denoiser
from dovetail.core.ladders import Ladder
from dovetail.core.noise import Noise
from dovetail.core.path import mix
from dovetail.core.sampler import Euler, Solver, State, Walk, sample


@dataclass(frozen=True)
class Stage:
    """A denoiser (or a walk of its own), the ladder it walks, and how. `window`: latent frames worked on at once.

    A stage hands over the video that it saw last (`seen.x0`), so a ladder that ends above 0 leaves no
    noise in it.
    """

    name: str
    denoise: Denoiser | Walk
    ladder: Ladder
    solver: Solver = field(default_factory=Euler)
    window: int | None = None


@dataclass(frozen=True, eq=False)
class Seen:
    """A step of a run: the stage, the global frames "b f" it works on, the state it reached."""

    stage: Stage
    frames: Tensor
    state: State


@dataclass(frozen=True, eq=False)
class Done:
    """A finished piece of video: global frames "b f" and latent "b c f h w"."""

    frames: Tensor
    video: Tensor


Event = Seen | Done


def run(
    stages: Sequence[Stage], noise: Noise, frames: Tensor, shape: tuple[int, int, int], video: Tensor | None = None
) -> Iterator[Event]:
    """Run the stages over global frames "b f"; `Done` pieces come in order and cover them all.

    shape: channels, height and width of the latent. video: a latent "b c f h w" to start from, to
    which the first stage adds noise; without it the first stage starts from pure noise. Tensors
    live where `video` does, or else on the CPU in float32; adapters move what they need.
    """
    # Without a video only its shape is asked for: one zero, seen as many.
    empty = torch.zeros(()).expand(len(frames), shape[0], frames.shape[1], *shape[1:]) if video is None else video
    events: Iterator[Event] = iter([Done(frames, empty)])
    for i, stage in enumerate(stages):
        events = _through(stage, noise.of(stage.name), _pieces(events, stage.window), fresh=video is None and i == 0)
    return events


def _through(stage: Stage, noise: Noise, source: Iterator[Event], fresh: bool) -> Iterator[Event]:
    for event in source:
        if isinstance(event, Seen):
            yield event
            continue
        eps = noise.like(event.video, event.frames, "start")
        ladder = stage.ladder
        x = eps * ladder.first if fresh else mix(event.video, eps, ladder.levels[0])
        for state in _states(stage, x, event.frames):
            yield Seen(stage, event.frames, state)
        yield Done(event.frames, state.seen.x0)


def _states(stage: Stage, x: Tensor, frames: Tensor) -> Iterator[State]:
    if isinstance(stage.denoise, Walk):
        return stage.denoise.walk(x, frames, stage.ladder.levels, stage.solver)
    return sample(stage.denoise, x, frames, stage.ladder.levels, stage.solver)


def _pieces(source: Iterator[Event], window: int | None) -> Iterator[Event]:
    """The same video, cut into pieces of `window` frames; the last one may be shorter."""
    waiting: list[Done] = []
    for event in source:
        if isinstance(event, Seen):
            yield event
            continue
        waiting.append(event)
        while window is not None and sum(piece.frames.shape[1] for piece in waiting) >= window:
            whole = _joined(waiting)
            yield Done(whole.frames[:, :window], whole.video[:, :, :window])
            waiting = [Done(whole.frames[:, window:], whole.video[:, :, window:])]
    if waiting and (rest := _joined(waiting)).frames.shape[1]:
        yield rest


def _joined(pieces: Sequence[Done]) -> Done:
    if len(pieces) == 1:
        return pieces[0]
    return Done(torch.cat([piece.frames for piece in pieces], 1), torch.cat([piece.video for piece in pieces], 2))

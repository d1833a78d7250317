"""Stages, one after another: each adds noise to the video that the last one ended with.

A chain pulls: a stage takes `window` frames at a time from the stage before, as they come, so a
long video needs no more memory than a few windows. A stage without a window takes the whole.
Windows may stand side by side, straddle those of the stage before (`offset`), or overlap (`hop`):
overlapping ones are averaged at every step, in a wavefront. Design page: docs/decisions/0013-segments.md.

Where the latents change from one stage to the next (another autoencoder, another size), a stage has a `Bridge`: a map
of finished pieces, one to one, that leads into its own. Design page: docs/decisions/0023-spaces-and-bridges.md.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from dovetail.core.denoiser import Denoiser, timeline
from dovetail.core.hold import Held
from dovetail.core.noise import Noise
from dovetail.core.sampler import State, Walk, latest, sample
from dovetail.core.stages import Bridge, Done, Event, Memory, Seen, Segment, Sequel, Stage, entered, levels_of, recut
from dovetail.core.wavefront import wavefront


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
    for i, (stage, (*_, stood)) in enumerate(zip(stages, levels_of(stages, after), strict=True)):
        if stage.bridge is not None:
            events, length = _bridged(stage.bridge, events), stage.bridge.length
        through = wavefront if stage.fuses else _in_turn
        events = through(stage, noise.of(stage.name), events, length, video is None and i == 0, stood)
    return events


def _bridged(bridge: Bridge, source: Iterator[Event]) -> Iterator[Event]:
    """The same events, with each finished piece taken over the bridge; memories stay the same."""
    for event in source:
        if isinstance(event, Done):
            video = bridge(event.video)
            same = video.shape[2] == event.video.shape[2]
            frames = event.frames if same else timeline(video.shape[2]).expand(len(event.frames), -1)
            event = Done(frames, video, event.memory)
        yield event


def _in_turn(
    stage: Stage, noise: Noise, source: Iterator[Event], length: int, fresh: bool, after: Memory
) -> Iterator[Event]:
    """Each window from noise to video before the next; of frames that one has made already, the next makes no more."""
    makes = islice((new for _, new in stage.spans(length)), after.windows, None)
    before, sequel = after.before, isinstance(stage.denoise, Sequel)
    for event in recut(source, (sees for sees, _ in stage.spans(length)), after):
        if isinstance(event, Seen):
            yield event
            continue
        denoise = stage.denoise.after(before) if isinstance(stage.denoise, Sequel) else stage.denoise
        first = None if before is None else before.first
        if stage.hold and first is not None and not isinstance(denoise, Walk):
            denoise = Held(denoise, stage.hold, first)
        states, after = after.states, Memory()
        x = entered(stage, noise, event, fresh)
        for state in _states(denoise, stage, x, event.frames, states):
            states = (*states, state) if sequel else latest((*states, state), 1 + stage.solver.memory)
            yield Seen(stage, event.frames, state, _under_way(stage, event, states))
        if stage.hold and first is None:
            first = stage.hold.of(states[-1].seen.x0)
        before = Segment(event.frames, states, first) if sequel else None
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
        past = latest(before[:-1], solver.memory)
        x, levels = solver.predict(past, before[-1], levels[at], frames), levels[at:]
        before = latest(before, max(solver.memory, 1))
    if isinstance(denoise, Walk):
        return denoise.walk(x, frames, levels, solver, before)
    return sample(denoise, x, frames, levels, solver, before)

"""Latents to frames, piece by piece."""

from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from dovetail.run.blackout import numbers, seen, visible
from dovetail.run.cast import Codec
from dovetail.run.events import Latent, Piece, Step
from dovetail.video import Frames, Video

CONTEXT = 4
"""Latent frames that a video autoencoder is shown again before a piece, so that what it makes joins the piece
before."""


def decoded(events: Iterator[Step | Latent], codec: Codec, clock: "Clock") -> Iterator[Step | Piece]:
    """Latents to frames, piece by piece."""
    tail, made = None, 0
    for event in events:
        if isinstance(event, Step):
            yield event
            continue
        with clock:
            frames = frames_of(codec, event.latent, tail)
        tail = tail_of(codec, event.latent, tail)
        yield Piece(frames, made, event.latent)
        made += len(frames)


def frames_of(codec: Codec, latent: Tensor, tail: Tensor | None) -> Frames:
    """The frames uint8 "f h w c" of a latent "1 c f h w"; a codec that looks back in time is shown again the end of
    what came before, `tail`."""
    shown = latent if tail is None else torch.cat([tail, latent], 2)
    frames = seen(codec, lambda codec: _frames(codec, shown))
    return frames if tail is None else frames[-latent.shape[2] * (codec.space.compression or 1) :]


def _frames(codec: Codec, shown: Tensor) -> tuple[Frames, bool]:
    """The frames of a latent, and whether they can be seen."""
    frames, right = [], []
    # Pixels of a piece are four times as large as its frames, so each is made so before the next.
    for pixels in codec.stream(shown):
        numbers(pixels, codec)
        right.append(visible(pixels))
        frames.append(Video.of(pixels.nan_to_num(-1.0), 1.0).frames)
    return np.concatenate(frames), all(right)


def tail_of(codec: Codec, latent: Tensor, tail: Tensor | None = None) -> Tensor | None:
    """What is shown again before the piece after this one; None for a codec that knows single frames."""
    if (codec.space.compression or 1) == 1:
        return None
    return (latent if tail is None else torch.cat([tail, latent], 2))[:, :, -CONTEXT:]


@dataclass
class Clock:
    """Seconds spent inside its blocks, in all and in the last one."""

    seconds: float = 0.0
    begun: float = 0.0
    last: float = 0.0

    def __enter__(self) -> None:
        self.begun = perf_counter()

    def __exit__(self, *_: object) -> None:
        self.last = perf_counter() - self.begun
        self.seconds += self.last

"""Latents to frames, piece by piece: each as soon as all is there that its frames hang together with."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from dovetail.core.excerpts import Excerpt, Reach, Trail
from dovetail.run.blackout import numbers, seen, visible
from dovetail.run.cast import Codec
from dovetail.run.events import Latent, Piece, Step, Turned
from dovetail.video import Frames, Video

T = TypeVar("T")


def decoded(
    events: Iterator[Step | Latent], codec: Codec, clock: "Clock", pieces: int
) -> Iterator[Step | Piece | Turned]:
    """Latents to frames, of so many pieces in all. Behind those that a latent makes possible, that its turn is over."""
    decoding, made, come = Decoding(codec), 0, 0
    for event in events:
        if isinstance(event, Step):
            yield event
            continue
        come += 1
        for frames, latent in clock.timed(decoding.add(event.latent, come == pieces)):
            yield Piece(frames, made, latent)
            made += len(frames)
        yield Turned()


@dataclass(eq=False)
class Decoding:
    """A video that is decoded as its pieces come. A decoder that looks ahead makes frames of a piece only when what it
    looks at is there; of all that has come, no more is held than what it still looks at.

    latent: "1 c f h w", of the video's latent frames from `first` on; done: how many have become frames.
    """

    codec: Codec
    latent: Tensor | None = None
    first: int = 0
    done: int = 0
    waiting: list[Tensor] = field(default_factory=list)
    trail: Trail = field(default_factory=Trail)

    @property
    def reach(self) -> Reach:
        """How far the codec looks in time; nowhere, if it does not say."""
        return getattr(self.codec, "reach", Reach())

    def add(self, latent: Tensor, last: bool = False) -> Iterator[tuple[Frames, Tensor]]:
        """The next piece "1 c f h w"; of those whose frames can be made now, the frames and the piece. last: the video
        ends with it."""
        held = latent if self.latent is None else torch.cat([self.latent, latent], 2)
        there, reach = self.first + held.shape[2], self.reach
        self.latent = held
        self.waiting.append(latent)
        while self.waiting and (last or reach.end(self.done + self.waiting[0].shape[2]) <= there):
            piece = self.waiting.pop(0)
            stop = self.done + piece.shape[2]
            end = min(reach.end(stop), there)
            asked = Excerpt(self.first, self.done, stop, last and end == there)
            yield frames_of(self.codec, held[:, :, : end - self.first], asked, self.trail), piece
            begin = reach.begin(stop)
            held, self.first, self.done = held[:, :, begin - self.first :], begin, stop
            self.latent = held.clone()


def frames_of(codec: Codec, latent: Tensor, asked: Excerpt | None = None, trail: Trail | None = None) -> Frames:
    """The frames uint8 "f h w c" of a latent "1 c f h w"; of a part of a video, those that are asked for."""
    if asked is None or asked.whole(latent.shape[2]) or not hasattr(codec, "part"):
        return seen(codec, lambda codec: _frames(codec, codec.stream(latent)))
    kept = Trail() if trail is None else trail
    return seen(codec, lambda codec: _frames(codec, codec.part(latent, asked, kept)))


def pixels_of(codec: Codec, latent: Tensor) -> Tensor:
    """The pixels "b f c h w" in [-1, 1] that `frames_of` makes frames of."""
    return seen(codec, lambda codec: _pixels(codec, codec.stream(latent)))


def _pixels(codec: Codec, stream: Iterator[Tensor]) -> tuple[Tensor, bool]:
    """Pixels, and whether they can be seen."""
    pieces, right = [], []
    for pixels in stream:
        numbers(pixels, codec)
        right.append(visible(pixels))
        pieces.append(pixels.nan_to_num(-1.0))
    return torch.cat(pieces, 1), all(right)


def _frames(codec: Codec, stream: Iterator[Tensor]) -> tuple[Frames, bool]:
    """Frames, and whether they can be seen."""
    frames, right = [], []
    # Pixels of a piece are four times as large as its frames, so each is made so before the next.
    for pixels in stream:
        numbers(pixels, codec)
        right.append(visible(pixels))
        frames.append(Video.of(pixels.nan_to_num(-1.0), 1.0).frames)
    return np.concatenate(frames), all(right)


@dataclass
class Clock:
    """Seconds spent inside its blocks, in all and since a mark."""

    seconds: float = 0.0
    begun: float = 0.0
    marked: float = 0.0

    def __enter__(self) -> None:
        self.begun = perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += perf_counter() - self.begun

    def mark(self) -> None:
        """What comes from here on is counted apart as well."""
        self.marked = self.seconds

    @property
    def since(self) -> float:
        """Seconds since the mark."""
        return self.seconds - self.marked

    def timed(self, made: Iterator[T]) -> Iterator[T]:
        """The same, made inside of a block each."""
        while True:
            with self:
                one = next(made, None)
            if one is None:
                return
            yield one

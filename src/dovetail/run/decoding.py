"""Latents to frames, piece by piece: each as soon as all is there that its frames hang together with."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from dovetail.core.excerpts import Excerpt, Reach, Trail
from dovetail.run.blackout import seen
from dovetail.run.cast import Codec
from dovetail.run.events import Latent, Piece, Step, Turned
from dovetail.video import Frames, Video

T = TypeVar("T")


def decoded(
    events: Iterator[Step | Latent], codec: Codec, clock: "Clock", pieces: int
) -> Iterator[Step | Piece | Turned]:
    """Decode latents as they come, of so many pieces in all; steps pass. After each latent come the pieces that can be
    decoded now, and then `Turned`."""
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
        """Take the next piece "1 c f h w", and yield the frames and the latent of each piece that can be decoded now.
        last: the video ends with it."""
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
        return np.concatenate(seen(codec, lambda codec: codec.stream(latent), _frames))
    kept = Trail() if trail is None else trail
    return np.concatenate(seen(codec, lambda codec: codec.part(latent, asked, kept), _frames))


def pixels_of(codec: Codec, latent: Tensor) -> Tensor:
    """The pixels "b f c h w" in [-1, 1] that `frames_of` makes frames of."""
    return torch.cat(seen(codec, lambda codec: codec.stream(latent), lambda pixels: pixels), 1)


def _frames(pixels: Tensor) -> Frames:
    """Frames, which need a quarter of the memory of their pixels."""
    return Video.of(pixels, 1.0).frames


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
